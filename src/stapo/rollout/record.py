"""Episodes as files, for SFT: what was seen, offered and said at each step.

A file has a JSON object on each line: a header with the fingerprint of environment, prompts and response format, then
episodes. Prompts are not in it: whoever learns from it writes them from the same fields by its own settings, so that
texts of an environment stay texts. Files of others hold chat messages instead (`stapo.training.recorded`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stapo.agent import AgentConfig, PromptFields, render_prompt
from stapo.documents import shown
from stapo.errors import ConfigError
from stapo.rollout.types import Trajectory

FORMAT = 1
_HEADER = "stapo_record"
_LIMITS = {"max_prompt_tokens", "max_response_tokens", "max_prompt_characters", "decode", "fallback_characters"}
"""Settings of the agent that change neither a prompt nor how a response is written."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One step of an episode.

    Attributes:
        observation: what the agent saw, as prompts show it.
        blind: the same without any trace of the goal.
        admissible: commands that were offered, or None where actions are free text.
        action: what the environment was given.
        response: all that the agent said.
        ended: it ended its response itself; one that was cut off is learned without an end token.
        imitate: SFT learns the response; otherwise the step is part of the history alone.
    """

    observation: str
    blind: str
    admissible: tuple[str, ...] | None
    action: str
    response: str
    ended: bool = True
    imitate: bool = True


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """One episode.

    Attributes:
        task: id of the task.
        goal: the task sentence.
        won: the task was solved.
        steps: in order.
    """

    task: str
    goal: str
    won: bool
    steps: tuple[RecordedStep, ...]


def episode_of(trajectory: Trajectory) -> RecordedEpisode:
    """A played episode; steps whose response was invalid are not to be imitated."""
    steps = [
        RecordedStep(
            s.observation, s.blind_observation, s.admissible, s.action, s.response, not s.truncated, imitate=s.valid
        )
        for s in trajectory.steps
    ]
    return RecordedEpisode(trajectory.task_id, trajectory.goal, trajectory.won, tuple(steps))


def episode_of_transcript(row: Mapping[str, Any], where: str) -> RecordedEpisode:
    """An episode of a run's transcript.

    Raises:
        ConfigError: it lacks what prompts are written from; earlier versions wrote none of that.
    """
    steps = row.get("steps")
    if not isinstance(steps, list) or not all(isinstance(s, dict) and "admissible" in s for s in steps):
        raise ConfigError(
            f"{where} does not hold what was offered at each step, as transcripts of earlier versions do not; play the "
            "policy again with 'stapo eval RUN --record FILE'."
        )
    names = {"blind": "blind_observation", "imitate": "valid"}
    kept = [{f.name: s.get(names.get(f.name, f.name)) for f in fields(RecordedStep)} for s in steps]
    return read_episode({**row, "task": row.get("task_id"), "steps": kept}, where)


def fingerprint(agent: AgentConfig, env: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same where episodes are recorded and where they are learned, by dotted name.

    Of options that name a file the name alone counts.
    """
    sample = PromptFields("a goal", 1, 1, (), "a room", "a room", ("look", "go"), ())
    wording = render_prompt(sample, agent).shown
    found = {f"agent.{name}": value for name, value in asdict(agent).items() if name not in _LIMITS}
    found |= {f"env.options.{k}": Path(v).name if isinstance(v, str) else v for k, v in sorted(options.items())}
    found |= {"env.name": env, "wording": hashlib.sha256(wording.encode()).hexdigest()[:16]}
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def check_fingerprint(found: Mapping[str, Any], own: Mapping[str, Any], where: str) -> None:
    """Check that what was recorded fits what is to learn it.

    Raises:
        ConfigError: it does not; every difference is named.
    """
    other = [k for k in sorted(found) if found[k] != own.get(k)]
    if other:
        lines = "".join(f"\n  {k}: {shown(found[k])} in the file, {shown(own.get(k))} here" for k in other)
        raise ConfigError(
            f"{where} was recorded under other prompts, another response format or another environment:{lines}\n"
            "Use its settings, or record again under these."
        )


def record_lines(episodes: Iterable[RecordedEpisode], mark: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of a file of episodes; `mark` is the fingerprint."""
    return [{_HEADER: FORMAT, "fingerprint": dict(mark)}, *map(asdict, episodes)]


def read_header(row: Mapping[str, Any], own: Mapping[str, Any], where: str) -> bool:
    """Whether a line is a header; one that does not fit is an error.

    Raises:
        ConfigError: it is of a later format, or of other prompts, formats or environments.
    """
    if _HEADER in row and row[_HEADER] != FORMAT:
        raise ConfigError(f"{where} has record format {shown(row[_HEADER])}, this version reads format {FORMAT}.")
    mark = row.get("fingerprint", {} if _HEADER in row else None)
    if mark is not None:
        if not isinstance(mark, dict):
            raise ConfigError(f"{where} has the fingerprint {shown(mark)}, expected an object.")
        check_fingerprint(mark, own, where)
    return _HEADER in row


def read_episode(row: Mapping[str, Any], where: str) -> RecordedEpisode:
    """The episode of a line.

    Raises:
        ConfigError: it lacks something, or something in it has another type; it is named.
    """
    steps = _take(row, "steps", list, where)
    found = [_step(step, f"{where}, steps[{i}]") for i, step in enumerate(steps)]
    return RecordedEpisode(
        _take(row, "task", str, where), _take(row, "goal", str, where), _take(row, "won", bool, where), tuple(found)
    )


def _step(step: Any, where: str) -> RecordedStep:
    if not isinstance(step, dict):
        raise ConfigError(f"{where} is {shown(step)}, expected an object.")
    offered = step.get("admissible")
    if offered is not None and not (isinstance(offered, list) and all(isinstance(c, str) for c in offered)):
        raise ConfigError(f"{where} has admissible {shown(offered)}, expected a list of texts, or null.")
    texts = {name: _take(step, name, str, where) for name in ("observation", "action", "response")}
    blind = texts["observation"] if step.get("blind") is None else _take(step, "blind", str, where)
    flags = {name: _take({name: True, **step}, name, bool, where) for name in ("ended", "imitate")}
    return RecordedStep(blind=blind, admissible=None if offered is None else tuple(offered), **texts, **flags)


def _take(row: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    if not isinstance(row.get(name), kind):
        found = shown(row[name]) if name in row else "nothing"
        raise ConfigError(f"{where} has {found} as '{name}', expected {kind.__name__}.")
    return row[name]
