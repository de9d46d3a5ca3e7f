"""Drawing tokens: from the distribution over the vocabulary, or among those that a grammar allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from stapo.policy.sequences import Allowed
from stapo.rollout.config import NO_LIMITS, SamplingLimits

FEWEST_ROWS = 4
"""Rows that are computed together at least, where there are as many: products of fewer are rounded in another way."""


def within(logp_nv: torch.Tensor, limits: SamplingLimits) -> torch.Tensor:
    """Log-probabilities (N, V) with minus infinity for what may not be drawn; the most probable token always may."""
    sorted_nv, order_nv = logp_nv.sort(dim=-1, descending=True, stable=True)
    gone_nv = sorted_nv < sorted_nv[:, :1] + (math.log(limits.min_p) if limits.min_p > 0 else -math.inf)
    if limits.top_k:
        gone_nv[:, limits.top_k :] = True
    p_nv = sorted_nv.masked_fill(gone_nv, -torch.inf).double().softmax(-1)
    # A token stays while those before it have not reached top_p.
    if limits.top_p < 1:
        gone_nv |= p_nv.cumsum(-1) - p_nv >= limits.top_p
    gone_nv[:, 0] = False
    return logp_nv.masked_fill(torch.zeros_like(gone_nv).scatter(-1, order_nv, gone_nv), -torch.inf)


class Drawn(NamedTuple):
    """Tokens of N positions, their log-probabilities and the entropies of their distributions, in nats."""

    tokens: list[int]
    logprobs: list[float]
    entropies: list[float]


def draw(
    logits_nv: torch.Tensor, uniform_n: torch.Tensor | None, temperature: float, limits: SamplingLimits = NO_LIMITS
) -> tuple[torch.Tensor, ...]:
    """Draw a column of each row by its uniform number, the most probable one without; inverse-CDF sampling.

    Args:
        logits_nv: (N, V), minus infinity where nothing may be drawn.
        uniform_n: (N,) in [0, 1).
        temperature: that the logits are divided by; 0 stands for 1 here.
        limits: which of them may be drawn.

    Returns:
        (N,) columns, log-probabilities and entropies.
    """
    logp_nv = torch.log_softmax(logits_nv.float() / (temperature if temperature > 0 else 1.0), dim=-1)
    if limits and uniform_n is not None:
        logp_nv = within(logp_nv, limits).log_softmax(-1)
    p_nv = logp_nv.exp()
    column_n1 = logp_nv.argmax(-1, keepdim=True) if uniform_n is None else _at(p_nv, uniform_n.double().unsqueeze(-1))
    entropy_n = -(p_nv * logp_nv.clamp(min=-1e4)).sum(-1)
    return column_n1.squeeze(-1), logp_nv.gather(-1, column_n1).squeeze(-1), entropy_n


def _at(p_nv: torch.Tensor, uniform_n1: torch.Tensor) -> torch.Tensor:
    """(N, 1) columns at which the running sum, in fp64, passes `uniform_n1` of the whole."""
    cdf_nv = p_nv.double().cumsum(-1)
    # right=True skips zero-width intervals: what has probability 0 can never be drawn.
    column_n1 = torch.searchsorted(cdf_nv, uniform_n1 * cdf_nv[:, -1:], right=True)
    return column_n1.clamp_(max=p_nv.shape[-1] - 1)


@dataclass(eq=False)
class Drawer:
    """Draws the next tokens of rows from their last hidden states.

    Args:
        weight_vh: of the head.
        bias_v: of the head, or None.
        temperature: 0 takes the most probable token.
        limits: which tokens may be drawn.
    """

    weight_vh: torch.Tensor
    bias_v: torch.Tensor | None
    temperature: float
    limits: SamplingLimits = NO_LIMITS

    def __call__(
        self, hidden_rh: torch.Tensor, rows: Sequence[int], uniforms: Sequence[float], allowed: Sequence[Allowed | None]
    ) -> Drawn:
        """Draw a token for some rows.

        Args:
            hidden_rh: (R, H) hidden states of all rows.
            rows: N numbers of rows to draw for.
            uniforms: a number in [0, 1) for each.
            allowed: what each may take, None for all of the vocabulary.
        """
        device = hidden_rh.device
        uniform_n = torch.as_tensor(uniforms, dtype=torch.float64, device=device) if self.temperature > 0 else None
        found = torch.empty(3, len(rows), dtype=torch.float64, device=device)
        few = [n for n, a in enumerate(allowed) if a is not None and a.free is None]
        many = sorted(set(range(len(rows))) - set(few))
        for draw_part, places in ((self._among, few), (self._of_all, many)):
            if places:
                of_part = None if uniform_n is None else uniform_n[places]
                drawn = draw_part(hidden_rh, [rows[n] for n in places], of_part, [allowed[n] for n in places])
                found[:, places] = torch.stack([values.double() for values in drawn])
        tokens, logprobs, entropies = found.tolist()
        return Drawn([int(token) for token in tokens], logprobs, entropies)

    def _among(
        self,
        hidden_rh: torch.Tensor,
        rows: Sequence[int],
        uniform_n: torch.Tensor | None,
        allowed: Sequence[Allowed | None],
    ) -> tuple[torch.Tensor, ...]:
        """Only the rows of the head that somebody may take are computed."""
        of_each = [np.asarray(() if a is None else a.ids) for a in allowed]
        rows_u = np.unique(np.concatenate(of_each))
        places = np.full((len(of_each), max(map(len, of_each))), -1)
        for n, ids in enumerate(of_each):
            places[n, : len(ids)] = np.searchsorted(rows_u, ids)
        place_nk = torch.from_numpy(places).to(hidden_rh.device)
        row_u = torch.from_numpy(rows_u).to(hidden_rh.device)
        bias_u = None if self.bias_v is None else self.bias_v[row_u]
        logits_nu = torch.nn.functional.linear(hidden_rh[list(rows)], self.weight_vh[row_u], bias_u).float()
        logits_nk = logits_nu.gather(-1, place_nk.clamp(min=0)).masked_fill(place_nk < 0, -torch.inf)
        column_n, logp_n, entropy_n = draw(logits_nk, uniform_n, self.temperature, self.limits)
        place_n = place_nk.gather(-1, column_n.unsqueeze(-1)).squeeze(-1).clamp(min=0)
        return row_u[place_n], logp_n, entropy_n

    def _of_all(
        self,
        hidden_rh: torch.Tensor,
        rows: Sequence[int],
        uniform_n: torch.Tensor | None,
        allowed: Sequence[Allowed | None],
    ) -> tuple[torch.Tensor, ...]:
        others = [r for r in range(len(hidden_rh)) if r not in rows][: max(0, FEWEST_ROWS - len(rows))]
        at = slice(None) if len(rows) == len(hidden_rh) else [*rows, *others]
        logits_nv = torch.nn.functional.linear(hidden_rh[at], self.weight_vh, self.bias_v)[: len(rows)].float()
        for n, a in enumerate(allowed):
            if a is not None:
                may = torch.from_numpy(
                    np.concatenate((np.asarray(a.ids, dtype=np.int64), a.free.ids if a.free else [])).astype(np.int64)
                )
                other_v = torch.ones(logits_nv.shape[-1], dtype=torch.bool)
                other_v[may] = False
                logits_nv[n].masked_fill_(other_v.to(logits_nv.device), -torch.inf)
        return draw(logits_nv, uniform_n, self.temperature, self.limits)
