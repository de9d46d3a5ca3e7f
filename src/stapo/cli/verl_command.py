"""`stapo verl PRESET [--nodes N --gpus-per-node M] [--print] [key=value ...]`."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from typing import ClassVar

from tyro.conf import Positional

from stapo.cli.arguments import resolve
from stapo.cli.command import Command, arg
from stapo.cli.train_command import COMMON
from stapo.cli.words import write_line
from stapo.config.presets import name_of

_FOREIGN = re.compile(r"(\+\+?|~)?[A-Za-z_][\w./@-]*(=.*)?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Verl(Command):
    """RL on many GPUs with verl (Ray, FSDP2, vLLM), with the environments, prompts and losses of 'stapo train'.

    Needs verl in a separate Python environment; docs/scaling.md says how to set it up, and what was tried. A word
    key=value is a setting of verl itself, in Hydra's grammar; it wins over ours.

    Attributes:
        source: shipped preset ('stapo presets' lists them) or your own YAML file.
        nodes: machines of the Ray cluster; 1 or more (default: 1).
        gpus_per_node: GPUs of each machine; 1 or more (default: 8).
        tensor_parallel: GPUs per copy of the model in a rollout server; 1 or more (default: 1).
        print: show verl's command and stop; works without verl. --dry-run is the same.
        name: name of the run (default: PRESET-ALGORITHM).
        out: folder for verl's checkpoints (default: runs/verl/NAME).
        algorithm: method to train with, any of 'stapo algorithms'.
    """

    EXAMPLES = """
stapo verl webshop-1000 --model.path Qwen/Qwen2.5-1.5B-Instruct --gpus-per-node 2 --print
stapo verl paper/search-3b --algorithm gigpo --print
stapo verl search-r1 --model.path models/qwen --nodes 2 trainer.save_freq=50
"""
    PASSES = ("env.", "")
    SHOWN = COMMON
    ALSO: ClassVar = {"--dry-run": "--print", "--algorithm.name": "--algorithm"}

    source: Positional[str] = arg("PRESET or FILE", needs="a preset or a YAML file first. See 'stapo verl --help'")
    nodes: int = arg("N", 1, needs="a number of machines")
    gpus_per_node: int = arg("N", 8, needs="a number of GPUs")
    tensor_parallel: int = arg("N", 1, needs="a number of GPUs")
    print: bool = False
    name: str | None = arg("NAME", None)
    out: str | None = arg("DIR", None)
    algorithm: str | None = arg("NAME", None, needs="a name; see 'stapo algorithms'")

    @classmethod
    def own_words(cls, argv: list[str]) -> list[str]:
        """All but ``key=value``, ``+key=value`` and ``~key`` of verl; values of our flags stay."""
        ours = list[str]()
        for before, word in zip(["", *argv], argv, strict=False):
            is_foreign = ("=" in word or word.startswith("~")) and not word.startswith("-") and _FOREIGN.fullmatch(word)
            is_value = before.startswith("--") and "=" not in before and before not in ("--print", "--dry-run")
            if not is_foreign or is_value:
                ours.append(word)
        return ours

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        from stapo.verl_plugin.launch import command, launch, require_verl
        from stapo.verl_plugin.overrides import Machines, differences, verl_overrides

        config, chosen = resolve(self.source, self.algorithm, settings, "verl")
        if chosen:
            write_line(chosen, sys.stderr)
        name = self.name or f"{name_of(self.source)}-{config.algorithm.name}"
        machines = Machines(self.nodes, self.gpus_per_node, self.tensor_parallel)
        overrides = verl_overrides(config, machines, name, self.out or f"runs/verl/{name}")
        ours = self.own_words(argv)
        overrides += [word for word in argv if word not in ours]
        if not self.print:
            require_verl()
        for line in differences(config):
            write_line(f"note: {line}", sys.stderr)
        if self.print:
            write_line("VERL_ENGINE_VENDOR=stapo " + " \\\n  ".join(map(shlex.quote, command(overrides))))
            return 0
        launch(overrides)


COMMAND = Verl
