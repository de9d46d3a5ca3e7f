"""The rollouts of an iteration, a step of them, a whole record.

A transcript may be large: it is read one record after the other, and what is kept of it are the bytes that a page gets
and the places of its records.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stapo.documents import decoded, parse_json
from stapo.errors import RunDirectoryError
from stapo.html.pages import LONGEST_PROMPT, cleaned, encoded
from stapo.report.data import Row
from stapo.report.trajectories import read_trajectories, shaped
from stapo.run.per_token import decode_per_token
from stapo.run.rows import by_iteration, line_at
from stapo.run.scored_prompts import scored_prompts
from stapo.texts import counted, hide_secrets
from stapo.viewer.catalog import Catalog, ReadCache, state_of

_MOST_TOKENS = 4_000  # of a response that are told one by one
_SHORT = 1_000  # characters of a text where many steps are shown
_MOST_STEPS = 20_000  # of an iteration on one page
_LONG = (
    "prompt", "blind_prompt", "blind_observation", "first_message", "message", "admissible", "per_token", "scored",
)  # fmt: skip
_OF_GROUP = ("goal", "task_id", "task_type", "fences")


@dataclass(frozen=True)
class _Read:
    """What is kept of a transcript: the body of an answer, and the byte of each record by group and member."""

    body: bytes
    places: dict[tuple[int, int], int]


class Rollouts:
    """Reads transcripts; a few of them are kept until they change.

    Args:
        catalog: the runs that may be looked at.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._read: ReadCache[_Read] = ReadCache(4)

    def iteration(self, name: str, iteration: int) -> bytes:
        """The rollouts of an iteration without prompts, as JSON."""
        return self._transcript(name, iteration)[1].body

    def step(self, name: str, iteration: int, group: int, member: int, step: int) -> dict[str, Any]:
        """A step with everything that its transcript holds, prompts as a whole.

        Raises:
            RunDirectoryError: there is no such step.
        """
        record = self._record(name, iteration, group, member)
        if not shaped(record):
            raise RunDirectoryError("the transcript was changed while it was read. Open the page again.")
        if not 0 <= step < len(record["steps"]):
            raise RunDirectoryError(f"iteration {iteration} has no step {step} of group {group}, member {member}.")
        at = ["--at", f"{iteration}/{group}/{member}/{step}"]
        play = shlex.join(["stapo", "play", "--from", str(self._catalog.run(name).path), *at])
        return {
            "step": cleaned({**_step(record, step), "play": play}, LONGEST_PROMPT),
            # For steps that did not fit on the page of the iteration.
            "group": {**_about_group(record), "members": []},
            "member": {**_about_member(record), "steps": []},
        }

    def record(self, name: str, iteration: int, group: int, member: int) -> Row:
        """A trajectory with everything that its line of the transcript has, its texts as pages show them.

        Raises:
            RunDirectoryError: there is no such trajectory.
        """
        return dict(cleaned(self._record(name, iteration, group, member), LONGEST_PROMPT))

    def _record(self, name: str, iteration: int, group: int, member: int) -> Row:
        path, read = self._transcript(name, iteration)
        place = read.places.get((group, member))
        if place is None:
            raise RunDirectoryError(f"iteration {iteration} has no trajectory of group {group}, member {member}.")
        return _parsed(line_at(path, place))

    def _transcript(self, name: str, iteration: int) -> tuple[Path, _Read]:
        path = by_iteration(self._catalog.run(name).transcripts()).get(iteration)
        if path is None:
            raise RunDirectoryError(f"iteration {iteration} of '{name}' has no transcript (log.transcript_every).")
        return path, self._read.get(path, state_of(path), lambda: _all_of(path, iteration))


def _all_of(path: Path, iteration: int) -> _Read:
    groups: dict[int, Row] = {}
    places: dict[tuple[int, int], int] = {}
    remarks: list[str] = []
    steps = left_out = 0
    for place, record in read_trajectories(path, remarks):
        number, member = record["group"], record["member"]
        if (number, member) in places:
            continue
        places[number, member] = place
        kept = record["steps"][: max(0, _MOST_STEPS - steps)]
        steps += len(kept)
        left_out += len(record["steps"]) - len(kept)
        if kept or not record["steps"]:
            group = groups.setdefault(number, {**_about_group(record), "members": []})
            group["members"].append({**_about_member(record), "steps": [cleaned(_brief(s), _SHORT) for s in kept]})
    if left_out:
        remarks.append(f"{counted(left_out, 'step')} did not fit on this page; the page Steps lists all.")
    body = {"iteration": iteration, "remarks": cleaned(remarks), "groups": list(groups.values())}
    return _Read(encoded(body), places)


def _about_group(record: Row) -> Row:
    return dict(cleaned({key: record.get(key) for key in ("group", *_OF_GROUP)}, _SHORT))


def _about_member(record: Row) -> Row:
    about = {key: value for key, value in record.items() if key not in (*_OF_GROUP, "group", "steps", "frame")}
    return dict(cleaned({**about, "length": len(record["steps"])}, _SHORT))


def _brief(step: Row) -> Row:
    return {key: value for key, value in step.items() if key not in _LONG}


def _parsed(line: bytes) -> Row:
    try:
        record = parse_json(decoded(line))
    except ValueError as err:
        raise RunDirectoryError(f"the transcript was changed while it was read: {err}. Open the page again.") from err
    if not isinstance(record, dict):
        raise RunDirectoryError("the transcript was changed while it was read. Open the page again.")
    return record


def whole_prompt(steps: list[Row], step: int) -> str:
    """The full prompt of a step, also where the transcript has only what was added to a conversation."""
    first = step
    while first > 0 and steps[first].get("continues") is True:
        first -= 1
    text = str(steps[first].get("prompt") or "")
    for before, here in zip(steps[first:step], steps[first + 1 : step + 1], strict=True):
        text += f"\n> {before.get('response')}\n{here.get('prompt') or ''}"
    return text


def _step(record: Row, number: int) -> Row:
    """A step with its prompts as they were scored and its tokens; what cannot be read of these is a remark."""
    found = {**record["steps"][number], "prompt": whole_prompt(record["steps"], number)}
    found |= {"scored": None, "tokens_of_response": [], "remarks": []}
    try:
        scored = scored_prompts(record, number)
        found["scored"] = None if scored is None else scored._asdict()
        found["tokens_of_response"] = _tokens(found)
    except RunDirectoryError as err:
        found["remarks"] = [str(err)]
    found.pop("per_token", None)
    return found


def _tokens(step: Row) -> list[Row]:
    """The tokens of a response with their numbers; [] where the transcript does not hold them."""
    numbers = decode_per_token(step)
    text, end, found = str(step.get("response") or ""), 0, list[Row]()
    if hide_secrets(text) != text:
        # In pieces it would not be recognized.
        step["remarks"] = [*step["remarks"], "The response holds a secret, which is hidden; so no token is colored."]
        return []
    if "characters" not in numbers:
        return []
    for place, count in enumerate(numbers["characters"][:_MOST_TOKENS].tolist()):
        start, end = end, end + count
        each = {name: float(numbers[name][place]) if name in numbers else None for name in ("entropy", "logprob", "kl")}
        found.append({"text": text[start:end], **each})
    if len(numbers["characters"]) > _MOST_TOKENS:
        found.append({"text": text[end:], "entropy": None, "logprob": None, "kl": None})
        step["remarks"] = [*step["remarks"], f"The first {_MOST_TOKENS:,} tokens of the response are colored."]
    return found
