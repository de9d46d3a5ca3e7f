"""`stapo envs [NAME] [--env.OPTION VALUE] [--json]`."""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, get_args

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from tyro.conf import Positional

from stapo.cli.command import Command, arg
from stapo.cli.env_calls import asked, begin
from stapo.cli.words import foreign, say
from stapo.envs.protocol import HasNotes
from stapo.envs.registry import ENVIRONMENTS, ModelKind, default_preset, make, takes_mapping
from stapo.errors import StapoError
from stapo.progress import listen_to_notes
from stapo.texts import counted

_MODELS = {"scratch": "that is trained from scratch", "pretrained": "that is pretrained, to play"}


@dataclass(frozen=True, kw_only=True)
class Envs(Command):
    """List the environments, built in and from installed packages; or explain one: options, splits, tasks, an example.

    Attributes:
        name: environment of the list to explain.
        json: print machine-readable JSON instead of a table.
    """

    EXAMPLES = """
stapo envs
stapo envs alfworld
stapo envs alfworld --env.games $ALFWORLD_DATA    count the tasks of real games
"""
    PASSES = ("env.",)

    name: Positional[str | None] = arg("NAME", None)
    json: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        if self.name is None:
            return _list(self.json)
        from stapo.cli.arguments import own_env_options

        # They stand below the table.
        listen_to_notes(lambda _: None)
        return _explain(self.name, own_env_options(settings, self.name, "envs")[0], self.json)


def _list(as_json: bool) -> int:
    found = [_entry(name) for name in ENVIRONMENTS.names()]
    found += [
        {"name": package, "summary": None, "from": None, "error": f"this package {problem}"}
        for package, problem in ENVIRONMENTS.unusable()
    ]
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    table = Table("name", "what it is", "from")
    table.columns[-1].overflow = "fold"
    for entry in found:
        what = Text(foreign(entry["error"]).plain, style="red") if entry["error"] else foreign(entry["summary"])
        table.add_row(foreign(entry["name"]), what, foreign(entry["from"] or "–"))
    console = Console()
    console.print(table)
    say(console, "'stapo envs NAME' explains options and tasks; 'stapo play NAME' lets you try one.", "dim")
    return 0


def _entry(name: str) -> dict[str, Any]:
    try:
        cls = ENVIRONMENTS.get(name)
        about, origin = summary(cls), f"{cls.__module__}:{cls.__qualname__}"
    except Exception as err:  # a foreign class may do anything when it is looked at, and must not hide the others
        said = str(err) if isinstance(err, StapoError) else f"{type(err).__name__}: {err}"
        return {"name": name, "summary": None, "from": None, "error": said}
    return {"name": name, "summary": about, "from": origin, "error": None}


def _explain(name: str, options: dict[str, Any], as_json: bool) -> int:
    facts: dict[str, Any] = {**_entry(name), "options": option_facts(name), "presets": _presets(name)}
    error: StapoError | None = None
    try:
        facts |= asked(lambda: task_facts(name, options), "listing its tasks")
    except StapoError as err:
        error, facts["error"] = err, f"{err}"
    if as_json:
        print(json.dumps(facts, indent=1))
        return 2 if error else 0
    console = Console()
    say(console, foreign(f"{name}: {facts['summary']}"), "bold")
    console.print(_option_table(name, facts["options"]))
    if error is not None:
        say(console, foreign(f"its tasks cannot be listed: {error}"), "red")
        return 2
    console.print(_task_table(facts["splits"]))
    for text in facts["notes"]:
        say(console, foreign(f"note: {text}"))
    say(console, f"episodes end after {counted(facts['max_steps'], 'step')}")
    for model, preset in facts["presets"].items():
        say(console, foreign(f"preset for a model {_MODELS[model]}: {preset}"))
    if facts["example"]:
        say(console, foreign(f"example: {facts['example']['goal']}  ({facts['example']['task_id']})"))
    return 0


def _presets(name: str) -> dict[str, str]:
    found = {model: default_preset(name, model) for model in get_args(ModelKind)}
    return {model: preset for model, preset in found.items() if preset}


def summary(cls: type) -> str:
    """First line of the docstring of a class; a dash where it has none."""
    return (inspect.getdoc(cls) or "–").strip().splitlines()[0]


def option_facts(name: str) -> list[dict[str, Any]]:
    """Name, default and meaning of every option of an environment."""
    from stapo.cli.arguments import env_parameters

    cls = ENVIRONMENTS.get(name)
    meanings = argument_meanings(inspect.getdoc(cls) or "") | argument_meanings(inspect.getdoc(cls.__init__) or "")
    return [
        {
            "name": option,
            "required": parameter.default is parameter.empty,
            "default": None if parameter.default is parameter.empty else _plain(parameter.default),
            "meaning": meanings.get(option, ""),
        }
        for option, parameter in env_parameters(name).items()
    ]


def argument_meanings(doc: str) -> dict[str, str]:
    """Argument -> explanation, from the Args section of a Google-style docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", doc, re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in section.group(1).splitlines() if section else ():
        start = re.match(r"\s{4}(\*{0,2}\w+)(?: \([^)]*\))?:\s*(.*)", line)
        if start and not line.startswith(" " * 5):
            name = start.group(1)
            found[name] = start.group(2)
        elif name and line.strip():
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def task_facts(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Splits with their tasks by type, one task as an example, and what is odd about the data."""
    env = make(name, **options)
    try:
        splits: dict[str, Any] = {}
        for split in env.splits:
            tasks = env.tasks_of(split)
            types = Counter(env.task_type(task) for task in tasks)
            splits[split] = {"tasks": len(tasks), "by_type": dict(sorted(types.items()))}
        first = next((env.tasks_of(split)[0] for split in env.splits if len(env.tasks_of(split))), None)
        example = None if first is None else {"task_id": first, "goal": begin(env, first).observation.goal}
        notes = [str(text) for text in (env.notes if isinstance(env, HasNotes) else ())]
        return {"max_steps": env.max_steps, "splits": splits, "example": example, "notes": notes}
    finally:
        env.close()


def _option_table(name: str, options: list[dict[str, Any]]) -> Table | str:
    from stapo.cli.arguments import env_parameters

    if not options:
        return "no options"
    parameters = env_parameters(name)
    # A name that is cut could not be typed.
    table = Table(Column("option", no_wrap=True), "default", "meaning")
    for option in options:
        default = "required" if option["required"] else str(option["default"])
        flag = f"--env.{option['name']}{'.NAME' if takes_mapping(parameters[option['name']]) else ''}"
        table.add_row(foreign(flag), foreign(default), foreign(option["meaning"]))
    return table


def _task_table(splits: dict[str, Any]) -> Table:
    types = sorted({t for split in splits.values() for t in split["by_type"]})
    table = Table("tasks")
    for split in splits:
        table.add_column(foreign(split), justify="right")
    for task_type in types:
        table.add_row(foreign(task_type), *(str(s["by_type"].get(task_type, 0)) for s in splits.values()))
    if table.rows:
        table.rows[-1].end_section = True
    table.add_row("all", *(str(s["tasks"]) for s in splits.values()), style="bold")
    return table


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


COMMAND = Envs
