"""SFT: supervised steps on demonstrations, before any RL.

SFT that is stopped early (`stop_at`) leaves RL an honest gap: a policy that has understood the commands but
has been trained too briefly to be good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from stapo.algo import score_tokens
from stapo.config.training import SFTConfig
from stapo.errors import NonFiniteError
from stapo.policy import Policy, RowTokens, find_chains, head_of, hidden_states
from stapo.policy.sequences import chained, row_batches
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.templates import Clock, utc_now
from stapo.training.demonstrations import DemoStep
from stapo.training.optimizer import build_optimizer


class SFT:
    """Imitates demonstrations; can be saved after any optimizer step and resumed.

    Args:
        policy: trained in place.
        config: settings.
        seed: of the order of the demonstrations, and of dropout where the model has any.
        clock: date and time for chat templates.

    Attributes:
        optimizer: AdamW; its state belongs to a save.
        step: optimizer steps done.
        end: step at which training will stop, once `stop_at` was reached; None before.
        losses: of the steps done, until somebody takes them.
        probe_due: the probe after the steps done is still to come, as in a save that was made meanwhile.
    """

    def __init__(self, policy: Policy, config: SFTConfig, seed: int, clock: Clock = utc_now) -> None:
        self.policy = policy
        self.config = config
        self.seed = seed
        self.clock = clock
        self.step = 0
        self.end: int | None = None
        self.losses: list[float] = []
        self.probe_due = False
        self.optimizer = build_optimizer(
            policy.model.parameters(), config.learning_rate, (0.9, 0.95), config.weight_decay
        )

    def run(
        self,
        demos: list[DemoStep],
        *,
        after_step: Callable[[], None],
        probe: Callable[[int], float] | None = None,
        droppable: Callable[[], AbstractContextManager[None]] = nullcontext,
        encoded: Callable[[int, int], None] = lambda done, total: None,
        read: Callable[[list[RowTokens]], None] = lambda rows: None,
    ) -> None:
        """Train until the end, from `step` on.

        Args:
            demos: from `demonstrate`; the same as before where SFT is resumed.
            after_step: called after every optimizer step; `losses` then ends with its loss (nats per token).
            probe: returns the policy's success on training tasks; called with the steps done. Needed for `stop_at`.
            droppable: a context for what leaves the weights as they are after `step` steps, and may be left by an
                exception at any point.
            encoded: called with (done, all) as demonstrations become tokens.
            read: called with all of them as tokens, under their full prompts.

        Raises:
            NonFiniteError: the loss is not finite; the step is named and the weights are those before it.
        """
        config, model = self.config, self.policy.model
        with droppable():
            batches = _batches(
                demos, PromptEncoder(self.policy.tokenizer, self.clock), config, self.seed, encoded, read
            )
            for _ in range(self.step):
                next(batches)
        model.train()
        if self.probe_due and probe is not None:
            self._ask(probe)
            after_step()
        while self.step < config.steps and self.step != self.end:
            with droppable():
                for group in self.optimizer.param_groups:
                    group["lr"] = config.learning_rate * _schedule(self.step, config, self.end)
                self.optimizer.zero_grad(set_to_none=True)
                loss = self._gradients(next(batches))
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            self.losses.append(loss)
            if probe is not None and self.wants_probe():
                self.probe_due = True
                self._ask(probe)
            after_step()

    def wants_probe(self) -> bool:
        """Whether success is to be probed after the steps done."""
        config = self.config
        if config.keep == "best" and self.step in (config.steps, self.end):
            return True
        if config.keep != "best" and (self.end is not None or config.stop_at >= 1):
            return False
        return self.step > config.curriculum * config.steps and self.step % config.probe_every == 0

    def _ask(self, probe: Callable[[int], float]) -> None:
        success, stop_at = probe(self.step), self.config.stop_at
        if stop_at < 1 and self.end is None and success >= stop_at:
            self.end = self.step + self.config.anneal_steps
        self.probe_due = False
        self.policy.model.train()

    def _gradients(self, rows: list[RowTokens]) -> float:
        """Add the gradients of the mean loss over all response tokens, and return that."""
        parts = row_batches(rows, self.config.micro_tokens) if self.config.micro_tokens else [range(len(rows))]
        tokens = sum(len(row.response_ids) for row in rows)
        weight_vh, bias_v = head_of(self.policy.model)
        devices = [self.policy.device] if self.policy.device.type == "cuda" else []
        whole = 0.0
        with torch.random.fork_rng(devices=devices):
            # Dropout, where a model has it, then depends on the step alone, and not on where a run was continued.
            torch.manual_seed(int(np.random.SeedSequence([self.seed, 14, self.step]).generate_state(1)[0]))
            for part in parts:
                hidden_nh, targets_n, _ = hidden_states(
                    self.policy.model, [rows[i] for i in part], self.policy.tokenizer.pad_token_id
                )
                logp_n, _ = score_tokens(hidden_nh, weight_vh, targets_n, temperature=1.0, bias_v=bias_v, entropy=False)
                loss = -logp_n.mean() * (len(targets_n) / tokens)
                if not torch.isfinite(loss):
                    raise NonFiniteError(
                        f"SFT's loss is {loss.item()} at step {self.step + 1}; lower its learning rate."
                    )
                loss.backward()
                whole += float(loss.detach())
        return whole


def _schedule(step: int, config: SFTConfig, end: int | None) -> float:
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.stop_at < 1:
        return 1.0 if end is None else 0.1 + 0.9 * (end - step) / max(1, config.anneal_steps)
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _batches(
    demos: list[DemoStep],
    encoder: PromptEncoder,
    config: SFTConfig,
    seed: int,
    encoded: Callable[[int, int], None] = lambda done, total: None,
    read: Callable[[list[RowTokens]], None] = lambda rows: None,
) -> Iterator[list[RowTokens]]:
    """Endless shuffled batches; each comes from one stretch of similar lengths, so little of it is padding.

    Steps whose prompts extend each other are one sequence, which is drawn whole.
    """
    rng = np.random.default_rng([seed, 12])
    full, short, blind, answers = [], [], [], []
    for number, demo in enumerate(demos, start=1):
        full.append(encoder.encode(demo.prompt))
        short.append(encoder.encode(demo.short_prompt))
        blind.append(encoder.encode(demo.blind_prompt))
        answers.append(encoder.encode_response(demo.action, demo.command, demo.ended))
        encoded(number, len(demos))
    rows = [RowTokens(prompt, answer) for prompt, answer in zip(full, answers, strict=True)]
    read(rows)
    chains = find_chains(rows, [0] * len(rows))
    sequences, step = chained(range(len(rows)), chains.chain_b), 0
    size = max(1, round(config.batch_size * chains.sequences / chains.rows))
    while True:
        curriculum = step < config.curriculum * config.steps
        chosen = short if curriculum else full
        order = rng.permutation(len(sequences))
        for block in np.array_split(order, max(1, len(order) // (8 * size))):
            block = block[np.argsort([len(chosen[sequences[i][-1]]) for i in block], kind="stable")]
            starts = rng.permutation(range(0, max(1, len(block) - size + 1), size))
            for start in starts:
                picked = [(i, s) for s in block[start : start + size] for i in sequences[s]]
                hide = rng.random(len(picked)) < config.blind_fraction
                batch = [
                    RowTokens(blind[i] if h else chosen[i], answers[i], chain=None if h or curriculum else int(s))
                    for (i, s), h in zip(picked, hide, strict=True)
                ]
                # A blind row within a sequence would cut it in two.
                yield batch if chains.sequences == chains.rows else sorted(batch, key=lambda row: row.chain is None)
                step += 1
