"""Starting a run, or resuming the one that is there: which of the two, and whether that may be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stapo.atomic_io import remove_folder
from stapo.config.run_config import RunConfig
from stapo.config.schema import differing, from_data, to_data
from stapo.errors import ConfigError, RunDirectoryError, SaveError, StapoError
from stapo.run import RunDirectory, require_free
from stapo.run.directory import versions
from stapo.run.lock import FILE_NAME as LOCK_NAME
from stapo.run.lock import is_locked
from stapo.texts import counted
from stapo.training.checkpoint import RunState, read_state
from stapo.training.evaluations import choose, early_end

MAY_CHANGE = (
    "optim.iterations",
    "optim.micro_tokens",
    "model.gradient_checkpointing",
    "rollout.batch_tokens",
    "rollout.decode_tokens",
    "rollout.kept_keys_gib",
    "rollout.workers",
    "rollout.env_deadline",
    "rollout.retries",
    "rollout.max_failures",
    "rollout.vllm.gpu_memory",
    "rollout.vllm.cpu_cache_gib",
    "rollout.vllm.enforce_eager",
    "rollout.vllm.sleep",
    "eval.batch",
    "eval.stop_at",
    "eval.patience",
    "log.transcript_every",
    "log.gradient_ratio_every",
    "log.transcript_groups",
    "log.tokens",
    "log.checkpoint_every",
    "log.save_every",
    "log.keep_saves",
    "log.save_seconds",
    "log.on_save_error",
    "log.grace",
    "log.trackers",
)
"""Settings that may change on resume: its length, and what decides memory, speed and what is
written down. Everything else would make it another run."""


_OF_A_START = {
    "run.json",
    "config.yaml",
    "sft.jsonl",
    "warm_start.jsonl",
    "failures.jsonl",
    "saves",
    "checkpoints",
    "trackers",
    "transcripts",
} | {LOCK_NAME}


@dataclass(frozen=True)
class Restart:
    """What a run resumes from.

    Attributes:
        folder: the save.
        state: its contents, apart from tensors.
        reasons: why newer saves were passed over.
        remarks: what the user has to be told besides, as sentences.
    """

    folder: Path
    state: RunState
    reasons: list[str]
    remarks: list[str] = field(default_factory=list)


def is_run(path: Path) -> bool:
    """Whether there is a run in `path`."""
    return (path / "run.json").is_file() and (path / "config.yaml").is_file()


def is_finished(run: RunDirectory, config: RunConfig) -> bool:
    """Whether the run is done, and as long as `config` wants it."""
    # Not config.yaml: a run that is being made longer has its new length there before anything is trained.
    info = run.info()
    if info.get("status") != "done" or info.get("iterations") != config.optim.iterations:
        return False
    return not info.get("ended_early") or bool(early_end(choose(run.rows("evals"), config.eval), config.eval))


def finished(run: RunDirectory) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """What run.json says of a run that is done: evaluation rows of start and end, wall time of each stage.

    Raises:
        RunDirectoryError: it lacks the evaluations that every run ends with, or they are something else.
    """
    info = run.info()
    evaluations, seconds = info.get("evaluations"), info.get("seconds")
    if not isinstance(evaluations, list) or not evaluations or not all(map(_is_evaluation, evaluations)):
        wrong = "evaluations"
    elif not isinstance(seconds, dict) or not all(_is_number(seconds.get(name)) for name in ("sft", "rl")):
        wrong = "seconds"
    else:
        return evaluations, seconds
    raise RunDirectoryError(
        f"'{run.path / 'run.json'}' says that the run is done, but its {wrong} are missing or not what a run leaves. "
        "Put the file back as it was; 'stapo report' and 'stapo eval' work without."
    )


def _is_evaluation(row: object) -> bool:
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(key), str) for key in ("mode", "protocol"))
        and _is_number(row.get("success"))
        and all(row.get(key) is None or _is_number(row.get(key)) for key in ("success_standard_error", "task_score"))
        and isinstance(row.get("by_type"), dict)
        and all(isinstance(part, dict) and _is_number(part.get("success")) for part in row["by_type"].values())
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _changes(saved: Mapping[str, Any], config: RunConfig) -> list[tuple[str, Any, Any]]:
    """Settings in which `config` differs from saved ones: (dotted path, saved value, new value)."""
    # Read by this version and written out again: settings that came later have their defaults, not a difference.
    return list(differing(to_data(from_data(RunConfig, dict(saved))), to_data(config), decided=True))


def _forbidden(saved: Mapping[str, Any], config: RunConfig) -> list[tuple[str, Any, Any]]:
    """Changes that would make it another run."""
    return [change for change in _changes(saved, config) if change[0] not in MAY_CHANGE]


def check_same_run(run: RunDirectory, config: RunConfig) -> list[str]:
    """Compare the settings of a run with those that it is to be resumed with.

    Returns:
        the changes, all of them allowed, as `path: old -> new`.

    Raises:
        ConfigError: a change that would make it another run; all differences are listed.
    """
    if forbidden := _forbidden(run.config(), config):
        lines = "".join(f"\n  {path}: {old!r} in the run, {new!r} now" for path, old, new in forbidden)
        raise ConfigError(
            f"the run in '{run.path}' was made with other settings, so it cannot be resumed:{lines}\n"
            f"Give the settings of the run ('stapo resume {run.path}' does), or choose another folder with --out. "
            f"These may change: {', '.join(MAY_CHANGE)}."
        )
    return [f"{path}: {old} -> {new}" for path, old, new in _changes(run.config(), config)]


def find_restart(run: RunDirectory, config: RunConfig) -> Restart | None:
    """The newest save that the run can resume from; None where nothing was saved yet.

    Raises:
        SaveError: there are saves, and all are damaged.
        ConfigError: fewer iterations are asked for than are done.
    """
    states: dict[Path, RunState] = {}

    def check(folder: Path) -> None:
        states[folder] = state = read_state(folder)
        # A save that somebody has put there from another run would otherwise be continued as this one.
        if wrong := _forbidden(state.config, config):
            path, old, new = wrong[0]
            raise SaveError(f"'{folder}' belongs to another run: its {path} is {old!r}, this run's is {new!r}.")
        lost = run.holds(state.rows)
        if lost:
            raise SaveError(f"{lost}; '{folder}' cannot be used without it.")
        damage = run.row_damage(folder, training=True)
        if damage:
            raise SaveError(f"{'; '.join(damage)}. The rows before a save have to be those that it was taken after.")

    folder, reasons = run.saves.newest_good(check)
    if folder is None:
        if _holds_rows(run.path / "metrics.jsonl"):
            raise SaveError(
                f"the run in '{run.path}' has iterations but no saves: an earlier version made it, or its folder "
                "saves/ was removed. It can be evaluated and reported, not resumed. Nothing was touched; choose "
                "another folder with --out."
            )
        return None
    state = states[folder]
    if state.iteration > config.optim.iterations:
        raise ConfigError(
            f"the run in '{run.path}' has done {counted(state.iteration, 'iteration')}, and optim.iterations is "
            f"{config.optim.iterations}. Ask for at least as many as are done."
        )
    try:
        run.rows("metrics")  # saves of earlier versions have no hashes; the warnings of what follows rest on these rows
    except RunDirectoryError as err:
        raise SaveError(f"{err} The run cannot be resumed; put the file back as it was.") from err
    # Damage of what nothing depends on is not a reason to lose a run.
    unread = [
        f"{said}. The run goes on; nothing in it depends on this file."
        for said in run.row_damage(folder, training=False)
    ]
    return Restart(folder, state, reasons, [*_other_versions(state), *unread])


def _other_versions(state: RunState) -> list[str]:
    now = versions()
    other = [f"{name} {was} then, {now[name]} now" for name, was in state.versions.items() if now.get(name, was) != was]
    if not other:
        return []
    return [
        f"versions have changed since the save: {', '.join(other)}. Numbers may differ from those of an undisturbed "
        "run; run.json notes it."
    ]


def trained_nothing(run: RunDirectory) -> bool:
    """Whether a start came to nothing: no save, no iteration, no evaluation, nothing that could be lost.

    It failed, or was stopped before its first save. What it has written says how far it came, and no more.
    """
    if not {entry.name for entry in run.path.iterdir()} <= _OF_A_START:
        return False
    if any(_holds_rows(run.path / f"{name}.jsonl") for name in ("metrics", "evals", "eval_episodes")):
        return False
    sft = run.config().get("sft")
    if isinstance(sft, Mapping) and sft.get("steps") == 0:
        return True
    # A hidden folder is one that was not finished. A damaged save was one.
    held = [p for kind in ("saves", "checkpoints") if (run.path / kind).is_dir() for p in (run.path / kind).iterdir()]
    return all(p.name.startswith(".") for p in held)


def _holds_rows(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def open_or_begin(path: Path, config: RunConfig, command: list[str]) -> RunDirectory:
    """The run in `path`, or a new one; a start that trained nothing gives its place to one with other settings.

    Args:
        path: whose lock is held.
        config: of the run.
        command: how it was asked for.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    if not is_run(path):
        return RunDirectory.create(path, to_data(config), command)
    run = RunDirectory.open(path)
    if not is_same(run, config) and trained_nothing(run):
        run.cut_back({}, -1)
        for kind in ("saves", "checkpoints", "transcripts"):
            remove_folder(path / kind)
        # First: without it the folder does not count as a run, whatever happens then.
        (path / "run.json").unlink()
        return RunDirectory.create(path, to_data(config), command)
    return run


def is_same(run: RunDirectory, config: RunConfig) -> bool:
    """Whether a run was made with these settings, those that may change aside."""
    try:
        return not _forbidden(run.config(), config)
    except StapoError:
        return False


def check_place(path: Path, config: RunConfig) -> None:
    """Check that a run with these settings may be started, or resumed, in `path`.

    Raises:
        RunDirectoryError: it holds something else than a run.
        ConfigError: it holds a run with other settings.
    """
    if not is_run(path):
        require_free(path)
        return
    run = RunDirectory.open(path)
    # Another process that has just begun has trained nothing either.
    if is_locked(path) or not trained_nothing(run):
        check_same_run(run, config)


def unfinished_twin(folder: Path, prefix: str, config: RunConfig) -> Path | None:
    """The newest run in `folder` whose name starts with `prefix`, that has these very settings, and that was cut short.

    It is what the same command is meant to resume. A run that another process is writing does not count.
    """
    if not folder.is_dir():
        return None
    for path in sorted(folder.glob(f"{prefix}*"), reverse=True):
        if not is_run(path):
            continue
        try:
            run = RunDirectory.open(path)
            if not _changes(run.config(), config) and run.info().get("status") != "done" and not is_locked(path):
                return path
        except (StapoError, OSError):
            continue
    return None
