"""Where games come from: what every source offers, how `games=` is turned into one, and its games ready to play."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from stapo.checks import user_path
from stapo.envs.alfworld.game import SPLIT_ORDER, TASK_TYPES, Game, TaskType
from stapo.envs.alfworld.goals import Goal, compile_goal
from stapo.envs.alfworld.world import CompiledGame, compile_world
from stapo.envs.overlap import in_common
from stapo.errors import ConfigError, GameFileError, did_you_mean
from stapo.texts import counted


@runtime_checkable
class TaskSource(Protocol):
    """A fixed set of games, by split.

    Ids are stable and sorted; loading is lazy, so a source of thousands of games stays small.
    """

    def splits(self) -> list[str]:
        """Names of the splits that hold games."""
        ...

    def ids(self, split: str) -> list[str]:
        """Sorted ids of one split."""
        ...

    def load(self, task_id: str) -> Game:
        """The game of an id. Raises UnknownNameError for an id that does not exist."""
        ...

    def task_type(self, task_id: str) -> TaskType:
        """The family of one game, without loading it."""
        ...


class ChosenTypes:
    """The games of another source that belong to some families.

    Attributes:
        whole: the other source.
    """

    def __init__(self, source: TaskSource, types: Collection[TaskType]) -> None:
        self.whole = source
        kept = {split: [i for i in source.ids(split) if source.task_type(i) in types] for split in source.splits()}
        self._ids = {split: ids for split, ids in kept.items() if ids}

    def splits(self) -> list[str]:
        """Names of the splits that hold games of these families."""
        return list(self._ids)

    def ids(self, split: str) -> list[str]:
        """Sorted ids of one split."""
        return self._ids[split]

    def load(self, task_id: str) -> Game:
        """The game of an id, of whatever family."""
        return self.whole.load(task_id)

    def task_type(self, task_id: str) -> TaskType:
        """The family of one game."""
        return self.whole.task_type(task_id)


_CHOSEN: weakref.WeakKeyDictionary[TaskSource, weakref.WeakValueDictionary[frozenset[TaskType], ChosenTypes]]
_CHOSEN = weakref.WeakKeyDictionary()


def chosen_types(source: TaskSource, types: Collection[TaskType]) -> ChosenTypes:
    """The games of these families; the environments of a process share what was found, as they share their source."""
    of_source = _CHOSEN.setdefault(source, weakref.WeakValueDictionary())
    chosen = of_source.get(frozenset(types))
    if chosen is None:
        chosen = of_source[frozenset(types)] = ChosenTypes(source, types)
    return chosen


def types_named(names: str | int | Iterable[str | int]) -> tuple[TaskType, ...]:
    """Families by name, or by their number in the configuration files of the original (1 to 6).

    Args:
        names: one, several, or several in one text with commas between them.

    Raises:
        ConfigError: no such family, or none at all.
    """
    if isinstance(names, str):
        names = [int(name) if name.strip().isdecimal() else name.strip() for name in names.split(",") if name.strip()]
    elif isinstance(names, int):
        names = [names]
    elif not isinstance(names, Iterable):
        raise ConfigError(f"task_types must be a list of families or None, found {names!r}.")
    chosen: list[TaskType] = []
    for name in names:
        if isinstance(name, int) and not isinstance(name, bool) and 1 <= name <= len(TASK_TYPES):
            chosen.append(TASK_TYPES[name - 1])
        elif name in TASK_TYPES:
            chosen.append(TASK_TYPES[TASK_TYPES.index(name)])
        else:
            raise ConfigError(
                f"task_types names {name!r}, which is not a family.{did_you_mean(str(name), TASK_TYPES)} Families: "
                f"{', '.join(TASK_TYPES)}, or 1 to {len(TASK_TYPES)} in this order."
            )
    if not chosen:
        raise ConfigError("task_types is empty; name at least one family, or leave it out for all.")
    return tuple(dict.fromkeys(chosen))


_NOTES: weakref.WeakKeyDictionary[TaskSource, list[str]] = weakref.WeakKeyDictionary()


def notes_on(source: TaskSource) -> list[str]:
    """What is odd about the games of a source, a sentence each; found once."""
    whole = source.whole if isinstance(source, ChosenTypes) else source
    if whole not in _NOTES:
        content: Callable[[], Mapping[str, Sequence[str]]] | None = getattr(whole, "content", None)
        parts = {} if content is None else content()
        _NOTES[whole] = [
            *getattr(whole, "notes", ()),
            *(
                f"split '{first}' also holds {same:,} of {counted(of, 'game')} of split '{other}'."
                for first, other, same, of, _ in in_common({split: parts[split] for split in ordered_splits(parts)})
            ),
        ]
    return _NOTES[whole]


def ordered_splits(names: Iterable[str]) -> list[str]:
    """Splits in the order they are reported in: train first, unknown ones last and sorted."""
    rank = {name: i for i, name in enumerate(SPLIT_ORDER)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))


# Environments of one process share the games they read: a group of eight workers costs no more than
# one.
_OPEN: weakref.WeakValueDictionary[tuple[object, ...], TaskSource] = weakref.WeakValueDictionary()


def open_source(
    games: str | os.PathLike[str] | None, *, scenes: str = "small", games_per_type: int = 200
) -> TaskSource:
    """Open a set of games.

    Args:
        games: None for the built-in generator; else a ``.jsonl`` or ``.jsonl.xz`` file, a folder of
            ``games_*`` files of that form, or a folder of the original release ($ALFWORLD_DATA, or
            one of its json_2.1.* folders).
        scenes: which rooms the generator uses; ignored with `games`.
        games_per_type: games that the generator makes per family and split; ignored with `games`.

    Raises:
        GameFileError: nothing usable at that path.
        ConfigError: an option of the generator that cannot be used.
    """
    if games is None:
        key: tuple[object, ...] = ("generated", scenes, games_per_type)
    else:
        if not isinstance(games, str | os.PathLike):
            raise ConfigError(f"games must be a path or None, found {games!r}.")
        path = user_path(games)
        if not path.exists():
            raise GameFileError(
                f"games path '{path}' does not exist; expected a .jsonl(.xz) file, a folder of them, or an "
                "$ALFWORLD_DATA folder. Leave games out to use the built-in generator."
            )
        key = ("path", str(path.resolve()), *_signature(path))
    source = _OPEN.get(key)
    if source is None:
        source = _generated(scenes, games_per_type) if games is None else _open_path(path)
        _OPEN[key] = source
    return source


def _signature(path: Path) -> tuple[object, ...]:
    """Changes when a file changed, so that an edited file is read again."""
    from stapo.envs.alfworld.compact import game_files

    files = [path] if path.is_file() else game_files(path)
    return tuple((file.name, (s := file.stat()).st_mtime_ns, s.st_size) for file in files)


def _open_path(path: Path) -> TaskSource:
    from stapo.envs.alfworld.compact import CompactGames, game_files
    from stapo.envs.alfworld.release import ReleaseTree, find_release

    if path.is_file():
        return CompactGames([path])
    files = game_files(path)
    if files:
        return CompactGames(files)
    root = find_release(path)
    if root is not None:
        return ReleaseTree(root)
    raise GameFileError(
        f"no games in folder '{path}'; expected games_*.jsonl(.xz) files, or train/, valid_seen/ or valid_unseen/ of "
        "the ALFWorld release (json_2.1.1)."
    )


def _generated(scenes: str, games_per_type: int) -> TaskSource:
    # Imported on demand: users of recorded games never pay for the generator.
    from stapo.envs.alfworld.generator import GeneratedGames

    return GeneratedGames(scenes=scenes, games_per_type=games_per_type)


CACHE_SIZE = 512
"""Compiled games kept per source; one takes about 60 kB."""


class Playable(NamedTuple):
    """A compiled game."""

    compiled: CompiledGame
    goal: Goal
    goal_text: str


_LOCK = threading.Lock()
_CACHES: weakref.WeakKeyDictionary[TaskSource, OrderedDict[str, Playable]] = weakref.WeakKeyDictionary()


def playable(source: TaskSource, task_id: str) -> Playable:
    """The compiled game of an id, from the cache of its source or freshly compiled.

    Raises:
        UnknownNameError: no such task.
        GameFileError: the game cannot be played; the message names it.
    """
    with _LOCK:
        cache = _CACHES.setdefault(source, OrderedDict())
        known = cache.get(task_id) if isinstance(task_id, str) else None
        if known is not None:
            cache.move_to_end(task_id)
            return known
    game = source.load(task_id)
    compiled = compile_world(game)
    try:
        ready = Playable(compiled, compile_goal(compiled), game.goal)
    except GameFileError as err:
        raise GameFileError(f"game '{task_id}': {err}") from err
    with _LOCK:
        cache[task_id] = ready
        if len(cache) > CACHE_SIZE:
            cache.popitem(last=False)
    return ready
