"""What the episodes of a run will be like: a few of its demonstrations are played and cut into tokens."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING

from stapo.config.environment import environments_of
from stapo.config.run_config import RunConfig
from stapo.config.training import SFTConfig
from stapo.documents import shown
from stapo.errors import ConfigError, StapoError
from stapo.estimate.sequences import Growth, Reading, read_episode
from stapo.models.cache import unfetched
from stapo.policy.sequences import Chains, chained
from stapo.policy.sources import folder_here

if TYPE_CHECKING:
    from stapo.training.demonstrations import DemoStep

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
        imitated: tokens of a batch of SFT for each of its rows, responses and all.
        longest: the same of the longest batch.
        step_seconds: computing time of the environment for a step.
        demonstrated: steps of an SFT's demonstrations.
        tasks: of the split that is evaluated.
        counted: `tasks` is their number and no guess.
        blind: tokens of a blind prompt; 0 for as many as a prompt has.
        reading: of an episode whose prompts extend each other; None where each step is read alone.
        why: nothing was played although the run has demonstrations; "" otherwise.
        responses: tokens of each that was demonstrated.
        demos: the steps that were played.
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
    blind: float = 0.0
    reading: Reading | None = None
    why: str = ""
    responses: tuple[int, ...] = ()
    demos: tuple[DemoStep, ...] = field(default=(), repr=False)


def expect(config: RunConfig) -> Episodes:
    """What to expect of the episodes of a run: as demonstrations are, or by its limits where none can be played."""
    if config.envs:
        return _mixed([(config.envs[label].weight, expect(own)) for label, own in environments_of(config).items()])
    path = config.model.path
    if path is not None and folder_here(path) is None:
        return replace(half_of_limits(config), why=unfetched(path))
    try:
        return _played(config)
    except StapoError as err:
        # A run without SFT need not have a demonstrator.
        return replace(half_of_limits(config), why=str(err) if config.sft.steps else "")


def _mixed(parts: list[tuple[float, Episodes]]) -> Episodes:
    """What to expect where episodes are of several environments, so much of each."""
    weights = [weight / sum(weight for weight, _ in parts) for weight, _ in parts]
    each = [seen for _, seen in parts]
    steps = sum(weight * seen.steps for weight, seen in zip(weights, each, strict=True))

    def of_steps(name: str) -> float:
        rows = zip(weights, each, strict=True)
        return sum(weight * seen.steps * float(getattr(seen, name)) for weight, seen in rows) / steps

    return Episodes(
        basis=f"of each environment {each[0].basis}",
        steps=steps,
        prompt=of_steps("prompt"),
        response=of_steps("response"),
        imitated=of_steps("imitated"),
        longest=max(seen.longest for seen in each),
        step_seconds=of_steps("step_seconds"),
        demonstrated=sum(seen.demonstrated for seen in each),
        tasks=sum(seen.tasks for seen in each),
        counted=all(seen.counted for seen in each),
        blind=of_steps("blind"),
        why="; ".join(dict.fromkeys(seen.why for seen in each if seen.why)),
        responses=tuple(tokens for seen in each for tokens in seen.responses),
        demos=tuple(demo for seen in each for demo in seen.demos),
    )


def half_of_limits(config: RunConfig) -> Episodes:
    """What to expect where nothing is played."""
    steps = config.env.options.get("max_steps", _STEPS)
    if type(steps) is not int or steps < 1:
        raise ConfigError(f"env.options.max_steps is {shown(steps)}, expected a positive whole number.")
    prompt, response = EXPECTED * config.agent.max_prompt_tokens, EXPECTED * config.agent.max_response_tokens
    expected, reading = max(1.0, EXPECTED * steps), None
    if config.agent.grows and not _rewrites(config):
        # As much at each step as makes the mean prompt half of the limit, if a response does not take more.
        turn = max(2 * prompt / (expected + 1), response + 1)
        reading = read_episode(_growth(config, turn, turn, response), expected)
    return Episodes(
        basis="at half of every limit",
        steps=expected,
        prompt=prompt if reading is None else reading.prompt,
        response=response,
        imitated=prompt + response,
        longest=round(prompt + response),
        reading=reading,
    )


def _growth(config: RunConfig, opening: float, turn: float, response: float) -> Growth:
    agent = config.agent
    return Growth(
        opening=opening, turn=turn, response=response, limit=agent.max_prompt_tokens, halves=agent.keeps_turns
    )


def _rewrites(config: RunConfig) -> bool:
    """Whether later prompts show responses without their thoughts; demonstrations have none that could be missing."""
    return config.agent.earlier_thoughts == "drop" and config.agent.has_parts


@dataclass(frozen=True)
class _Played:
    """Tokens of the prompts and responses of demonstrations, and how many turns each prompt shows."""

    full: list[int]
    short: list[int]
    blind: list[int]
    responses: list[int]
    turns: list[int]
    chains: Chains

    def grows(self) -> tuple[float, float] | None:
        """Tokens of an episode's first prompt, and those that a step adds; None where no prompt extends another."""
        chain_b = self.chains.chain_b
        joined = [b for b in range(1, len(chain_b)) if chain_b[b] == chain_b[b - 1]]
        if not joined:
            return None
        # Random commands between two demonstrated ones are turns as well.
        steps = sum(max(1, self.turns[b] - self.turns[b - 1]) for b in joined)
        turn = sum(self.full[b] - self.full[b - 1] for b in joined) / steps
        starts = set(range(len(chain_b))).difference(joined)
        return fmean(self.full[b] - turn * self.turns[b] for b in starts), turn

    def of_batch(self, sft: SFTConfig) -> tuple[float, int]:
        """Tokens of a batch of SFT for each of its rows, and those of the longest batch, with its padding."""
        rows = list(zip(self.full, self.responses, strict=True))
        blind, said = fmean(self.blind), fmean(self.responses)
        alone = (1 - sft.blind_fraction) * fmean(self.short) + sft.blind_fraction * blind + said
        if self.chains.sequences == self.chains.rows:
            full = (1 - sft.blind_fraction) * fmean(self.full) + sft.blind_fraction * blind + said
            return sft.curriculum * alone + (1 - sft.curriculum) * full, max(p + r for p, r in rows)
        # The last row of a sequence is as long as the sequence; blind rows are read apart.
        ends = [sum(rows[chain[-1]]) for chain in chained(range(len(rows)), self.chains.chain_b)]
        drawn = max(1, round(sft.batch_size * len(ends) / len(rows)))
        share = drawn * len(rows) / len(ends) / sft.batch_size
        merged = drawn * fmean(ends) / sft.batch_size + share * sft.blind_fraction * (blind + said)
        most = (drawn / sft.batch_size + share * sft.blind_fraction) * max(ends)
        if sft.curriculum:
            most = max(most, share * max(p + r for p, r in zip(self.short, self.responses, strict=True)))
        return sft.curriculum * share * alone + (1 - sft.curriculum) * merged, math.ceil(most)


def _played(config: RunConfig) -> Episodes:
    from stapo.envs.pool import about
    from stapo.policy import RowTokens, find_chains, load_tokenizer
    from stapo.policy.tokenizer import train_tokenizer
    from stapo.rollout.encoding import PromptEncoder
    from stapo.training.demonstrations import demonstrate, tokenizer_texts
    from stapo.training.factories import RunEnv
    from stapo.training.recorded import read_steps

    sft, model = config.sft, config.model
    few = replace(sft, episodes=min(PLAYED, sft.episodes))
    tokenizer = None if model.path is None else load_tokenizer(model.path, model)
    env = RunEnv(config)
    try:
        tasks = len(env.tasks_of(config.eval.split))
        limit = about(env.pool, 0, config.rollout.retries).max_steps
        began, mask = time.process_time(), config.algorithm.selective.blind_mask
        if sft.data:
            demos = read_steps(config, env)
        else:
            demos = demonstrate(env.pool, config.agent, few, config.env.split, mask, config.seed)
        spent = time.process_time() - began
    finally:
        env.close()
    if not demos:
        raise ConfigError(f"{few.episodes} of them hold no step to imitate.")
    encoder = PromptEncoder(tokenizer or train_tokenizer(tokenizer_texts(demos), model.vocab_size, model.tokenizer))
    rows = [RowTokens(encoder.encode(d.prompt), encoder.encode_response(d.action, d.command)) for d in demos]
    played = _Played(
        full=[len(row.prompt_ids) for row in rows],
        short=[len(encoder.encode(d.short_prompt)) for d in demos],
        blind=[len(encoder.encode(d.blind_prompt)) for d in demos],
        responses=[len(row.response_ids) for row in rows],
        turns=[len(d.prompt.turns) for d in demos],
        chains=find_chains(rows, [0] * len(rows)),
    )
    # Random commands are played and not imitated.
    steps = len(demos) / few.episodes / max(0.1, 1 - sft.wander)
    expected, response, responses = (min(steps, limit) + limit) / 2, fmean(played.responses), tuple(played.responses)
    if model.path is not None and not sft.steps and config.agent.decode == "free":
        # A model that may not have seen a demonstration says more than one, where nothing holds it.
        response, responses = max(response, EXPECTED * config.agent.max_response_tokens), ()
    grows = None if _rewrites(config) else played.grows()
    reading = None if grows is None else read_episode(_growth(config, *grows, response), expected)
    imitated, longest = played.of_batch(sft)
    return Episodes(
        basis=f"as {few.episodes} of its demonstrations are",
        steps=expected,
        prompt=fmean(played.full) if reading is None else reading.prompt,
        response=response,
        imitated=imitated,
        longest=longest,
        blind=fmean(played.blind) if reading else 0.0,
        reading=reading,
        step_seconds=spent / (steps * few.episodes),
        demonstrated=steps * sft.episodes if sft.steps else 0.0,
        tasks=tasks,
        counted=True,
        responses=responses,
        demos=tuple(demos),
    )
