"""What flows out of a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean
from typing import Literal, get_args

from stapo.policy.sequences import Allowed
from stapo.rollout.faults import Failure

OnFailure = Literal["shrink", "drop"]


class StopReason(StrEnum):
    """Why an episode ended. Closed: every trajectory carries exactly one."""

    WON = "won"
    """The environment says that the task is solved."""
    FAILED = "failed"
    """The environment ended the episode, unsolved, before its step limit."""
    STEP_LIMIT = "step_limit"
    """The environment's step limit was reached."""
    TOKEN_LIMIT = "token_limit"
    """The episode has sampled `rollout.limits.tokens`."""
    TIME_LIMIT = "time_limit"
    """The episode has lasted `rollout.limits.seconds`."""
    PROMPT_TOO_LONG = "prompt_too_long"
    """The next prompt did not fit into `max_prompt_tokens`, even without history."""
    ERROR = "error"
    """Environment, model, parser, retriever or reward failed, and so did every retry; `Trajectory.failure` says how."""


NOT_THE_POLICYS = (StopReason.PROMPT_TOO_LONG, StopReason.ERROR)
"""Reasons that say nothing about a policy: it was not asked, or its answer came to nothing."""


OPTIONAL = (StopReason.TOKEN_LIMIT, StopReason.TIME_LIMIT)
"""Reasons that occur where a setting asks for them."""

LIMITS = (StopReason.STEP_LIMIT, *OPTIONAL, StopReason.PROMPT_TOO_LONG)
"""Reasons for which `rollout.limits.reward` says what is paid."""


@dataclass(slots=True)
class Step:
    """One agent step: one training row with its own prompt and response.

    Attributes:
        prompt_ids: tokens of the full prompt c.
        blind_ids: tokens of the trajectory-blind prompt.
        response_ids: the sampled tokens, the end token included where it was sampled; never re-tokenized.
        logprobs: per sampled token, log-probability under the sampling policy at the sampling temperature (nats).
        old_logprobs: the same under the trainer's policy before the update; empty where no pass has computed them.
        entropies: per sampled token, entropy of the distribution it was drawn from (nats).
        prompt: the full prompt as text.
        blind_prompt: the blind prompt as text.
        first_message: of the conversation that the prompt is; "" for other prompts.
        response: decoded response.
        action: the command given to the environment.
        valid: the response kept the format (and, where asked for, named an offered command).
        problem: "" or the short name of what was wrong with the response.
        anchor: key of the state before the action; equal keys inside one task group form an anchor group.
        observation: the observation the agent acted on.
        reward: environment reward of this step times the reward scale; in training, the weighted sum of all rewards.
        truncated: the response hit `max_response_tokens` without an end token.
        repeated: the same command was given before at the same anchor in this episode.
        effect: the action changed the state of the world; None where the environment does not say.
        retriever_error: how the search engine that the action asked for failed, in a word; the environment went on
            without it.
        parts: token range (first, end) of the response's "think" and "action" part; empty where it was not asked for.
        masked: tokens of further prompts, by what they leave out; empty where none were asked for.
        cut_texts: how many of goal, observation and list of commands were too long for the prompt to show whole.
        foreign_markers: how many control tokens others have spelled out in what the prompt shows.
        broken_markers: how many of these were broken up with a blank, as all are for a server.
        forgotten_turns: turns that a conversation lost before this step because its prompt was too long.
        allowed: per sampled token, those it could have been; None where all of the vocabulary could.
        blind_observation: the observation without any trace of the goal.
        admissible: all commands that were offered; None where actions are free text.
        rewards: named rewards times the reward scale: those that the environment pays beside its own; in training, all
            that `rewards` in the settings weighs.
    """

    prompt_ids: list[int]
    blind_ids: list[int]
    response_ids: list[int]
    logprobs: list[float]
    entropies: list[float]
    prompt: str
    blind_prompt: str
    response: str
    action: str
    valid: bool
    problem: str
    anchor: str
    observation: str
    reward: float = 0.0
    truncated: bool = False
    repeated: bool = False
    effect: bool | None = None
    retriever_error: str | None = None
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    masked: dict[str, list[int]] = field(default_factory=dict)
    cut_texts: int = 0
    foreign_markers: int = 0
    broken_markers: int = 0
    forgotten_turns: int = 0
    first_message: str = ""
    allowed: list[Allowed] | None = None
    blind_observation: str = ""
    admissible: tuple[str, ...] | None = None
    rewards: dict[str, float] = field(default_factory=dict)
    old_logprobs: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Trajectory:
    """One episode.

    Attributes:
        task_id: the task that was attempted.
        task_type: the family it is reported under.
        goal: the task sentence.
        group: index of the task group u inside the batch.
        member: index inside the group, 0 … N-1.
        steps: its rows, in order.
        won: the task was solved.
        stop_reason: why it ended.
        failure: what ended it where the stop reason is an error, else None. Its steps are those before the failure.
        task_score: how well the task was done, 0 … 1, where the environment judges by degrees; 0 where it does and the
            episode ended without a judgment, None where it does not.
        attempts: how often it was begun because of its own failures, 1 where nothing failed.
        too_long: tokens of the prompt that did not fit, where the stop reason is that one, else 0.
    """

    task_id: str
    task_type: str
    goal: str
    group: int
    member: int
    steps: list[Step] = field(default_factory=list)
    won: bool = False
    stop_reason: StopReason = StopReason.STEP_LIMIT
    failure: Failure | None = None
    task_score: float | None = None
    attempts: int = 1
    too_long: int = 0

    @property
    def score(self) -> float:
        """Undiscounted sum of the step rewards."""
        return sum(step.reward for step in self.steps)


def mean_task_score(trajectories: Sequence[Trajectory]) -> float | None:
    """Mean of the task scores, None where the environment does not judge by degrees; an unjudged episode counts 0."""
    judged = any(t.task_score is not None for t in trajectories)
    return fmean(t.task_score or 0.0 for t in trajectories) if judged else None


def marker_counts(steps: Sequence[Step]) -> dict[str, int]:
    """Steps with control tokens in texts of others, and how many were broken up; nothing where there are none."""
    counts = {
        "foreign_markers": sum(step.foreign_markers > 0 for step in steps),
        "broken_markers": sum(step.broken_markers for step in steps),
    }
    return {name: count for name, count in counts.items() if count}


def drop_failed(trajectories: Sequence[Trajectory], on_failure: OnFailure) -> tuple[list[Trajectory], list[Failure]]:
    """Take out what training must not see.

    Args:
        trajectories: as `Collector.collect` returns them.
        on_failure: "shrink" leaves failed episodes out, "drop" leaves out every group that has one.

    Returns:
        the trajectories to train on, in their order (empty where all failed), and the failures that ended an episode.

    Raises:
        ValueError: an unknown policy.
    """
    if on_failure not in get_args(OnFailure):
        raise ValueError(f"on_failure is {on_failure!r}, expected one of {', '.join(get_args(OnFailure))}.")
    failures = [t.failure for t in trajectories if t.failure is not None]
    hit = {t.group for t in trajectories if t.failure is not None} if on_failure == "drop" else set()
    return [t for t in trajectories if t.failure is None and t.group not in hit], failures
