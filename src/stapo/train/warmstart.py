"""Warm start: supervised steps on demonstrations, before any RL.

The demonstrator is the environment's own (`env.demonstrator`). For ALFWorld it looks for what it has not seen and
otherwise goes the shortest way; imitating the all-knowing expert instead teaches a policy not to look, since whatever
it wants is always where it arrives.

A warm start that is stopped early (`stop_at`) leaves RL an honest gap: a policy that has understood the commands but
has been trained too briefly to be good.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from stapo.agent import AgentConfig, BlindMask, Memory, PromptFields, Turn, render_prompt
from stapo.algo import score_tokens
from stapo.envs import Env
from stapo.errors import ConfigError, NonFiniteError
from stapo.policy import Policy, RowTokens, hidden_states
from stapo.rollout.encoding import PromptEncoder

_RAMP_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """Supervised training on expert demonstrations.

    Attributes:
        steps: optimizer steps at most; 0 skips the warm start.
        stop_at: once the sampled success on training tasks reaches this, stop after `anneal_steps` more; 1 trains all
            `steps`. When small models understand a task varies with the seed by a factor of two in steps, so a fixed
            number of steps would give very unequal starts.
        anneal_steps: steps over which the learning rate then falls to a tenth.
        probe_every: steps between measurements for `stop_at`.
        probe_episodes: training tasks that each measurement plays.
        episodes: demonstrated episodes, spread evenly over the task types.
        scarce_types: task types that get only `scarce_fraction` of their share of episodes.
        scarce_fraction: see `scarce_types`.
        wander: share of steps at which the demonstrator takes a random offered command instead; such a step is played
            but not imitated, so that the policy learns to go on from it.
        blind_fraction: share of the steps whose blind prompt is imitated, too. A model trained from scratch has never
            seen a blind prompt otherwise, and its KL against the full prompt would mean nothing.
        curriculum: share of the steps spent on short prompts (no history) first.
        batch_size: steps per optimizer step.
        learning_rate: peak; linear warm-up over 100 steps. Then cosine to a tenth, or constant with `stop_at`, whose
            end is not known beforehand.
        weight_decay: of AdamW.
    """

    steps: int = 0
    stop_at: float = 1.0
    anneal_steps: int = 300
    probe_every: int = 200
    probe_episodes: int = 128
    episodes: int = 1200
    scarce_types: tuple[str, ...] = ()
    scarce_fraction: float = 0.1
    wander: float = 0.0
    blind_fraction: float = 0.1
    curriculum: float = 0.5
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for field in ("stop_at", "scarce_fraction", "wander", "blind_fraction", "curriculum"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(f"warm_start.{field} is {getattr(self, field)}, expected a share from 0 to 1.")
        for field, least in (
            ("steps", 0),
            ("anneal_steps", 0),
            ("probe_every", 1),
            ("probe_episodes", 1),
            ("episodes", 1),
            ("batch_size", 1),
        ):
            if getattr(self, field) < least:
                raise ConfigError(f"warm_start.{field} is {getattr(self, field)}, expected at least {least}.")
        if not self.learning_rate > 0:
            raise ConfigError(f"warm_start.learning_rate is {self.learning_rate}, expected a number above 0.")


@dataclass(frozen=True, slots=True)
class DemoStep:
    """One demonstrated step: three renderings of its prompt, the task sentence in it, and the command."""

    goal: str
    prompt: str
    short_prompt: str
    blind_prompt: str
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
    memory = Memory(agent.history_length)
    seen, blind = first.text, first.blind_text if first.blind_text is not None else first.text
    admissible, demos = first.admissible, []
    expert = env.demonstrator(random.Random(int(rng.integers(2**63))))  # type: ignore[attr-defined]
    for step in range(env.max_steps):
        action = expert.action()
        if action is None:
            break
        wandering = bool(admissible) and rng.random() < config.wander
        if wandering and admissible:
            action = admissible[int(rng.integers(len(admissible)))]
        fields = PromptFields(
            first.goal, step, memory.steps_taken, memory.recall(), seen, blind,
            None if admissible is None else tuple(c for c in admissible if c not in agent.hidden_commands),
        )  # fmt: skip
        if not wandering:
            demos.append(
                DemoStep(
                    first.goal,
                    render_prompt(fields, agent),
                    render_prompt(replace(fields, admissible=_nearby(fields.admissible)), agent, "history"),
                    render_prompt(fields, agent, blind_mask),
                    _demonstrated(action, agent),
                )
            )
        out = env.step(action)
        expert.played(action, bool(out.info.get("effect", True)))
        memory.add(Turn(seen, blind, action))
        seen = blind = out.text
        admissible = out.admissible
        if out.done:
            break
    return demos


def _nearby(admissible: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The commands that act on what is at hand: without the long list of places to go to."""
    return None if admissible is None else tuple(c for c in admissible if not c.startswith("go to "))


def _demonstrated(action: str, agent: AgentConfig) -> str:
    if agent.response == "action":
        return action
    return f"<think>I do the next step of my plan.</think><action>{action}</action>"


def warm_start(
    policy: Policy,
    demos: list[DemoStep],
    config: WarmStartConfig,
    seed: int,
    progress: Callable[[int, int, float], None] | None = None,
    probe: Callable[[int], float] | None = None,
) -> list[float]:
    """Imitate the demonstrations; returns the loss (nats per token) of every optimizer step.

    Args:
        policy: trained in place.
        demos: from `demonstrate`.
        config: settings.
        seed: of the order of the demonstrations.
        progress: called with (steps done, steps at most, loss).
        probe: returns the policy's success on training tasks; called with the steps done. Needed for `stop_at`.

    Raises:
        NonFiniteError: the loss is not finite; the step is named and the weights are those before it.
    """
    encoder = PromptEncoder(policy.tokenizer)
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95)
    )
    policy.model.train()
    losses: list[float] = []
    batches = _batches(demos, encoder, config, seed)
    end: int | None = None
    for step in range(config.steps):
        if step == end:
            break
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config, end)
        rows = next(batches)
        hidden_nh, targets_n, _ = hidden_states(policy.model, rows, policy.tokenizer.pad_token_id)
        logp_n, _ = score_tokens(
            hidden_nh, policy.model.get_output_embeddings().weight, targets_n, temperature=1.0, entropy=False
        )
        loss = -logp_n.mean()
        if not torch.isfinite(loss):
            raise NonFiniteError(f"the warm start's loss is {loss.item()} at step {step + 1}; lower its learning rate.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(step + 1, config.steps, losses[-1])
        if end is None and probe is not None and _time_to_probe(step + 1, config):
            if probe(step + 1) >= config.stop_at:
                end = step + 1 + config.anneal_steps
            policy.model.train()
    return losses


def _time_to_probe(step: int, config: WarmStartConfig) -> bool:
    if config.stop_at >= 1:
        return False
    return step > config.curriculum * config.steps and step % config.probe_every == 0


def _schedule(step: int, config: WarmStartConfig, end: int | None) -> float:
    if step < _RAMP_STEPS:
        return (step + 1) / _RAMP_STEPS
    if config.stop_at < 1:
        return 1.0 if end is None else 0.1 + 0.9 * (end - step) / max(1, config.anneal_steps)
    progress = (step - _RAMP_STEPS) / max(1, config.steps - _RAMP_STEPS)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _batches(
    demos: list[DemoStep], encoder: PromptEncoder, config: WarmStartConfig, seed: int
) -> Iterator[list[RowTokens]]:
    """Endless shuffled batches; each comes from one stretch of similar lengths, so little of it is padding."""
    rng = np.random.default_rng([seed, 12])
    full = [encoder.encode(d.prompt) for d in demos]
    short = [encoder.encode(d.short_prompt) for d in demos]
    blind = [encoder.encode(d.blind_prompt) for d in demos]
    answers = [encoder.encode_response(d.action) for d in demos]
    size, step = config.batch_size, 0
    while True:
        chosen = short if step < config.curriculum * config.steps else full
        order = rng.permutation(len(demos))
        for block in np.array_split(order, max(1, len(order) // (8 * size))):
            block = block[np.argsort([len(chosen[i]) for i in block], kind="stable")]
            starts = rng.permutation(range(0, max(1, len(block) - size + 1), size))
            for start in starts:
                picked = block[start : start + size]
                hide = rng.random(len(picked)) < config.blind_fraction
                yield [RowTokens(blind[i] if h else chosen[i], answers[i]) for i, h in zip(picked, hide, strict=True)]
                step += 1
