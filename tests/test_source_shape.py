"""The source stays small enough to read.

1. No ten lines stand in two places; imports, blank lines and comments do not count.
2. No module has more than 500 lines, and half of them have fewer than 200.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "stapo"
SAME = 10


def code_lines(text: str) -> list[tuple[int, str]]:
    """Number and text of each line that counts, without its indentation."""
    imports = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = ((number, " ".join(line.split())) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#") and number not in imports]


def repeated(texts: dict[str, str]) -> list[str]:
    """Where a run of `SAME` equal lines begins that stands elsewhere as well."""
    places: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, text in texts.items():
        lines = code_lines(text)
        for start in range(len(lines) - SAME + 1):
            run = lines[start : start + SAME]
            places[tuple(line for _, line in run)].append(f"{name}:{run[0][0]}")
    return [" and ".join(at) for at in places.values() if len(at) > 1]


TEXTS = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def test_no_ten_lines_stand_in_two_places():
    assert repeated(TEXTS) == []


def test_a_copy_is_found_whatever_its_indentation():
    body = "\n".join(f"x{i} = {i}" for i in range(SAME))
    copy = "if True:\n" + "\n\n".join(f"    # why\n    x{i} = {i}" for i in range(SAME))
    assert repeated({"a": body, "b": copy}) == ["a:1 and b:3"]
    assert repeated({"a": body, "b": copy.replace("x5", "y5")}) == []


def test_modules_are_short():
    sizes = {name: text.count("\n") for name, text in TEXTS.items()}
    assert {name: size for name, size in sizes.items() if size > 500} == {}
    assert median(sizes.values()) < 200
