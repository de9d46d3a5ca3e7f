"""Games of the original release: folders with traj_data.json and game.tw-pddl.

Keeps and skips what the original loader keeps and skips, but sorts the games instead of taking the
order of the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stapo.documents import parse_json
from stapo.envs.alfworld.game import SPLIT_ORDER, TASK_TYPES, Game, RecordedGames, TaskType
from stapo.errors import GameFileError, reading
from stapo.texts import counted

_SPLITS = SPLIT_ORDER[:3]
_NO_SPLIT = "games"
_DEEPEST = 6
"""Folders below the one that is given in which games are looked for."""
_GAME = "game.tw-pddl"
_TASK_FOLDER = re.compile(r"(pick|look)_\w+-")
_TAIL_BYTES = 65_536
_MOST_GAME_BYTES = 64 << 20
"""Bytes of one game; released ones have under two million."""
_SOLVABLE = re.compile(rb'"solvable"\s*:\s*(true|false)')
_TASK_TYPE = re.compile(rb'"task_type"\s*:\s*"(\w+)"')
_TASK = re.compile(r"Your task is to: ([^\"\n]+)")


class _Entry(NamedTuple):
    split: str
    task_type: TaskType
    folder: Path


def find_release(path: Path) -> Path | None:
    """The folder that holds the split folders: `path`, or the newest json_* folder in it.

    Without folders of the published names, it is a folder with games somewhere below it.
    """
    candidates = (path, *sorted(path.glob("json_*"), reverse=True))
    for candidate in candidates:
        if any((candidate / split).is_dir() for split in _SPLITS):
            return candidate
    for candidate in (*candidates[1:], path):
        first = next(_trajectories(candidate), None)
        if first is not None:
            parts = first.relative_to(candidate).parts
            at = next((i for i, part in enumerate(parts) if part in _SPLITS), 0)
            return candidate.joinpath(*parts[:at])
    return None


class ReleaseTree(RecordedGames[_Entry]):
    """The playable games below a release folder.

    Skipped, as in the original: paths with ``movable`` or ``Sliced``, task types outside the six
    families, folders without a game file, games without the ``solvable`` mark or marked unsolvable.

    A split is the folder below the root that a game is in, whatever its name. Games in no such folder (a game, or the
    folders of tasks, given by itself) are of the split "games", or of the one that the root is named after.

    Args:
        root: the folder that holds train/, valid_seen/ and valid_unseen/, or others.

    Attributes:
        notes: what was left out, a sentence each.

    Raises:
        GameFileError: a folder of a published split that holds no playable game, or a file that is not what its name
            says.
    """

    def __init__(self, root: Path) -> None:
        entries: dict[str, _Entry] = {}
        self.notes: list[str] = []
        skipped: dict[str, list[str]] = {}
        seen: set[str] = set()
        for folder in _trajectories(root):
            parts = folder.relative_to(root).parts
            game_id = "/".join(parts) or root.name
            # A folder of tasks, "pick_and_place_simple-Mug-None-Desk-1", is not a split.
            alone = root.name if root.name in _SPLITS else _NO_SPLIT
            split = parts[0] if len(parts) > 1 and not _TASK_FOLDER.match(parts[0]) else alone
            seen.add(split)
            task_type = _playable(folder)
            if task_type is None:
                skipped.setdefault(split, []).append(game_id)
            else:
                entries[game_id] = _Entry(split, task_type, folder)
        super().__init__(entries)
        for split in (name for name in _SPLITS if (root / name).is_dir()):
            seen.add(split)
        for split in sorted(seen):
            if split in _SPLITS and split not in self.by_split:
                raise GameFileError(
                    f"split '{split}' in '{root}' holds no playable game; expected folders with traj_data.json and a "
                    "solvable game.tw-pddl. Remove the empty folder or download the split again."
                )
        for split, games in sorted(skipped.items()):
            if split not in self.by_split:
                shown = ", ".join(sorted(games)[:3]) + (", …" if len(games) > 3 else "")
                self.notes.append(
                    f"'{root / split}' holds {counted(len(games), 'game')} and none that can be played, it is left "
                    f"out: {shown}."
                )
        if not entries:
            raise GameFileError(
                f"no game in '{root}' can be played; expected folders with traj_data.json and a solvable game.tw-pddl. "
                "Point games at a folder of the release."
            )

    def content(self) -> dict[str, list[str]]:
        """Split -> a key of each game, equal for equal files; files of different sizes are not read."""
        by_size: dict[int, list[str]] = {}
        for game_id, entry in self.records.items():
            by_size.setdefault((entry.folder / _GAME).stat().st_size, []).append(game_id)
        keys = {game_id: game_id for game_id in self.records}
        for alike in by_size.values():
            if len({self.records[game_id].split for game_id in alike}) > 1:
                for game_id in alike:
                    raw = (self.records[game_id].folder / _GAME).read_bytes()
                    keys[game_id] = hashlib.sha256(raw).hexdigest()[:16]
        return {split: [keys[game_id] for game_id in ids] for split, ids in self.by_split.items()}

    def load(self, task_id: str) -> Game:
        """The game of an id."""
        entry = self.record(task_id)
        file = entry.folder / _GAME
        data = _json_object(file)
        for key in ("pddl_problem", "grammar"):
            if not isinstance(data.get(key), str):
                raise GameFileError(f"{file}: key '{key}' is missing or no text; download the game again.")
        task = _TASK.search(data["grammar"])
        if task is None:
            raise GameFileError(f"{file}: the grammar states no 'Your task is to: …' sentence.")
        return Game(task_id, entry.split, entry.task_type, task.group(1), data["pddl_problem"])


def _trajectories(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        deep = len(Path(root).relative_to(folder).parts) >= _DEEPEST
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        if "traj_data.json" in files:
            yield Path(root)


def _playable(folder: Path) -> TaskType | None:
    path = str(folder)
    game_file = folder / _GAME
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
    with reading(f"{file}", GameFileError), file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        found: list[bytes] = pattern.findall(stream.read())
    return found[-1].decode() if found else _json_object(file).get(key)


def _json_object(file: Path) -> dict[str, Any]:
    try:
        with reading(str(file), GameFileError):
            if file.stat().st_size > _MOST_GAME_BYTES:
                raise GameFileError(f"{file} has more than {_MOST_GAME_BYTES >> 20} MiB, which is not a game.")
            data = parse_json(file.read_bytes())
    except GameFileError:
        raise
    except ValueError as err:
        raise GameFileError(f"{file} is not valid JSON ({err}); it may be cut short. Download the game again.") from err
    if not isinstance(data, dict):
        raise GameFileError(f"{file}: expected a JSON object, found {type(data).__name__}.")
    return data
