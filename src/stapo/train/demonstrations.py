"""Demonstrations: what the environment's own expert does, as prompts and answers.

The demonstrator is the environment's own (`env.demonstrator`). For ALFWorld it looks for what it has not seen and
otherwise goes the shortest way; imitating the all-knowing expert instead teaches a policy not to look, since whatever
it wants is always where it arrives.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stapo.agent import AgentConfig, BlindMask, Memory, Prompt, PromptFields, Turn, cut_text, render_prompt
from stapo.envs import Env
from stapo.envs.offers import is_template
from stapo.errors import ConfigError
from stapo.rollout.episode import listed_commands
from stapo.train.config import WarmStartConfig


@dataclass(frozen=True, slots=True)
class DemoStep:
    """One demonstrated step: three renderings of its prompt, the task sentence in it, and the command."""

    goal: str
    prompt: Prompt
    short_prompt: Prompt
    blind_prompt: Prompt
    action: str


def demonstrate(
    env: Env,
    agent: AgentConfig,
    config: WarmStartConfig,
    split: str,
    blind_mask: BlindMask,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[DemoStep]:
    """Let the environment's expert play tasks of `split` and record its steps.

    Raises:
        ConfigError: the environment offers no expert.
    """
    if not hasattr(env, "demonstrator"):
        raise ConfigError(
            f"environment '{env.name}' has no demonstrator(), so it cannot demonstrate. Set warm_start.steps to 0 or "
            "start from a pretrained model."
        )
    rng = np.random.default_rng([seed, 11])
    tasks = _pick_tasks(env, config, split, rng)
    demos: list[DemoStep] = []
    for done, task in enumerate(tasks):
        demos += _play(env, agent, config, task, blind_mask, rng)
        if progress is not None:
            progress(done + 1, len(tasks))
    return demos


def _pick_tasks(env: Env, config: WarmStartConfig, split: str, rng: np.random.Generator) -> list[str]:
    by_type: dict[str, list[str]] = {}
    for task in env.tasks_of(split):
        by_type.setdefault(env.task_type(task), []).append(task)
    unknown = set(config.scarce_types) - set(by_type)
    if unknown:
        raise ConfigError(
            f"warm_start.scarce_types names {sorted(unknown)}, but split '{split}' has {sorted(by_type)}."
        )
    share = config.episodes / len(by_type)
    picked: list[str] = []
    for task_type, tasks in sorted(by_type.items()):
        count = round(share * (config.scarce_fraction if task_type in config.scarce_types else 1.0))
        order = rng.permutation(len(tasks))
        picked += [tasks[order[i % len(tasks)]] for i in range(count)]
    return picked


def _play(
    env: Env, agent: AgentConfig, config: WarmStartConfig, task: str, blind_mask: BlindMask, rng: np.random.Generator
) -> list[DemoStep]:
    first = env.reset(task)
    memory = Memory(agent.history_length, agent.command_history)
    limit = agent.max_observation_characters
    goal, seen, blind = (cut_text(text, limit) for text in (first.goal, first.text, first.blind))
    admissible, demos = first.admissible, []
    expert = env.demonstrator(random.Random(int(rng.integers(2**63))))  # type: ignore[attr-defined]
    for step in range(env.max_steps):
        action = expert.action()
        if action is None:
            break
        ready = [c for c in admissible or () if not is_template(c)]
        wandering = bool(ready) and rng.random() < config.wander
        if wandering:
            action = ready[int(rng.integers(len(ready)))]
        fields = PromptFields(
            goal, step, memory.steps_taken, memory.recall(), seen, blind,
            listed_commands(admissible, agent, blind),
            memory.recall_commands(),
        )  # fmt: skip
        if not wandering and (agent.response != "choice" or action in (fields.admissible or ())):
            demos.append(
                DemoStep(
                    goal,
                    render_prompt(fields, agent),
                    render_prompt(replace(fields, admissible=_nearby(fields.admissible, agent)), agent, "history"),
                    render_prompt(fields, agent, blind_mask),
                    _demonstrated(action, agent, fields.admissible or ()),
                )
            )
        out = env.step(action)
        expert.played(action, bool(out.info.get("effect", True)))
        memory.add(Turn(seen, blind, action))
        seen, blind = cut_text(out.text, limit), cut_text(out.blind, limit)
        admissible = out.admissible
        if out.done:
            break
    return demos


def _nearby(admissible: tuple[str, ...] | None, agent: AgentConfig) -> tuple[str, ...] | None:
    """The commands that act on what is at hand: without the long list of places to go to, unless numbers count them."""
    if agent.response == "choice":
        return admissible
    return None if admissible is None else tuple(c for c in admissible if not c.startswith("go to "))


def _demonstrated(action: str, agent: AgentConfig, listed: Sequence[str]) -> str:
    if agent.response == "choice":
        return str(listed.index(action) + 1)
    if agent.response != "think_action":
        return action
    return f"<think>I do the next step of my plan.</think><action>{action}</action>"


def tokenizer_texts(demos: list[DemoStep]) -> Iterator[str]:
    """Texts that a small model's tokenizer is trained on.

    The task sentence is given word by word: whole sentences would become tokens that no held-out task ever uses.
    """
    for demo in demos:
        head, _, goal = demo.prompt.shown.partition(demo.goal)
        yield head
        yield goal
        yield demo.action
        yield from (f" {word}" for word in demo.goal.rstrip(".").split())
