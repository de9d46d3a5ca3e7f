"""The order in which training tasks come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stapo.config.run_config import RunConfig
from stapo.errors import ConfigError
from stapo.texts import counted


def drawn(tasks: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` of the tasks, chosen by the seed and in their order; all of them for 0.

    Raises:
        ConfigError: there are fewer.
    """
    if count > len(tasks):
        raise ConfigError(
            f"rollout.tasks is {count}, but the training split holds {counted(len(tasks), 'task')}; ask for at "
            "most as many, or "
            "for 0, which takes all."
        )
    if not count:
        return list(tasks)
    chosen = np.random.default_rng([seed, 16]).choice(len(tasks), size=count, replace=False)
    return [tasks[i] for i in sorted(chosen.tolist())]


def training_stream(tasks: Sequence[str], run: RunConfig) -> TaskStream:
    """What a run trains on, in its order, from all tasks of its training split.

    Raises:
        ConfigError: the split holds no task, or fewer than `rollout.tasks`.
    """
    return TaskStream(drawn(tasks, run.rollout.tasks, run.seed), run.seed)


class TaskStream:
    """Endless seeded order: each pass shows every task once, in a new order.

    The order is a function of seed and position alone, so a position is all that has to be remembered.
    """

    def __init__(self, tasks: Sequence[str], seed: int, position: int = 0) -> None:
        if not tasks:
            raise ConfigError("the training split holds no task; choose another with env.split.")
        self.tasks = list(tasks)
        self.seed = seed
        self.position = position
        self._pass = -1
        self._order: list[int] = []

    def take(self, count: int) -> list[str]:
        """Return the next `count` task ids and move on."""
        taken = []
        for _ in range(count):
            number, offset = divmod(self.position, len(self.tasks))
            if number != self._pass:
                self._pass = number
                self._order = np.random.default_rng([self.seed, 13, number]).permutation(len(self.tasks)).tolist()
            taken.append(self.tasks[self._order[offset]])
            self.position += 1
        return taken
