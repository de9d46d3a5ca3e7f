"""Callbacks: who is told what a run does, and may end it.

    class Print(stapo.Callback):
        def on_update(self, event):
            print(event.iteration, event.metrics["success"])

    stapo.train("tiny", callbacks=[Print()])

Every event is a frozen value made for one callback: whatever is done with it, the run goes on with its own numbers. A
callback that raises is named in a warning and dropped. One that raises `StopTraining` ends the run at its next safe
point, with everything saved.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stapo.documents import shown
from stapo.errors import ConfigError
from stapo.trackers.process import TrackerProcesses
from stapo.training.interrupt import Interrupts

if TYPE_CHECKING:
    from stapo.config.run_config import RunConfig
    from stapo.rollout.types import Trajectory
    from stapo.training.batch import RowBatch


class StopTraining(Exception):
    """Raised by a callback to end the run: at the next safe point, with everything saved and status `stopped`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartEvent:
    """A run starts or is resumed.

    Attributes:
        path: run directory; config.yaml and run.json are in it.
        config: settings of the run.
        iteration: iterations done before; rows of later ones were cut off, and come again.
        save: name of the save that is resumed from; "" for a new run.
    """

    path: Path
    config: RunConfig
    iteration: int = 0
    save: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One played episode.

    Attributes:
        task_id: the task.
        task_type: the family it is reported under.
        goal: the task sentence.
        group: index of its task group in the iteration.
        member: index in the group, from 0.
        won: the task was solved.
        score: sum of its rewards.
        task_score: how well it was done, 0 to 1; None where the environment does not judge by degrees.
        stop_reason: why it ended, as in the metrics.
        responses: what the policy said, one text per step.
        actions: what the environment was given, one text per step.
    """

    task_id: str
    task_type: str
    goal: str
    group: int
    member: int
    won: bool
    score: float
    task_score: float | None
    stop_reason: str
    responses: tuple[str, ...]
    actions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutEvent:
    """The episodes of an iteration were played.

    Attributes:
        iteration: from 1.
        episodes: all that were played, in order of group and member.
    """

    iteration: int
    episodes: tuple[Episode, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchEvent:
    """The rows of an iteration, one per step (B rows), have advantages and flags; the weights have not moved yet.

    Attributes:
        iteration: from 1.
        group_b: index of each row's task group.
        episode_b: index of its episode.
        step_b: number of its step in the episode, from 0.
        anchor_b: index of its anchor group.
        advantage_b: total advantage.
        entropy_b: mean token entropy in nats; NaN where no token counts.
        normalized_entropy_b: the same, normalized in its anchor group.
        scored_b: whether the row has a normalized entropy; False where its anchor group is too small.
        flagged_b: whether the selective terms act on the row.
    """

    iteration: int
    group_b: np.ndarray
    episode_b: np.ndarray
    step_b: np.ndarray
    anchor_b: np.ndarray
    advantage_b: np.ndarray
    entropy_b: np.ndarray
    normalized_entropy_b: np.ndarray
    scored_b: np.ndarray
    flagged_b: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateEvent:
    """The weights were updated, and the iteration is logged.

    Attributes:
        iteration: from 1.
        metrics: the iteration's row of metrics.jsonl.
    """

    iteration: int
    metrics: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationEvent:
    """An evaluation was played and logged.

    Attributes:
        iteration: iterations done when it was played.
        metrics: its row of evals.jsonl.
    """

    iteration: int
    metrics: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveEvent:
    """The state of the run was saved: what a resumed run continues from.

    Attributes:
        iteration: iterations done.
        stage: "sft" or "rl".
        path: folder of the save.
    """

    iteration: int
    stage: str
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class EndEvent:
    """The run ended, and run.json says how.

    Attributes:
        status: `stopped` by a signal or a callback, `failed` by an error.
        reason: of a run that stopped or failed; "" otherwise.
    """

    status: Literal["done", "stopped", "failed"]
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEvent:
    """A long stage proceeds: demonstrations, SFT, rollout, update, evaluation.

    Attributes:
        name: of the stage; what stands in brackets in it may change.
        done: how much of it is done.
        total: all of it.
    """

    name: str
    done: int
    total: int


class Callback:
    """Told what a run does; override what you need. The events come in the order of these methods."""

    def on_start(self, event: StartEvent) -> None:
        """Called once, before anything is trained."""

    def on_rollout(self, event: RolloutEvent) -> None:
        """Called in every iteration, when its episodes were played."""

    def on_batch(self, event: BatchEvent) -> None:
        """Called in every iteration, when advantages and flags are known and the weights have not moved."""

    def on_update(self, event: UpdateEvent) -> None:
        """Called in every iteration, when its row was logged."""

    def on_evaluation(self, event: EvaluationEvent) -> None:
        """Called after every evaluation, once for each mode (sampled, greedy)."""

    def on_save(self, event: SaveEvent) -> None:
        """Called after every save."""

    def on_end(self, event: EndEvent) -> None:
        """Called once, when the run is done, was stopped or has failed."""

    def on_stage(self, event: StageEvent) -> None:
        """Called often while a long stage proceeds; for progress bars."""

    def on_notice(self, text: str) -> None:
        """Called with a sentence that a person should read."""


class TrackerCallback(Callback):
    """Starts the trackers of a run beside it, and gives up those that do not end with it.

    Args:
        names: of the trackers.
        tell: called with what a person should read.
    """

    def __init__(self, names: Sequence[str], tell: Callable[[str], None]) -> None:
        self.names, self.tell = names, tell
        self.processes: TrackerProcesses | None = None

    def on_start(self, event: StartEvent) -> None:
        """Start them; they read the rows of the run themselves."""
        self.processes = TrackerProcesses(event.path, self.names)
        self.processes.start()

    def on_stage(self, event: StageEvent) -> None:
        """Pass on what they have said meanwhile."""
        for said in self.processes.news() if self.processes else ():
            self.tell(said)

    def on_end(self, event: EndEvent) -> None:
        """Wait for them, and not for long."""
        for said in self.processes.finish() if self.processes else ():
            self.tell(said)


class Callbacks:
    """Tells callbacks, and keeps the run safe from them.

    Args:
        callbacks: who is told, in this order.

    Attributes:
        interrupts: requests to stop, by signals and by `StopTraining`; looked at whenever a stage proceeds.

    Raises:
        ConfigError: one of them is not a `Callback`.
    """

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        if not isinstance(callbacks, Iterable):
            raise ConfigError(f"callbacks is {shown(callbacks)}, expected a list of instances of stapo.Callback.")
        self._listening = list(callbacks)
        self.interrupts = Interrupts(0.0, self.notice)
        given: list[Any] = self._listening
        for callback in given:
            if not isinstance(callback, Callback):
                call = f": give an instance, {callback.__name__}()" if isinstance(callback, type) else ""
                raise ConfigError(f"callbacks holds {shown(callback)}, expected instances of stapo.Callback{call}.")

    @contextmanager
    def joined_by(self, callback: Callback) -> Iterator[None]:
        """A context in which one more callback is told."""
        self._listening.append(callback)
        try:
            yield
        finally:
            if callback in self._listening:
                self._listening.remove(callback)

    def stage(self, name: str, done: int, total: int) -> None:
        """Tell how far a stage is.

        Raises:
            RunInterrupted: the time of a stop that was asked for is over.
        """
        self.interrupts.check()
        self.tell("on_stage", lambda: StageEvent(name=name, done=done, total=total))

    def notice(self, text: str) -> None:
        """Tell a sentence that a person should read."""
        self.tell("on_notice", lambda: text)

    def rollout(self, iteration: int, trajectories: Sequence[Trajectory]) -> None:
        """Tell of played episodes."""
        self.tell("on_rollout", lambda: RolloutEvent(iteration=iteration, episodes=tuple(map(_episode, trajectories))))

    def batch(self, iteration: int, batch: RowBatch) -> None:
        """Tell of rows with advantages and flags."""
        self.tell("on_batch", partial(_batch_event, iteration, batch))

    def update(self, row: dict[str, Any]) -> None:
        """Tell of a metrics row."""
        self.tell("on_update", lambda: UpdateEvent(iteration=row["iteration"], metrics=copy.deepcopy(row)))

    def evaluation(self, row: dict[str, Any]) -> None:
        """Tell of an evaluation row."""
        self.tell("on_evaluation", lambda: EvaluationEvent(iteration=row["iteration"], metrics=copy.deepcopy(row)))

    def save(self, iteration: int, stage: str, path: Path) -> None:
        """Tell of a save."""
        self.tell("on_save", lambda: SaveEvent(iteration=iteration, stage=stage, path=path))

    def end(self, status: Literal["done", "stopped", "failed"], reason: str = "") -> None:
        """Tell that the run ended."""
        self.tell("on_end", lambda: EndEvent(status=status, reason=reason))

    def tell(self, method: str, event: Callable[[], Any]) -> None:
        """Call `method` of every callback that has one of its own, each with an event of its own."""
        for callback in tuple(self._listening):
            if getattr(type(callback), method) is getattr(Callback, method):
                continue
            try:
                getattr(callback, method)(event())
            except StopTraining as err:
                self.interrupts.request(f"{type(callback).__name__} stopped it" + (f": {err}" if str(err) else ""))
            except (Exception, SystemExit) as err:
                self._drop(callback, method, err)

    def _drop(self, callback: Callback, method: str, err: BaseException) -> None:
        self._listening.remove(callback)
        text = (
            f"callback {type(callback).__name__} raised {type(err).__name__} in {method} and is not called again; the "
            f"run goes on: {' '.join(str(err).split()):.300}"
        )
        if any(type(other).on_notice is not Callback.on_notice for other in self._listening):
            self.notice(f"warning: {text}")
        else:
            with suppress(Warning):  # where warnings are errors
                warnings.warn(text, RuntimeWarning, stacklevel=2)


def _episode(t: Trajectory) -> Episode:
    return Episode(
        task_id=t.task_id,
        task_type=t.task_type,
        goal=t.goal,
        group=t.group,
        member=t.member,
        won=t.won,
        score=t.score,
        task_score=t.task_score,
        stop_reason=t.stop_reason.value,
        responses=tuple(step.response for step in t.steps),
        actions=tuple(step.action for step in t.steps),
    )


def _batch_event(iteration: int, batch: RowBatch) -> BatchEvent:
    def own(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values.setflags(write=False)
        return values

    return BatchEvent(
        iteration=iteration,
        group_b=own(batch.group_b),
        episode_b=own(batch.traj_b),
        step_b=own(batch.step_b),
        anchor_b=own(batch.anchor_b),
        advantage_b=own(batch.advantages.total_b),
        entropy_b=own(batch.entropy_b),
        normalized_entropy_b=own(batch.outliers.normalized_b),
        scored_b=own(batch.outliers.included_b),
        flagged_b=own(batch.flag_b),
    )
