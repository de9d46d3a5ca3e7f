"""A small typed registry: names of this package, entry points of installed ones, and helpful misses.

`entry_points.txt` beside this module lists what this package registers, in the format of every package's own list.

What another package registers is imported when its name is used, and may do anything then. Whatever it raises, also
by `exit()`, is one `ConfigError` that names the package; what does not end is given up after `IMPORT_SECONDS` where
it can be interrupted (in the main thread, in Python code). Two packages that register one name are an error when the
name is used. Names of this package are never another's.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from configparser import ConfigParser
from contextlib import contextmanager, redirect_stdout
from functools import cache, partial, reduce
from importlib import import_module
from importlib.metadata import EntryPoint, distributions, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Generic, NamedTuple, TypeVar, cast

from stapo.documents import shown
from stapo.errors import ConfigError, StapoError, did_you_mean, unknown_name

T = TypeVar("T")

IMPORT_SECONDS = 60.0
"""How long the import of another package may take."""

OWN = "stapo"
_SHORT = 300
_NAME = re.compile(r"\w[\w.+-]{0,99}")  # names stand on command lines, and files are named after them
_NAMES = "letters, digits, '_', and behind the first of them '-', '.' and '+'; 100 at most"


class Entry(NamedTuple):
    """One line of a listing.

    Attributes:
        name: under which it is registered; of a package whose list cannot be read, "".
        package: that brings it.
        target: "module:attribute" where it is.
        error: what is wrong with it, or None.
    """

    name: str
    package: str
    target: str
    error: str | None = None


def traits(**said: Any) -> Callable[[T], T]:
    """Let a function that is to be registered say something of itself; the protocol of its kind names what.

    @traits(needs_values=True)
    def my_estimator(rows, config, critic): ...
    """

    def mark(obj: T) -> T:
        for name, value in said.items():
            setattr(obj, name, value)
        return obj

    return mark


def trait(obj: object, name: str, default: T) -> T:
    """What a registered object says of itself, or the default."""
    return cast(T, getattr(obj, name, default))


class Registry(Generic[T]):
    """Maps names to objects of one kind.

    Args:
        kind: what the names stand for, in messages ("environment").
        group: entry-point group in which packages register theirs.
        wrong: says what is wrong with an object that another package registers under a name, or None where nothing is.
        own: objects of this package by name, beside those that `entry_points.txt` lists.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        wrong: Callable[[object, str], str | None] | None = None,
        own: Mapping[str, T] | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self._lazy = _listed().get(group, {})
        self._own = dict(own or {})
        self._objects: dict[str, T] = {}
        self._wrong = wrong

    def register(self, name: str, obj: T | None = None) -> Callable[[T], T]:
        """Register `obj` under `name`, in this process; usable as a decorator when `obj` is left out.

        What was defined anew, as a notebook's cell that is run again does it, takes the place of its former self.

        Raises:
            ConfigError: the name is taken by something else or cannot be a name, or `obj` is of another kind.
        """
        if not _is_name(name):
            raise ConfigError(f"{shown(name)} cannot be the name of this {self.kind}; expected {_NAMES}.")

        def add(value: T) -> T:
            if name in self.own_names() or not _same(self._objects.get(name, value), value):
                raise ConfigError(f"{self.kind} '{name}' is registered already; choose another name.")
            if problem := self._wrong(value, name) if self._wrong else None:
                raise ConfigError(f"{self.kind} '{name}' is {problem}.")
            self._objects[name] = value
            return value

        if obj is not None:
            add(obj)
        return add

    def own_names(self) -> list[str]:
        """Names of this package, in the order in which it lists them."""
        return [*self._own, *self._lazy]

    def names(self) -> list[str]:
        """All known names: those of this package, then, sorted, those of others."""
        found = {e.name for e in _entries(self.group)[0] if _is_name(e.name)} | self._objects.keys()
        return [*self.own_names(), *sorted(found - set(self.own_names()))]

    def loaded(self, name: str) -> T | None:
        """The object called `name` where it was registered or used in this process already."""
        return self._objects.get(name)

    def unusable(self) -> list[tuple[str, str]]:
        """What installed packages register without effect: (package, what is wrong) of each, for listings."""
        entries, broken = _entries(self.group)
        for entry in entries:
            own = self._lazy.get(entry.name, "")
            if not _is_name(entry.name):
                said = f"registers '{entry.value}' as {shown(entry.name)}, which cannot be a name; expected {_NAMES}"
                broken.append((_package(entry), said))
            elif entry.name in self.own_names() and own != entry.value:
                broken.append((_package(entry), f"registers '{entry.name}', which is a name of stapo's own"))
        return broken

    def listing(self) -> list[Entry]:
        """Everything that is registered, and what cannot be used. What other packages bring is imported to find out."""
        rows = [Entry(name, OWN, self._lazy.get(name, "")) for name in self.own_names()]
        packages = {e.name: (_package(e), e.value) for e in _entries(self.group)[0]}
        for name in self.names()[len(rows) :]:
            error = None
            try:
                found = self.get(name)
                where = f"{getattr(found, '__module__', '?')}:{getattr(found, '__qualname__', name)}"
                package, target = packages.get(name, (where.partition(".")[0].partition(":")[0], where))
            except StapoError as err:
                (package, target), error = packages[name], str(err)
            rows.append(Entry(name, package, target, error))
        return rows + [Entry("", package, "", f"this package {problem}") for package, problem in self.unusable()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def check(self, setting: str, name: object) -> None:
        """Check that a setting names something that is registered and, where another package brings it, can be used.

        Raises:
            ConfigError: it does not; the message proposes the closest name.
        """
        if isinstance(name, str) and (name in self._lazy or name in self._objects):
            return
        names = self.names()
        if not isinstance(name, str) or name not in names:
            guess = did_you_mean(name, names) if isinstance(name, str) else ""
            raise ConfigError(f"{setting} is {shown(name)}; expected one of {', '.join(map(repr, names))}.{guess}")
        self.get(name)

    def get(self, name: str) -> T:
        """Return the object called `name`.

        Raises:
            UnknownNameError: no such name; the message proposes the closest one.
            ConfigError: the name comes from an installed package that fails to import, whose object is of another
                kind, or that shares the name with another package.
        """
        if not isinstance(name, str):
            raise unknown_name(self.kind, name, self.names())
        if name in self._own:
            return self._own[name]
        if name not in self._objects:
            found = _resolve(self._lazy[name]) if name in self._lazy else self._of_package(name)
            self._objects[name] = cast(T, found)
        return self._objects[name]

    @contextmanager
    def calling(self, name: str) -> Iterator[T]:
        """Yield the object called `name`; what one of another package raises when it is called is a `ConfigError`.

        Raises:
            UnknownNameError: no such name.
            ConfigError: it cannot be imported, or raised something that is not an error of ours.
        """
        found = self.get(name)
        try:
            yield found
        except StapoError:
            raise
        except Exception as err:
            if name in self._lazy:
                raise
            raise ConfigError(f"{self.kind} '{name}' failed: {type(err).__name__}: {_said(err)}") from err

    def _of_package(self, name: str) -> Any:
        entries = {e.value: e for e in _entries(self.group)[0] if e.name == name and _is_name(name)}
        if not entries:
            raise unknown_name(self.kind, name, self.names())
        if len(entries) > 1:
            rivals = " and ".join(f"'{_package(e)}' ({e.value})" for e in entries.values())
            raise ConfigError(f"{self.kind} '{name}' is registered by {rivals}; uninstall or rename one of them.")
        (entry,) = entries.values()
        what = f"{self.kind} '{name}' of package '{_package(entry)}' points at '{entry.value}'"
        obj = _imported(what, partial(_resolve, entry.value))
        problem = self._wrong(obj, name) if self._wrong else None
        if problem:
            raise ConfigError(f"{what}, which is {problem}. Correct the package that brings it.")
        return obj


def imported(what: str, target: str) -> Callable[..., Any]:
    """The function at ``module:name`` or ``FILE.py:name``, a file from the working folder.

    This runs the code of the module: call it where a user asked for it by name, never because a folder says so.

    Raises:
        ConfigError: it cannot be imported, or is not a function; `what` says whose it is.
    """
    place, _, name = target.rpartition(":")
    what = f"{what} is '{target}'"
    if place.endswith(".py"):
        file = Path(place).expanduser().absolute()
        if not file.is_file():
            raise ConfigError(f"{what}, and there is no file '{file}'.")
        found = _imported(what, lambda: _resolve(f":{name}", _module_of(file, file.stat().st_mtime_ns)))
    else:
        found = _imported(what, partial(_resolve, target))
    if problem := no_function(found, name):
        raise ConfigError(f"{what}, which is {problem}.")
    return cast(Callable[..., Any], found)


@cache
def _module_of(file: Path, changed: int) -> ModuleType:
    """A file as a module, run once for each state that it is in."""
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None, "a .py file has a spec"
    assert spec.loader is not None, "a .py file has a loader"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _imported(what: str, resolve: Callable[[], Any]) -> Any:
    """What `resolve` imports, with its code watched."""
    try:
        with _watched() as interrupted:
            return resolve()
    except BaseException as err:  # importing runs another package's code, which may also exit
        if isinstance(err, KeyboardInterrupt) and interrupted:
            raise
        said = _said(err)
        reason = said if isinstance(err, ImportError | AttributeError) else f"{type(err).__name__}: {said}"
        raise ConfigError(f"{what}, which cannot be imported: {reason}") from err


@cache
def _listed() -> dict[str, dict[str, str]]:
    """Group -> name -> target of what this package registers."""
    parser = ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(Path(__file__).with_name("entry_points.txt").read_text(encoding="utf-8"))
    return {group: dict(parser[group]) for group in parser.sections()}


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _said(err: BaseException) -> str:
    return " ".join(str(err).split())[:_SHORT]


def no_function(obj: object, name: str) -> str | None:
    """What is wrong with an object that is not a function."""
    return None if callable(obj) else f"{shown(obj)}; expected a function"


def _same(old: object, new: object) -> bool:
    """Whether two objects are equal, or one definition that was run twice."""
    place, other = ((getattr(o, "__module__", None), getattr(o, "__qualname__", None)) for o in (old, new))
    return old == new or (place == other and None not in place and "<" not in str(place[1]))


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


def _resolve(target: str, found: Any = None) -> Any:
    module, _, attributes = target.partition("[")[0].strip().partition(":")
    found = import_module(module) if module else found
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
