"""Train in your own environment: a class with a few methods, here with a demonstrator for SFT."""

from __future__ import annotations

import random
from typing import Any

import stapo

COLORS = ("red", "green", "blue", "white")


class Presser:
    """Demonstrates: presses the button that the task names."""

    def __init__(self, color: str) -> None:
        self.color = color

    def action(self) -> str | None:
        """The next command."""
        return f"press {self.color}"

    def played(self, action: str, effect: bool) -> None:
        """Note what was done; this one needs no notes."""


@stapo.register_environment("buttons")
class Buttons(stapo.Env):
    """Press the button of the color that the task names.

    Args:
        max_steps: presses per episode.
    """

    name = "buttons"

    def __init__(self, max_steps: int = 3) -> None:
        self.max_steps = max_steps
        self._ids = {split: [f"{split}/{i:03d}" for i in range(40)] for split in ("train", "heldout")}
        self._left = 0

    @property
    def tasks(self) -> list[str]:
        """All tasks."""
        return sorted(i for ids in self._ids.values() for i in ids)

    @property
    def splits(self) -> list[str]:
        """Train first."""
        return list(self._ids)

    def tasks_of(self, split: str) -> list[str]:
        """Tasks of a split."""
        if split not in self._ids:
            raise stapo.UnknownNameError(f"unknown split '{split}'. Known: {', '.join(self._ids)}.")
        return self._ids[split]

    def task_type(self, task_id: str) -> str:
        """One family of tasks for each color."""
        return random.Random(task_id).choice(COLORS)

    def reset(self, task_id: str) -> stapo.Observation:
        """All chance comes from the task id, so that the attempts of a group begin alike."""
        if not any(task_id in ids for ids in self._ids.values()):
            raise stapo.UnknownNameError(f"unknown task '{task_id}'.")
        self._color, self._left = self.task_type(task_id), self.max_steps
        goal = f"press the {self._color} button."
        text = "You see four buttons."
        return stapo.Observation(f"{text} Your task: {goal}", goal, self._commands(), blind_text=text)

    def step(self, action: str) -> stapo.StepResult:
        """Any text is an action; what the world does not understand is a wasted step."""
        if self._left == 0:
            raise stapo.EnvError("step was called before reset or after the end; call reset(task_id) first.")
        won = action == f"press {self._color}"
        self._left = 0 if won else self._left - 1
        text = "The door opens." if won else "Nothing happens."
        info = {"truncated": not won and self._left == 0, "effect": won}
        return stapo.StepResult(text, self._commands(), float(won), self._left == 0, won, info)

    def close(self) -> None:
        """Nothing to free."""

    def demonstrator(self, rng: random.Random) -> Presser:
        """What SFT imitates; optional."""
        return Presser(self._color)

    def _commands(self) -> list[str]:
        return sorted(f"press {color}" for color in COLORS)


def main(out: str = "runs/own-environment", **overrides: Any) -> stapo.Run:
    """Check the environment, then train in it."""
    print("checked:", ", ".join(stapo.check_env(Buttons())))
    config = stapo.load_config(
        {
            "env": {"name": "buttons"},
            "agent": {"prompt": "compact", "response": "action", "max_prompt_tokens": 200, "max_response_tokens": 8},
            "model": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64, "vocab_size": 300},
            "sft": {"steps": 60, "episodes": 60, "batch_size": 8, "learning_rate": 3e-3, "wander": 0.3},
            "rollout": {"groups": 6, "group_size": 6, "reward_scale": 1.0},
            "algorithm": "stapo",
            "optim": {"iterations": 8, "learning_rate": 3e-3, "mini_batch": 64},
            "eval": {"split": "heldout", "episodes": 40},
        },
        **overrides,
    )
    run = stapo.train(config, out)
    for row in run.evals:
        print(f"after {row['iteration']} iterations, {row['mode']}: success {row['success']:.2f}")
    return run


if __name__ == "__main__":
    main()
