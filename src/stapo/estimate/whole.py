"""Time and disk of a whole run: SFT, rollouts and updates, evaluations, saves."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stapo.estimate.costs import UTILIZATION, Device, Workload, forward_flops, seconds
from stapo.estimate.shapes import ModelShape

WRITING = 150e6
"""Bytes a second that a save is written, hashed and forced onto the disk with."""


@dataclass(frozen=True, kw_only=True)
class RunOverhead:
    """What a run does beside its iterations.

    Attributes:
        sft_steps: optimizer steps of SFT.
        sft_rows: rows of each.
        sft_tokens: tokens of a row.
        demonstration_seconds: of the environment, for the demonstrations.
        sft_save_seconds: seconds between its saves.
        full_evaluations: episodes of the evaluations at the start and at the end, all modes together.
        quick_evaluations: episodes of those in between.
        saves: times that the state is saved in RL.
        keep_saves: saves that stay.
        checkpoints: policies that stay, start and end among them.
    """

    sft_steps: int
    sft_rows: int
    sft_tokens: float
    demonstration_seconds: float
    sft_save_seconds: float
    full_evaluations: int
    quick_evaluations: int
    saves: int
    keep_saves: int
    checkpoints: int


@dataclass(frozen=True)
class Speed:
    """What a machine was measured to do with a model.

    Attributes:
        read: seconds for a token of a prompt, or of a forward pass that is scored.
        train: seconds for a token of an update, forward and backward.
        step: seconds for a token of each of the episodes that are answered together, whatever their number.
        answered: seconds that each of them adds.
        score: seconds for a token of a forward pass that is scored; None for as many as `read`.
        turn: seconds that a prompt takes besides, whatever its number of tokens.
        sft: seconds of a step of SFT; 0 where it takes `train` for each of its tokens.
    """

    read: float
    train: float
    step: float
    answered: float
    score: float | None = None
    turn: float = 0.0
    sft: float = 0.0

    @property
    def scored(self) -> float:
        """Seconds for a token of a forward pass that is scored."""
        return self.read if self.score is None else self.score


def measured_seconds(w: Workload, speed: Speed) -> dict[str, float]:
    """Seconds of an iteration by part from measured speeds; the parts are those of `costs.seconds`."""
    rows = w.episodes * w.steps
    forward, blind = w.read * speed.scored, w.read_blind * speed.scored
    train = (w.read * speed.train + (forward if w.checkpointing else 0.0)) * w.epochs
    trained_blind = (w.read_blind * speed.train + (blind if w.checkpointing else 0.0)) * w.epochs
    parts = {
        "generation": w.prefilled * speed.read
        + rows * speed.turn
        + rows / w.together * (w.decoded or w.response) * (speed.step + w.together * speed.answered),
        "environment": rows * w.step_seconds,
        "old log-probs": 0.0,
        "reference": forward * w.epochs if w.scored_by_reference and w.reference != "none" else 0.0,
        "update": train,
        "blind passes": trained_blind + w.epochs * blind if w.blind else 0.0,
        "critic": train + forward if w.critic else 0.0,
    }
    parts["iteration"] = sum(parts.values())
    parts["run"] = parts["iteration"] * w.iterations
    return parts


def run_seconds(shape: ModelShape, w: Workload, overhead: RunOverhead, how: Device | Speed) -> dict[str, float]:
    """Seconds of a whole run by stage; "all" is their sum."""
    parts = measured_seconds(w, how) if isinstance(how, Speed) else seconds(shape, w, how)
    batched = replace(w, episodes=max(1, min(128, overhead.full_evaluations)))
    evaluated = measured_seconds(batched, how) if isinstance(how, Speed) else seconds(shape, batched, how)
    per_episode = (evaluated["generation"] + evaluated["environment"]) / batched.episodes
    tokens = overhead.sft_rows * overhead.sft_tokens
    if isinstance(how, Speed):
        step = how.sft or tokens * how.train
    else:
        flops = 3 * forward_flops(shape, tokens, overhead.sft_tokens, overhead.sft_rows * w.response)
        step = flops / (UTILIZATION * how.flops)
    sft = overhead.sft_steps * step
    size = save_bytes(shape, w)
    saves = overhead.saves + (sft / overhead.sft_save_seconds if overhead.sft_save_seconds else overhead.sft_steps)
    stages = {
        "demonstrations": overhead.demonstration_seconds,
        "SFT": sft,
        "iterations": parts["run"],
        "evaluations": per_episode * (overhead.full_evaluations + overhead.quick_evaluations),
        "saves": (saves * size if overhead.sft_steps or w.iterations else 0.0) / WRITING,
    }
    stages["all"] = sum(stages.values())
    return stages


def save_bytes(shape: ModelShape, w: Workload) -> float:
    """Bytes that one save adds: policy and optimizer, and a critic with its own. The reference is a hard link."""
    adapters = shape.adapter_parameters(w.lora_rank) if w.lora_rank else 0
    state = 8.0 * adapters if adapters else (8.0 if w.bytes_per_weight == 4 else 12.0) * shape.parameters
    policy = 4.0 * adapters if adapters else float(w.bytes_per_weight * shape.parameters)
    return (policy + state) * (2 if w.critic else 1)


def disk_bytes(shape: ModelShape, w: Workload, overhead: RunOverhead) -> dict[str, float]:
    """Bytes of the run folder at the end, and while a save is written, when one more is there."""
    model = float(shape.parameters * w.bytes_per_weight)
    one = save_bytes(shape, w)
    reference = model if w.reference != "none" or w.lora_rank else 0.0
    kept = overhead.checkpoints * model + reference + overhead.keep_saves * one
    return {"checkpoints": overhead.checkpoints * model, "one save": one, "kept": kept, "most": kept + one}
