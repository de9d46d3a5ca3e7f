"""The state of a run as files: everything that its remaining numbers depend on, in one sealed folder.

    state.json              position, counters, random states, environments, row positions, configuration, versions
    optimizer.safetensors   moments, step counts and float32 copies of half-precision weights, by name of the weight
    random.safetensors      torch's random states
    best.safetensors        weights of the best measurement within SFT so far, where `sft.keep` asks for them
    policy/                 weights and tokenizer; with adapters, those alone
    rows.json               hashes of the files of rows (`stapo.run.rows`)
    critic/                 weights and optimizer of the critic, where the algorithm has one
    reference/              the frozen starting policy, where the algorithm uses one or adapters rest on it: hard links;
                            written anew after a refresh (`loss.reference_every`)
    refreshed.safetensors   adapters that are the reference since a refresh

Safetensors and JSON only: nothing is unpickled, whoever may have written the folder.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from stapo.atomic_io import link_or_copy
from stapo.config.run_config import RunConfig
from stapo.config.schema import to_data
from stapo.documents import parse_json
from stapo.errors import SaveError
from stapo.former_names import with_present_names
from stapo.policy import Policy
from stapo.run import RunDirectory
from stapo.run.directory import versions
from stapo.run.rows import FILE_NAME as RECORD
from stapo.run.saves import unchanged_files
from stapo.training.callbacks import Callbacks
from stapo.training.optimizer import optimizer_tensors

FORMAT = 2
REFRESHED = "refreshed.safetensors"
LATER = {"states", "sft_losses", "sft_best", "task_counts", "worlds", "refreshed"}
"""What saves of this format have not always had; without it, its default is meant."""

Stage = Literal["sft", "rl"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands, apart from its tensors.

    Attributes:
        stage: SFT or RL.
        sft_step: optimizer steps of SFT that are done.
        sft_end: the step at which it will stop, where `sft.stop_at` was reached.
        sft_losses: losses of its steps since the last row.
        sft_best: step of the best measurement so far, its share of tasks won and its success; empty before the first.
        iteration: iterations of RL that are done.
        evaluated: the evaluation due after that iteration is done as well.
        refreshed: iteration after which the reference was refreshed last, 0 where it never was.
        task_position: training tasks handed out so far.
        task_counts: groups of each task that were seen, and how many of them differed, where tasks are chosen by that.
        tasks: digest of the training and the evaluation tasks.
        failures_in_a_row: episodes that failed without one ending normally in between.
        non_finite_in_a_row: optimizer steps left out in a row.
        environments: what environments carry from one episode to the next, one entry each.
        states: entropies by state, where the algorithm keeps them (`stapo.algo.StateEntropies`).
        worlds: where a run has several environments, these of each: tasks, failures, entropies by state, what it
            carries, and the task groups that it was given. The name is that of the key in `state.json`.
        rows: bytes of each file of rows.
        seconds: wall time of each stage so far.
        random: global random states of Python and NumPy.
        config: the resolved configuration.
        versions: of Python and the packages that wrote it.
        format: of this file.
    """

    stage: Stage
    sft_step: int = 0
    sft_end: int | None = None
    sft_losses: list[float] = field(default_factory=list)
    sft_best: list[float] = field(default_factory=list)
    iteration: int = 0
    evaluated: bool = False
    refreshed: int = 0
    task_position: int = 0
    task_counts: dict[str, list[float]] = field(default_factory=dict)
    tasks: str = ""
    failures_in_a_row: int = 0
    non_finite_in_a_row: int = 0
    environments: list[Any] = field(default_factory=list)
    states: dict[str, list[float]] = field(default_factory=dict)
    worlds: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


class Savable(Protocol):
    """A part of a run that writes its own files."""

    def write(self, folder: Path) -> None:
        """Write everything that is needed to go on into `folder`, which does not exist yet."""
        ...


def write_position(folder: Path, state: RunState, record: bytes) -> None:
    """Write `state.json` and `rows.json`.

    Raises:
        OSError: they cannot be written.
    """
    text = json.dumps(asdict(state), indent=1, allow_nan=True)
    (folder / "state.json").write_text(text + "\n", encoding="utf-8")
    (folder / RECORD).write_bytes(record)


def read_state(folder: Path) -> RunState:
    """Read position and counters of a save.

    Raises:
        SaveError: unreadable, of a later format, or not complete.
    """
    path = folder / "state.json"
    try:
        data = parse_json(path.read_bytes())
    except (OSError, ValueError) as err:
        raise SaveError(f"'{path}' cannot be read: {err}.") from err
    if isinstance(data, dict) and data.get("format") == 1:
        data = _from_format_1(data)
    if isinstance(data, dict) and isinstance(data.get("config"), dict):
        data["config"] = with_present_names(data["config"])[0]
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise SaveError(
            f"'{path}' has save format {found}, this version reads format {FORMAT}. Continue the run with the version "
            "that wrote it (see versions in run.json)."
        )
    missing = {f.name for f in fields(RunState)} - data.keys() - LATER
    if missing:
        raise SaveError(f"'{path}' lacks {', '.join(sorted(missing))}; the run cannot be continued from it.")
    wrong = [f.name for f in fields(RunState) if f.name in data and not _fits(f, data[f.name])]
    if wrong:
        raise SaveError(f"'{path}' has something else than expected in {', '.join(wrong)}; it is not one of ours.")
    return RunState(**{f.name: data[f.name] for f in fields(RunState) if f.name in data})


def _from_format_1(data: dict[str, Any]) -> dict[str, Any]:
    """SFT was called warm start."""
    data = {name.replace("warm_", "sft_"): value for name, value in data.items()} | {"format": FORMAT}
    data["stage"] = "sft" if data.get("stage") == "warm_start" else data.get("stage")
    for name in ("rows", "seconds"):
        if isinstance(data.get(name), dict):
            data[name] = with_present_names(data[name])[0]
    return data


def _fits(setting: Field[Any], value: object) -> bool:
    """Whether a value has the type of its default; every number of a state is a whole one, and no less than 0."""
    if setting.name == "stage":
        return value in ("sft", "rl")
    if setting.name == "sft_end" and value is None:
        return True
    kind = str(setting.type).partition("[")[0].partition(" ")[0]
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if setting.name in ("rows", "seconds"):
        return isinstance(value, dict) and all(isinstance(v, int | float) and v >= 0 for v in value.values())
    return type(value).__name__ == kind


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file of a save.

    Raises:
        SaveError: it cannot be read.
    """
    try:
        return load_file(path)
    except Exception as err:  # the reader's own error class has no base but Exception
        raise SaveError(f"'{path}' cannot be read: {err}.") from err


def tasks_digest(*lists: Sequence[str]) -> str:
    """SHA-256 of task lists, so that a run is not continued on other games."""
    return hashlib.sha256("\0".join("\n".join(tasks) for tasks in lists).encode("utf-8", "replace")).hexdigest()


def reference_folder(run: RunDirectory) -> Path:
    """Where the frozen starting policy is: in the newest save, or in the first checkpoint before there is one."""
    for save in run.saves.complete()[:1]:
        if (save / "reference").is_dir():
            return save / "reference"
    return run.checkpoint("start")


def save_state(
    run: RunDirectory,
    config: RunConfig,
    state: RunState,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    reference: Path | Policy | None,
    callbacks: Callbacks,
    critic: Savable | None = None,
    best: Mapping[str, torch.Tensor] | None = None,
) -> Path | None:
    """Save a state together with random states, row positions, configuration and versions.

    Args:
        run: the run.
        config: its configuration.
        state: position and counters.
        policy: what training moves of it is written.
        optimizer: of its weights.
        reference: folder of the frozen policy, or that policy where no folder holds it yet, or None where there is
            none.
        callbacks: told of the save, or that it failed and the run goes on.
        critic: weights and optimizer of its own, where the algorithm has one.
        best: weights that SFT may end with, by name.

    Returns:
        the save's folder; None where it could not be written and `log.on_save_error` is `continue`.

    Raises:
        SaveError: it could not be written, or the reference's files were changed since they were written, and
            `log.on_save_error` is `stop`.
    """
    plain, torch_states = random_state()
    try:
        # Rows first reach the disk, then the save that counts on them.
        rows, record = run.row_positions(), run.row_record()
    except OSError as err:
        raise SaveError(f"the rows of the run in '{run.path}' cannot be saved: {err.strerror or err}.") from err
    whole = replace(state, rows=rows, random=plain, config=to_data(config), versions=versions())

    def fill(folder: Path) -> None:
        policy.save_trained(folder / "policy")
        save_file(optimizer_tensors(optimizer, policy.model), folder / "optimizer.safetensors")
        save_file(torch_states, folder / "random.safetensors")
        if best:
            save_file(dict(best), folder / "best.safetensors")
        if critic is not None:
            critic.write(folder / "critic")
        if policy.adapter is not None and policy.adapter.reference_tensors:
            kept = {name: t.cpu().contiguous() for name, t in policy.adapter.reference_tensors.items()}
            save_file(kept, folder / REFRESHED)
        if isinstance(reference, Policy):
            reference.save(folder / "reference")
        elif reference is not None:
            (folder / "reference").mkdir()
            # A link to a file that was damaged since would be hashed anew and pass for good.
            for file in unchanged_files(reference):
                link_or_copy(file, folder / "reference" / file.name)
        write_position(folder, whole, record)

    try:
        folder = run.saves.write(fill, config.log.keep_saves)
    except SaveError as err:
        if config.log.on_save_error == "stop":
            raise
        callbacks.notice(f"{err} The run goes on without this save (log.on_save_error is 'continue').")
        return None
    callbacks.save(state.iteration, state.stage, folder)
    return folder


def seed_all(seed: int) -> None:
    """Seed the generators that are shared by the whole process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the legacy generator is the one that others share)
    torch.manual_seed(seed)


def random_state() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The states as plain data, and those of torch as tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    plain = {
        "python": [version, list(internal), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
    }
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return plain, tensors


def restore_random_state(plain: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Put the states back.

    Raises:
        SaveError: one is missing or cannot be read; resuming with other random numbers would be another run.
    """
    try:
        version, internal, gauss = plain["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, position, has_gauss, cached = plain["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
        torch.set_rng_state(tensors["cpu"])
        if torch.cuda.is_available():
            for i in range(torch.cuda.device_count()):
                torch.cuda.set_rng_state(tensors[f"cuda:{i}"], i)
    except (KeyError, TypeError, ValueError, RuntimeError) as err:
        raise SaveError(
            f"the save's random states are missing or damaged ({type(err).__name__}: {err}). The run cannot be "
            "continued as the same run from it."
        ) from err
