"""A small typed registry: built-in names, entry points of installed packages, and helpful misses.

What another package registers is imported when its name is used, and may do anything then. Whatever it raises, also
by `exit()`, is one `ConfigError` that names the package; what does not end is given up after `IMPORT_SECONDS` where
it can be interrupted (in the main thread, in Python code). Two packages that register one name are an error when the
name is used. Names of this package are never another's.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import reduce
from importlib import import_module
from importlib.metadata import EntryPoint, distributions, entry_points
from types import FrameType
from typing import Any, Generic, TypeVar, cast

from stapo.errors import ConfigError, unknown_name

T = TypeVar("T")

IMPORT_SECONDS = 60.0
"""How long the import of another package may take."""

_SHORT = 300


class Registry(Generic[T]):
    """Maps names to objects of one kind.

    Args:
        kind: what the names stand for, in messages ("environment").
        group: entry-point group in which other packages can register theirs.
        builtin: name -> "module:attribute", imported on first use so that listing names stays cheap.
        wrong: says what is wrong with an object that another package registers, or None where nothing is.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        builtin: dict[str, str] | None = None,
        wrong: Callable[[object], str | None] | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self._lazy = dict(builtin or {})
        self._objects: dict[str, T] = {}
        self._wrong = wrong

    def register(self, name: str, obj: T | None = None) -> Callable[[T], T]:
        """Register `obj` under `name`; usable as a decorator when `obj` is left out.

        Raises:
            ConfigError: the name is taken by something else.
        """

        def add(value: T) -> T:
            if name in self._objects and self._objects[name] is not value:
                raise ConfigError(f"{self.kind} '{name}' is registered already; choose another name.")
            self._objects[name] = value
            return value

        if obj is not None:
            add(obj)
        return add

    def names(self) -> list[str]:
        """All known names, sorted: registered, built-in and from entry points."""
        found = {e.name for e in _entries(self.group)[0] if e.name}
        return sorted(found | self._objects.keys() | self._lazy.keys())

    def unusable(self) -> list[tuple[str, str]]:
        """What installed packages register without effect: (package, what is wrong) of each, for listings."""
        entries, broken = _entries(self.group)
        for entry in entries:
            own = self._lazy.get(entry.name)
            if not entry.name:
                broken.append((_package(entry), f"registers '{entry.value}' without a name"))
            elif own is not None and own != entry.value:
                broken.append((_package(entry), f"registers '{entry.name}', which is a name of stapo's own"))
        return broken

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def get(self, name: str) -> T:
        """Return the object called `name`.

        Raises:
            UnknownNameError: no such name; the message proposes the closest one.
            ConfigError: the name comes from an installed package that fails to import, whose object is of another
                kind, or that shares the name with another package.
        """
        if name in self._objects:
            return self._objects[name]
        if name in self._lazy:
            obj = _resolve(self._lazy[name])
        else:
            obj = self._of_package(name)
        self._objects[name] = cast(T, obj)
        return cast(T, obj)

    def _of_package(self, name: str) -> Any:
        entries = {e.value: e for e in _entries(self.group)[0] if e.name == name and name}
        if not entries:
            raise unknown_name(self.kind, name, self.names())
        if len(entries) > 1:
            rivals = " and ".join(f"'{_package(e)}' ({e.value})" for e in entries.values())
            raise ConfigError(f"{self.kind} '{name}' is registered by {rivals}; uninstall or rename one of them.")
        (entry,) = entries.values()
        what = f"{self.kind} '{name}' of package '{_package(entry)}' points at '{entry.value}'"
        try:
            with _watched() as interrupted:
                obj = _resolve(entry.value)
        except BaseException as err:  # importing runs another package's code, which may also exit
            if isinstance(err, KeyboardInterrupt) and interrupted:
                raise
            said = " ".join(str(err).split())[:_SHORT]
            reason = said if isinstance(err, ImportError | AttributeError) else f"{type(err).__name__}: {said}"
            raise ConfigError(f"{what}, which cannot be imported: {reason}") from err
        problem = self._wrong(obj) if self._wrong else None
        if problem:
            raise ConfigError(f"{what}, which is {problem}. Correct the package that brings it.")
        return obj


class _TooLong(BaseException):
    """Not an `Exception`, so that no handler of the imported package takes it for its own."""


def _entries(group: str) -> tuple[list[EntryPoint], list[tuple[str, str]]]:
    """The entry points of a group, and the packages whose own list of them cannot be read."""
    try:
        return list(entry_points(group=group)), []
    except Exception:  # one malformed file hides all packages
        pass
    found, broken, seen = [], [], set()
    for package in distributions():
        name = "?"
        try:
            name = package.metadata["Name"] or "?"
            if name.lower() not in seen:
                seen.add(name.lower())
                found += [e for e in package.entry_points if e.group == group]
        except Exception as err:
            broken.append((name, f"its entry_points.txt cannot be read: {type(err).__name__}: {err}"))
    return found, broken


def _package(entry: EntryPoint) -> str:
    package = getattr(entry, "dist", None)
    return str(package.name) if package is not None else entry.value.partition(":")[0]


def _resolve(target: str) -> Any:
    module, _, attributes = target.partition("[")[0].strip().partition(":")
    found: Any = import_module(module)
    return reduce(getattr, attributes.split("."), found) if attributes else found


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Around foreign code: its prints go to stderr, it has `IMPORT_SECONDS`; yields the SIGINTs that came meanwhile."""
    interrupted: list[int] = []
    with redirect_stdout(sys.stderr):
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
            yield interrupted
            return

        def overdue(number: int, frame: FrameType | None) -> None:
            raise _TooLong(f"not done after {IMPORT_SECONDS:g} s")

        before = signal.getsignal(signal.SIGINT)

        def note(number: int, frame: FrameType | None) -> None:
            interrupted.append(number)
            if callable(before):
                before(number, frame)

        alarm = signal.signal(signal.SIGALRM, overdue)
        rest, repeat = signal.setitimer(signal.ITIMER_REAL, IMPORT_SECONDS)
        if callable(before):
            signal.signal(signal.SIGINT, note)
        try:
            yield interrupted
        finally:
            signal.setitimer(signal.ITIMER_REAL, rest, repeat)
            signal.signal(signal.SIGALRM, alarm)
            if callable(before):
                signal.signal(signal.SIGINT, before)
