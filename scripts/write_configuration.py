"""Write the tables of every setting into docs/configuration.md, from the configuration classes themselves.

python scripts/write_configuration.py            write the page
python scripts/write_configuration.py --check    exit with 1 if the page is not up to date
"""

from __future__ import annotations

import argparse
import inspect
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from stapo.config.describe import meanings
from stapo.config.run_config import RunConfig
from stapo.config.schema import to_data

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
BEGIN, END = "<!-- settings -->", "<!-- end of settings -->"


def kind(hint: Any) -> str:
    """A type as a reader knows it."""
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [kind(part) for part in typing.get_args(hint) if part is not type(None)]
        return " or ".join([*inner, *(["`null`"] if type(None) in typing.get_args(hint) else [])])
    if typing.get_origin(hint) is tuple:
        return f"list of {kind(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return "mapping"
    names = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def default(field: Field[Any]) -> str:
    """A field's default as YAML would say it."""
    value = field.default if field.default is not MISSING else field.default_factory() if callable(
        field.default_factory
    ) else ""  # fmt: skip
    value = to_data(value)
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else ""


def tables(cls: type, where: str) -> Iterator[str]:
    """One table per configuration class, outermost first."""
    hints, said = typing.get_type_hints(cls), meanings(cls)
    plain = [f for f in fields(cls) if not is_dataclass(hints[f.name])]
    if plain:
        title = f"`{where}`" if where else "Top level"
        yield f"### {title}\n"
        yield f"{(inspect.getdoc(cls) or '').splitlines()[0]}\n"
        yield "| Setting | Values | Default | Meaning |\n| --- | --- | --- | --- |"
        for f in plain:
            name = f"{where}.{f.name}" if where else f.name
            text = said.get(f.name, "").replace("``", "`").replace("|", "\\|")
            values = kind(hints[f.name])
            if "registry" in f.metadata:
                values = ", ".join(f"`{known}`" for known in f.metadata["registry"].own_names())
            yield f"| `{name}` | {values} | {default(f)} | {text} |"
        yield ""
    for f in fields(cls):
        inner = f"{where}.{f.name}" if where else f.name
        if is_dataclass(hints[f.name]):
            yield from tables(hints[f.name], inner)
        elif typing.get_origin(hints[f.name]) is dict and is_dataclass(typing.get_args(hints[f.name])[1]):
            yield from tables(typing.get_args(hints[f.name])[1], f"{inner}.NAME")


def page(text: str) -> str:
    """The page with fresh tables between its marks."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n" + "\n".join(tables(RunConfig, "")) + f"\n{END}{tail}"


def main() -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    fresh = page(text)
    if check:
        sys.exit(0 if fresh == text else f"{PAGE.name} is out of date: run python scripts/write_configuration.py")
    PAGE.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
