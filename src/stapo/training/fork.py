"""A run that begins where another one stands: its policy, optimizer, critic and reference, under other settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stapo.atomic_io import link_or_copy
from stapo.config.run_config import RunConfig
from stapo.config.schema import differing, from_data, to_data
from stapo.errors import ConfigError, SaveError
from stapo.run import RunDirectory
from stapo.run.directory import versions
from stapo.training.checkpoint import REFRESHED, RunState, read_state, write_position

KEY = "forked"
"""Where run.json says what a run was forked from."""

_FREE = ("model.device", "model.gradient_checkpointing", "model.head_kernel", "model.reference")
_TASKS = ("seed", "env.", "envs.", "tasks.", "rollout.tasks", "eval.split", "eval.sets")


@dataclass(frozen=True)
class Fork:
    """Another run's save, as the start of one with other settings.

    Attributes:
        run: that other run.
        folder: its newest undamaged save.
        state: what the save says.
        changes: settings that differ, as `path: old -> new`.
        config: settings of the run to come.
    """

    run: RunDirectory
    folder: Path
    state: RunState
    changes: list[str]
    config: RunConfig

    def begin(self, run: RunDirectory) -> None:
        """Write the first save of `run`, at its iteration 0; where it has one, it is being resumed and needs none.

        Raises:
            SaveError: it cannot be written, or the other run's save was changed meanwhile.
        """
        if run.saves.complete():
            return
        origin = {"run": str(self.run.path.absolute()), "save": self.folder.name, "iteration": self.state.iteration}
        run.write_info({**run.info(), KEY: {**origin, "changes": self.changes}})
        same_tasks = not any(change.startswith(_TASKS) for change in self.changes)
        state = replace(
            self.state,
            iteration=0,
            evaluated=False,
            refreshed=0,
            # Of the same tasks the fork plays those that come next; others begin with their first.
            tasks=self.state.tasks if same_tasks else "",
            failures_in_a_row=0,
            non_finite_in_a_row=0,
            seconds={"sft": 0.0, "rl": 0.0},
            rows=run.row_positions(),
            config=to_data(self.config),
            versions=versions(),
        )
        record, parts = run.row_record(), ["policy", "optimizer.safetensors", "random.safetensors"]
        adapters = bool(self.config.model.lora.rank)
        parts += ["critic"] if self.config.algorithm.needs_critic else []
        parts += ["reference", REFRESHED] if self.config.algorithm.needs_reference or adapters else []

        def fill(folder: Path) -> None:
            for part in parts:
                files = [self.folder / part, *(self.folder / part).rglob("*")]
                for file in (f for f in files if f.is_file()):
                    target = folder / file.relative_to(self.folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    link_or_copy(file, target)
            write_position(folder, state, record)

        run.saves.write(fill, self.config.log.keep_saves)

    def told(self) -> str:
        """What the user is told of it."""
        listed = "".join(f"\n  {change}" for change in self.changes) or " none"
        return (
            f"forked from {self.run.path} after iteration {self.state.iteration} ({self.folder.name} of its saves), "
            f"with its optimizer; settings that differ:{listed}"
        )


def plan_fork(source: Path, config: RunConfig) -> Fork:
    """Check that a run with these settings can begin where the run in `source` stands.

    Raises:
        RunDirectoryError: there is no run.
        SaveError: it has no save that can be used.
        ConfigError: it has not come to RL, or the settings need another model, or a critic that it has not.
    """
    run = RunDirectory.open(source)
    states: dict[Path, RunState] = {}

    def check(folder: Path) -> None:
        states[folder] = read_state(folder)

    folder, _ = run.saves.newest_good(check)
    if folder is None:
        raise SaveError(f"the run in '{source}' has no save to begin from.")
    state = states[folder]
    if state.stage != "rl":
        raise ConfigError(f"the run in '{source}' is still within SFT; resume it first, and fork it once RL has begun.")
    old: dict[str, Any] = to_data(from_data(RunConfig, dict(state.config)))
    changes = list(differing(old, to_data(config), decided=True))
    fixed = [c for c in changes if c[0].startswith(("model.", "sft.")) and c[0] not in _FREE]
    if fixed:
        lines = "".join(f"\n  {path}: {was!r} in the run, {now!r} now" for path, was, now in fixed)
        raise ConfigError(
            f"a fork of the run in '{source}' begins with its policy, after its SFT, so these settings cannot "
            f"differ:{lines}"
        )
    if config.algorithm.needs_critic and not (folder / "critic").is_dir():
        raise ConfigError(
            f"algorithm '{config.algorithm.name}' has a critic, and the run in '{source}' has trained none. Start "
            "without --from, with model.path at one of its checkpoints."
        )
    return Fork(run, folder, state, [f"{path}: {was} -> {now}" for path, was, now in changes], config)


def require_begun(run: RunDirectory) -> None:
    """Check that a fork that was begun has its start.

    Raises:
        SaveError: it was stopped before that.
    """
    if KEY in run.info() and not run.saves.complete():
        raise SaveError(
            f"the run in '{run.path}' was to begin from another run, and was stopped before its start was written. "
            "Give the command with --from again."
        )
