"""Which tasks there are: ids by split, and those of environments whose episodes come from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from stapo.documents import shown
from stapo.errors import UnknownNameError, unknown_name


class SplitTasks:
    """Task ids by split.

    Args:
        by_split: split -> its sorted ids, or what `_ids` makes them of, train first; a split without any is left out.

    Attributes:
        by_split: as given.
        splits: names of the splits.
    """

    def __init__(self, by_split: Mapping[str, Sequence[Any]]) -> None:
        self.by_split = {split: ids for split, ids in by_split.items() if ids}
        self.splits = tuple(self.by_split)

    @cached_property
    def tasks(self) -> list[str]:
        """All ids, sorted."""
        return sorted(task for split in self.splits for task in self.tasks_of(split))

    def tasks_of(self, split: str) -> Sequence[str]:
        """Sorted ids of one split. Raises UnknownNameError for a split that does not exist."""
        if not isinstance(split, str) or split not in self.by_split:
            raise unknown_name("split", split, self.by_split)
        return self._ids(split)

    def _ids(self, split: str) -> Sequence[str]:
        return self.by_split[split]


@lru_cache(maxsize=32)
def _numbered(split: str, number: int) -> tuple[str, ...]:
    return tuple(f"{split}/{index:06d}" for index in range(number))


class SeededTasks(SplitTasks):
    """Ids such as ``train/000017``.

    Args:
        numbers: split -> how many tasks it has, train first; a split without any is left out.
    """

    def __init__(self, numbers: Mapping[str, int]) -> None:
        # Ids are written when somebody asks: there may be a million, and a worker needs none of them.
        super().__init__({split: range(number) for split, number in numbers.items()})

    def _ids(self, split: str) -> tuple[str, ...]:
        return _numbered(split, len(self.by_split[split]))

    def place_of(self, task_id: str) -> tuple[str, int]:
        """Split and number of a task. Raises UnknownNameError for an id that does not exist."""
        split, _, digits = task_id.partition("/") if isinstance(task_id, str) else ("", "", "")
        number = int(digits) if len(digits) == 6 and digits.isascii() and digits.isdigit() else -1
        if not 0 <= number < len(self.by_split.get(split, ())):
            known = ", ".join(f"{ids[0]} to {ids[-1]}" for ids in map(self.tasks_of, self.splits))
            raise UnknownNameError(f"unknown task {shown(task_id)}. Known: {known}.")
        return split, number


class HasTasks:
    """The part of an environment that says which tasks there are."""

    _tasks: SplitTasks

    @property
    def tasks(self) -> Sequence[str]:
        """All task ids, sorted."""
        return self._tasks.tasks

    @property
    def splits(self) -> Sequence[str]:
        """Names of the splits that hold at least one task, train first."""
        return self._tasks.splits

    def tasks_of(self, split: str) -> Sequence[str]:
        """Sorted task ids of one split. Raises UnknownNameError for a split that does not exist."""
        return self._tasks.tasks_of(split)
