"""Foreign text on its way out, and numbers in sentences."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

from stapo.cli.main import main
from stapo.texts import counted, escape_control_chars, without_addresses

SOURCE = Path(__file__).resolve().parents[1] / "src" / "stapo"
PLURAL = re.compile(r" (?:[a-z]+ ){0,2}[a-z]{2,}s\b")


@pytest.mark.parametrize("number, said", [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (12345, "12,345 tasks")])
def test_numbers_with_their_noun(number, said):
    assert counted(number, "task") == said
    assert counted(number, "entry", "entries").endswith("entry" if number == 1 else "entries")


def test_no_sentence_counts_by_itself():
    """A length before a plural is wrong for 1. Prompts are data, `algo` speaks of shapes, and limits are never 1."""
    found = []
    for path in SOURCE.rglob("*.py"):
        if path.relative_to(SOURCE).parts[0] in ("agent", "algo") or "prompts" in path.stem:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            values = node.values if isinstance(node, ast.JoinedStr) else []
            for value, after in itertools.pairwise(values):
                if not (isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant)):
                    continue
                counts = re.match(r"(len|sum)\(", ast.unparse(value.value))
                if counts and PLURAL.match(after.value) and not LARGE.search(after.value):
                    found.append(f"{path.name}:{value.lineno}: {ast.unparse(value.value)}{after.value[:30]}")
    assert not found, "\n".join(found)


LARGE = re.compile(
    r"^ (characters|tokens|items|postings|types|outcomes|files that extend|agents|in this)\b|^ tasks, $|"
    r", expected at most|, expected as"
)
"""What comes in thousands, or is never said of one."""


@pytest.mark.parametrize(
    "c", ["\x00", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066", "\ud800"]
)
def test_what_acts_on_a_terminal_is_spelled_out(c, capsys, tmp_path):
    assert escape_control_chars(f"a{c}b") == f"a\\u{{{ord(c):x}}}b"
    path = tmp_path / "run.yaml"
    path.write_text(f'env: {{name: "x\\u{ord(c):04x}"}}\nalgorithm: "y\\u{ord(c):04x}"\n')
    assert main(["train", str(path), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert c not in said


def test_addresses_without_secrets_stay_as_they_are():
    settings = {"a": ["http://host:8/x?query=mug", "mail@host", 7, None], "b": {"c": "http://host"}}
    assert without_addresses(settings) == settings
    assert without_addresses({"b": ["http://u:p/w@host"]}) == {"b": ["http://***@host"]}
