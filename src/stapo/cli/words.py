"""What the small commands share: reading their few words, printing foreign text as it stands."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TextIO

from rich.console import Console
from rich.text import Text

from stapo.errors import ConfigError, did_you_mean
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


def positional(args: list[str], most: int, command: str, flags: Collection[str] = ()) -> list[str]:
    """Return the words of `args`, once every option has been taken out of it.

    Args:
        args: what is left of the command line.
        most: words that the command accepts.
        command: its name, for messages.
        flags: options of the command, for messages.

    Raises:
        ConfigError: an option is left over, or there are too many words.
    """
    for arg in args:
        if arg.startswith("-"):
            raise ConfigError(
                f"'stapo {command}' has no option '{arg}'.{did_you_mean(arg, flags)} See 'stapo {command} --help'."
            )
    if len(args) > most:
        raise ConfigError(
            f"'stapo {command}' takes {'at most ' if most else 'no '}{most or ''}{' ' if most else ''}"
            f"argument{'' if most == 1 else 's'}, found {' '.join(map(repr, args))}. See 'stapo {command} --help'."
        )
    return args


def take_flag(args: list[str], flag: str, *, needs: str) -> tuple[str | None, list[str]]:
    """Remove `flag VALUE` (or `flag=VALUE`) from `args`; returns the value, if any, and the rest.

    Raises:
        ConfigError: the flag stands without a value.
    """
    value, rest, i = None, [], 0
    while i < len(args):
        if args[i] == flag:
            if i + 1 >= len(args) or args[i + 1].startswith("--"):
                raise ConfigError(f"{flag} needs {needs}.")
            value, i = args[i + 1], i + 2
        elif args[i].startswith(flag + "="):
            value, i = args[i].partition("=")[2], i + 1
        else:
            rest.append(args[i])
            i += 1
    return value, rest


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
