"""Between our step rows and verl's: what travels beside the tokens, and how trajectories come back from it.

verl keeps token ids, masks and log-probabilities of a row itself. Everything else that the math needs is one plain
mapping in the row's `extra_fields`, under the key `PAYLOAD`: verl overwrites a row's own reward, but not this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stapo.errors import EngineError
from stapo.rollout import Step, StopReason, Trajectory
from stapo.texts import counted

PAYLOAD = "stapo"
"""Key of our part of a row's `extra_fields`."""

_STEP = (
    "blind_ids", "action", "valid", "problem", "anchor", "observation", "reward", "truncated", "repeated", "effect",
    "retriever_error",
)  # fmt: skip
_EPISODE = ("task_id", "task_type", "goal", "won", "task_score", "attempts")


@dataclass(frozen=True)
class VerlRow:
    """One row as verl has it when advantages are due.

    Attributes:
        uid: verl's id of the prompt, which is a task group here.
        member: which attempt of the group.
        prompt_ids: the full prompt.
        response_ids: the sampled tokens.
        logprobs: per response token, from the policy before the update, at the rollout temperature (nats).
        entropies: likewise, of the distribution that the token was drawn from (nats).
        payload: what `payloads` made of the step.
        padding: verl made the row up to fill its batch; everything else in it is a copy or zero.
    """

    uid: str
    member: int
    prompt_ids: list[int]
    response_ids: list[int]
    logprobs: list[float]
    entropies: list[float]
    payload: Mapping[str, Any] | None
    padding: bool = False


def payloads(trajectory: Trajectory, position: int) -> list[dict[str, Any]]:
    """What travels with each step of an episode: plain data, one mapping per step.

    Args:
        trajectory: a finished episode.
        position: of its task in the order of tasks; the same for all attempts of a group.
    """
    episode = {name: getattr(trajectory, name) for name in _EPISODE}
    episode |= {"position": position, "steps": len(trajectory.steps), "stop_reason": trajectory.stop_reason.value}
    return [
        {
            **episode,
            **{name: getattr(step, name) for name in _STEP},
            "parts": {part: list(tokens) for part, tokens in step.parts.items()},
            "step": number,
        }
        for number, step in enumerate(trajectory.steps)
    ]


def trajectories_of(rows: Sequence[VerlRow]) -> tuple[list[Trajectory], list[int]]:
    """Put the rows of one batch together again; padding is left out.

    Returns:
        the episodes, ordered by position of the task, group and member, and the place in `rows` of every step in that
        order.

    Raises:
        EngineError: a row carries no payload of ours, an episode lacks a step or has one twice, or there is no row
            but padding.
    """
    found: dict[tuple[int, str, int], dict[int, int]] = {}
    for place, row in enumerate(rows):
        if row.padding:
            continue
        payload = _payload(row)
        steps = found.setdefault((int(payload["position"]), row.uid, row.member), {})
        number = int(payload["step"])
        if number in steps:
            raise EngineError(f"verl's batch holds step {number + 1} of {_whose(row)} twice, expected once.")
        steps[number] = place
    if not found:
        raise EngineError(
            f"verl's batch of {counted(len(rows), 'row')} holds nothing but padding; expected at least one step. "
            "Every episode of "
            "this iteration failed or could not begin: look for errors of the agent loop above."
        )
    groups: dict[str, int] = {}
    trajectories, places = [], []
    for (_, uid, member), steps in sorted(found.items()):
        first = rows[next(iter(steps.values()))]
        expected = int(_payload(first)["steps"])
        if sorted(steps) != list(range(expected)):
            raise EngineError(
                f"verl's batch holds {counted(len(steps), 'step')} of {_whose(first)}, expected all {expected}: "
                "returns of an episode with a hole in it would be wrong. Is a filter or a sampler of single rows "
                "configured?"
            )
        group = groups.setdefault(uid, len(groups))
        order = [steps[number] for number in range(expected)]
        trajectories.append(_trajectory([rows[place] for place in order], group, member))
        places += order
    return trajectories, places


def _trajectory(rows: Sequence[VerlRow], group: int, member: int) -> Trajectory:
    payload = _payload(rows[0])
    return Trajectory(
        group=group,
        member=member,
        steps=[_step(row) for row in rows],
        stop_reason=StopReason(payload["stop_reason"]),
        **{name: payload[name] for name in _EPISODE},
    )


def _step(row: VerlRow) -> Step:
    payload = _payload(row)
    return Step(
        prompt_ids=row.prompt_ids,
        response_ids=row.response_ids,
        logprobs=row.logprobs,
        entropies=row.entropies,
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
