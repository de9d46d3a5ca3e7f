"""One policy update from one rollout batch: base loss on every row, selective terms on flagged rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stapo.algo import (
    AlgorithmConfig,
    Correction,
    LossDenominators,
    SelectiveTerms,
    base_loss,
    correction_weights,
    masked_mean_weights,
    mean_stats,
    selective_divisor,
    selective_loss,
)
from stapo.config.training import OptimConfig
from stapo.errors import NonFiniteError
from stapo.policy import Policy, RowTokens, row_batches
from stapo.policy.sequences import chained
from stapo.rollout import Step
from stapo.training.batch import RowBatch
from stapo.training.critic import CriticLearner
from stapo.training.metrics import mismatch_of
from stapo.training.optimizer import build_optimizer
from stapo.training.scoring import Scored, Scorer, length_mask, pad_rows
from stapo.training.transcript_details import BlindNumbers

_COMPARED_SHARE, _COMPARED_ROWS = 0.02, 32  # of a batch, at most: unflagged rows whose KL is logged beside the flagged
_PIECE = 2**22  # numbers whose squares exist at once


@dataclass
class _Call:
    """What one call of `Updater.update` works on, and the seconds that its parts took."""

    batch: RowBatch
    record: BlindNumbers | None
    ref_logp: list[list[float]] | None = None
    reference: float = 0.0
    update: float = 0.0
    blind: float = 0.0


class _SelectiveLog:
    """Collects what the selective terms of one mini-batch were."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.r_ta: list[float] = []
        self.p_ti: list[float] = []
        self.stats: list[dict[str, Tensor]] = []

    def add(self, terms: SelectiveTerms, loss: Tensor) -> None:
        self.loss += float(loss.detach())
        self.r_ta += terms.r_ta_k.detach().tolist()
        self.p_ti += [] if terms.p_ti_k is None else terms.p_ti_k.detach().tolist()
        self.stats.append(terms.stats)

    def summary(self) -> dict[str, Any]:
        if not self.stats:
            return {"selective_rows": 0}
        shares = mean_stats(self.stats)
        return {
            "selective_loss": self.loss,
            "selective_rows": len(self.r_ta),
            "r_ta": float(np.mean(self.r_ta)),
            "p_ti": float(np.mean(self.p_ti)) if self.p_ti else None,
            "r_ta_capped": shares["r_ta_capped"],
            "p_ti_capped": shares.get("p_ti_capped"),
            "selective_clamped": shares["log_ratio_clamped"],
        }


class _Measured:
    """Collects what the policy that was sampled from says of the first mini-batch, before its weights move.

    Args:
        compared: rows whose full-prompt hidden states are kept.
    """

    def __init__(self, compared: Collection[int]) -> None:
        self.compared = compared
        self.full: dict[int, tuple[Tensor, Tensor]] = {}
        self.largest, self.total, self.tokens = 0.0, 0.0, 0

    def add(self, part: list[int], scored: Scored, sampled_bl: Tensor) -> None:
        """Add rows and what the sampler recorded of them."""
        gap_n = (scored.logp_bl.detach() - sampled_bl).abs()[scored.mask_bl]
        self.largest = max(self.largest, float(gap_n.max()))
        self.total += float(gap_n.double().sum())
        self.tokens += gap_n.numel()
        kept = [b in self.compared for b in part]
        if any(kept):
            hidden_nh, targets_n = scored.of(kept)
            lengths = scored.mask_bl.sum(dim=1)[torch.as_tensor(kept)].tolist()
            states = zip(hidden_nh.detach().split(lengths), targets_n.split(lengths), strict=True)
            self.full |= dict(zip((b for b in part if b in self.compared), states, strict=True))

    def gaps(self) -> dict[str, float | None]:
        """How far the trainer's log-probabilities are from those that the sampler recorded."""
        mean = self.total / self.tokens if self.tokens else None
        return {"logprob_gap": self.largest, "logprob_gap_mean": mean}


class Updater:
    """Holds the optimizer and moves the policy's weights.

    Args:
        policy: trained in place.
        reference: frozen copy of the starting policy; None where the algorithm needs none, or where the policy has
            adapters that can be switched off.
        algorithm: loss and selective terms.
        optim: optimizer and batch sizes.
        temperature: sampling temperature of the rollouts; all log-probabilities are taken at it.
        critic: trained beside the policy, where the algorithm needs one.
        correction: weights for how the sampler differs from the trainer; the steps then need `Step.old_logprobs`. None
            takes the sampler's log-probabilities for those of the old policy.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Any | None,
        algorithm: AlgorithmConfig,
        optim: OptimConfig,
        temperature: float,
        critic: CriticLearner | None = None,
        correction: Correction | None = None,
    ) -> None:
        self.policy = policy
        self.algorithm = algorithm
        self.optim = optim
        self.critic = critic
        self.correction = correction
        self.scorer = Scorer(policy, reference, algorithm, temperature)
        self.parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(
            self.parameters, optim.learning_rate, (optim.beta1, optim.beta2), optim.weight_decay
        )
        self.non_finite_in_a_row = 0

    def rescore(self, steps: Sequence[Step], rows: Sequence[RowTokens]) -> dict[str, float]:
        """Give sampled steps the trainer's entropies and old log-probabilities, before the weights move.

        Returns:
            measures of the mismatch between sampler and trainer; see `stapo.algo.mismatch`.
        """
        self.scorer.rescore(steps, rows, self.optim.micro_tokens)
        return mismatch_of(steps, self.correction)

    def update(
        self,
        batch: RowBatch,
        learning_rate: float,
        *,
        seed: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
        measure_ratio: bool = True,
        critic_alone: bool = False,
        record: BlindNumbers | None = None,
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Run the optimizer steps of one iteration.

        Args:
            batch: rows with advantages and flags.
            learning_rate: of this iteration.
            seed: of the order of rows.
            progress: called with (done, all) optimizer steps.
            measure_ratio: measure the size of the selective gradient, in the first mini-batch.
            critic_alone: leave the policy as it is.
            record: keeps a copy of what blind passes say of single rows, and of the bonus on their advantages.

        Returns:
            metrics, and seconds in ``reference`` (log-probs of the reference), ``blind`` (blind passes and selective
            terms) and ``update`` (everything else).

        Raises:
            NonFiniteError: a loss or gradient is not finite, once more than `skip_non_finite` times in a row; the
                weights are those before that optimizer step.
        """
        # Not train(): with dropout, log-probabilities would not be those of the policy that was sampled from. Adapters
        # that were asked to drop out do so around the gradient alone, and never while the gap is measured.
        self.policy.model.eval()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if self.algorithm.selective_on and self.algorithm.selective.gate == "bonus" and not critic_alone:
            batch = self._with_bonus(batch, record)
        call = _Call(batch, record)
        if self.algorithm.loss.beta > 0 and self.algorithm.loss.kl != "full" and not critic_alone:
            started = time.perf_counter()
            call.ref_logp = self.scorer.reference_logp(batch, self.optim.micro_tokens)
            call.reference = time.perf_counter() - started
        order = self._order(batch, seed)
        logs: list[dict[str, Any]] = []
        skipped = 0
        for number, rows in enumerate(order, start=1):
            try:
                where = f"optimizer step {number}"
                if critic_alone:
                    logs.append(self._critic_step(call, rows, where))
                else:
                    stream = (*seed, 6, number)
                    log = self._step(call, rows, where, not logs, measure_ratio, stream)
                    logs += [log] if log else []
                self.non_finite_in_a_row = 0
            except NonFiniteError:
                self.non_finite_in_a_row += 1
                if self.non_finite_in_a_row > self.optim.skip_non_finite:
                    raise
                skipped += 1
                self.optimizer.zero_grad(set_to_none=True)
            if progress is not None:
                progress(number, len(order))
        seconds = {"reference": call.reference, "blind": call.blind, "update": call.update}
        unflagged_kl = logs[0].pop("unflagged_kl", None) if logs else None
        return {"update": {**_merge(logs), "skipped_steps": skipped}, "unflagged_kl": unflagged_kl}, seconds

    def _with_bonus(self, batch: RowBatch, record: BlindNumbers | None) -> RowBatch:
        """The batch with alpha times R_TA on the advantages of flagged rows, as the policy stands: a constant."""
        rows = np.flatnonzero(batch.flag_b)
        total_b = batch.advantages.total_b.copy()
        r_ta_k = self.scorer.awareness(batch, rows.tolist(), self.optim.micro_tokens)
        bonus_k = self.algorithm.selective.alpha * r_ta_k.numpy()
        total_b[rows] += bonus_k
        if record is not None:
            record.add_bonus(rows.tolist(), bonus_k.tolist())
        return replace(batch, advantages=replace(batch.advantages, total_b=total_b))

    def _order(self, batch: RowBatch, seed: Sequence[int]) -> list[list[int]]:
        rng, size = np.random.default_rng(list(seed)), self.optim.mini_batch
        steps: list[list[int]] = []
        # A sequence is never torn: what its rows share is read once. Mini-batches are counted in rows all the same.
        sequences = chained(range(len(batch)), batch.chains.chain_b)
        for _ in range(self.optim.epochs):
            parts: list[list[int]] = [[]]
            for number in rng.permutation(len(sequences)).tolist():
                if len(parts[-1]) >= size:
                    parts.append([])
                parts[-1] += sequences[number]
            if len(parts) > 1 and len(parts[-1]) < size / 2:
                parts[-2:] = [parts[-2] + parts[-1]]
            steps += parts
        return steps

    def _step(
        self, call: _Call, rows: list[int], where: str, first: bool, measure_ratio: bool, stream: Sequence[int]
    ) -> dict[str, Any]:
        batch = call.batch
        all_rows, rows = rows, [b for b in rows if not batch.masked_b[b]]
        if not rows:
            return {} if self.critic is None else self._critic_step(call, all_rows, where)
        started, blind_before = time.perf_counter(), call.blind
        self.optimizer.zero_grad(set_to_none=True)
        adapter = self.policy.adapter
        noisy = adapter is not None and adapter.drops_out
        measured = _Measured(self._compared(batch, rows, stream)) if first else None
        with nullcontext() if adapter is None else adapter.dropping_out(stream):
            apart, seen = first and measure_ratio, None if noisy else measured
            log = self._backward(call, rows, where, apart, seen)
        if measured is not None:
            if noisy:
                self._read(batch, rows, measured)
            log |= measured.gaps()
            compared = time.perf_counter()
            log["unflagged_kl"] = self.scorer.full_and_blind_kl(
                batch, measured.full, self.optim.micro_tokens, call.record
            )
            call.blind += time.perf_counter() - compared
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.optim.grad_clip))
        if not math.isfinite(norm):
            raise NonFiniteError(
                f"the gradient norm is {norm} at {where}, though the loss is finite; this step was not taken."
            )
        log["grad_norm"] = norm
        if self.critic is not None:
            # Both gradients are there before one of the two moves.
            log |= self.critic.backward(batch, all_rows, where)
            self.critic.optimizer.step()
        self.optimizer.step()
        call.update += time.perf_counter() - started - (call.blind - blind_before)
        return log

    def _critic_step(self, call: _Call, rows: list[int], where: str) -> dict[str, Any]:
        started = time.perf_counter()
        assert self.critic is not None, "only a critic can be trained without the policy"
        log = self.critic.backward(call.batch, rows, where)
        self.critic.optimizer.step()
        call.update += time.perf_counter() - started
        return log

    def _backward(
        self, call: _Call, rows: list[int], where: str, apart: bool, measured: _Measured | None
    ) -> dict[str, Any]:
        """Add the gradient of the whole mini-batch, one micro-batch at a time."""
        batch, ref_logp = call.batch, call.ref_logp
        selective = _SelectiveLog()
        flagged = {b for b in rows if batch.flag_b[b]} if self.algorithm.selective_on else set()
        z = selective_divisor(self.algorithm.selective, flagged=len(flagged), rows=len(rows))
        weights = self._row_weights(batch, rows, flagged)
        totals = self._denominators(batch, rows)
        active = [i for i, b in enumerate(rows) if b in flagged or self._has_base_gradient(batch, b)]
        loss, stats = 0.0, []
        extra_grads: list[Tensor | None] = [None] * len(self.parameters)
        for places in self._micro_batches(batch, rows, active, flagged):
            part = [rows[i] for i in places]
            scored = self.scorer.score(
                self.policy.model,
                [batch.full(b) for b in part],
                entropy_grad=self.algorithm.loss.entropy_coef > 0,
            )
            old_bl = sampled_bl = pad_rows([batch.steps[b].logprobs for b in part], scored.logp_bl)
            ref_kl_bl = weight_bl = None
            if self.correction is not None:
                old_bl = pad_rows([batch.steps[b].old_logprobs for b in part], scored.logp_bl)
                weight_bl = correction_weights(old_bl, sampled_bl, scored.mask_bl, self.correction)
            if self.algorithm.loss.beta > 0 and self.algorithm.loss.kl == "full":
                began = time.perf_counter()
                ref_kl_bl = self.scorer.exact_reference_kl([batch.full(b) for b in part], scored)
                call.reference += time.perf_counter() - began
            out = base_loss(
                scored.logp_bl,
                old_bl,
                torch.as_tensor(batch.advantages.total_b[part], device=scored.logp_bl.device),
                scored.mask_bl,
                self.algorithm.loss,
                totals.take(torch.as_tensor(places)),
                ref_logp_bl=None if ref_logp is None else pad_rows([ref_logp[b] for b in part], scored.logp_bl),
                ref_kl_bl=ref_kl_bl,
                entropy_bl=scored.entropy_bl,
                weight_bl=weight_bl,
            )
            _require_finite_loss(out.loss, part, f"the loss at {where}")
            total = out.loss
            chosen = [b for b in part if b in flagged]
            if chosen:
                started = time.perf_counter()
                states = scored.of([b in flagged for b in part])
                terms = self.scorer.selective(batch, chosen, states, record=call.record)
                extra = selective_loss(
                    terms.r_ta_k, terms.p_ti_k, self.algorithm.selective, z,
                    weight_k=None if weights is None else terms.r_ta_k.new_tensor([weights[b] for b in chosen]),
                    gain_k=self._gains(batch, chosen, terms.r_ta_k),
                )  # fmt: skip
                _require_finite_loss(extra, part, f"the selective loss at {where}")
                selective.add(terms, extra)
                if apart and extra.requires_grad:
                    # Apart, so that its size can be compared; the graph is that of the flagged rows alone.
                    grads: list[Tensor | None] = list(
                        torch.autograd.grad(extra, self.parameters, retain_graph=True, allow_unused=True)
                    )
                    for i in range(len(grads)):
                        extra_grads[i], grads[i] = _sum(extra_grads[i], grads[i]), None
                else:
                    total = total + extra
                call.blind += time.perf_counter() - started
            total.backward()
            loss += float(out.loss.detach())
            stats.append(out.stats)
            if measured is not None:
                measured.add(part, scored, sampled_bl)
        ratio = self._add_measured(extra_grads) if apart and flagged else None
        return {"loss": loss, **mean_stats(stats), **selective.summary(), "selective_gradient_ratio": ratio}

    def _row_weights(self, batch: RowBatch, rows: list[int], flagged: set[int]) -> dict[int, float] | None:
        """Weights of the flagged rows under ``norm=masked_mean``, which do not depend on micro-batches."""
        if self.algorithm.selective.norm != "masked_mean":
            return None
        tokens_b = [len(batch.steps[b].response_ids) for b in rows]
        weight_b = masked_mean_weights(self.algorithm.selective, [b in flagged for b in rows], tokens_b)
        return dict(zip(rows, weight_b.tolist(), strict=True))

    def _gains(self, batch: RowBatch, chosen: list[int], like: Tensor) -> Tensor | None:
        """Whether each flagged row is asked for R_TA, where not all are."""
        if self.algorithm.selective.gate != "positive":
            return None
        return like.new_tensor((batch.advantages.total_b[chosen] > 0).astype(np.float32))

    @torch.no_grad()
    def _read(self, batch: RowBatch, rows: list[int], measured: _Measured) -> None:
        """Measure by a pass of its own, where those of the update are noisy."""
        for places in row_batches([batch.full(b) for b in rows], self.optim.micro_tokens):
            part = [rows[i] for i in places]
            scored = self.scorer.score(self.policy.model, [batch.full(b) for b in part], entropy=False)
            measured.add(part, scored, pad_rows([batch.steps[b].logprobs for b in part], scored.logp_bl))

    def _micro_batches(self, batch: RowBatch, rows: list[int], active: list[int], flagged: set[int]) -> list[list[int]]:
        """Places of the active rows by micro-batch; one blind pass serves the flagged ones of each.

        Sequences with flagged rows keep to themselves.
        """
        chain_b = batch.chains.chain_b
        hit = {chain_b[b] for b in flagged}
        parts = [i for i in active if chain_b[rows[i]] in hit], [i for i in active if chain_b[rows[i]] not in hit]
        return [
            [places[k] for k in micro]
            for places in parts
            for micro in row_batches([batch.full(rows[i]) for i in places], self.optim.micro_tokens)
        ]

    def _add_measured(self, extra_grads: list[Tensor | None]) -> float | None:
        """Add the selective gradient to that of the base loss; returns the ratio of their norms over the mini-batch."""
        base_norm = _norm(p.grad for p in self.parameters)
        # One weight after the other, so that no third set of gradients exists.
        for parameter, extra in zip(self.parameters, extra_grads, strict=True):
            parameter.grad = _sum(parameter.grad, extra)
        extra_norm = _norm(extra_grads)
        # Where all advantages are 0 the base gradient is rounding, and a ratio to it would say nothing.
        return extra_norm / base_norm if base_norm > 1e-6 * extra_norm else None

    def _denominators(self, batch: RowBatch, rows: list[int]) -> LossDenominators:
        mask_bl = length_mask([len(batch.steps[b].response_ids) for b in rows], torch.device("cpu"))
        return LossDenominators.of(mask_bl, torch.as_tensor(batch.traj_b[rows]))

    def _has_base_gradient(self, batch: RowBatch, b: int) -> bool:
        """Whether the base loss of row b can move a weight: with advantage 0 and no other term its gradient is 0."""
        return self.algorithm.needs_every_row or bool(batch.advantages.total_b[b] != 0)

    def _compared(self, batch: RowBatch, rows: list[int], stream: Sequence[int]) -> set[int]:
        """A few unflagged rows of a mini-batch that are read anyway; their R_TA is logged beside the flagged ones'."""
        if not self.algorithm.selective_on:
            return set()
        differs = [
            b
            for b in rows
            if not batch.flag_b[b]
            and batch.steps[b].prompt_ids != batch.steps[b].blind_ids
            and self._has_base_gradient(batch, b)
        ]
        size = min(_COMPARED_ROWS, math.ceil(_COMPARED_SHARE * len(batch)))
        return {differs[i] for i in np.random.default_rng([*stream, 5]).permutation(len(differs))[:size]}


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other


def _norm(tensors: Iterable[Tensor | None]) -> float:
    # In pieces: the squares of a whole embedding in float64 would take as much as its weight, moments and copy.
    squares = [float(p.double().pow(2).sum()) for t in tensors if t is not None for p in t.flatten().split(_PIECE)]
    return math.sqrt(sum(squares))


def _require_finite_loss(loss: Tensor, rows: list[int], what: str) -> None:
    if not torch.isfinite(loss):
        shown = f"{rows[:8]}{'…' if len(rows) > 8 else ''}"
        raise NonFiniteError(f"{what} is {float(loss.detach())} on rows {shown}; this step was not taken.")


def _merge(logs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over optimizer steps; selective values over the steps that had flagged rows; counts are sums."""
    merged: dict[str, Any] = {"optimizer_steps": len(logs)}
    for key in dict.fromkeys(k for log in logs for k in log):
        values = [log[key] for log in logs if log.get(key) is not None]
        if not values:
            merged[key] = None
        elif key in ("tokens", "selective_rows"):
            merged[key] = sum(values)
        else:
            merged[key] = float(np.mean(values))
    return merged
