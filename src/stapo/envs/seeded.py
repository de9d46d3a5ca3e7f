"""Tasks that are numbers: ids by split and number, for environments whose episodes come from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

from stapo.documents import shown
from stapo.errors import UnknownNameError, unknown_name


@lru_cache(maxsize=32)
def _ids(split: str, number: int) -> tuple[str, ...]:
    return tuple(f"{split}/{index:06d}" for index in range(number))


class SeededTasks:
    """Ids such as ``train/000017``.

    Args:
        numbers: split -> how many tasks it has, train first; a split without any is left out.
    """

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self._numbers = {split: number for split, number in numbers.items() if number}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._numbers)

    @cached_property
    def tasks(self) -> list[str]:
        """All ids, sorted."""
        return sorted(task for split in self._numbers for task in self.tasks_of(split))

    def tasks_of(self, split: str) -> Sequence[str]:
        """Sorted ids of one split. Raises UnknownNameError for a split that does not exist."""
        if not isinstance(split, str) or split not in self._numbers:
            raise unknown_name("split", split, self._numbers)
        return _ids(split, self._numbers[split])

    def place_of(self, task_id: str) -> tuple[str, int]:
        """Split and number of a task. Raises UnknownNameError for an id that does not exist."""
        split, _, digits = task_id.partition("/") if isinstance(task_id, str) else ("", "", "")
        number = int(digits) if len(digits) == 6 and digits.isascii() and digits.isdigit() else -1
        if not 0 <= number < self._numbers.get(split, 0):
            known = ", ".join(f"{ids[0]} to {ids[-1]}" for ids in map(self.tasks_of, self._numbers) if ids)
            raise UnknownNameError(f"unknown task {shown(task_id)}. Known: {known}.")
        return split, number


class HasSeededTasks:
    """The part of an environment that says which tasks there are."""

    _tasks: SeededTasks

    @property
    def tasks(self) -> Sequence[str]:
        """All task ids, sorted."""
        return self._tasks.tasks

    @property
    def splits(self) -> Sequence[str]:
        """Names of the splits, train first."""
        return self._tasks.splits

    def tasks_of(self, split: str) -> Sequence[str]:
        """Sorted task ids of one split. Raises UnknownNameError for a split that does not exist."""
        return self._tasks.tasks_of(split)
