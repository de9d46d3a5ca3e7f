"""The prompts of a transcript exactly as the model scored them, control tokens included.

A transcript shows prompts as people read them. The model reads them with what the chat template writes around them,
which is nearly always the same: a trajectory holds it once, as `frame` (before, after). A prompt that is something
else has an entry in its step's `scored`, under `prompt` or `blind_prompt`:

    {"more": TEXT}                          the last step's scored prompt, its response, and this
    {"edits": [[START, END, TEXT], ...]}    the shown prompt with these characters replaced
    {"text": TEXT}                          this
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rapidfuzz.distance import Levenshtein

from stapo.documents import shown
from stapo.errors import RunDirectoryError

_MOST_COMPARED = 25_000_000  # pairs of lines: 3 MB of bits
_NAMES = ("prompt", "blind_prompt")


class ScoredPrompts(NamedTuple):
    """The two prompts of one step, as the model read them."""

    full: str
    blind: str


def add_scored(record: dict[str, Any], scored: Sequence[ScoredPrompts]) -> None:
    """Let a trajectory record hold its prompts as they were scored.

    Args:
        record: `frame` is added to it, and `scored` to those of its steps that need it.
        scored: of each step.
    """
    steps = record["steps"]
    record["frame"] = frame = _frame(steps, scored)
    last: ScoredPrompts | None = None
    for number, (step, texts) in enumerate(zip(steps, scored, strict=True)):
        base = None if last is None else last.full + steps[number - 1]["response"]
        codes = {}
        for name, text, before in zip(_NAMES, texts, (base, None), strict=True):
            if text != frame[0] + step[name] + frame[1]:
                codes[name] = _code(step[name], text, before)
        if codes:
            step["scored"] = codes
        last = texts


def scored_prompts(record: Mapping[str, Any], number: int) -> ScoredPrompts | None:
    """The prompts of step `number` of a trajectory record; None where it does not hold them, as earlier versions'.

    Raises:
        RunDirectoryError: the record is not what a run writes.
    """
    frame = record.get("frame")
    if frame is None:
        return None
    try:
        before, after = frame
        steps = record["steps"]
        first = number
        while "more" in _code_of(steps[first], "prompt"):
            first -= 1
            if first < 0:
                raise ValueError("the first prompt continues another")
        full = _decoded(steps[first], "prompt", before, after)
        if first < number:
            parts = [full]
            for k in range(first, number):
                parts += [steps[k]["response"], steps[k + 1]["scored"]["prompt"]["more"]]
            full = "".join(parts)
        return ScoredPrompts(full, _decoded(steps[number], "blind_prompt", before, after))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as err:
        raise RunDirectoryError(
            f"the scored prompts of step {number} cannot be read ({type(err).__name__}: {shown(str(err))}); expected "
            "what a run writes. The prompts without the chat template are there."
        ) from None


def _frame(steps: Sequence[Mapping[str, Any]], scored: Sequence[ScoredPrompts]) -> list[str]:
    """What stands before and after the first shown prompt that is whole in the scored one."""
    for step, texts in zip(steps, scored, strict=True):
        for name, text in zip(_NAMES, texts, strict=True):
            if step[name] and step[name] in text:
                before, _, after = text.partition(step[name])
                return [before, after]
    return ["", ""]


def _code(shown_text: str, text: str, base: str | None) -> dict[str, Any]:
    if base is not None and text.startswith(base):
        return {"more": text[len(base) :]}
    edits = edits_between(shown_text, text)
    if sum(16 + len(new) for _, _, new in edits) < 0.8 * len(text):
        return {"edits": edits}
    return {"text": text}


def edits_between(one: str, other: str) -> list[list[Any]]:
    """What turns `one` into `other`: [start, end, text] by whole lines, in order, places being those of `one`."""
    a, b = one.splitlines(keepends=True), other.splitlines(keepends=True)
    if len(a) * len(b) > _MOST_COMPARED:
        return [[0, len(one), other]]
    starts = [0]
    for line in a:
        starts.append(starts[-1] + len(line))
    return [
        [starts[op.src_start], starts[op.src_end], "".join(b[op.dest_start : op.dest_end])]
        for op in Levenshtein.opcodes(a, b)
        if op.tag != "equal"
    ]


def _code_of(step: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = step.get("scored", {}).get(name, {})
    if not isinstance(found, Mapping):
        raise TypeError(f"scored.{name} is {shown(found)}")
    return found


def _decoded(step: Mapping[str, Any], name: str, before: str, after: str) -> str:
    code, text = _code_of(step, name), step[name]
    if not isinstance(text, str):
        raise TypeError(f"{name} is {shown(text)}")
    if not code:
        return before + text + after
    if "text" in code:
        return "".join([code["text"]])
    parts, place = [], 0
    for start, end, new in code["edits"]:
        if not place <= start <= end <= len(text):
            raise ValueError(f"an edit of {shown((start, end))} does not fit")
        parts += [text[place:start], new]
        place = end
    return "".join([*parts, text[place:]])
