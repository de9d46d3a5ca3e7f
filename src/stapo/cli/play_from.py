"""`stapo play --from RUN --at PLACE`: begin where a step of a recorded episode stood."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stapo.config.environment import environment_of
from stapo.config.run_config import read_run_config
from stapo.envs.protocol import Env
from stapo.envs.registry import make
from stapo.errors import ConfigError
from stapo.run import RunDirectory
from stapo.run.rows import by_iteration, read_jsonl, transcript_of

_PLACE = re.compile(r"(\d{1,9})/(\d{1,9})/(\d{1,9})/(\d{1,9})")


@dataclass(frozen=True)
class Recorded:
    """Where a recorded episode stood.

    Attributes:
        env: its environment, as the run had it.
        task: its task.
        actions: what was done before the step.
        seen: the observation at the step.
    """

    env: Env
    task: str
    actions: list[str]
    seen: str


def recorded(run_folder: str, place: str | None) -> Recorded:
    """Read where an episode of a run stood.

    Args:
        run_folder: the run.
        place: iteration/group/member/step, as in the addresses of `stapo view`.

    Raises:
        ConfigError: no such place.
        RunDirectoryError: the run or its transcript cannot be read.
    """
    match = _PLACE.fullmatch(place or "")
    if match is None:
        raise ConfigError(f"--at is '{place or ''}', expected iteration/group/member/step, such as 10/0/3/4.")
    iteration, group, member, step = map(int, match.groups())
    run = RunDirectory.open(Path(run_folder))
    path = transcript_of(run.path, iteration)
    if not path.is_file():
        written = ", ".join(map(str, list(by_iteration(run.transcripts()))[:10])) or "none"
        raise ConfigError(f"'{run_folder}' has no transcript of iteration {iteration}. Take one of: {written}.")
    record = next((r for r in read_jsonl(path) if (r.get("group"), r.get("member")) == (group, member)), None)
    steps = record.get("steps") if record is not None else None
    if record is None or not isinstance(steps, list) or not step < len(steps):
        raise ConfigError(
            f"iteration {iteration} of '{run_folder}' has no step {step} of group {group}, member {member}."
        )
    return Recorded(
        _environment(run, record),
        str(record.get("task_id")),
        [str(one.get("action")) for one in steps[:step]],
        str(steps[step].get("observation")),
    )


def _environment(run: RunDirectory, record: Mapping[str, Any]) -> Env:
    config = read_run_config(run)
    if config.envs:
        config = environment_of(config, str(record.get("env") or "") or None)
    return make(config.env.name, **config.env.options)
