"""A folder with names that differ by case, some of them Chinese: read the file that is named, and report its word."""

import random

from stapo.envs import CommandShapes, Observation, StepResult, Tool, read_call, write_call
from stapo.errors import EnvError, UnknownNameError

NAMES = ("Plan.txt", "plan.txt", "报告.txt", "报告-草稿.txt")
WORDS = ("amber", "birch", "coral", "delta")


def one_text(name, what, argument):
    """A tool with one argument, a text."""
    kind = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return Tool(name, what, kind)


class FilesEnv:
    name = "files"
    splits = ("train", "heldout")
    tools = (one_text("read", "Read a file.", "path"), one_text("report", "Report a word.", "word"))
    command_shapes = CommandShapes(place="on a file server", tools=tools)

    def __init__(self, max_steps: int = 4):
        self.max_steps, self.left = max_steps, 0
        self.tasks = sorted(task for split in self.splits for task in self.tasks_of(split))

    def tasks_of(self, split):
        if split not in self.splits:
            raise UnknownNameError(f"unknown split '{split}'. Known: {', '.join(self.splits)}.")
        return [f"{split}/{i:03d}" for i in range(60 if split == "train" else 20)]

    def task_type(self, task_id):
        return "files"

    def reset(self, task_id):
        if task_id not in self.tasks:
            raise UnknownNameError(f"unknown task '{task_id}'.")
        rng = random.Random(task_id)
        self.files = dict(zip(NAMES, rng.sample(WORDS, 4), strict=True))
        self.wanted, self.left, self.tidy = rng.choice(NAMES), self.max_steps, 1.0
        goal, text = f"report the word in {self.wanted}.", f"The folder holds {', '.join(NAMES)}."
        return Observation(f"{text} Your task: {goal}", goal, blind_text=text)

    def step(self, action):
        if not self.left:
            raise EnvError("step was called before reset or after the end; call reset(task_id) first.")
        tool, arguments = read_call(action) or ("", {})
        path, won = arguments.get("path"), arguments.get("word") == self.files[self.wanted] and tool == "report"
        found = self.files.get(path) if tool == "read" and isinstance(path, str) else None
        self.tidy *= path == self.wanted or tool == "report"
        self.left = 0 if tool == "report" else self.left - 1
        text = f"{path}: {found}" if found else "Reported." if tool == "report" else f"There is no file {path}."
        info = {"truncated": not self.left and tool != "report", "rewards": {"tidy": self.tidy * won}}
        return StepResult(text, None, float(won), not self.left, won, info)

    def close(self):
        pass

    def demonstrator(self, rng):
        return Demonstrator(self, rng)


class Demonstrator:
    """Reads a file whose name is like the wanted one now and then."""

    def __init__(self, env, rng):
        first = rng.choice(NAMES) if rng.random() < 0.5 else env.wanted
        self.calls = [("read", {"path": path}) for path in dict.fromkeys([first, env.wanted])]
        self.calls.append(("report", {"word": env.files[env.wanted]}))

    def action(self):
        return write_call(*self.calls[0])

    def played(self, action, effect):
        self.calls = self.calls[1:]
