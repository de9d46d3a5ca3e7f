"""Warm start: supervised steps on demonstrations, before any RL.

A warm start that is stopped early (`stop_at`) leaves RL an honest gap: a policy that has understood the commands but
has been trained too briefly to be good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from stapo.algo import score_tokens
from stapo.errors import NonFiniteError
from stapo.policy import Policy, RowTokens, head_of, hidden_states
from stapo.rollout.encoding import PromptEncoder
from stapo.train.config import WarmStartConfig
from stapo.train.demonstrations import DemoStep
from stapo.train.optimizer import build_optimizer

_RAMP_STEPS = 100


class WarmStart:
    """Imitates demonstrations; can be saved after any optimizer step and gone on with.

    Args:
        policy: trained in place.
        config: settings.
        seed: of the order of the demonstrations, and of dropout where the model has any.

    Attributes:
        optimizer: AdamW; its state belongs to a save.
        step: optimizer steps done.
        end: step at which training will stop, once `stop_at` was reached; None before.
    """

    def __init__(self, policy: Policy, config: WarmStartConfig, seed: int) -> None:
        self.policy = policy
        self.config = config
        self.seed = seed
        self.step = 0
        self.end: int | None = None
        self.optimizer = build_optimizer(
            policy.model.parameters(), config.learning_rate, (0.9, 0.95), config.weight_decay
        )

    def run(
        self,
        demos: list[DemoStep],
        *,
        after_step: Callable[[float], None],
        probe: Callable[[int], float] | None = None,
    ) -> None:
        """Train until the end, from `step` on.

        Args:
            demos: from `demonstrate`; the same as before where a warm start is gone on with.
            after_step: called after every optimizer step with its loss (nats per token).
            probe: returns the policy's success on training tasks; called with the steps done. Needed for `stop_at`.

        Raises:
            NonFiniteError: the loss is not finite; the step is named and the weights are those before it.
        """
        config, model = self.config, self.policy.model
        batches = _batches(demos, PromptEncoder(self.policy.tokenizer), config, self.seed)
        for _ in range(self.step):
            next(batches)
        model.train()
        while self.step < config.steps and self.step != self.end:
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(self.step, config, self.end)
            loss = self._loss(next(batches))
            if not torch.isfinite(loss):
                raise NonFiniteError(
                    f"the warm start's loss is {loss.item()} at step {self.step + 1}; lower its learning rate."
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            if self.end is None and probe is not None and _time_to_probe(self.step, config):
                if probe(self.step) >= config.stop_at:
                    self.end = self.step + config.anneal_steps
                model.train()
            after_step(float(loss.detach()))

    def _loss(self, rows: list[RowTokens]) -> torch.Tensor:
        devices = [self.policy.device] if self.policy.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            # Dropout, where a model has it, then depends on the step alone, and not on where a run was continued.
            torch.manual_seed(int(np.random.SeedSequence([self.seed, 14, self.step]).generate_state(1)[0]))
            hidden_nh, targets_n, _ = hidden_states(self.policy.model, rows, self.policy.tokenizer.pad_token_id)
        weight_vh, bias_v = head_of(self.policy.model)
        logp_n, _ = score_tokens(hidden_nh, weight_vh, targets_n, temperature=1.0, bias_v=bias_v, entropy=False)
        return -logp_n.mean()


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
