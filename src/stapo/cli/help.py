"""The help of a command: one screen with what people change, or everything."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import get_type_hints

from stapo.cli.command import Command, flag_of, is_word
from stapo.config.describe import meanings, settings_of

WIDTH = 100
HEIGHT = 45
"""Columns and lines of a screen."""
_WIDEST = 40  # columns of an option with its value
_ENV = "option of the environment, such as --env.games DIR. 'stapo envs NAME' lists them."
_AGENT = "setting of prompts, memory or response format, such as --agent.max_prompt_tokens 4096."


def help_of(cls: type[Command], name: str, argv: list[str]) -> str:
    """The help of a command.

    Args:
        cls: the command.
        name: as it is typed.
        argv: the command line: ``--help-all`` asks for everything, and its preset or file gives the settings' values.
    """
    full, lines = "--help-all" in argv, list[str]()
    words = [str(option.metadata["metavar"]) for option in fields(cls) if is_word(option) and option.default is MISSING]
    words += [f"[{option.metadata['metavar']}]" for option in fields(cls) if is_word(option) and not words]
    lines += [" ".join(["usage: stapo", name, *words, "[options]", *(["[--SETTING VALUE ...]"] * ("" in cls.PASSES))])]
    paragraphs = (cls.__doc__ or "").partition("Attributes:")[0].strip().split("\n\n")
    for paragraph in paragraphs if full else paragraphs[:1]:
        lines += ["", *textwrap.wrap(" ".join(paragraph.split()), WIDTH)]
    if options := list(_options(cls)):
        lines += ["", *_table(options, full)]
    if "" in cls.PASSES or (full and "agent." in cls.PASSES):
        lines += _settings(cls, argv, full)
    if cls.EXAMPLES:
        lines += ["", "examples:", *(f"  {line}" for line in cls.EXAMPLES.strip().splitlines())]
    notes = cls.NOTES.strip().splitlines()
    if notes and (full or len(lines) + len(notes) < HEIGHT - 2):
        lines += ["", *notes]
    if not full:
        lines += ["", f"'stapo {name} --help-all' explains all of it."]
    return "\n".join(lines)


def _options(cls: type[Command]) -> Iterator[tuple[str, str]]:
    said, hints = meanings(cls), get_type_hints(cls)
    for option in fields(cls):
        metavar = "" if hints[option.name] is bool else str(option.metadata["metavar"])
        yield metavar if is_word(option) else f"{flag_of(option)} {metavar}".rstrip(), said[option.name]
    if cls.PASSES:
        yield "--env.OPTION VALUE", _ENV
    if "agent." in cls.PASSES:
        yield "--agent.SETTING VALUE", _AGENT


def _settings(cls: type[Command], argv: list[str], full: bool) -> Iterator[str]:
    from stapo.config.presets import load_config

    source = argv[0] if "" in cls.PASSES and argv and not argv[0].startswith("-") else "tiny"
    unflagged = ("env.options", "algorithm.name")
    found = {s.name: s for s in settings_of(load_config(source)) if s.name not in unflagged}
    if "" not in cls.PASSES:
        found = {name: setting for name, setting in found.items() if name.startswith("agent.")}
    chosen = found if full else {name: found[name] for name in cls.SHOWN}
    yield ""
    yield f"settings ({len(chosen)} of {len(found)}) with their values in {source}:"
    rows = [(f"--{s.name.replace('_', '-')} {s.shown}", s.meaning) for s in chosen.values()]
    yield from _table(rows, full)


def _table(rows: list[tuple[str, str]], full: bool) -> Iterator[str]:
    """Options with their meaning: its first sentence, or all of it."""
    column = min(max(len(left) for left, _ in rows), _WIDEST) + 4 if rows else 0
    for left, text in rows:
        text = text.replace("``", "'").replace("`", "'")
        if not full:
            text = re.split(r"(?<=[.])\s+(?=[A-Z'])", text)[0].removesuffix(".")
        lines = textwrap.wrap(text, WIDTH - column)
        if len(left) > _WIDEST:
            yield f"  {left}"
            left = ""
        for line in lines:
            yield f"  {left:<{column - 2}}{line}"
            left = ""
