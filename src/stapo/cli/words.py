"""What the commands share: secrets that stay unsaid, foreign text printed as it stands."""

from __future__ import annotations

import os
from typing import TextIO

from rich.console import Console
from rich.text import Text

from stapo.errors import ConfigError
from stapo.texts import escape_control_chars, remember_secret, remember_secrets_of, secret_in_address

_TAKE_KEYS = ("--token",)
_TAKE_NAMES_OF_KEYS = ("--key-variable",)


def is_set(variable: str) -> bool:
    """Whether this is the name of an environment variable that holds something; any text may be asked for."""
    return variable.isascii() and "\0" not in variable and bool(os.environ.get(variable))


def guard_secrets(args: list[str]) -> None:
    """Note what must not be shown, in variables and arguments, before anything is said.

    Raises:
        ConfigError: an argument is an address with a key or password in it, which would be written down with the
            command. It is not shown.
    """
    remember_secrets_of(os.environ)
    for before, arg in zip(["", *args], args, strict=False):
        flag, _, value = arg.partition("=") if arg.startswith("--") else (before, "", arg)
        if flag in _TAKE_KEYS or (flag in _TAKE_NAMES_OF_KEYS and not is_set(value)):
            # Where the name of a variable is asked for, people give the key itself.
            remember_secret(value)
        secret = secret_in_address(arg) if "://" in arg else ""
        if secret:
            where = f"the address after {flag}" if flag.startswith("--") else "an address in the command"
            raise ConfigError(
                f"{where} holds {secret}, and commands are written down; expected an address without. Give the key as "
                "an environment variable instead."
            )


def foreign(text: object) -> Text:
    """Text from an environment for the terminal: never markup, no control sequence, no hidden direction change."""
    return Text(escape_control_chars(str(text)))


def write_line(text: str, file: TextIO | None = None, *, flush: bool = False) -> None:
    """Print a line that may hold text of others (paths, names, settings), for a terminal or a script."""
    print(escape_control_chars(text), file=file, flush=flush)


def say(console: Console, text: str | Text, style: str = "") -> None:
    """Print text without reading markup, emoji codes or numbers into it; only a terminal gets it wrapped."""
    if isinstance(text, str):
        text = escape_control_chars(text)
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=not console.is_terminal)
