"""What the episodes of a run will be like: a few of its demonstrations are played and cut into tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from stapo.config.run_config import RunConfig
from stapo.documents import shown
from stapo.errors import ConfigError, StapoError

PLAYED = 24
"""Demonstrations that are played."""
EXPECTED = 0.5
"""Share of the limits (steps, prompt, response) that an episode is expected to use where none is played."""
_STEPS = 30
_TASKS = 140
"""Tasks of a split that is not counted; ALFWorld's have 134 and 140."""


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """What is expected of an episode.

    Attributes:
        basis: where the numbers are from, as the end of a title.
        steps: of an episode; half of the episodes are expected to end as the demonstrations do, half at the limit.
        prompt: tokens of a prompt.
        response: tokens of a response.
        imitated: tokens of a row of SFT, response and all.
        longest: tokens of the longest such row.
        step_seconds: computing time of the environment for a step.
        demonstrated: steps of an SFT's demonstrations.
        tasks: of the split that is evaluated.
        counted: `tasks` is their number and no guess.
        why: nothing was played although the run has demonstrations; "" otherwise.
    """

    basis: str
    steps: float
    prompt: float
    response: float
    imitated: float
    longest: int
    step_seconds: float = 0.0
    demonstrated: float = 0.0
    tasks: int = _TASKS
    counted: bool = False
    why: str = ""


def expect(config: RunConfig) -> Episodes:
    """What to expect of the episodes of a run: of its demonstrations, or of its limits where it has none."""
    path = config.model.path
    if path is not None and not (config.sft.steps and Path(path).expanduser().is_dir()):
        return half_of_limits(config)
    try:
        return _played(config)
    except StapoError as err:
        return replace(half_of_limits(config), why=str(err))


def half_of_limits(config: RunConfig) -> Episodes:
    """What to expect where nothing is played."""
    steps = config.env.options.get("max_steps", _STEPS)
    if type(steps) is not int or steps < 1:
        raise ConfigError(f"env.options.max_steps is {shown(steps)}, expected a positive whole number.")
    prompt, response = EXPECTED * config.agent.max_prompt_tokens, EXPECTED * config.agent.max_response_tokens
    return Episodes(
        basis="at half of every limit",
        steps=max(1.0, EXPECTED * steps),
        prompt=prompt,
        response=response,
        imitated=prompt + response,
        longest=round(prompt + response),
    )


def _played(config: RunConfig) -> Episodes:
    from stapo.envs.pool import about
    from stapo.policy import load_tokenizer
    from stapo.policy.tokenizer import train_tokenizer
    from stapo.rollout.encoding import PromptEncoder
    from stapo.training.demonstrations import demonstrate, tokenizer_texts
    from stapo.training.factories import RunEnv

    sft, model = config.sft, config.model
    few = replace(sft, episodes=min(PLAYED, sft.episodes))
    tokenizer = None if model.path is None else load_tokenizer(model.path)
    env = RunEnv(config)
    try:
        tasks = len(env.tasks_of(config.eval.split))
        limit = about(env.pool, 0, config.rollout.retries).max_steps
        began, mask = time.process_time(), config.algorithm.selective.blind_mask
        demos = demonstrate(env.pool, config.agent, few, config.env.split, mask, config.seed)
        spent = time.process_time() - began
    finally:
        env.close()
    if not demos:
        raise ConfigError(f"{few.episodes} of them hold no step to imitate.")
    encoder = PromptEncoder(tokenizer or train_tokenizer(tokenizer_texts(demos), model.vocab_size, model.tokenizer))
    full, short, blind = (
        [len(encoder.encode(prompt)) for prompt in prompts]
        for prompts in zip(*((d.prompt, d.short_prompt, d.blind_prompt) for d in demos), strict=True)
    )
    responses = [len(encoder.encode_response(demo.action, demo.command)) for demo in demos]
    shown_first = sft.curriculum * fmean(short) + (1 - sft.curriculum) * fmean(full)
    # Random commands are played and not imitated.
    steps = len(demos) / few.episodes / max(0.1, 1 - sft.wander)
    return Episodes(
        basis=f"as {few.episodes} of its demonstrations are",
        steps=(min(steps, limit) + limit) / 2,
        prompt=fmean(full),
        response=fmean(responses),
        imitated=(1 - sft.blind_fraction) * shown_first + sft.blind_fraction * fmean(blind) + fmean(responses),
        longest=max(p + r for p, r in zip(full, responses, strict=True)),
        step_seconds=spent / (steps * few.episodes),
        demonstrated=steps * sft.episodes,
        tasks=tasks,
        counted=True,
    )
