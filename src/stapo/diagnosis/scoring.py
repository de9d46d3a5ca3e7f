"""What goal and history do to the answers: the same responses scored with parts of the prompt left out.

Two measures per step, both means over the response's tokens, in nats. The divergence of the full from the blind answer
(R_TA of STAPO eq. 4) is an exact sum over the vocabulary. The attribution score is feature ablation: by how much the
response's log-probability falls when the goal, the history or both are left out of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from stapo.agent import BlindMask
from stapo.algo import flagged_scores, score_tokens
from stapo.policy import Policy, RowTokens, find_chains, head_of, hidden_states, row_batches
from stapo.rollout import Step
from stapo.training.scoring import token_masks

BOTH: BlindMask = "goal_history"
SINGLE: tuple[BlindMask, ...] = ("goal", "history")
MASKS: tuple[str, ...] = (*SINGLE, BOTH)
"""Prompts with something left out. Steps carry `BOTH` as their blind prompt and the others in `Step.masked`."""

WORDS = {"goal": "goal left out", "history": "history left out", "goal_history": "both left out"}
"""Masks, as a reader meets them."""


@dataclass(frozen=True)
class Attribution:
    """Per step, in nats per token; NaN where the prompt with something left out is the full prompt.

    Attributes:
        kl_b: (B,) divergence of the full from the blind answer, exact over the vocabulary.
        drop_b: mask -> (B,) fall of the response's log-probability when that part is left out.
    """

    kl_b: np.ndarray
    drop_b: dict[str, np.ndarray]


@torch.no_grad()
def attribute(
    policy: Policy,
    steps: Sequence[Step],
    temperature: float,
    micro_tokens: int,
    progress: Callable[[int, int], None] | None = None,
    chain_b: Sequence[int] | None = None,
) -> Attribution:
    """Score every step under its full prompt and under each of `MASKS`.

    Args:
        policy: whose answers they are.
        steps: as a collector with ``blind_mask="goal_history"`` and ``masks=SINGLE`` leaves them.
        temperature: of the rollout; logits are divided by it.
        micro_tokens: padded tokens per forward pass; changes memory and speed, not the numbers.
        progress: called with (finished, all) steps.
        chain_b: (B,) number of the sequence that each step is a part of, as `find_chains` numbers them; None reads
            every step by itself.
    """
    model, pad = policy.model, policy.tokenizer.pad_token_id
    chains = range(len(steps)) if chain_b is None else chain_b

    def hidden(rows: Sequence[RowTokens], part: Sequence[int]) -> torch.Tensor:
        found = find_chains(rows, [chains[b] for b in part], merge=chain_b is not None)
        rows = [replace(row, chain=chain) for row, chain in zip(rows, found.chain_b, strict=True)]
        parts: dict[int, torch.Tensor] = {}
        for batch in row_batches(rows, micro_tokens):
            hidden_nh = hidden_states(model, [rows[i] for i in batch], pad)[0]
            parts |= dict(zip(batch, hidden_nh.split([len(rows[i].response_ids) for i in batch]), strict=True))
        return torch.cat([parts[i] for i in range(len(rows))])

    weight_vh, bias_v = head_of(model)
    kl_b = np.full(len(steps), np.nan)
    drop_b = {mask: np.full(len(steps), np.nan) for mask in MASKS}
    was_training = model.training
    model.eval()
    done = 0
    rows = [RowTokens(s.prompt_ids, s.response_ids, s.allowed, chain) for s, chain in zip(steps, chains, strict=True)]
    for part in row_batches(rows, micro_tokens):
        sizes = [len(steps[b].response_ids) for b in part]
        full = [rows[b] for b in part]
        targets_n = torch.as_tensor([token for row in full for token in row.response_ids], device=policy.device)
        hidden_p_nh = hidden(full, part)
        hidden_q_nh = hidden(
            [replace(row, prompt_ids=steps[b].blind_ids) for row, b in zip(full, part, strict=True)], part
        )
        masks = token_masks(full, weight_vh)
        both = flagged_scores(
            hidden_p_nh, hidden_q_nh, weight_vh, targets_n, temperature=temperature, bias_v=bias_v, masks=masks
        )
        values: dict[str, np.ndarray] = {BOTH: _row_means(both.logp_n - both.logq_n, sizes)}
        for mask in SINGLE:
            masked = [replace(row, prompt_ids=steps[b].masked[mask]) for row, b in zip(full, part, strict=True)]
            logp_n, _ = score_tokens(
                hidden(masked, part),
                weight_vh,
                targets_n,
                temperature=temperature,
                bias_v=bias_v,
                entropy=False,
                masks=masks,
            )
            values[mask] = _row_means(both.logp_n - logp_n, sizes)
        # Rounding can leave a divergence of equal distributions a hair below 0.
        kl = np.maximum(_row_means(both.kl_pq_n, sizes), 0.0)
        for i, b in enumerate(part):
            for name in MASKS:
                if _prompt(steps[b], name) != steps[b].prompt_ids:
                    drop_b[name][b] = values[name][i]
            if steps[b].blind_ids != steps[b].prompt_ids:
                kl_b[b] = kl[i]
        done += len(part)
        if progress is not None:
            progress(done, len(steps))
    model.train(was_training)
    return Attribution(kl_b, drop_b)


def _prompt(step: Step, mask: str) -> list[int]:
    return step.blind_ids if mask == BOTH else step.masked[mask]


def _row_means(values_n: torch.Tensor, sizes: Sequence[int]) -> np.ndarray:
    return np.array([float(v.mean()) for v in values_n.double().cpu().split(list(sizes))])
