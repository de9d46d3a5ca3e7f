"""The documents are true: links lead somewhere, commands parse, examples run, setting tables are fresh."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from forked import run_script
from slow import slow_except
from stapo.cli.arguments import env_parameters
from stapo.cli.main import _COMMANDS, main
from stapo.envs import ENVIRONMENTS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^[ ]*```(\w*)[^\n]*\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
PATH_PLACEHOLDERS = {"PATH": "games", "mine.yaml": "tiny"}


def without_files(args):
    """A comparison opens the files that it is given, and plays what is generated, in its own splits, where none are."""
    given = [option for option in ("--env.products", "--env.games") if option in args]
    for option in (*given, "--eval.split"):
        if given and option in args:
            place = args.index(option)
            args = args[:place] + args[place + 2 :]
    return args


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text_of(path)) if found == language]


def commands() -> list[tuple[str, str]]:
    """Every `stapo` call in a bash block, with its first page; comments and redirections are cut off."""
    found: dict[str, str] = {}
    for path in PAGES:
        for body in blocks(path, "bash"):
            for line in re.sub(r"\\\n\s*", "", body).splitlines():
                line = re.sub(r"\s[#>].*", "", line).strip().removeprefix(".venv/bin/")
                if line.startswith("stapo "):
                    found.setdefault(line, name_of(path))
    return [(page, line) for line, page in found.items()]


COMMANDS = commands()


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    prose = FENCE.sub("", text_of(path))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), f"{name_of(path)} links to {target}"
        assert page.is_relative_to(ROOT)
        if anchor:
            assert anchor in {slug(h) for h in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)}, target


def test_prose_fits_an_editor():
    """Results and the changelog are records of their day."""
    pages = [path for path in PAGES if "results" not in path.parts and path.name != "CHANGELOG.md"]
    long = []
    for path in pages:
        prose = FENCE.sub(lambda block: "\n" * block.group().count("\n"), path.read_text(encoding="utf-8"))
        lines = enumerate(prose.splitlines(), start=1)
        long += [f"{name_of(path)}:{number}" for number, line in lines if len(line) > 134 and not line.startswith("|")]
    assert len(pages) > 20
    assert long == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.html")), ids=name_of)
def test_links_of_shipped_pages_lead_somewhere(path):
    page = path.read_text(encoding="utf-8")
    names = set(re.findall(r'\bid="([^"]+)"', page))
    for target in re.findall(r'<(?:a|link|img|script)\b[^>]*?\b(?:href|src)="([^"]+)"', page):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        assert not file or (path.parent / file).exists(), f"{name_of(path)} links to {target}"
        assert file or anchor in names, f"{name_of(path)} has no place '{anchor}'"


def test_there_are_commands():
    assert len(COMMANDS) > 15
    assert {shlex.split(line)[1] for _, line in COMMANDS} >= {"train", "eval", "play", "report", "envs"}


# The README and one call of each command; the rest are slow tests.
FIRST = {line.split()[1]: (page, line) for page, line in reversed(COMMANDS)}
ENOUGH = {*FIRST.values(), *(command for command in COMMANDS if command[0] == "README.md")}


@pytest.mark.parametrize("page, line", slow_except(COMMANDS, *ENOUGH))
def test_commands_parse(page, line, capsys):
    name, *args = [PATH_PLACEHOLDERS.get(word, word) for word in shlex.split(line)[1:]]
    assert name in _COMMANDS
    if name == "compare":
        args = without_files(args)
    if name == "train" or (name == "compare" and "--algorithms" in args):
        dry = [] if "--help" in args or "--dry-run" in args else ["--dry-run"]
        # The files that they name are on the reader's machine.
        dry += ["--gpu", "h100"] if name == "train" and not {"--help", "--gpu"} & set(args) else []
        assert main([name, *args, *dry]) == 0, capsys.readouterr().err
        return
    assert main([name, "--help-all"]) == 0
    known = capsys.readouterr().out
    for word in args:
        flag = word.partition("=")[0]
        if flag.startswith("--env."):
            known_options = {option for name in ENVIRONMENTS for option in env_parameters(name)}
            assert flag.removeprefix("--env.").replace("-", "_") in known_options, line
        elif flag.startswith("--"):
            assert re.search(rf"{re.escape(flag)}\b", known), f"'stapo {name} --help' does not know {flag}"


def test_table_of_commands_is_complete():
    table = re.findall(r"^\| `stapo ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(_COMMANDS)


def test_the_layout_is_that_of_the_source():
    (layout,) = (body for body in blocks(ROOT / "README.md", "") if body.startswith("src/stapo/"))
    named = re.findall(r"(?<=[ ,])(\w+)/", layout.partition("docs/")[0])
    assert sorted(named) == sorted(p.parent.name for p in (ROOT / "src/stapo").glob("*/__init__.py"))


def test_table_of_algorithms_is_complete():
    from stapo.algo import ALGORITHMS

    section = (ROOT / "README.md").read_text().partition("\n## Algorithms\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w+-]+)` \|", section, re.MULTILINE) == list(ALGORITHMS)


def test_the_glossary_names_a_source_for_each_of_thirty_terms():
    from stapo.config.run_config import RunConfig

    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs/glossary.md").read_text().splitlines()]
    rows = [row for row in rows if len(row) == 4][2:]
    terms = [row[0] for row in rows]
    assert len(terms) == 30
    assert terms == sorted(set(terms), key=str.lower)
    for term, meaning, here, source in rows:
        assert meaning, term
        # A title in italics with its arXiv number or year, or the dotted name of a library's function or class.
        assert re.fullmatch(r"(.+, )?\*[^*]{10,}\*, .*(arXiv \d{4}\.\d{5}|\d{4})|`\w+(\.\w+)+`", source), source
        for name in re.findall(r"`((?:\w+\.)+\w+)`", here):
            group, *path = name.split(".")
            known = get_type_hints(RunConfig)
            for part in path if group in known else []:
                known = get_type_hints(known[group])
                assert part in known, f"{term}: there is no setting {name}"
                group = part
    for page in ("README.md", "docs/README.md"):
        assert "glossary.md" in (ROOT / page).read_text()


# tests/api goes faster through what the page of the API shows.
WITH_PYTHON = [p for p in PAGES if blocks(p, "python")]
FAST = [p for p in WITH_PYTHON if p.name != "python-api.md"]


@pytest.mark.parametrize("path", slow_except(WITH_PYTHON, *FAST), ids=name_of)
def test_python_examples_run(path, tmp_path):
    source = ""
    for body in blocks(path, "python"):
        lines = body.splitlines()
        indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
        body = "\n".join(line[indent:] for line in lines)
        if "yourpackage" in body:
            continue
        source += body + "\n"
    script = tmp_path / "example.py"
    script.write_text(source)
    code, printed = run_script(script, tmp_path)
    assert code == 0, printed


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {word for path in PAGES for word in re.findall(r"make ([a-z-]+)\b(?=[`\s]*[`\n])", text_of(path))}
    assert {"quickstart", "test", "check"} <= named & targets
    used = {
        line.split()[1]
        for path in PAGES
        for body in blocks(path, "bash")
        for line in body.splitlines()
        if line.startswith("make ")
    }
    assert used <= targets


def test_tables_of_settings_are_fresh():
    script = ROOT / "scripts" / "write_configuration.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
