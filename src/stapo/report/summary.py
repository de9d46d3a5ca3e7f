"""The run in words and in one table."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stapo.documents import lookup, mapping_at, number
from stapo.report.data import Row, RunLog, is_counted
from stapo.texts import counted, duration

_NARROW = "\N{NARROW NO-BREAK SPACE}"  # keeps number, sign and unit on one line
_STATUS = {
    "done": "The run is complete.",
    "running": "The run is still going on, or its process ended without a word.",
    "stopped": "The run was stopped by hand before its end.",
    "failed": "The run failed.",
}


@dataclass(frozen=True)
class BeforeAfter:
    """Evaluations of one mode before and after RL.

    Attributes:
        mode: sampled or greedy.
        start: the full evaluation before RL, empty where there was none (eval.at_start).
        end: the full evaluation after RL, None where it is missing.
    """

    mode: str
    start: Row
    end: Row | None

    @property
    def change(self) -> float:
        """Success at the end minus success at the start, NaN without an end."""
        return number(self.end and self.end.get("success")) - number(self.start.get("success"))

    @property
    def errors(self) -> float:
        """The change in units of its standard error; NaN where that is unknown.

        One win and one loss are added to each side, because the plain error is 0 where none or all were won.
        """
        if self.end is None:
            return math.nan
        variance = 0.0
        for row in (self.start, self.end):
            n = number(row.get("episodes"))
            p = (number(row.get("success")) * n + 1) / (n + 2)
            variance += p * (1 - p) / (n + 2)
        return abs(self.change) / math.sqrt(variance) if variance > 0 else math.nan


@dataclass(frozen=True)
class TableRow:
    """One line of the success table: a label, and for each mode the cells start, end and change."""

    label: str
    episodes: str
    cells: list[tuple[str, str, str]]


def comparisons(log: RunLog) -> list[BeforeAfter]:
    """Start and end of every evaluation mode, in the order in which they were run.

    The end is the last full evaluation by the protocol of the start, and by another one only where there is none.
    """
    found = []
    for mode in dict.fromkeys(str(row["mode"]) for row in log.evals):
        rows = [r for r in log.evals if r["mode"] == mode and r.get("final", True)]
        if rows and rows[0].get("iteration") != 0:
            found.append(BeforeAfter(mode, {}, rows[-1]))
        elif rows:
            same = [r for r in rows[1:] if r.get("protocol") == rows[0].get("protocol")]
            ends = same or rows[1:]
            found.append(BeforeAfter(mode, rows[0], ends[-1] if ends else None))
    return found


def losses(compared: list[BeforeAfter]) -> list[str]:
    """Sentences about evaluations that got worse by more than noise."""
    return [
        f"Evaluation in {c.mode} play got worse by {c.errors:.1f} standard errors."
        for c in compared
        if c.change < 0 and c.errors >= 2
    ]


def success_table(compared: list[BeforeAfter]) -> list[TableRow]:
    """Success before and after, over all tasks and by task type; the mean score where tasks are judged by degrees."""
    if not compared:
        return []
    judged = any(math.isfinite(number(row.get("task_score"))) for c in compared for row in (c.start, c.end or {}))
    all_tasks = [TableRow("all", _episodes(compared, None), [_cells(c, None) for c in compared])]
    if judged:
        all_tasks.append(TableRow("mean score", _episodes(compared, None), [_scores(c) for c in compared]))
    types = {t for c in compared for row in (c.start, c.end or {}) for t in mapping_at(row, "by_type")}
    return all_tasks + [TableRow(t, _episodes(compared, t), [_cells(c, t) for c in compared]) for t in sorted(types)]


def title(log: RunLog) -> str:
    """Heading of the page."""
    return f"{log.setting('algorithm.name', 'a run')} on {log.setting('env.name', 'an unknown environment')}"


def sentences(log: RunLog, compared: list[BeforeAfter]) -> list[str]:
    """The summary paragraph, sentence by sentence."""
    get = log.setting
    planned = get("optim.iterations")
    size = ""
    if get("rollout.groups") and get("rollout.group_size"):
        size = f" of {get('rollout.groups')} task groups × {get('rollout.group_size')} attempts"
    start = "a pretrained model" if get("model.path") else "a small model"
    if get("sft.steps"):
        start += f" after {get('sft.steps')} supervised steps"
    done = f"{log.iterations_done}" + (f" of {planned}" if planned not in (None, log.iterations_done) else "")
    text = [
        f"{get('algorithm.name', 'An unknown algorithm')} trained {start} on {get('env.name', 'an environment')} "
        f"(split '{get('env.split', '?')}', seed {get('seed', '?')}) for {done} iteration"
        f"{'' if done == '1' else 's'}{size}."
    ]
    text += [_outcome(c, log) for c in compared]
    text += [said for said in map(log.info.get, ("ended_early", "chosen_best")) if isinstance(said, str) and said]
    text.append(_STATUS.get(str(log.info.get("status")), f"The status of the run is '{log.info.get('status')}'."))
    if log.info.get("reason"):
        text.append(f"Reason: {log.info['reason']}")
    return text


def protocols(log: RunLog) -> list[tuple[str, str]]:
    """How each kind of evaluation was done: label and protocol line."""
    found: dict[tuple[str, str], None] = {}
    for row in log.evals:
        kind = "before and after RL" if row.get("final", True) else "in between"
        found[(f"{row['mode']}, {kind}", str(row.get("protocol", "not stated")))] = None
    return list(found)


def facts(log: RunLog) -> list[tuple[str, str]]:
    """Small print: times, machine, versions, command."""
    info = log.info
    pairs = [(key, str(info[key])) for key in ("started", "ended", "platform") if info.get(key)]
    pairs += _durations(info)
    resumed = info.get("resumed")
    if isinstance(resumed, list) and resumed:
        after = ", ".join(str(part.get("iteration", "?")) for part in resumed if isinstance(part, dict))
        pairs.append(("resumed", f"{counted(len(resumed), 'time')}, after iteration {after}"))
    versions = info.get("versions")
    if isinstance(versions, dict):
        pairs.append(("versions", ", ".join(f"{k} {v}" for k, v in versions.items())))
    command = info.get("command")
    if isinstance(command, list):
        pairs.append(("command", shlex.join(map(str, command))))
    return pairs


def reading(log: RunLog) -> str:
    """How much was read once instead of at every step, in the last iteration; "" where steps were read alone."""
    row = log.metrics[-1] if log.metrics else {}
    rows = number(row.get("rows"))
    count, tokens, alone = (number(lookup(row, f"sequences.{key}")) for key in ("count", "tokens", "row_tokens"))
    if not 0 < count < rows or not 0 < tokens <= alone:
        return ""
    text = (
        f"Steps whose prompts extend each other were read as one sequence: in iteration {row['iteration']}, "
        f"{rows:,.0f} steps as {count:,.0f} sequences, {tokens:,.0f} tokens instead of {alone:,.0f} "
        f"({alone / tokens:.1f} times fewer)."
    )
    anew = {"prompt": "an earlier message was written anew", "response": "the last response was"}
    breaks = [f"{n} where {anew.get(why, why)}" for why, n in mapping_at(row, "sequences.breaks").items()]
    text += f" Sequences that began within an episode: {', '.join(breaks)}." if breaks else ""
    left = lookup(row, "sequences.forgotten_turns")
    gone = is_counted(left) and left > 0
    return text + (f" {counted(left, 'older turn')} left out of prompts that were too long." if gone else "")


def percent(value: Any) -> str:
    """A share as percent, or a dash."""
    share = number(value)
    return f"{100 * share:.1f}{_NARROW}%" if math.isfinite(share) else "–"


def _outcome(c: BeforeAfter, log: RunLog) -> str:
    before = _with_error(c.start)
    if c.end is None:
        text = f"Success in {c.mode} play was {before} before RL; the evaluation after RL is missing"
        short = [row for row in log.evals if row["mode"] == c.mode and not row.get("final", True)]
        if not short:
            return text + "."
        return f"{text}, the last short one, after {short[-1]['iteration']} iterations, gave {_with_error(short[-1])}."
    after = _with_error(c.end)
    if not c.start:
        return f"Success in {c.mode} play was {after} after RL; before RL it was not evaluated."
    text = f"Success in {c.mode} play went from {before} to {after}"
    if not math.isfinite(c.errors):
        return text + "."
    if c.errors < 2:
        return f"{text}, a change within the noise ({c.errors:.1f} standard errors)."
    return f"{text}, {'a gain' if c.change > 0 else 'a loss'} of {c.errors:.1f} standard errors."


def _cells(c: BeforeAfter, task_type: str | None) -> tuple[str, str, str]:
    start, end = _part(c.start, task_type), _part(c.end or {}, task_type)
    change = number(end.get("success")) - number(start.get("success"))
    if not math.isfinite(change):
        return _with_error(start), _with_error(end), "–"
    return _with_error(start), _with_error(end), f"{100 * change:+.1f}" if abs(change) >= 5e-4 else "0.0"


def _scores(c: BeforeAfter) -> tuple[str, str, str]:
    start, end = number(c.start.get("task_score")), number((c.end or {}).get("task_score"))
    change = end - start
    return percent(start), percent(end), f"{100 * change:+.1f}" if math.isfinite(change) else "–"


def _with_error(row: Row) -> str:
    p, n = number(row.get("success")), number(row.get("episodes"))
    error = number(row.get("success_standard_error"))
    if not math.isfinite(error) and n > 0 and 0 <= p <= 1:
        error = math.sqrt(p * (1 - p) / n)
    if not math.isfinite(error):
        return percent(p)
    return f"{100 * p:.1f}{_NARROW}±{_NARROW}{percent(error)}"


def _episodes(compared: list[BeforeAfter], task_type: str | None) -> str:
    return str(_part(compared[0].start or compared[0].end or {}, task_type).get("episodes", "–"))


def _part(row: Row, task_type: str | None) -> Row:
    if task_type is None:
        return row
    found = mapping_at(row, "by_type").get(task_type)
    return found if isinstance(found, dict) else {}


def _durations(info: Row) -> list[tuple[str, str]]:
    pairs = []
    for key, label in (("sft", "SFT"), ("rl", "RL with evaluations")):
        if math.isfinite(seconds := number(lookup(info, f"seconds.{key}"))):
            pairs.append((label, duration(seconds)))
    if not pairs and info.get("started") and info.get("ended"):
        try:
            span = datetime.fromisoformat(info["ended"]) - datetime.fromisoformat(info["started"])
            pairs.append(("wall time", duration(span.total_seconds())))
        except (ValueError, TypeError):
            pass
    return pairs
