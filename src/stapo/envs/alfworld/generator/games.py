"""The task list of the generated scenes: ids, and the game behind an id."""

from __future__ import annotations

import re

from stapo.envs.alfworld.game import MOST_GAMES, TASK_TYPES, Game, TaskType
from stapo.envs.alfworld.generator.goals import draw_goal
from stapo.envs.alfworld.generator.layouts import SPLITS
from stapo.envs.alfworld.generator.problem import problem
from stapo.envs.alfworld.generator.scenes import furnish
from stapo.envs.alfworld.generator.sizes import size_named
from stapo.envs.draws import Draws
from stapo.envs.options import whole
from stapo.errors import unknown_name

# Six digits, or more without a leading zero: no game has two ids.
_ID = re.compile(
    r"generated-(?P<scenes>[a-z]+)/(?P<split>[a-z]+)/(?P<type>[a-z_]+)/(?P<number>[0-9]{6}|[1-9][0-9]{6,17})"
)


class GeneratedGames:
    """Household games made on demand, each a pure function of its id.

    An id reads ``generated-<size>/<split>/<task type>/<number>``. `ids` lists `games_per_type` of
    each type (fewer where the size says so), but every number, however large, has its game.
    """

    def __init__(self, scenes: str = "small", games_per_type: int = 200) -> None:
        """Choose the scene size and how many games `ids` lists.

        Args:
            scenes: small, standard or search.
            games_per_type: listed games of each task type in each split.

        Raises:
            ConfigError: no such size, or `games_per_type` below 1 or above 100,000.
        """
        self.size = size_named(scenes)
        self.scenes = scenes
        self.games_per_type = whole("games_per_type", games_per_type, 1, MOST_GAMES)

    def splits(self) -> list[str]:
        """The names of the splits, train first."""
        return list(SPLITS)

    def ids(self, split: str) -> list[str]:
        """The listed task ids of a split, sorted.

        Raises:
            UnknownNameError: there is no such split.
        """
        if split not in SPLITS:
            raise unknown_name("split of the generated games", split, SPLITS)
        return sorted(
            self._id(split, task_type, number) for task_type in TASK_TYPES for number in range(self._listed(task_type))
        )

    def load(self, task_id: str) -> Game:
        """Make the game of an id.

        Raises:
            UnknownNameError: the id is malformed or belongs to another scene size.
        """
        split, task_type, number = self._parse(task_id)
        draws = Draws(task_id)
        family, goal = draw_goal(self.scenes, split, task_type, draws)
        things = furnish(self.size, family, goal, draws)
        name = f"generated_{self.scenes}_{split}_{task_type}_{number}"
        return Game(
            id=task_id,
            split=split,
            task_type=task_type,
            goal=goal.sentence(draws),
            pddl_problem=problem(name, family, things, goal, holds_all=self.size.usual is None),
        )

    def task_type(self, task_id: str) -> TaskType:
        """The family of a game, read off its id.

        Raises:
            UnknownNameError: as for `load`.
        """
        return self._parse(task_id)[1]

    def _listed(self, task_type: TaskType) -> int:
        return max(1, round(self.games_per_type * self.size.share.get(task_type, 1.0)))

    def _id(self, split: str, task_type: TaskType, number: int) -> str:
        return f"generated-{self.scenes}/{split}/{task_type}/{number:06d}"

    def _parse(self, task_id: str) -> tuple[str, TaskType, str]:
        found = _ID.fullmatch(task_id) if isinstance(task_id, str) else None
        if found and found["scenes"] == self.scenes and found["split"] in SPLITS:
            for task_type in TASK_TYPES:
                if found["type"] == task_type:
                    return found["split"], task_type, found["number"]
        raise unknown_name("generated game", str(task_id), self._examples(str(task_id)))

    def _examples(self, task_id: str) -> list[str]:
        """One id per split and type, with the number that `task_id` seems to mean."""
        digits = re.search(r"0*([0-9]{1,17})$", task_id, re.ASCII)
        number = int(digits[1]) if digits else 0
        return [self._id(split, type_, number) for split in SPLITS for type_ in TASK_TYPES]
