"""What a transcript tells of a step beside the numbers of the batch: blind passes, tokens, prompts as scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stapo.rollout.token_text import token_characters
from stapo.rollout.types import Step, Trajectory
from stapo.run.per_token import encode_per_token
from stapo.run.scored_prompts import ScoredPrompts, add_scored
from stapo.training.blind_numbers import BlindNumbers

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
