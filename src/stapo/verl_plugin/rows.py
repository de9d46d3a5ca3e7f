"""Between our steps and verl's rows: what travels beside the tokens, and how trajectories come back from it.

A row is a chain: steps of an episode whose prompts extend each other, as one token list with a mask. verl keeps token
ids, masks and log-probabilities of a row itself. Everything else that the math needs is one plain mapping in the row's
`extra_fields`, under the key `PAYLOAD`: verl overwrites a row's own reward, but not this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stapo.errors import EngineError
from stapo.policy.sequences import chained
from stapo.rollout import Step, StopReason, Trajectory
from stapo.texts import counted
from stapo.training.batch import rows_of

PAYLOAD = "stapo"
"""Key of our part of a row's `extra_fields`."""

_STEP = (
    "blind_ids", "action", "valid", "problem", "anchor", "observation", "reward", "truncated", "repeated", "effect",
    "retriever_error", "cut_texts", "foreign_markers", "broken_markers", "forgotten_turns",
)  # fmt: skip
_EPISODE = ("task_id", "task_type", "goal", "won", "task_score", "attempts")


@dataclass(frozen=True)
class SentRow:
    """One chain of an episode as verl takes it.

    Attributes:
        prompt_ids: the first step's prompt.
        response_ids: the sampled tokens of its steps, and between two of them what the later prompt adds.
        mask: per response token, 1 where it was sampled, else 0.
        logprobs: likewise, of the sampler (nats); 0 where it was not sampled.
        steps: numbers of its steps in the episode.
        payload: plain data that travels with it.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    logprobs: list[float]
    steps: list[int]
    payload: dict[str, Any]


@dataclass(frozen=True)
class VerlRow:
    """One row as verl has it when advantages are due.

    Attributes:
        uid: verl's id of the prompt, which is a task group here.
        member: which attempt of the group.
        prompt_ids: the first step's full prompt.
        response_ids: as in `SentRow`.
        mask: likewise.
        logprobs: per response token, from the policy before the update, at the rollout temperature (nats); what is not
            sampled may hold anything.
        entropies: likewise, of the distribution that the token was drawn from (nats).
        payload: of its `SentRow`.
        padding: verl made the row up to fill its batch; everything else in it is a copy or zero.
        sampled: as `logprobs`, those that the rollout server recorded; None where it gives none.
    """

    uid: str
    member: int
    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    logprobs: list[float]
    entropies: list[float]
    payload: Mapping[str, Any] | None
    padding: bool = False
    sampled: list[float] | None = None

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """First token and end of each step's response among the response tokens.

        Raises:
            EngineError: the row does not come from our agent loop, or its mask is not that of its steps.
        """
        if self.padding:
            return [(0, len(self.response_ids))]
        spans = [(int(step["start"]), int(step["end"])) for step in _payload(self)["row_steps"]]
        mask = [0] * len(self.response_ids)
        for start, end in spans:
            mask[start:end] = [1] * (end - start)
        if mask != self.mask:
            raise EngineError(
                f"the response mask of a row of {_whose(self)} has {counted(sum(self.mask), 'sampled token')} of "
                f"{len(self.mask)}, expected {sum(mask)}, where its {counted(len(spans), 'step')} lie: tokens of "
                "one step would be trained with the advantage of another. Does a setting of verl's cut responses or "
                "change masks (rollout_correction)?"
            )
        return spans


def sent_rows(trajectory: Trajectory, position: int, *, merge: bool) -> list[SentRow]:
    """Lay a finished episode out as verl's rows, one for each of its chains.

    Args:
        trajectory: the episode.
        position: of its task in the order of tasks; the same for all attempts of a group.
        merge: whether steps may share a row; without, each has its own.
    """
    episode = {name: getattr(trajectory, name) for name in _EPISODE}
    episode |= {"position": position, "steps": len(trajectory.steps), "stop_reason": trajectory.stop_reason.value}
    chains = rows_of([trajectory], merge=merge, whole=True)[1]
    return [_sent(trajectory.steps, numbers, episode) for numbers in chained(range(chains.rows), chains.chain_b)]


def _sent(steps: Sequence[Step], numbers: list[int], episode: Mapping[str, Any]) -> SentRow:
    prompt_ids = steps[numbers[0]].prompt_ids
    response_ids: list[int] = []
    mask: list[int] = []
    logprobs: list[float] = []
    row_steps: list[dict[str, Any]] = []
    for number in numbers:
        step = steps[number]
        between = step.prompt_ids[len(prompt_ids) + len(response_ids) :]
        start, length = len(response_ids) + len(between), len(step.response_ids)
        response_ids += [*between, *step.response_ids]
        mask += [0] * len(between) + [1] * length
        logprobs += [0.0] * len(between) + step.logprobs
        row_steps.append(
            {
                **{name: getattr(step, name) for name in _STEP},
                "parts": {part: list(tokens) for part, tokens in step.parts.items()},
                "step": number,
                "start": start,
                "end": start + length,
            }
        )
    return SentRow(prompt_ids, response_ids, mask, logprobs, numbers, {**episode, "row_steps": row_steps})


def trajectories_of(rows: Sequence[VerlRow]) -> tuple[list[Trajectory], list[tuple[int, int]]]:
    """Put the rows of one batch together again; padding is left out.

    Returns:
        the episodes, ordered by position of the task, group and member, and for every step in that order its place in
        `rows` and its number in that row.

    Raises:
        EngineError: a row carries no payload of ours, or another mask than its steps have, an episode lacks a step or
            has one twice, or there is no row but padding.
    """
    found: dict[tuple[int, str, int], dict[int, tuple[int, int]]] = {}
    for place, row in enumerate(rows):
        if row.padding:
            continue
        payload = _payload(row)
        steps = found.setdefault((int(payload["position"]), row.uid, row.member), {})
        for part, step in enumerate(payload["row_steps"]):
            number = int(step["step"])
            if number in steps:
                raise EngineError(f"verl's batch holds step {number + 1} of {_whose(row)} twice, expected once.")
            steps[number] = place, part
    if not found:
        raise EngineError(
            f"verl's batch of {counted(len(rows), 'row')} holds nothing but padding; expected at least one step. "
            "Every episode of "
            "this iteration failed or could not begin: look for errors of the agent loop above."
        )
    groups: dict[str, int] = {}
    trajectories, places = [], []
    for (_, uid, member), steps in sorted(found.items()):
        first = rows[next(iter(steps.values()))[0]]
        expected = int(_payload(first)["steps"])
        if sorted(steps) != list(range(expected)):
            raise EngineError(
                f"verl's batch holds {counted(len(steps), 'step')} of {_whose(first)}, expected all {expected}: "
                "returns of an episode with a hole in it would be wrong. Is a filter or a sampler of single rows "
                "configured?"
            )
        group = groups.setdefault(uid, len(groups))
        order = [steps[number] for number in range(expected)]
        trajectories.append(_trajectory(_payload(first), [(rows[place], part) for place, part in order], group, member))
        places += order
    return trajectories, places


def _trajectory(payload: Mapping[str, Any], steps: list[tuple[VerlRow, int]], group: int, member: int) -> Trajectory:
    return Trajectory(
        group=group,
        member=member,
        steps=[_step(row, part) for row, part in steps],
        stop_reason=StopReason(payload["stop_reason"]),
        **{name: payload[name] for name in _EPISODE},
    )


def _step(row: VerlRow, part: int) -> Step:
    payload, (start, end) = _payload(row)["row_steps"][part], row.spans[part]
    return Step(
        prompt_ids=row.prompt_ids + row.response_ids[:start],
        response_ids=row.response_ids[start:end],
        logprobs=(row.logprobs if row.sampled is None else row.sampled)[start:end],
        old_logprobs=[] if row.sampled is None else row.logprobs[start:end],
        entropies=row.entropies[start:end],
        prompt="",
        blind_prompt="",
        response="",
        parts={part: (int(first), int(end)) for part, (first, end) in payload["parts"].items()},
        **{name: payload[name] for name in _STEP},
    )


def _payload(row: VerlRow) -> Mapping[str, Any]:
    if row.payload is None:
        raise EngineError(
            f"a row of verl's batch (prompt {row.uid}, attempt {row.member}) does not come from stapo's agent loop. "
            "Set actor_rollout_ref.rollout.agent.default_agent_loop=stapo, as 'stapo verl' does."
        )
    return row.payload


def _whose(row: VerlRow) -> str:
    return f"task '{_payload(row)['task_id']}' (prompt {row.uid}, attempt {row.member})"
