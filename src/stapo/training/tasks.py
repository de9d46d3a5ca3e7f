"""The order in which training tasks come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stapo.config.run_config import RunConfig
from stapo.config.training import TasksConfig
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
    chosen = drawn(tasks, run.rollout.tasks, run.seed)
    if run.tasks.sampler == "informative":
        return InformativeStream(chosen, run.seed, run.tasks)
    return TaskStream(chosen, run.seed)


class TaskStream:
    """Endless seeded order: each pass shows every task once, in a new order.

    The order is a function of seed and position alone, so a position is all that has to be remembered.
    """

    def __init__(self, tasks: Sequence[str], seed: int) -> None:
        if not tasks:
            raise ConfigError("the training split holds no task; choose another with env.split.")
        self.tasks = list(tasks)
        self.seed = seed
        self.position = 0
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

    def learn(self, differed: Iterable[tuple[str, bool]]) -> None:
        """Take in the groups of an iteration: the task of each, and whether its attempts differed."""

    def state(self) -> dict[str, Any]:
        """What it depends on besides the seed, in JSON's types."""
        return {"task_position": self.position}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self.position = state["task_position"]


class InformativeStream(TaskStream):
    """Endless seeded order that prefers tasks whose groups differed (`TasksConfig`).

    A task's chance goes by (d + 1) / (n + 2), n groups of it having been seen and d of them having differed, older ones
    decayed: where all attempts fail again and again it falls as far as where all succeed, but not to 0.

    Attributes:
        seen: n and d of every task that was played.
    """

    def __init__(self, tasks: Sequence[str], seed: int, config: TasksConfig) -> None:
        super().__init__(tasks, seed)
        self.config = config
        self.seen: dict[str, tuple[float, float]] = {}
        self._taken: set[int] = set()

    def chances(self) -> np.ndarray:
        """Chance of each task to be the next one of an iteration; they sum to 1."""
        counts: np.ndarray = np.array([self.seen.get(task, (0.0, 0.0)) for task in self.tasks])
        score = (counts[:, 1] + 1) / (counts[:, 0] + 2)
        chances: np.ndarray = (1 - self.config.floor) * score / score.sum() + self.config.floor / len(score)
        return chances

    def take(self, count: int) -> list[str]:
        """Return the next `count` task ids, none twice in an iteration as long as there are others."""
        # Arrival times with these rates: the first ones are a weighted draw without replacement.
        rng = np.random.default_rng([self.seed, 19, self.position])
        order = np.argsort(rng.exponential(size=len(self.tasks)) / self.chances(), kind="stable").tolist()
        taken: list[int] = []
        while len(taken) < count:
            if len(self._taken) == len(self.tasks):
                self._taken.clear()
            fresh = [i for i in order if i not in self._taken][: count - len(taken)]
            self._taken.update(fresh)
            taken += fresh
        self.position += count
        return [self.tasks[i] for i in taken]

    def learn(self, differed: Iterable[tuple[str, bool]]) -> None:
        """See `TaskStream.learn`."""
        for task, did in differed:
            n, d = self.seen.get(task, (0.0, 0.0))
            self.seen[task] = (self.config.decay * n + 1, self.config.decay * d + did)
        self._taken.clear()

    def state(self) -> dict[str, Any]:
        """See `TaskStream.state`."""
        return super().state() | {"task_counts": {task: list(counts) for task, counts in self.seen.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `TaskStream.restore`."""
        super().restore(state)
        self.seen = {task: (n, d) for task, (n, d) in state["task_counts"].items()}
