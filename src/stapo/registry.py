"""A small typed registry: built-in names, entry points of installed packages, and helpful misses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from stapo.errors import ConfigError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to objects of one kind.

    Args:
        kind: what the names stand for, in messages ("environment").
        group: entry-point group in which other packages can register theirs.
        builtin: name -> "module:attribute", imported on first use so that listing names stays cheap.
    """

    def __init__(self, kind: str, group: str, builtin: dict[str, str] | None = None) -> None:
        self.kind = kind
        self.group = group
        self._lazy = dict(builtin or {})
        self._objects: dict[str, T] = {}

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
        found = {e.name for e in entry_points(group=self.group)}
        return sorted(found | self._objects.keys() | self._lazy.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def get(self, name: str) -> T:
        """Return the object called `name`.

        Raises:
            UnknownNameError: no such name; the message proposes the closest one.
            ConfigError: the name comes from an installed package that fails to import.
        """
        if name in self._objects:
            return self._objects[name]
        target = self._lazy.get(name)
        if target is None:
            for entry in entry_points(group=self.group):
                if entry.name == name:
                    target = entry.value
        if target is None:
            raise unknown_name(self.kind, name, self.names())
        module, _, attribute = target.partition(":")
        try:
            obj: Any = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as err:
            raise ConfigError(f"{self.kind} '{name}' points at '{target}', which cannot be imported: {err}") from err
        self._objects[name] = cast(T, obj)
        return cast(T, obj)
