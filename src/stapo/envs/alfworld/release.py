"""Games of the original release: folders with traj_data.json and game.tw-pddl.

Keeps and skips what the original loader keeps and skips, but sorts the games instead of taking the
order of the disk.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from stapo.envs.alfworld.game import TASK_TYPES, Game, TaskType
from stapo.envs.alfworld.sources import SPLIT_ORDER
from stapo.errors import GameFileError, unknown_name

_SPLITS = SPLIT_ORDER[:3]
_TAIL_BYTES = 65_536
_SOLVABLE = re.compile(rb'"solvable"\s*:\s*(true|false)')
_TASK_TYPE = re.compile(rb'"task_type"\s*:\s*"(\w+)"')
_TASK = re.compile(r"Your task is to: ([^\"\n]+)")


class _Entry(NamedTuple):
    split: str
    task_type: TaskType
    folder: Path


def find_release(path: Path) -> Path | None:
    """The folder that holds the split folders: `path`, or the newest json_* folder in it."""
    for candidate in (path, *sorted(path.glob("json_*"), reverse=True)):
        if any((candidate / split).is_dir() for split in _SPLITS):
            return candidate
    return None


class ReleaseTree:
    """The playable games below a release folder.

    Skipped, as in the original: paths with ``movable`` or ``Sliced``, task types outside the six
    families, folders without a game file, games without the ``solvable`` mark or marked unsolvable.

    Args:
        root: the folder that holds train/, valid_seen/ and valid_unseen/ (any of them).

    Raises:
        GameFileError: a split folder that holds no playable game, or a file that is not what its
            name says.
    """

    def __init__(self, root: Path) -> None:
        self._entries: dict[str, _Entry] = {}
        self._ids: dict[str, list[str]] = {}
        for split in _SPLITS:
            if not (root / split).is_dir():
                continue
            for folder in _trajectories(root / split):
                task_type = _playable(folder)
                if task_type is not None:
                    game_id = folder.relative_to(root).as_posix()
                    self._entries[game_id] = _Entry(split, task_type, folder)
            ids = sorted(game_id for game_id, entry in self._entries.items() if entry.split == split)
            if not ids:
                raise GameFileError(
                    f"split '{split}' in '{root}' holds no playable game; expected folders with "
                    "traj_data.json and "
                    "a solvable game.tw-pddl. Remove the empty folder or download the split again."
                )
            self._ids[split] = ids

    def splits(self) -> list[str]:
        """Names of the splits that hold games."""
        return list(self._ids)

    def ids(self, split: str) -> list[str]:
        """Sorted ids of one split: paths relative to the release folder."""
        if split not in self._ids:
            raise unknown_name("split", split, self._ids)
        return self._ids[split]

    def task_type(self, task_id: str) -> TaskType:
        """The family of one game."""
        return self._entry(task_id).task_type

    def load(self, task_id: str) -> Game:
        """The game of an id."""
        entry = self._entry(task_id)
        file = entry.folder / "game.tw-pddl"
        data = _json_object(file)
        for key in ("pddl_problem", "grammar"):
            if not isinstance(data.get(key), str):
                raise GameFileError(f"{file}: key '{key}' is missing or no text; download the game again.")
        task = _TASK.search(data["grammar"])
        if task is None:
            raise GameFileError(f"{file}: the grammar states no 'Your task is to: …' sentence.")
        return Game(task_id, entry.split, entry.task_type, task.group(1), data["pddl_problem"])

    def _entry(self, task_id: str) -> _Entry:
        entry = self._entries.get(task_id)
        if entry is None:
            raise unknown_name("task", task_id, self._entries)
        return entry


def _trajectories(folder: Path) -> list[Path]:
    return [Path(root) for root, _, files in os.walk(folder) if "traj_data.json" in files]


def _playable(folder: Path) -> TaskType | None:
    path = str(folder)
    game_file = folder / "game.tw-pddl"
    if "movable" in path or "Sliced" in path or not game_file.exists():
        return None
    stated = _tail_value(folder / "traj_data.json", _TASK_TYPE, "task_type")
    for task_type in TASK_TYPES:
        if stated == task_type:
            solvable = _tail_value(game_file, _SOLVABLE, "solvable")
            return task_type if solvable in ("true", True) else None
    return None


def _tail_value(file: Path, pattern: re.Pattern[bytes], key: str) -> Any:
    """A top-level value near the end of a JSON file; reading 7,000 whole files takes minutes."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            found: list[bytes] = pattern.findall(stream.read())
    except OSError as err:
        raise GameFileError(f"{file} cannot be read: {err.strerror or err}.") from err
    return found[-1].decode() if found else _json_object(file).get(key)


def _json_object(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as err:
        raise GameFileError(f"{file} cannot be read: {err.strerror or err}.") from err
    except ValueError as err:
        raise GameFileError(f"{file} is not valid JSON ({err}); it may be cut short. Download the game again.") from err
    if not isinstance(data, dict):
        raise GameFileError(f"{file}: expected a JSON object, found {type(data).__name__}.")
    return data
