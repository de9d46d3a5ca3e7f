"""What a transcript tells of a step beside the numbers of the batch: blind passes, tokens, prompts as scored.

An update needs only the sums of the blind passes. The numbers here are copies without a gradient, so recording them
changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stapo.algo import SelectiveTerms
from stapo.rollout.types import Step, Trajectory
from stapo.run.per_token import encode_per_token
from stapo.run.scored_prompts import ScoredPrompts, add_scored


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


_UNFINISHED = "\ufffd"
_MOST_OF_A_CHARACTER = 32  # tokens; a response of loose bytes would otherwise take the square of its length


def token_characters(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[int] | None:
    """How many characters of `decode(ids)` each token adds; None where tokens and text do not fit together.

    A token that shows nothing, such as an end token, has none. A character of several tokens belongs to the last.
    """
    text = decode(ids)
    single = [decode([i]) for i in ids]
    if "".join(single) == text:
        return [len(piece) for piece in single]
    # Some tokenizers read a joined piece differently (a blank before a word), and a character may be cut in two: read
    # each token behind the ones that finished the last character.
    lengths: list[int] = []
    window = begun = done = 0
    for end in range(1, len(ids) + 1):
        before, now = decode(ids[window:begun]), decode(ids[window:end])
        if len(now) > len(before) and not now.endswith(_UNFINISHED):
            added = now[len(before) :]
            if not text.startswith(added, done):
                return None
            lengths.append(len(added))
            done += len(added)
            window, begun = begun, end
        elif end - begun > _MOST_OF_A_CHARACTER:
            return None
        else:
            lengths.append(0)
    if done < len(text):
        if not ids or not set(text[done:]) <= {_UNFINISHED}:
            return None
        lengths[-1] += len(text) - done
    return lengths


Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Details:
    """Adds to the records of one iteration.

    Attributes:
        blind: what blind passes of the update have said.
        tokenizer: of the policy; turns prompts back into text.
        decode: ids of a response as text, as the step has it.
        tokens: keep the numbers of each token.
    """

    blind: BlindNumbers
    tokenizer: Any
    decode: Decode
    tokens: bool

    def of_step(self, step: Step, b: int) -> dict[str, Any]:
        """Fields of a step, which is row `b` of the update's batch."""
        found: dict[str, Any] = {"r_ta": self.blind.r_ta.get(b), "p_ti": self.blind.p_ti.get(b)}
        if b in self.blind.bonus:
            found["bonus"] = self.blind.bonus[b]
        if self.tokens:
            kl = self.blind.kl.get(b)
            found["per_token"] = encode_per_token(
                {
                    "characters": token_characters(step.response_ids, self.decode),
                    "entropy": step.entropies,
                    "logprob": step.logprobs,
                    "kl": None if kl is None else kl.numpy(),
                }
            )
        return found

    def add_prompts(self, record: dict[str, Any], trajectory: Trajectory) -> None:
        """Let the record of a trajectory hold its prompts as they were scored."""
        add_scored(record, [self._scored(step) for step in trajectory.steps])

    def _scored(self, step: Step) -> ScoredPrompts:
        full = self._read(step.prompt_ids)
        return ScoredPrompts(full, full if step.blind_ids == step.prompt_ids else self._read(step.blind_ids))

    def _read(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
