"""The chunked head inside a model's own forward pass.

Under FSDP the head's weight is whole only while the model runs. So the head itself is replaced for the time of one
pass: it takes the hidden states of all sequences, full prompts and blind ones, scores the positions that are asked for,
and hands the scores out as the model's `logits`, through which gradients find their way back. Full logits never exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from stapo.algo import FlaggedScores, SelectiveConfig, flagged_scores, score_tokens
from stapo.errors import ModelError
from stapo.training.scoring import chunk_of
from stapo.verl_plugin.steps import Micro, Sequences


@dataclass(frozen=True)
class Reference:
    """The reference on the blind prompts of the flagged steps: constants.

    Attributes:
        hidden_nh: hidden states that predict the response tokens.
        weight_vh: its head; None for the policy's own, where an adapter is all that differs.
        bias_v: bias of its head.
    """

    hidden_nh: Tensor
    weight_vh: Tensor | None
    bias_v: Tensor | None


@dataclass(frozen=True)
class Scores:
    """What one pass gave: (n,) log-probabilities and entropies of all steps' response tokens; flagged scores."""

    logp_n: Tensor
    entropy_n: Tensor | None
    flagged: FlaggedScores | None


@dataclass(frozen=True)
class FlaggedSteps:
    """What the engine hands to the loss about the K flagged steps of a micro-batch.

    Attributes:
        mask_kl: (K, L) true on response tokens.
        scores: of those tokens, flat, step by step.
    """

    mask_kl: Tensor
    scores: FlaggedScores


@dataclass
class ScoringHead:
    """Stands in for the head during one pass over a micro-batch: its rows, then its blind ones.

    Attributes:
        micro: the micro-batch.
        width: length that sequences are padded to; None for packed ones.
        temperature: of the rollout.
        selective: sides of R_TA that receive a gradient.
        reference: of the flagged steps; None without P_TI.
        entropy: compute entropies.
        entropy_grad: with a gradient.
    """

    micro: Micro
    width: int | None = None
    temperature: float = 1.0
    selective: SelectiveConfig | None = None
    reference: Reference | None = None
    entropy: bool = True
    entropy_grad: bool = False
    _sizes: dict[str, int] = field(default_factory=dict)

    def __call__(self, hidden: Tensor, head: Any) -> Tensor:
        """Score `hidden`, (sequences, width, H) or (1, tokens, H), with the weights of `head`; one flat fp32 tensor."""
        weight_vh, bias_v = head.weight, getattr(head, "bias", None)
        chunk = chunk_of(weight_vh)
        micro = self.micro
        index_n = micro.sequences.followed_by(micro.blind).index(self.width, hidden.device)
        hidden_nh = hidden.reshape(-1, hidden.shape[-1])[index_n]
        targets_n = micro.targets_n
        full = len(targets_n)
        logp_n, entropy_n = score_tokens(
            hidden_nh[:full], weight_vh, targets_n, temperature=self.temperature, chunk=chunk, bias_v=bias_v,
            entropy=self.entropy, entropy_grad=self.entropy_grad,
        )  # fmt: skip
        parts = {"logp": logp_n, **({} if entropy_n is None else {"entropy": entropy_n})}
        if micro.flagged and self.selective is not None:
            own = self._own_positions(hidden.device)
            reference = self.reference
            scores = flagged_scores(
                hidden_nh[:full][own],
                hidden_nh[full:],
                weight_vh,
                targets_n[own],
                hidden_r_nh=None if reference is None else reference.hidden_nh,
                weight_r_vh=None if reference is None else reference.weight_vh,
                temperature=self.temperature,
                chunk=chunk,
                bias_v=bias_v,
                bias_r_v=None if reference is None else reference.bias_v,
                ta_grad=self.selective.ta_grad,
                divergence="js" if self.selective.bound == "js" else "kl",
            )
            parts |= {"p": scores.logp_n, "q": scores.logq_n, "pq": scores.kl_pq_n}
            if scores.logr_n is not None and scores.kl_qr_n is not None:
                parts |= {"r": scores.logr_n, "qr": scores.kl_qr_n}
        self._sizes = {name: len(part) for name, part in parts.items()}
        return torch.cat(list(parts.values()))

    def read(self, flat: Tensor) -> Scores:
        """Take the model's output apart again.

        Raises:
            ModelError: it is not what this head returned, so something between head and output changed it.
        """
        expected = sum(self._sizes.values())
        if flat.ndim != 1 or len(flat) != expected:
            raise ModelError(
                f"the model's forward pass changed what its head returned ({tuple(flat.shape)}, expected "
                f"({expected},)). Models that cap or scale their logits are not supported; Qwen and Llama models "
                "do neither."
            )
        parts = dict(zip(self._sizes, flat.split(list(self._sizes.values())), strict=True))
        flagged = None
        if "pq" in parts:
            flagged = FlaggedScores(parts["p"], parts["q"], parts["pq"], parts.get("r"), parts.get("qr"))
        return Scores(parts["logp"], parts.get("entropy"), flagged)

    def _own_positions(self, device: torch.device) -> Tensor:
        """Positions of the flagged steps' response tokens among those of all steps."""
        starts = [0, *accumulate(self.micro.sequences.sizes)]
        return torch.cat([torch.arange(starts[s], starts[s + 1], device=device) for s in self.micro.flagged])


@dataclass
class CapturingHead:
    """Stands in for the reference's head: keeps hidden states and weights, and computes nothing."""

    sequences: Sequences
    width: int | None
    copy_weights: bool
    captured: Reference | None = None

    def __call__(self, hidden: Tensor, head: Any) -> Tensor:
        """Keep what is asked for; the weights are copied, since FSDP frees them behind the pass."""
        index_n = self.sequences.index(self.width, hidden.device)
        bias = getattr(head, "bias", None)
        self.captured = Reference(
            hidden.reshape(-1, hidden.shape[-1])[index_n].detach(),
            head.weight.detach().clone() if self.copy_weights else None,
            bias.detach().clone() if self.copy_weights and bias is not None else None,
        )
        return hidden.new_zeros(1)


@contextmanager
def standing_in(model: Any, function: Callable[[Tensor, Any], Tensor]) -> Iterator[None]:
    """Let `function` answer for the model's language-model head.

    Raises:
        ModelError: the model has no such head.
    """
    head = model.get_output_embeddings()
    if head is None or not hasattr(head, "weight"):
        raise ModelError(
            f"{type(model).__name__} has no language-model head that is a plain matrix; use a Qwen or Llama."
        )
    before = head.__dict__.get("forward")
    head.forward = lambda hidden: function(hidden, head)
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before
