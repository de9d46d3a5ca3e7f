"""Games ready to play: compiled once per source, kept for as long as memory allows."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import NamedTuple

from stapo.envs.alfworld.goals import Goal, compile_goal
from stapo.envs.alfworld.sources import TaskSource
from stapo.envs.alfworld.world import CompiledGame, compile_world
from stapo.errors import GameFileError

CACHE_SIZE = 512
"""Compiled games kept per source; one takes about 60 kB."""


class Playable(NamedTuple):
    """A compiled game."""

    world: CompiledGame
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
    world = compile_world(game)
    try:
        ready = Playable(world, compile_goal(world), game.goal)
    except GameFileError as err:
        raise GameFileError(f"game '{task_id}': {err}") from err
    with _LOCK:
        cache[task_id] = ready
        if len(cache) > CACHE_SIZE:
            cache.popitem(last=False)
    return ready
