"""Trajectories for the page: which ones fit, and what is shown of each step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stapo.documents import lookup, number
from stapo.html.pages import LONGEST_TEXT
from stapo.report.data import Row, RunLog, is_counted, placed_rows
from stapo.texts import counted

PAGE_BYTES = 3_800_000  # of trajectories; with plots and tables the page stays under 5 MB
_MOST_FILES = 6
_STEP_BYTES = 1_500  # markup around the text of a step
_SCALE = 4.0  # H_n at the ends of the little bar
_SHORT = 600  # characters of a message that is read at a glance


@dataclass(frozen=True)
class Group:
    """Sibling rollouts of one task.

    Attributes:
        iteration: when they were played.
        group: index of the task group in its batch.
        members: trajectory records.
        prompts: which steps carry their prompts: all, flagged, none.
        left_out: siblings that did not fit on the page.
    """

    iteration: int
    group: int
    members: list[Row]
    prompts: str = "all"
    left_out: int = 0

    @property
    def first(self) -> Row:
        """The record that goal, task and fences are read from."""
        return self.members[0]

    @property
    def won(self) -> int:
        """How many members solved the task."""
        return sum(bool(m.get("won")) for m in self.members)

    def fence(self, name: str) -> float:
        """Place of a fence on the bar of normalized entropy, percent."""
        value = number(lookup(self.first, f"fences.{name}"))
        return place(value) if math.isfinite(value) else (0.0 if name == "lower" else 100.0)

    def shows_prompts(self, step: Row) -> bool:
        """Whether the page holds the prompts of this step."""
        return self.prompts == "all" or (self.prompts == "flagged" and bool(step.get("outlier")))

    def seen(self, step: Row) -> str:
        """What the agent was shown in a turn of a conversation: the message where it is short, else the observation."""
        message = step["message"]
        return message if self.shows_prompts(step) and 0 < len(message) <= _SHORT else str(step.get("observation"))


@dataclass(frozen=True)
class Selection:
    """The groups that are shown, and what was left out, in words."""

    groups: list[Group] = field(default_factory=list)
    note: str = ""

    @property
    def talked(self) -> bool:
        """Whether there is a conversation among them."""
        return any(member["talked"] for group in self.groups for member in group.members)


def select_trajectories(log: RunLog, remarks: list[str], budget: int = PAGE_BYTES) -> Selection:
    """Choose transcripts that fit the page: newest, oldest, and some in between.

    Prompts are the bulk. Where all do not fit, they are kept at flagged steps only, then nowhere, before any
    trajectory is dropped.
    """
    if not log.transcripts:
        return Selection()
    files = evenly_spaced(log.transcripts, _MOST_FILES)
    groups = [g for path in files for g in read_groups(path, remarks)]
    for prompts in ("all", "flagged", "none"):
        shown = [Group(g.iteration, g.group, g.members, prompts) for g in groups]
        if sum(_member_size(group, member) for group in shown for member in group.members) <= budget:
            break
    else:
        shown = _within(shown, budget)
    return Selection(shown, _note(log.transcripts, files, groups, shown))


def evenly_spaced(paths: list[Path], most: int) -> list[Path]:
    """At most `most` of the paths, evenly spaced, both ends included."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (most - 1))] for i in range(most)]


def place(value: float) -> float:
    """Where a normalized entropy lies on its bar, percent from the left."""
    return round(100 * (min(max(value, -_SCALE), _SCALE) + _SCALE) / (2 * _SCALE), 1)


def _as_turns(record: Row) -> None:
    """Give steps of a conversation the `message` that is new in their prompt, and a `note` where a sequence begins."""
    steps, last = record["steps"], Row()
    record["talked"] = any(isinstance(step.get("continues"), bool) for step in steps)
    for step in steps if record["talked"] else ():
        first, prompt = str(step.get("first_message") or ""), str(step.get("prompt") or "")
        if step.get("continues") is not True:
            before = f"\n> {last.get('response')}\n" if last else f"{first}\n"
            prompt = prompt.rpartition(before)[2] if before in prompt else ""
        step |= {"message": prompt, "first_message": first, "note": _note_of_break(step, last)}
        last = step


def _note_of_break(step: Row, last: Row) -> str:
    if is_counted(left := step.get("forgotten_turns")) and left:
        return f"{counted(left, 'older turn')} left out here: the prompt had become too long. A new sequence begins."
    if not step.get("new_sequence") or last.get("new_sequence"):
        return ""
    part = "earlier messages are" if step["new_sequence"] == "prompt" else "the last response is"
    return f"A new sequence begins: {part} written anew."


def read_groups(path: Path, remarks: list[str]) -> list[Group]:
    """Task groups of a transcript file, in its order; see `read_trajectories`."""
    found: dict[tuple[int, int], list[Row]] = {}
    for _, record in read_trajectories(path, remarks):
        found.setdefault((record["iteration"], record["group"]), []).append(record)
    return [Group(iteration, group, members) for (iteration, group), members in found.items()]


def read_trajectories(path: Path, remarks: list[str]) -> Iterator[tuple[int, Row]]:
    """Records of a transcript file, each with the byte at which its line begins.

    Those of another form are left out, and counted in `remarks`. Every step has an `outlier` that is "high", "low" or
    None; those of conversations also have `message` and `note`.
    """
    odd = 0
    for start, record in placed_rows(path, remarks):
        if shaped(record):
            yield start, record
        else:
            odd += 1
    if odd:
        remarks.append(f"{path.name} holds {counted(odd, 'record')} of another form, not shown here.")


def shaped(record: Row) -> bool:
    """Bring a record of a transcript into the form that `read_trajectories` describes; false where it cannot be."""
    steps = record.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps) or not _is_placed(record):
        return False
    flags = ({"outlier": flag if (flag := step.get("outlier")) in ("high", "low") else None} for step in steps)
    record["steps"] = [step | flag for step, flag in zip(steps, flags, strict=True)]
    _as_turns(record)
    return True


def _is_placed(record: Row) -> bool:
    record |= {key: record.get(key) or 0 for key in ("iteration", "group", "member")}
    return all(is_counted(record[key]) for key in ("iteration", "group", "member"))


def _member_size(group: Group, member: Row) -> int:
    total = 800
    for step in member["steps"]:
        keys = ["observation", "response", "action"]
        if group.shows_prompts(step):
            keys += ["prompt", "blind_prompt"]
        texts = (str(step.get(key) or "").encode("utf-8", "replace") for key in keys)
        total += _STEP_BYTES + sum(min(len(text), LONGEST_TEXT) for text in texts)
    return total


def _within(groups: list[Group], budget: int) -> list[Group]:
    """Groups from both ends of the run inwards until the budget is spent; the last one may lose members."""
    order = sorted(range(len(groups)), key=lambda i: (min(i, len(groups) - 1 - i), i == 0))
    kept: dict[int, Group] = {}
    for i in order:
        group = groups[i]
        members: list[Row] = []
        for member in group.members:
            size = _member_size(group, member)
            if size > budget and (members or kept):
                break
            budget -= size
            members.append(member)
        if members:
            kept[i] = Group(group.iteration, group.group, members, group.prompts, len(group.members) - len(members))
        if budget <= 0:
            break
    return [kept[i] for i in sorted(kept)]


def _note(all_files: list[Path], files: list[Path], groups: list[Group], shown: list[Group]) -> str:
    parts = []
    if len(files) < len(all_files):
        parts.append(
            f"of {counted(len(all_files), 'transcript file')} {len(files)} can be seen: both ends and some between"
        )
    if len(shown) < len(groups):
        parts.append(f"{counted(len(groups) - len(shown), 'task group')} did not fit on the page")
    if any(g.left_out for g in shown):
        parts.append("some siblings did not fit")
    prompts = shown[0].prompts if shown else "all"
    if prompts != "all":
        parts.append("prompts are left out" + (" except at flagged steps" if prompts == "flagged" else ""))
    return "; ".join(parts) + ". Everything is in the run's transcripts folder." if parts else ""
