"""Where the steps are in verl's rows, and a micro-batch of such rows as the sequences of one forward pass.

A row holds one step, or several steps of an episode whose prompts extend each other: the responses, and between two of
them what the later prompt adds. Everything that is defined on a step is computed of steps that are cut out of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

from stapo.training.scoring import length_mask
from stapo.verl_plugin.fields import BLIND_IDS, BLIND_LENGTHS, STEP, lengths, whole_numbers

Span = tuple[int, int, int]
"""A sequence, and the first token and the end of a part of it."""


@dataclass(frozen=True)
class Sequences:
    """Token sequences of one forward pass and which tokens are scored.

    Attributes:
        lengths: tokens of each sequence.
        spans: the responses that are scored, in order; none is empty or begins its sequence.
    """

    lengths: Sequence[int]
    spans: Sequence[Span]

    @property
    def sizes(self) -> list[int]:
        """Tokens of each span."""
        return [end - first for _, first, end in self.spans]

    def index(self, width: int | None, device: torch.device) -> Tensor:
        """(n,) flat positions of the hidden states that predict the tokens of the spans, span by span.

        Args:
            width: length that each sequence is padded to; None if they lie packed, one behind the other.
            device: of the result.
        """
        packed = [0, *accumulate(self.lengths)]
        starts = packed if width is None else [number * width for number in range(len(self.lengths))]
        pieces = [
            torch.arange(starts[number] + first - 1, starts[number] + end - 1, device=device)
            for number, first, end in self.spans
        ]
        return torch.cat(pieces)

    def whole(self, values_n: Tensor) -> Tensor:
        """Ragged tensor over whole sequences: `values_n` where tokens of the spans are predicted, else 0."""
        offsets = torch.tensor([0, *accumulate(self.lengths)], device=values_n.device)
        whole_n = values_n.new_zeros(sum(self.lengths)).index_put((self.index(None, values_n.device),), values_n)
        nested: Tensor = torch.nested.nested_tensor_from_jagged(whole_n, offsets)
        return nested

    def followed_by(self, other: Sequences) -> Sequences:
        """These sequences, then the others."""
        moved = [(number + len(self.lengths), first, end) for number, first, end in other.spans]
        return Sequences([*self.lengths, *other.lengths], [*self.spans, *moved])


@dataclass(frozen=True)
class Steps:
    """The S steps of B rows, row by row.

    Attributes:
        spans: row, and first token and end of the step's response among the row's response tokens.
    """

    spans: Sequence[Span]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Steps:
        """Steps by their numbers, or before there are any, runs of sampled tokens; a row without one is a whole step.

        Args:
            data: verl's batch, with `STEP` or ``response_mask``.
        """
        numbered = STEP in data
        spans: list[Span] = []
        for b, values in enumerate(whole_numbers(data[STEP if numbered else "response_mask"])):
            found, first = len(spans), 0
            for value, tokens in groupby(values):
                end = first + len(list(tokens))
                if value >= (0 if numbered else 1):
                    spans.append((b, first, end))
                first = end
            if len(spans) == found:
                spans.append((b, 0, len(values)))
        return cls(spans)

    @property
    def row_s(self) -> list[int]:
        """Row of each step."""
        return [row for row, _, _ in self.spans]

    def cut(self, values_bl: Tensor) -> Tensor:
        """(S, L) values at each step's tokens out of (B, L') values at response tokens; 0 behind a step's end."""
        spans_s3 = torch.tensor(self.spans, device=values_bl.device)
        row_s1, first_s1, end_s1 = spans_s3[:, :1], spans_s3[:, 1:2], spans_s3[:, 2:]
        place_sl = first_s1 + torch.arange(int((end_s1 - first_s1).max()), device=values_bl.device)
        found_sl = values_bl[row_s1, place_sl.clamp(max=values_bl.shape[1] - 1)]
        return torch.where(place_sl < end_s1, found_sl, 0)


def flagged_steps(data: Mapping[str, Any]) -> list[int]:
    """Places of the steps with a blind prompt among all steps of a batch of verl's, ascending."""
    sizes = [size for row in whole_numbers(data[BLIND_LENGTHS]) for size in row]
    return [s for s, size in enumerate(sizes) if size]


@dataclass(frozen=True)
class Micro:
    """One micro-batch: B rows with S steps, and the blind prompts of K of the steps, with their responses.

    Attributes:
        rows: tokens of each row.
        sequences: the rows, scored at their steps.
        flagged: places of the K steps among the S, ascending.
        blind_rows: tokens of each blind prompt and its response.
        blind: these, scored at the responses.
    """

    rows: list[Tensor]
    sequences: Sequences
    flagged: list[int]
    blind_rows: list[Tensor]
    blind: Sequences

    @classmethod
    def of(cls, data: Mapping[str, Any], *, selective: bool) -> Micro:
        """Take verl's micro-batch apart.

        Args:
            data: with ``input_ids``, ``prompts`` and what `Steps.of` needs; under `selective` with blind prompts.
            selective: whether flagged steps are wanted.
        """
        rows, prompts = list(data["input_ids"].unbind()), lengths(data["prompts"])
        spans = [(b, prompts[b] + first, prompts[b] + end) for b, first, end in Steps.of(data).spans]
        flagged: list[int] = []
        blind_rows: list[Tensor] = []
        if selective:
            sizes = [size for row in whole_numbers(data[BLIND_LENGTHS]) for size in row]
            left = [row.reshape(-1) for row in data[BLIND_IDS].unbind()]
            for s, (size, (b, first, end)) in enumerate(zip(sizes, spans, strict=True)):
                if size:
                    flagged.append(s)
                    blind_rows.append(torch.cat([left[b][:size], rows[b][first:end]]))
                    left[b] = left[b][size:]
        ends = [spans[s][2] - spans[s][1] for s in flagged]
        blind = Sequences(
            [len(row) for row in blind_rows],
            [(k, len(row) - size, len(row)) for k, (row, size) in enumerate(zip(blind_rows, ends, strict=True))],
        )
        return cls(rows, Sequences([len(row) for row in rows], spans), flagged, blind_rows, blind)

    @property
    def targets_n(self) -> Tensor:
        """Tokens of the steps' responses, step by step."""
        return torch.cat([self.rows[b][first:end] for b, first, end in self.sequences.spans])

    @property
    def mask_kl(self) -> Tensor:
        """(K, L) true on the response tokens of flagged steps."""
        return length_mask(self.blind.sizes, self.rows[0].device)
