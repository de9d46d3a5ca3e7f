"""What a package of somebody else adds: an environment, an advantage estimator, a prompt style and a tracker."""

from __future__ import annotations

import json
import os
import random

import numpy as np

from stapo.envs import Observation, StepResult
from stapo.errors import EnvError, UnknownNameError
from stapo.registry import traits


class LightsEnv:
    """Switch the lamp of one color on; the others end the episode.

    Args:
        max_steps: commands after which an episode ends.
    """

    name = "acme-lights"
    splits = ("train", "heldout")

    def __init__(self, max_steps: int = 3) -> None:
        self.max_steps = max_steps
        self.goal = ""

    @property
    def tasks(self):
        return sorted(task for split in self.splits for task in self.tasks_of(split))

    def tasks_of(self, split):
        if split not in self.splits:
            raise UnknownNameError(f"unknown split '{split}'. Known: {', '.join(self.splits)}.")
        return [f"{split}/{color}" for color in ("blue", "green", "red")]

    def task_type(self, task_id):
        return "lamp"

    def reset(self, task_id):
        if task_id not in self.tasks:
            raise UnknownNameError(f"unknown task '{task_id}'.")
        self.goal, self.steps = task_id.rpartition("/")[2], 0
        return Observation("It is dark.", f"switch on the {self.goal} lamp", self.offered(), "It is dark.")

    def step(self, action):
        if not self.goal:
            raise EnvError("step was called before reset or after the end; call reset(task_id) first.")
        self.steps += 1
        goal, switched = self.goal, action.startswith("switch on ") and action in self.offered()
        won, late = action == f"switch on {goal}", self.steps >= self.max_steps
        if switched or late:
            self.goal = ""
        text = "There is light." if switched else "It is dark."
        info = {"truncated": late and not switched, "effect": switched}
        return StepResult(text, self.offered(), float(won), switched or late, won, info)

    def close(self):
        self.goal = ""

    def offered(self):
        return [f"switch on {color}" for color in ("blue", "green", "red")] + ["wait"]

    def demonstrator(self, rng: random.Random):
        return Switcher(self, rng)


class Switcher:
    def __init__(self, env, rng):
        self.env, self.waits = env, rng.random() < 0.2

    def action(self):
        return "wait" if self.waits else f"switch on {self.env.goal}"

    def played(self, action, effect):
        self.waits = False


@traits(needs_groups=True)
def centered(rows, config, critic):
    """Return of each step minus the mean of its task's."""
    real = rows.real_b.astype(float)
    mean = np.bincount(rows.group_b, rows.return_b * real) / np.maximum(np.bincount(rows.group_b, real), 1)
    return rows.return_b - mean[rows.group_b]


@traits(for_chat_models=False)
def terse(fields, config, hide_goal, hide_history):
    """A line for each thing that is known."""
    lines = [] if hide_history else [f"- {turn.action}" for turn in fields.history]
    lines += [] if hide_goal else [f"! {fields.goal}"]
    return "\n".join([*lines, *(fields.admissible or ()), fields.blind_observation, "?"])


class FileTracker:
    """Writes what it is given into a file of the run."""

    rewinds = False

    def open(self, run, resume):
        os.makedirs(run.folder, exist_ok=True)
        self.path = os.path.join(run.folder, "acme.jsonl")
        return resume or "acme-1"

    def log(self, step, scalars, histograms):
        with open(self.path, "a") as file:
            file.write(json.dumps([step, dict(scalars), sorted(histograms)]) + "\n")

    def close(self, status):
        pass
