"""A three-step text world with free-text actions, and small policies for it.

Workers import this module: torch is left to whoever asks for a policy.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stapo.envs.offers import offers
from stapo.envs.protocol import Observation, StepResult
from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import unknown_name

if TYPE_CHECKING:
    from stapo.policy import Policy

COLORS = ("red", "green", "blue", "grey", "pink", "teal")


class ToyEnv:
    """Say something three times; won when at least two of the sayings have an even number of characters.

    A policy with random weights wins about half of its episodes, and the world has few states, so that advantages and
    anchor groups are not empty.

    Args:
        fatal: an action with this text in it ends the episode, unsolved; "" for none.
        empty: name of a split without tasks; "" for none.
        reward: of a solved episode.
    """

    name = "toy"
    max_steps = 3

    def __init__(self, fatal: str = "", empty: str = "", reward: float = 1.0) -> None:
        self.fatal = fatal
        self.empty = empty
        self.reward = reward
        self.said: list[str] = []
        self.done = True

    @property
    def tasks(self) -> Sequence[str]:
        return sorted(t for split in self.splits for t in self.tasks_of(split))

    @property
    def splits(self) -> Sequence[str]:
        return [s for s in ("train", "heldout") if s != self.empty]

    def tasks_of(self, split: str) -> Sequence[str]:
        if split not in ("train", "heldout"):
            raise unknown_name("split", split, self.splits)
        return [] if split == self.empty else [f"toy/{split}/{color}" for color in sorted(COLORS)]

    def task_type(self, task_id: str) -> str:
        return "warm" if task_id.rpartition("/")[2] in ("red", "pink") else "cold"

    def reset(self, task_id: str) -> Observation:
        self.said, self.done = [], False
        goal = f"please the {task_id.rpartition('/')[2]} judge."
        return Observation(f"A judge listens. Your task is to: {goal}", goal, None, "A judge listens.")

    def step(self, action: str) -> StepResult:
        assert not self.done
        self.said.append(action)
        lost = bool(self.fatal) and self.fatal in action
        won = not lost and len(self.said) == 3 and sum(len(s) % 2 == 0 for s in self.said) >= 2
        self.done = lost or len(self.said) == 3
        return StepResult(
            f"The judge heard something {'odd' if len(action) % 2 else 'even'}.",
            None,
            self.reward if won else 0.0,
            self.done,
            won,
            {"truncated": self.done and not won and not lost},
        )

    def close(self) -> None:
        self.done = True


class LongEnv(ToyEnv):
    """The toy world with ten sayings, and nothing to win."""

    name = "toy-long"
    max_steps = 10

    def step(self, action: str) -> StepResult:
        self.said.append(action)
        self.done = len(self.said) == 10
        heard = f"The judge heard saying number {len(self.said)}."
        return StepResult(heard, None, 0.0, self.done, False, {"truncated": self.done})


ROOMS = ("go north", "go north east", "go", "wait", "take the red lamp", "take the red lamp from desk 1", "wait")
SHOP = ("search[<your query>]", "click[red lamp]", "search[red lamp]", "click[< prev]")


class OfferingEnv(ToyEnv):
    """The toy world with commands to choose from: several, one, and one with a text of the agent's own among others."""

    lists = ([*ROOMS, "help"], ["wait", "help"], list(SHOP))

    def reset(self, task_id: str) -> Observation:
        seen = super().reset(task_id)
        return Observation(seen.text, seen.goal, self.lists[0], seen.blind_text)

    def step(self, action: str) -> StepResult:
        assert offers(self.lists[len(self.said)], action)
        out = super().step(action)
        return StepResult(out.text, self.lists[len(self.said) % 3], out.reward, out.done, out.won, out.info)


class TardyEnv(ToyEnv):
    """Answers after a random time, other than the time before."""

    def step(self, action: str) -> StepResult:
        time.sleep(random.SystemRandom().uniform(0, 0.01))
        return super().step(action)


def register_toy() -> None:
    """Make the worlds of this module known; registering twice is fine."""
    ENVIRONMENTS.register("toy", ToyEnv)
    ENVIRONMENTS.register("toy-offering", OfferingEnv)
    ENVIRONMENTS.register("tardy", TardyEnv)


TEXTS = [
    f"now The judge heard something even.\nstep {i}\ngoal please the {c} judge.\n>" for i in range(3) for c in COLORS
]


def small_policy(seed: int = 0, **sizes: Any) -> Policy:
    """A policy of a few thousand weights."""
    from stapo.policy import ModelConfig, build_policy

    given = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "vocab_size": 300, **sizes}
    return build_policy(ModelConfig(device="cpu", **given), TEXTS, 512, seed)


def toy_settings(model: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run of seconds, as a YAML file would hold them; `changes` are dotted keys with `__` as the dot."""
    settings: dict[str, Any] = {
        "seed": 0,
        "env": {"name": "toy", "split": "train", "options": {}},
        "agent": {
            "prompt": "compact",
            "response": "action",
            "history_length": 1,
            "max_prompt_tokens": 200,
            "max_response_tokens": 6,
        },
        "model": {"path": str(model), "device": "cpu"},
        "sft": {"steps": 0},
        "rollout": {"groups": 2, "group_size": 4, "reward_scale": 1.0},
        "algorithm": {"name": "stapo"},
        "optim": {"iterations": 2, "learning_rate": 0.01, "mini_batch": 16},
        "eval": {"split": "heldout", "episodes": 6, "greedy": True},
        "log": {"transcript_every": 1, "transcript_groups": 1},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        place = settings
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    register_toy()
    return settings
