"""Episodes that fail for reasons that are not the policy's: whose fault, what was seen, what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from stapo.envs.guard import EnvFailure, EpisodeLost
from stapo.errors import FailureLimitError
from stapo.texts import counted

T = TypeVar("T")
_LONGEST_ERROR = 500


class Boundary(StrEnum):
    """Where an episode failed. Closed: every failure carries exactly one."""

    MODEL = "model"
    """The sampler answered with no tokens, or not with one log-probability and one entropy per token."""
    ENVIRONMENT = "environment"
    """The environment raised, exited, hung, or returned what its protocol does not allow."""
    PARSER = "parser"
    """Decoding or reading a response raised."""
    RETRIEVER = "retriever"
    """A retriever that the environment asks could not be reached, and the environment said so by `RetrieverError`."""
    SERVER = "server"
    """A server that plays the environment could not be reached, refused, or answered with something else."""
    ENDPOINT = "endpoint"
    """The server that a frozen model is asked on could not be reached, refused, or answered with something else."""
    REWARD = "reward"
    """The environment's reward was not a number. (NaN and infinity are numbers; training stops on them.)"""


class Outcome(StrEnum):
    """What became of an episode that failed. Closed."""

    RETRIED = "retried"
    """It was played again from the start."""
    LEFT_OUT = "left out"
    """It was out of retries: training leaves it out, evaluation counts it as lost."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure of one episode.

    Attributes:
        boundary: whose failure it is.
        error: first line of what was seen, at most 500 characters.
        task_id: the task that was attempted.
        group: index of its task group.
        member: index inside the group.
        step: steps that the episode had then, 0 for a failed reset or first step.
        attempt: which attempt at this episode it was, from 1.
        outcome: what became of the episode.
    """

    boundary: Boundary
    error: str
    task_id: str
    group: int
    member: int
    step: int
    attempt: int
    outcome: Outcome

    @property
    def taints_environment(self) -> bool:
        """Whether the environment may be what failed, so that the next attempt needs a fresh one."""
        return self.boundary not in (Boundary.MODEL, Boundary.PARSER, Boundary.ENDPOINT)


def first_line(error: str) -> str:
    """The first line of a message that has text, at most 500 characters."""
    lines = error.strip().splitlines()
    return lines[0][:_LONGEST_ERROR] if lines else "(no message)"


class TaskFailed(Exception):
    """Something that an environment was asked to do could not be done.

    Attributes:
        out: why.
        step: steps that were played.
    """

    def __init__(self, out: EnvFailure | EpisodeLost, step: int = 0) -> None:
        super().__init__()
        self.out = out
        self.step = step


@dataclass
class Attempts:
    """What happens to one thing after the other that an environment is asked to do, each tried more than once.

    Attributes:
        retries: how often each is tried again.
        limit: so many in a row that fail for good are too many.
        in_a_row: that have failed for good since one last went well.
        failures: all of them, those cured by a retry included.
    """

    retries: int
    limit: int
    in_a_row: int = 0
    failures: list[Failure] = field(default_factory=list)

    def went_well(self) -> None:
        """Start the count anew."""
        self.in_a_row = 0

    def note(
        self, out: EnvFailure | EpisodeLost, task_id: str, group: int, member: int, step: int, attempt: int
    ) -> Failure:
        """Note a failure; its outcome says whether there is another attempt."""
        cause = environment_failure(out)
        outcome = Outcome.RETRIED if attempt <= self.retries else Outcome.LEFT_OUT
        boundary, error = Boundary(cause.boundary), first_line(cause.error)
        failure = Failure(boundary, error, task_id, group, member, step, attempt, outcome)
        self.failures.append(failure)
        return failure

    def give_up(self, failure: Failure, out: EnvFailure | EpisodeLost) -> None:
        """Count something that failed for good.

        Raises:
            FailureLimitError: it is one too many.
        """
        self.in_a_row += 1
        if self.in_a_row >= self.limit:
            cause = environment_failure(out)
            detail = f"\n{cause.detail.strip()}" if cause.detail else ""
            raise FailureLimitError(
                f"{counted(self.in_a_row, 'episode')} in a row failed for reasons that are not the policy's; expected "
                f"fewer than {self.limit}. The last one: task '{failure.task_id}', group {failure.group}, member "
                f"{failure.member}, step {failure.step}, attempt {failure.attempt}, boundary {failure.boundary.value}: "
                f"{cause.error}. Repair what failed and resume, or raise rollout.max_failures.{detail}"
            )

    def until_done(self, once: Callable[[], T], task_id: str, number: int) -> T | None:
        """What `once` returns; called again where it raises `TaskFailed`, and None where all attempts are used up.

        Raises:
            FailureLimitError: they are, and it is one too many.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                found = once()
            except TaskFailed as err:
                failure = self.note(err.out, task_id, number, 0, err.step, attempt)
                if failure.outcome is not Outcome.RETRIED:
                    self.give_up(failure, err.out)
                    return None
            else:
                self.went_well()
                return found


def environment_failure(out: EnvFailure | EpisodeLost) -> EnvFailure:
    """A failure with its boundary; an episode that another one took along failed in its environment."""
    return out if isinstance(out, EnvFailure) else EnvFailure(Boundary.ENVIRONMENT, out.reason)
