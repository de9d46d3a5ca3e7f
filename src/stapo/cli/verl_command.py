"""`stapo verl PRESET [--nodes N --gpus-per-node M] [--print] [key=value ...]`."""

from __future__ import annotations

import re
import shlex
import sys

from stapo.cli.arguments import parse_run_config, take_env_options
from stapo.cli.pretrained import pretrained_settings, said
from stapo.cli.words import take_flag, write_line
from stapo.config.presets import load_config, name_of, preset_names
from stapo.errors import ConfigError

_HELP = """usage: stapo verl PRESET or FILE [--nodes N] [--gpus-per-node M] [--print] [--overrides ...] [key=value ...]

RL on many GPUs by verl (Ray, FSDP2, vLLM), with the environments, prompts, advantages, flags and losses of
'stapo train'. Needs verl in an environment of its own; docs/scaling.md says how to set it up, and what was tried.

arguments:
  PRESET or FILE       a shipped preset ({presets}) or your own YAML file
  --nodes N            machines of the Ray cluster (default: 1)
  --gpus-per-node M    GPUs of each (default: 8)
  --print, --dry-run   show verl's command and stop; works without verl
  --name NAME          of the run; default PRESET-ALGORITHM
  --out DIR            folder for verl's checkpoints; default runs/verl/NAME
  --algorithm NAME     any of 'stapo algorithms'
  --env.OPTION VALUE   an option of the environment
  key=value            a setting of verl's own, in Hydra's grammar; it wins over ours

examples:
  stapo verl webshop-1000 --model.path Qwen/Qwen2.5-1.5B-Instruct --gpus-per-node 2 --print
  stapo verl paper/search-3b --algorithm gigpo --print
  stapo verl search-r1 --model.path models/qwen --nodes 2 trainer.save_freq=50

Settings (all can be overridden; values shown are those of the preset):
"""

_FOREIGN = re.compile(r"(\+\+?|~)?[A-Za-z_][\w./@-]*(=.*)?", re.DOTALL)


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    from stapo.verl_plugin.launch import command, launch, require_verl
    from stapo.verl_plugin.overrides import Machines, differences, verl_overrides

    args = list(argv)
    if any(a in ("-h", "--help") for a in args):
        print(_HELP.format(presets=", ".join(preset_names())))
    elif not args or args[0].startswith("-") or "=" in args[0]:
        raise ConfigError("'stapo verl' needs a preset or a YAML file first. See 'stapo verl --help'.")
    source = args.pop(0) if args and not args[0].startswith("-") else "tiny"
    nodes, args = take_flag(args, "--nodes", needs="a number of machines")
    gpus, args = take_flag(args, "--gpus-per-node", needs="a number of GPUs")
    name, args = take_flag(args, "--name", needs="a name")
    out, args = take_flag(args, "--out", needs="a folder")
    algorithm, args = take_flag(args, "--algorithm", needs="a name; see 'stapo algorithms'")
    show = ("--print", "--dry-run")
    shown, args = any(a in show for a in args), [a for a in args if a not in show]
    foreign, args = _take_foreign(args)
    env_name, _ = take_flag(args, "--env.name", needs="the name of an environment")
    config = load_config(source, algorithm)
    options, args = take_env_options(args, env_name or config.env.name)
    chosen = pretrained_settings(source, config, args)
    if options or chosen:
        config = load_config(source, algorithm, {**chosen, "env": {"options": options}})
    config = parse_run_config(config, args, "stapo verl")
    if chosen:
        write_line(said(chosen, args), sys.stderr)
    machines = Machines(_number("--nodes", nodes, 1), _number("--gpus-per-node", gpus, 8))
    name = name or f"{name_of(source)}-{config.algorithm.name}"
    overrides = verl_overrides(config, machines, name, out or f"runs/verl/{name}") + foreign
    if not shown:
        require_verl()
    for line in differences(config):
        write_line(f"note: {line}", sys.stderr)
    if shown:
        write_line("VERL_ENGINE_VENDOR=stapo " + " \\\n  ".join(map(shlex.quote, command(overrides))))
        return 0
    launch(overrides)


def _take_foreign(args: list[str]) -> tuple[list[str], list[str]]:
    """Part ``key=value``, ``+key=value`` and ``~key`` of verl from everything else; values of our flags stay."""
    foreign: list[str] = []
    ours: list[str] = []
    for number, arg in enumerate(args):
        value_of_flag = number > 0 and args[number - 1].startswith("--") and "=" not in args[number - 1]
        is_foreign = ("=" in arg or arg.startswith("~")) and not arg.startswith("-") and _FOREIGN.fullmatch(arg)
        (foreign if is_foreign and not value_of_flag else ours).append(arg)
    return foreign, ours


def _number(flag: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal():
        raise ConfigError(f"{flag} is '{text}', expected a whole number.")
    return int(text)
