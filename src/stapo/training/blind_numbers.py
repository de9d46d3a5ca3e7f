"""What blind passes say of single steps, kept for the transcript: R_TA, P_TI, and the divergence at each token.

An update needs only their sums. The numbers are copies without a gradient, so recording them changes no result.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stapo.algo import SelectiveTerms


@dataclass
class BlindNumbers:
    """Numbers of the rows whose blind prompt was scored, the first ones where an update scores a row several times.

    Attributes:
        rows: rows of the batch that are recorded; others are passed over.
        r_ta: R_TA of a row, nats per token or per response, as `selective.token_aggregation` says.
        p_ti: P_TI of a row, likewise; absent where the reference was not asked.
        kl: exact KL(full || blind) at each response token of a row, nats, before any cap; on flagged rows the
            divergence of `selective.bound` and `selective.support` where these are set. fp16 on the CPU.
        bonus: what ``selective.gate=bonus`` adds to the advantage of a flagged row.
    """

    rows: Collection[int]
    r_ta: dict[int, float] = field(default_factory=dict)
    p_ti: dict[int, float] = field(default_factory=dict)
    kl: dict[int, Tensor] = field(default_factory=dict)
    bonus: dict[int, float] = field(default_factory=dict)

    def add(self, part: Sequence[int], terms: SelectiveTerms, kl_n: Tensor, lengths: Sequence[int]) -> None:
        """Record rows.

        Args:
            part: the rows that were scored, K of them.
            terms: their (K,) terms.
            kl_n: (N,) divergences of their response tokens in one list.
            lengths: tokens of each response; N together.
        """
        new = [k for k, b in enumerate(part) if b in self.rows and b not in self.r_ta]
        if not new:
            return
        r_ta = terms.r_ta_k.detach().tolist()
        p_ti = None if terms.p_ti_k is None else terms.p_ti_k.detach().tolist()
        kl = kl_n.detach().to("cpu", torch.float16).split(list(lengths))
        for k in new:
            b = part[k]
            self.r_ta[b], self.kl[b] = r_ta[k], kl[k].clone()
            if p_ti is not None:
                self.p_ti[b] = p_ti[k]

    def add_bonus(self, part: Sequence[int], bonus: Sequence[float]) -> None:
        """Record what is added to the advantages of the rows `part`."""
        self.bonus |= {b: value for b, value in zip(part, bonus, strict=True) if b in self.rows}
