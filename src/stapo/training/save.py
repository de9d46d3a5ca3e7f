"""Writing the state of a run into its save folder, and what happens when that fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from stapo.config.run_config import RunConfig
from stapo.config.schema import to_data
from stapo.errors import SaveError
from stapo.policy import Policy
from stapo.run import RunDirectory
from stapo.run.directory import versions
from stapo.run.rows import FILE_NAME as RECORD
from stapo.training.callbacks import Callbacks
from stapo.training.randomness import random_state
from stapo.training.state import RunState, Savable, write_state


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
    reference: Path | None,
    callbacks: Callbacks,
    critic: Savable | None = None,
) -> Path | None:
    """Save a state together with random states, row positions, configuration and versions.

    Args:
        run: the run.
        config: its configuration.
        state: position and counters.
        policy: the policy.
        optimizer: of its weights.
        reference: folder of the frozen starting policy, where there is one.
        callbacks: told of the save, or that it failed and the run goes on.
        critic: weights and optimizer of its own, where the algorithm has one.

    Returns:
        the save's folder; None where it could not be written and `log.on_save_error` is `continue`.

    Raises:
        SaveError: it could not be written, and `log.on_save_error` is `stop`.
    """
    plain, _ = random_state()
    try:
        # Rows first reach the disk, then the save that counts on them.
        rows, record = run.row_positions(), run.row_record()
    except OSError as err:
        raise SaveError(f"the rows of the run in '{run.path}' cannot be saved: {err.strerror or err}.") from err
    whole = replace(state, rows=rows, random=plain, config=to_data(config), versions=versions())

    def fill(folder: Path) -> None:
        write_state(folder, whole, policy, optimizer, reference, critic)
        (folder / RECORD).write_bytes(record)

    try:
        folder = run.saves.write(fill, config.log.keep_saves)
    except SaveError as err:
        if config.log.on_save_error == "stop":
            raise
        callbacks.notice(f"{err} The run goes on without this save (log.on_save_error is 'continue').")
        return None
    callbacks.save(state.iteration, state.stage, folder)
    return folder
