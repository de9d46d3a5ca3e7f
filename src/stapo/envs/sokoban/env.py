"""The Sokoban environment: generated levels, played natively, under the public protocol."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from stapo.checks import check_flag, check_integer, check_number
from stapo.envs.protocol import CommandShapes, Observation, StepResult, begun, going_on
from stapo.envs.sokoban.board import DIRECTIONS, Board, State, direction_in
from stapo.envs.sokoban.demonstrator import Demonstrator
from stapo.envs.sokoban.generator import Level
from stapo.envs.sokoban.judge import MoveJudge
from stapo.envs.sokoban.levels import Sizes, distances_of, level_of, shortest_plan, tasks_with
from stapo.envs.tasks import HasTasks, SeededTasks

GOAL = "Push every box onto a target."
STEP_REWARD, BOX_REWARD, WIN_REWARD = -0.1, 1.0, 10.0

_LARGEST, _MOST_BOXES, _MOST_LEVELS = 10, 3, 1_000_000


class SokobanEnv(HasTasks):
    """Boxes that are pushed onto targets, in generated rooms, one episode at a time.

    Args:
        size: rows of a room, and cells of a row, with its walls; 5 to 10.
        boxes: boxes and targets of a room; 1 to 3.
        search_depth: moves of the reverse play that a room is made with, at most; more give longer ways.
        levels: rooms of the split train; heldout has a tenth.
        max_steps: moves after which an episode ends.
        demonstrator_slips: share of moves, from 0 to 1, in which the demonstrator goes anywhere, though never where the
            room can no longer be solved: SFT that knows the rules, and wanders.
        positions: whether a line below the room says in rows and columns where player, boxes and targets are, as in
            RAGEN's grid with coordinates. Small policies read that more easily than a square of symbols.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name = "sokoban"
    default_presets: Mapping[str, str] = {"scratch": "sokoban-tiny", "pretrained": "smollm2/sokoban"}
    chat_settings: Mapping[str, Any] = {
        "prompt": "sokoban", "response": "think_action", "history_length": 2,
        "max_prompt_tokens": 1024, "max_response_tokens": 512,
    }  # fmt: skip
    command_shapes = CommandShapes(place="in a room with boxes")

    def __init__(
        self,
        size: int = 6,
        boxes: int = 1,
        search_depth: int = 30,
        levels: int = 10_000,
        max_steps: int = 15,
        demonstrator_slips: float = 0.0,
        positions: bool = False,
    ) -> None:
        for option, value, least, most in (
            ("size", size, 5, _LARGEST),
            ("boxes", boxes, 1, _MOST_BOXES),
            ("search_depth", search_depth, 1, 1_000),
            ("levels", levels, 1, _MOST_LEVELS),
        ):
            check_integer(option, value, least, most)
        self.max_steps = check_integer("max_steps", max_steps, 1)
        self._slips = check_number("demonstrator_slips", demonstrator_slips, 0, 1)
        self._positions = check_flag("positions", positions)
        self._sizes = Sizes(size, boxes, search_depth, levels)
        self._tasks: SeededTasks = tasks_with(self._sizes)
        self._task: str | None = None
        self._level: Level | None = None
        self._state = State(0, ())
        self._steps = 0
        self._done = False

    def task_type(self, task_id: str) -> str:
        """Size and number of boxes, as "6x6-1-box"."""
        size, boxes = self._sizes.size, self._sizes.boxes
        return f"{size}x{size}-{boxes}-{'box' if boxes == 1 else 'boxes'}"

    def reset(self, task_id: str) -> Observation:
        """Start the episode of a level. Raises UnknownNameError for an id that does not exist."""
        self._tasks.place_of(task_id)
        self._level = level = level_of(self._sizes, task_id)
        self._task, self._state, self._steps, self._done = task_id, level.start, 0, False
        return Observation(text=self._seen(), goal=GOAL, admissible=sorted(DIRECTIONS))

    def step(self, action: str) -> StepResult:
        """Move the player; text that does not name one direction moves nothing and uses the step.

        A step gives -0.1, a box onto a target 1, one off a target -1, and the last box on its target 10 more.
        """
        board, before = going_on(self._level, self._done).board, self._state
        direction = direction_in(action)
        after = before if direction is None else board.move(before, direction)
        won = board.won(after)
        reward = STEP_REWARD + BOX_REWARD * (board.placed(after) - board.placed(before)) + WIN_REWARD * won
        self._state = after
        self._steps += 1
        truncated = not won and self._steps >= self.max_steps
        self._done = won or truncated
        info = {"truncated": truncated, "effect": after != before}
        return StepResult(self._seen(), sorted(DIRECTIONS), reward, self._done, won, info)

    def _seen(self) -> str:
        room = self.board.text(self._state)
        return f"{room}\n{self.board.positions(self._state)}" if self._positions else room

    def close(self) -> None:
        """End the episode; the environment can be reset again."""
        self._level = self._task = None

    # -- beyond the protocol ---------------------------------------------------------------------

    @property
    def board(self) -> Board:
        """Walls and targets of the current episode. Raises EnvError before reset."""
        return begun(self._level, "board").board

    @property
    def state(self) -> State:
        """Player and boxes of the current episode. Raises EnvError before reset."""
        begun(self._level, "state")
        return self._state

    def expert_plan(self) -> list[str] | None:
        """A shortest list of moves from here, none where the level is solved, None where it cannot be any more.

        Raises:
            EnvError: before reset.
        """
        return shortest_plan(self.board, self._state, self._distances())

    def remaining(self, after: str | None = None) -> int | None:
        """How many moves a shortest plan from here has; None where the level cannot be solved any more.

        Args:
            after: a move that would come before; it is not made.

        Raises:
            EnvError: before reset.
        """
        board, state = self.board, self._state
        return self._distances().get(state if after is None else board.move(state, after))

    def judge(self) -> MoveJudge:
        """A judge of the episode just reset; see `stapo.envs.sokoban.judge`."""
        return MoveJudge(self)

    def demonstrator(self, rng: random.Random) -> Demonstrator:
        """A player for the episode just reset that goes a shortest way, but for its slips."""
        return Demonstrator(self, rng, self._slips)

    def _distances(self) -> dict[State, int]:
        return distances_of(self._sizes, begun(self._task, "level"))
