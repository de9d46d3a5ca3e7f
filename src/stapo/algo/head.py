"""The language-model head in chunks of tokens: log-probability, entropy and exact divergences.

Logits over a vocabulary of 150 thousand take 0.6 MB per token in fp32, and a divergence needs
several such arrays at once. Here only one chunk of them exists at a time: each chunk is recomputed
in backward (`torch.utils.checkpoint`). Pass the hidden states of response positions only. The
softmax runs in fp32 whatever the dtype of the states; logits have to be finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from stapo.algo.config import TaGrad
from stapo.errors import ConfigError, first_line

HeadKernel = Literal["eager", "compiled"]
"""How a chunk is computed: operation by operation, or fused by `torch.compile`."""

CHUNK_BYTES = 40_000_000
"""fp32 logits of one chunk if no chunk is given: 65 tokens at a vocabulary of 152 thousand.

Kept above 32 MB: glibc serves smaller arrays from its heap, whose fragmentation was measured to
cost more than smaller chunks save.
"""

_NO_RECOMPUTE_BYTES = 4_000_000
_WHOLE_HEAD = 4096
"""Rows of a head that is multiplied whole, though few tokens are allowed: taking rows out of it saves nothing."""


@dataclass(frozen=True)
class FlaggedScores:
    """What `flagged_scores` returns; all (N,) and fp32.

    Attributes:
        logp_n: log p of the response token, with gradient.
        logq_n: log q of it, with gradient.
        kl_pq_n: exact KL(p || q), or what `divergence` says, with gradient as `ta_grad` allows.
        logr_n: log r of it, a constant; None without r.
        kl_qr_n: exact KL(q || r), with gradient into q; None without r.
        kl_rr_n: exact divergence of the reference on the full prompt from r, a constant; None without
            both.
    """

    logp_n: Tensor
    logq_n: Tensor
    kl_pq_n: Tensor
    logr_n: Tensor | None = None
    kl_qr_n: Tensor | None = None
    kl_rr_n: Tensor | None = None


@dataclass(frozen=True)
class TokenMasks:
    """Which tokens each of N positions may take; all others have probability 0 there.

    Attributes:
        ids_nk: (N, K) different token ids, -1 behind the last one of a position.
        free_n: (N,) the row of `free_mv` whose tokens a position may take as well, -1 for none.
        free_mv: (M, V) true for tokens of the set m.
    """

    ids_nk: Tensor
    free_n: Tensor
    free_mv: Tensor


def score_tokens(
    hidden_nh: Tensor,
    weight_vh: Tensor,
    targets_n: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    bias_v: Tensor | None = None,
    entropy: bool = True,
    entropy_grad: bool = False,
    kernel: HeadKernel = "eager",
    masks: TokenMasks | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target token and entropy of each distribution (eq. 1, per token).

    Args:
        hidden_nh: (N, H) hidden states that predict the targets.
        weight_vh: (V, H) weight of the head.
        targets_n: (N,) integer token ids.
        temperature: of the rollout; logits are divided by it.
        chunk: tokens whose logits exist at once, by default as many as fit `CHUNK_BYTES`; alters
            results by fp32 rounding at most.
        bias_v: (V,) bias of the head, or None.
        entropy: compute entropies.
        entropy_grad: let them carry a gradient.
        kernel: "compiled" fuses the operations of a chunk; alters results by fp32 rounding at most.
        masks: tokens that each position may take, the target among them; None for the whole vocabulary.

    Returns:
        (N,) fp32 log-probabilities in nats, and (N,) fp32 entropies in nats, or None.

    Raises:
        ValueError: shapes do not fit, or temperature or chunk is not above 0.
        ConfigError: the kernel cannot be compiled here.
    """
    _check(hidden_nh, weight_vh, targets_n, temperature, chunk, masks)

    def run(hidden: Tensor, targets: Tensor, mask: _Mask, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
        log_probs = _log_probs(hidden, weight, bias, temperature, mask)
        out = [_at(log_probs, targets, mask)]
        if entropy:
            source = log_probs if entropy_grad else log_probs.detach()
            out.append(-(source.exp() * source).sum(dim=-1))
        return out

    parts = _masked_chunks(run, chunk, [hidden_nh, targets_n], masks, [weight_vh, bias_v], 1 + entropy, kernel)
    return parts[0], parts[1] if entropy else None


def two_context_kl(
    hidden_p_nh: Tensor,
    hidden_q_nh: Tensor,
    weight_vh: Tensor,
    *,
    weight_q_vh: Tensor | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
    bias_v: Tensor | None = None,
    bias_q_v: Tensor | None = None,
    ta_grad: TaGrad = "both",
    kernel: HeadKernel = "eager",
    masks: TokenMasks | None = None,
) -> Tensor:
    """Exact KL(p || q) of two contexts at each position, with gradient into both (eq. 4 and 5).

    Args:
        hidden_p_nh: (N, H) hidden states in the first context.
        hidden_q_nh: (N, H) hidden states in the second one.
        weight_vh: (V, H) weight of the head.
        weight_q_vh: (V, H) weight of the second context's head, or None for the same.
        temperature: logits are divided by it.
        chunk: tokens whose logits exist at once; None for as many as fit `CHUNK_BYTES`.
        bias_v: (V,) bias of the head, or None.
        bias_q_v: (V,) bias of the second context's head, or None for the same.
        ta_grad: let the gradient into both sides, or p's (``full_only``), or q's (``blind_only``).
        kernel: "compiled" fuses the operations of a chunk; alters results by fp32 rounding at most.
        masks: tokens that each position may take; None for the whole vocabulary.

    Returns:
        (N,) fp32 divergences in nats.

    Raises:
        ValueError: shapes do not fit, or temperature or chunk is not above 0.
    """
    _check(hidden_p_nh, weight_vh, None, temperature, chunk, masks)
    _same_shape("hidden_q_nh", hidden_q_nh, hidden_p_nh)

    def run(
        hidden_p: Tensor,
        hidden_q: Tensor,
        mask: _Mask,
        weight: Tensor,
        weight_q: Tensor,
        bias: Tensor | None,
        bias_q: Tensor | None,
    ) -> list[Tensor]:
        log_p = _log_probs(hidden_p, weight, bias, temperature, mask)
        log_q = _log_probs(hidden_q, weight_q, bias_q, temperature, mask)
        return [_limited(_kl, log_p, log_q, ta_grad)]

    heads = [
        weight_vh,
        weight_vh if weight_q_vh is None else weight_q_vh,
        bias_v,
        bias_v if bias_q_v is None else bias_q_v,
    ]
    return _masked_chunks(run, chunk, [hidden_p_nh, hidden_q_nh], masks, heads, 1, kernel)[0]


def flagged_scores(
    hidden_p_nh: Tensor,
    hidden_q_nh: Tensor,
    weight_vh: Tensor,
    targets_n: Tensor,
    *,
    hidden_r_nh: Tensor | None = None,
    weight_r_vh: Tensor | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
    bias_v: Tensor | None = None,
    bias_r_v: Tensor | None = None,
    ta_grad: TaGrad = "both",
    kernel: HeadKernel = "eager",
    masks: TokenMasks | None = None,
    hidden_rp_nh: Tensor | None = None,
    divergence: Literal["kl", "js"] = "kl",
    support_min: float = 0.0,
) -> FlaggedScores:
    """All that flagged rows need, from one pass over the head: log p, log q, KL(p||q), KL(q||r).

    Args:
        hidden_p_nh: (N, H) hidden states on the full prompt.
        hidden_q_nh: (N, H) hidden states on the blind prompt, from the current weights.
        weight_vh: (V, H) weight of the policy's head.
        targets_n: (N,) response tokens.
        hidden_r_nh: (N, H_r) the reference's hidden states on the blind prompt; None leaves P_TI
            out. Treated as a constant.
        weight_r_vh: (V, H_r) weight of the reference's head, a constant; None for the policy's own
            (an adapter that leaves the head alone).
        temperature: of the rollout; all logits are divided by it.
        chunk: tokens whose logits exist at once; None for as many as fit `CHUNK_BYTES`.
        bias_v: (V,) bias of the policy's head, or None.
        bias_r_v: (V,) bias of the reference's head; taken only with `weight_r_vh`.
        ta_grad: sides that receive the gradient of KL(p||q).
        kernel: "compiled" fuses the operations of a chunk; alters results by fp32 rounding at most.
        masks: tokens that each position may take, the target among them; None for the whole vocabulary.
        hidden_rp_nh: (N, H_r) the reference's hidden states on the full prompt, a constant; given
            together with `hidden_r_nh`.
        divergence: of p from q: ``kl``, or ``js`` for the Jensen-Shannon divergence, at most log 2.
        support_min: where above 0, p is rescaled to the tokens that have at least this probability
            under the reference on the full prompt.

    Raises:
        ValueError: shapes do not fit, temperature or chunk is not above 0, or `support_min` is given
            without `hidden_rp_nh`.
        ConfigError: the kernel cannot be compiled here.
    """
    _check(hidden_p_nh, weight_vh, targets_n, temperature, chunk, masks)
    if (support_min > 0 and hidden_rp_nh is None) or (hidden_rp_nh is not None and hidden_r_nh is None):
        raise ValueError("the reference's states on one of the prompts are missing; pass hidden_r_nh and hidden_rp_nh.")
    _same_shape("hidden_q_nh", hidden_q_nh, hidden_p_nh)
    weight_r, bias_r = (weight_vh, bias_v) if weight_r_vh is None else (weight_r_vh, bias_r_v)
    if hidden_r_nh is not None:
        _check(hidden_r_nh, weight_r, targets_n, temperature, chunk)
        if weight_r.shape[0] != weight_vh.shape[0]:
            raise ValueError(
                f"weight_r_vh has {weight_r.shape[0]} rows and weight_vh {weight_vh.shape[0]}; expected one vocabulary."
            )

    def run(
        hidden_p: Tensor,
        hidden_q: Tensor,
        targets: Tensor,
        hidden_r: Tensor | None,
        hidden_rp: Tensor | None,
        mask: _Mask,
        weight: Tensor,
        bias: Tensor | None,
        weight_r: Tensor,
        bias_r: Tensor | None,
    ) -> list[Tensor]:
        log_p = _log_probs(hidden_p, weight, bias, temperature, mask)
        log_q = _log_probs(hidden_q, weight, bias, temperature, mask)
        of = _js if divergence == "js" else _kl
        out = [_at(log_p, targets, mask), _at(log_q, targets, mask), _limited(of, log_p, log_q, ta_grad)]
        if hidden_r is not None:
            with torch.no_grad():
                log_r = _log_probs(hidden_r, weight_r, bias_r, temperature, mask)
            out += [_at(log_r, targets, mask), _kl(log_q, log_r)]
            if hidden_rp is not None:
                with torch.no_grad():
                    log_rp = _log_probs(hidden_rp, weight_r, bias_r, temperature, mask)
                    out.append(_kl(log_rp, log_r))
                if support_min > 0:
                    # The reference's likeliest token stays where none has so much.
                    kept = (log_rp >= math.log(support_min)) | (log_rp == log_rp.amax(dim=-1, keepdim=True))
                    held = torch.log_softmax(log_p.masked_fill(~kept, _NEVER), dim=-1)
                    out[2] = _limited(of, held, log_q, ta_grad)
        return out

    rows = [
        hidden_p_nh,
        hidden_q_nh,
        targets_n,
        None if hidden_r_nh is None else hidden_r_nh.detach(),
        None if hidden_rp_nh is None else hidden_rp_nh.detach(),
    ]
    fixed = [weight_vh, bias_v, weight_r, bias_r]
    outputs = 3 if hidden_r_nh is None else 5 if hidden_rp_nh is None else 6
    parts = _masked_chunks(run, chunk, rows, masks, fixed, outputs, kernel)
    return FlaggedScores(*parts)


@dataclass(frozen=True)
class _Mask:
    """`TokenMasks` of a chunk whose positions are all of one kind.

    Where single ids are all there is, `place_nk` says which rows of the head they are, which may be a part of it;
    elsewhere the last two are given. Without `ids_nk` nothing is masked.
    """

    ids_nk: Tensor | None
    place_nk: Tensor | None
    free_n: Tensor | None
    free_mv: Tensor | None


# Finite, so that a probability of 0 adds 0 to entropies and divergences; exp of it is 0 whatever the other logits are.
_NEVER = -1e9


def _log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, mask: _Mask | None = None
) -> Tensor:
    """(N, V) log-probabilities; (N, K) of the single ids, where a mask has no others."""
    logits = linear(hidden, weight, bias).float()
    logits = logits if temperature == 1.0 else logits / temperature
    if mask is not None and mask.ids_nk is not None:
        ids, count = mask.ids_nk, logits.shape[-1]
        if mask.free_mv is None or mask.free_n is None:
            assert mask.place_nk is not None, "single ids have places"
            logits = logits.gather(-1, mask.place_nk).masked_fill(ids < 0, _NEVER)
        else:
            # One column more takes what stands behind the last id.
            free = torch.nn.functional.pad(mask.free_mv[mask.free_n], (0, 1))
            logits = logits.masked_fill(~free.scatter(-1, ids % (count + 1), True)[:, :count], _NEVER)
    return torch.log_softmax(logits, dim=-1)


def _at(log_probs: Tensor, targets: Tensor, mask: _Mask) -> Tensor:
    if mask.ids_nk is None or mask.free_mv is not None:
        return log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return log_probs.masked_fill(mask.ids_nk != targets.unsqueeze(-1), -torch.inf).amax(dim=-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def _js(log_p: Tensor, log_q: Tensor) -> Tensor:
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (_kl(log_p, log_m) + _kl(log_q, log_m))


def _limited(of: Callable[[Tensor, Tensor], Tensor], log_p: Tensor, log_q: Tensor, ta_grad: TaGrad) -> Tensor:
    return of(
        log_p.detach() if ta_grad == "blind_only" else log_p,
        log_q.detach() if ta_grad == "full_only" else log_q,
    )


def _masked_chunks(
    run: Callable[..., list[Tensor]],
    chunk: int | None,
    rows: list[Tensor | None],
    masks: TokenMasks | None,
    fixed: list[Tensor | None],
    outputs: int,
    kernel: HeadKernel,
) -> list[Tensor]:
    """`_in_chunks` of a `run` that takes a mask between rows and fixed, positions of one kind at a time."""

    def masked(*args: Tensor | None) -> list[Tensor]:
        n = len(rows)
        return run(*args[:n], _Mask(args[n], args[n + 1], args[n + 2], args[-1]), *args[n + 3 : -1])

    if masks is None or not masks.free_n.numel():
        return _in_chunks(masked, chunk, [*rows, None, None, None], [*fixed, None], outputs, kernel)
    parts, places = [], []
    for free in (False, True):
        place_n = ((masks.free_n >= 0) == free).nonzero().squeeze(-1)
        if place_n.numel():
            picked = [None if t is None else t[place_n] for t in (*rows, masks.ids_nk)]
            if free:
                picked += [None, masks.free_n[place_n]]
                parts.append(_in_chunks(masked, chunk, picked, [*fixed, masks.free_mv], outputs, kernel))
            else:
                heads, place_nk, more = _rows_of_heads(fixed, masks.ids_nk[place_n].clamp(min=0))
                wider = None if chunk is None else chunk * more
                parts.append(_in_chunks(masked, wider, [*picked, place_nk, None], [*heads, None], outputs, kernel))
            places.append(place_n)
    order_n = torch.cat(places).argsort()
    return [torch.cat(column)[order_n] for column in zip(*parts, strict=True)]


def _rows_of_heads(heads: list[Tensor | None], ids_nk: Tensor) -> tuple[list[Tensor | None], Tensor, int]:
    """The rows of large heads that `ids_nk` need, where these stand there, and how often they fit into a whole one."""
    vocabulary = max(t.shape[0] for t in heads if t is not None)
    if vocabulary <= _WHOLE_HEAD:
        return heads, ids_nk, 1
    used, place_nk = ids_nk.unique(return_inverse=True)
    return [None if t is None else t.index_select(0, used) for t in heads], place_nk, vocabulary // len(used)


def _in_chunks(
    run: Callable[..., list[Tensor]],
    chunk: int | None,
    rows: list[Tensor | None],
    fixed: list[Tensor | None],
    outputs: int,
    kernel: HeadKernel = "eager",
) -> list[Tensor]:
    """Apply `run` to slices of `rows` with `fixed` whole, and join its outputs."""
    if kernel == "compiled":
        run = _compiled(run)
    first = rows[0]
    if first is None or first.shape[0] == 0:
        device = None if first is None else first.device
        return [torch.zeros(0, dtype=torch.float32, device=device) for _ in range(outputs)]
    tensors = [t for t in (*rows, *fixed) if t is not None]
    token_bytes = 4 * max(t.shape[0] for t in fixed if t is not None)
    chunk = max(1, CHUNK_BYTES // token_bytes) if chunk is None else chunk
    recompute = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    # Small arrays are kept: computing them twice would cost more than holding them.
    recompute = recompute and first.shape[0] * token_bytes > _NO_RECOMPUTE_BYTES
    parts: list[list[Tensor]] = []
    for start in range(0, first.shape[0], chunk):
        args = [None if t is None else t[start : start + chunk] for t in rows]
        if recompute:
            # No random numbers are drawn inside, so saving their state would be wasted time.
            part = checkpoint(run, *args, *fixed, use_reentrant=False, preserve_rng_state=False)
        else:
            part = run(*args, *fixed)
        parts.append(part)
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _compiled(run: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """`run`, compiled for the device of what it is called with; compilations are kept by its code, so once each."""
    # Seconds to import, and of no use to anybody else.
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    compiled: Callable[..., list[Tensor]] = torch.compile(run)

    def call(*args: Tensor | None) -> list[Tensor]:
        try:
            return compiled(*args)
        except (TorchDynamoException, InductorError) as err:
            reason = first_line(err)
            raise ConfigError(
                f"model.head_kernel is 'compiled', and torch cannot compile the head here: {reason}. It needs a C++ "
                "compiler on a CPU, and Triton on a GPU. Set model.head_kernel to 'eager'."
            ) from err

    return call


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor | None,
    temperature: float,
    chunk: int | None,
    masks: TokenMasks | None = None,
) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden states have shape {tuple(hidden.shape)} and the head {tuple(weight.shape)}; "
            "expected (N, H) and (V, H)."
        )
    if targets is not None and targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets_n has shape {tuple(targets.shape)}; expected ({hidden.shape[0]},).")
    if masks is not None:
        found = [tuple(masks.ids_nk.shape[:1]), tuple(masks.free_n.shape), tuple(masks.free_mv.shape[1:])]
        if masks.ids_nk.ndim != 2 or found != [(hidden.shape[0],)] * 2 + [(weight.shape[0],)]:
            raise ValueError(f"masks have {found}; expected {hidden.shape[0]} positions and {weight.shape[0]} tokens.")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a number above 0.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected at least 1 token.")


def _same_shape(name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.shape != like.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {tuple(like.shape)}.")
