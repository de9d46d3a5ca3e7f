"""Scoring the rows of a batch: log-probabilities, entropies, and the divergences of the selective terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stapo.algo import (
    AlgorithmConfig,
    SelectiveTerms,
    TokenMasks,
    flagged_scores,
    score_tokens,
    selective_terms,
    two_context_kl,
    unflatten_tokens,
)
from stapo.policy import Policy, RowTokens, head_of, hidden_states, micro_batches, row_batches
from stapo.policy.sequences import FreeTokens
from stapo.rollout import Step
from stapo.training.batch import RowBatch
from stapo.training.transcript_details import BlindNumbers

_CHUNK_ELEMENTS = 10_000_000  # logits held at once by the chunked head: 40 MB in fp32


@dataclass(frozen=True)
class Scored:
    """Responses under one model: (B, L) log-probabilities, entropies, mask; flat hidden states, tokens, rows."""

    logp_bl: Tensor
    entropy_bl: Tensor | None
    mask_bl: Tensor
    hidden_nh: Tensor
    targets_n: Tensor
    row_n: Tensor

    def of(self, chosen: Sequence[bool]) -> tuple[Tensor, Tensor]:
        """Hidden states and tokens of the rows that are chosen."""
        if all(chosen):
            return self.hidden_nh, self.targets_n
        chosen_n = torch.as_tensor(chosen, device=self.row_n.device)[self.row_n]
        return self.hidden_nh[chosen_n], self.targets_n[chosen_n]


@dataclass(frozen=True)
class Scorer:
    """Scores rows under the policy and its reference, at the temperature of the rollouts.

    Attributes:
        policy: model and tokenizer.
        reference: frozen copy of the starting model, or of a later one, on any device; None where the algorithm needs
            none, or where the policy has adapters: without them it is the starting model.
        algorithm: which terms are wanted.
        temperature: all log-probabilities and entropies are taken at it.
    """

    policy: Policy
    reference: Any | None
    algorithm: AlgorithmConfig
    temperature: float

    def score(
        self, model: Any, rows: Sequence[RowTokens], *, entropy: bool = True, entropy_grad: bool = False
    ) -> Scored:
        """Score the responses of `rows` under `model`, with gradient unless that is switched off."""
        hidden_nh, targets_n, row_n = hidden_states(model, rows, self.policy.tokenizer.pad_token_id)
        weight_vh, bias_v = head_of(model)
        logp_n, entropy_n = score_tokens(
            hidden_nh,
            weight_vh,
            targets_n,
            temperature=self.temperature,
            chunk=chunk_of(weight_vh),
            bias_v=bias_v,
            entropy=entropy,
            entropy_grad=entropy_grad,
            kernel=self.policy.head_kernel,
            masks=token_masks(rows, weight_vh),
        )
        mask_bl = length_mask([len(r.response_ids) for r in rows], logp_n.device)
        entropy_bl = None if entropy_n is None else unflatten_tokens(entropy_n, mask_bl)
        return Scored(unflatten_tokens(logp_n, mask_bl), entropy_bl, mask_bl, hidden_nh, targets_n, row_n)

    @torch.no_grad()
    def reference_logp(self, batch: RowBatch, micro_tokens: int) -> list[list[float]]:
        """Reference log-probabilities of every row's response tokens."""
        result: list[list[float]] = [[]] * len(batch)
        rows = [batch.full(b) for b in range(len(batch))]
        with self._referred() as model:
            for part in row_batches(rows, micro_tokens):
                scored = self.score(model, [rows[b] for b in part], entropy=False)
                for b, logp_l in zip(part, scored.logp_bl.tolist(), strict=True):
                    result[b] = logp_l[: len(batch.steps[b].response_ids)]
        return result

    @torch.no_grad()
    def rescore(self, steps: Sequence[Step], rows: Sequence[RowTokens], micro_tokens: int) -> None:
        """Give steps the policy's entropies and old log-probabilities; it has not moved since they were sampled.

        Args:
            steps: are filled in.
            rows: their tokens.
            micro_tokens: padded tokens per forward pass.
        """
        self.policy.model.eval()
        for part in row_batches(rows, micro_tokens):
            scored = self.score(self.policy.model, [rows[i] for i in part])
            assert scored.entropy_bl is not None
            for i, entropy_l, logp_l in zip(part, scored.entropy_bl.tolist(), scored.logp_bl.tolist(), strict=True):
                length = len(rows[i].response_ids)
                steps[i].entropies, steps[i].old_logprobs = entropy_l[:length], logp_l[:length]

    @contextmanager
    def _referred(self) -> Iterator[Any]:
        """The reference, for as long as the block lasts."""
        if self.policy.adapter is None:
            yield self.reference
        else:
            with self.policy.as_reference() as model:
                yield model

    @torch.no_grad()
    def _reference_states(
        self, rows: Sequence[RowTokens], device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Hidden states of the reference at the responses of `rows`, and its head, on the device of the policy."""
        with self._referred() as model:
            hidden_nh = hidden_states(model, rows, self.policy.tokenizer.pad_token_id)[0].to(device)
            # A reference on the CPU lends its head: a divergence needs all distributions in one place.
            weight_vh, bias_v = head_of(model)
            return hidden_nh, weight_vh.to(device), None if bias_v is None else bias_v.to(device)

    def exact_reference_kl(self, rows: Sequence[RowTokens], scored: Scored) -> Tensor:
        """(B, L) divergence of the policy from the reference at each response token, with gradient into the policy."""
        hidden_r_nh, weight_r_vh, bias_r_v = self._reference_states(rows, scored.hidden_nh.device)
        weight_vh, bias_v = head_of(self.policy.model)
        values_n = two_context_kl(
            scored.hidden_nh,
            hidden_r_nh,
            weight_vh,
            weight_q_vh=weight_r_vh,
            temperature=self.temperature,
            chunk=chunk_of(weight_vh),
            bias_v=bias_v,
            bias_q_v=bias_r_v,
            ta_grad="full_only",
            kernel=self.policy.head_kernel,
            masks=token_masks(rows, weight_vh),
        )
        return unflatten_tokens(values_n, scored.mask_bl)

    def selective(
        self,
        batch: RowBatch,
        part: Sequence[int],
        full: tuple[Tensor, Tensor],
        *,
        awareness_only: bool = False,
        record: BlindNumbers | None = None,
    ) -> SelectiveTerms:
        """R_TA and P_TI of the rows `part`, whose full-prompt hidden states and response tokens are `full`.

        Only the blind prompt is run anew: the full one has just been through the model for the base loss. P_TI is
        None where its weight is 0, and under `awareness_only`, which saves the reference's passes: R_TA is then the
        divergence itself, whatever bounds it in the loss. `record` keeps a copy of the numbers.
        """
        config = self.algorithm.selective
        if awareness_only:
            config = replace(config, gamma=0.0, bound="none", support="all")
        hidden_p_nh, targets_n = full
        blind, pad = [batch.blind(b) for b in part], self.policy.tokenizer.pad_token_id
        hidden_q_nh, _, _ = hidden_states(self.policy.model, blind, pad)
        hidden_r_nh = weight_r_vh = bias_r_v = hidden_rp_nh = None
        wanted = config.gamma > 0 or config.compares_reference
        if wanted and (self.reference is not None or self.policy.adapter is not None):
            hidden_r_nh, weight_r_vh, bias_r_v = self._reference_states(blind, hidden_q_nh.device)
            if config.compares_reference:
                hidden_rp_nh = self._reference_states([batch.full(b) for b in part], hidden_q_nh.device)[0]
        weight_vh, bias_v = head_of(self.policy.model)
        scores = flagged_scores(
            hidden_p_nh,
            hidden_q_nh,
            weight_vh,
            targets_n,
            hidden_r_nh=hidden_r_nh,
            weight_r_vh=weight_r_vh,
            temperature=self.temperature,
            chunk=chunk_of(weight_vh),
            bias_v=bias_v,
            bias_r_v=bias_r_v,
            ta_grad=config.ta_grad,
            kernel=self.policy.head_kernel,
            masks=token_masks(blind, weight_vh),
            hidden_rp_nh=hidden_rp_nh,
            divergence="js" if config.bound == "js" else "kl",
            support_min=config.support_min if config.support == "reference" else 0.0,
        )
        lengths = [len(r.response_ids) for r in blind]
        mask_kl = length_mask(lengths, targets_n.device)

        def rows(values_n: Tensor) -> Tensor:
            return unflatten_tokens(values_n, mask_kl)

        terms = selective_terms(
            mask_kl,
            config,
            logp_kl=rows(scores.logp_n),
            logq_kl=rows(scores.logq_n),
            logr_kl=None if scores.logr_n is None else rows(scores.logr_n),
            kl_pq_kl=rows(scores.kl_pq_n),
            kl_qr_kl=None if scores.kl_qr_n is None else rows(scores.kl_qr_n),
            kl_rr_kl=None if scores.kl_rr_n is None else rows(scores.kl_rr_n),
        )
        if record is not None:
            record.add(part, terms, scores.kl_pq_n, lengths)
        return terms

    @torch.no_grad()
    def awareness(self, batch: RowBatch, rows: Sequence[int], micro_tokens: int) -> Tensor:
        """R_TA of `rows` under the policy as it is, as the loss counts it, on the CPU."""
        parts = list[Tensor]()
        for places in row_batches([batch.full(b) for b in rows], micro_tokens):
            part = [rows[i] for i in places]
            scored = self.score(self.policy.model, [batch.full(b) for b in part], entropy=False)
            r_ta_k = self.selective(batch, part, (scored.hidden_nh, scored.targets_n)).r_ta_k.cpu()
            parts.append(torch.stack([torch.as_tensor(places, dtype=r_ta_k.dtype), r_ta_k]))
        found = torch.cat(parts, dim=1) if parts else torch.zeros(2, 0)
        return found[1][found[0].argsort()]

    @torch.no_grad()
    def full_and_blind_kl(
        self,
        batch: RowBatch,
        full: Mapping[int, tuple[Tensor, Tensor]],
        micro_tokens: int,
        record: BlindNumbers | None = None,
    ) -> float | None:
        """Mean R_TA of rows, as a measurement; None without rows.

        Args:
            batch: of the rows.
            full: full-prompt hidden states and response tokens of each row.
            micro_tokens: padded tokens per forward pass.
            record: keeps a copy of the numbers.
        """
        rows, parts = list(full), list[Tensor]()
        for places in micro_batches([batch.blind(b).length for b in rows], micro_tokens):
            part = [rows[i] for i in places]
            hidden, targets = zip(*(full[b] for b in part), strict=True)
            states = torch.cat(hidden), torch.cat(targets)
            parts.append(self.selective(batch, part, states, awareness_only=True, record=record).r_ta_k)
        return float(torch.cat(parts).mean()) if parts else None


def token_masks(rows: Sequence[RowTokens], weight_vh: Tensor) -> TokenMasks | None:
    """What the head needs of the tokens that each position of `rows` might have taken; None where all of them could.

    Args:
        rows: in the order in which their positions are scored; all of them have allowed tokens, or none.
        weight_vh: (V, H) weight of the head.

    Raises:
        ValueError: some have them, and others have not, or of another number than the response has tokens.
    """
    if all(row.allowed is None for row in rows):
        return None
    if any(row.allowed is None or len(row.allowed) != len(row.response_ids) for row in rows):
        raise ValueError("rows with and without allowed tokens; expected those of each response token, or none at all.")
    positions = [allowed for row in rows for allowed in row.allowed or ()]
    most = max(1, *(len(allowed.ids) for allowed in positions))
    free = list(dict.fromkeys(allowed.free for allowed in positions if allowed.free is not None))
    places: dict[FreeTokens | None, int] = {tokens: m for m, tokens in enumerate(free)} | {None: -1}
    free_mv = torch.zeros(len(free), weight_vh.shape[0], dtype=torch.bool)
    for m, tokens in enumerate(free):
        free_mv[m, torch.from_numpy(tokens.ids)] = True
    ids_nk = torch.tensor([[*allowed.ids, *[-1] * (most - len(allowed.ids))] for allowed in positions])
    free_n = torch.tensor([places[allowed.free] for allowed in positions])
    return TokenMasks(*(t.to(weight_vh.device) for t in (ids_nk, free_n, free_mv)))


def length_mask(lengths: Sequence[int], device: torch.device) -> Tensor:
    """(B, L) true on the first `lengths[b]` positions of row b."""
    return torch.arange(max(lengths), device=device)[None, :] < torch.as_tensor(lengths, device=device)[:, None]


def pad_rows(values: Sequence[Sequence[float]], like_bl: Tensor) -> Tensor:
    """Ragged rows as a tensor of the shape, type and device of `like_bl`, 0 behind their ends."""
    padded_bl = torch.zeros(like_bl.shape, dtype=like_bl.dtype)
    for i, row in enumerate(values):
        padded_bl[i, : len(row)] = torch.as_tensor(row, dtype=like_bl.dtype)
    return padded_bl.to(like_bl.device)


def chunk_of(weight_vh: Tensor) -> int:
    """Tokens that the chunked head scores at once, for a head of shape (V, H)."""
    return max(64, _CHUNK_ELEMENTS // weight_vh.shape[0])
