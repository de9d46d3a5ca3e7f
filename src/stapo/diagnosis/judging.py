"""Which steps were bad, measured by the environment: episodes are played again, and its judge looks on.

What needs no judge is counted for every environment: an action that was invalid, and one without effect that was given
before at the same anchor. The second needs an environment that says whether an action had an effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stapo.envs import Env, HasJudge, StepResult
from stapo.envs.guard import Started, advance, close_quietly, raised, start
from stapo.rollout import Trajectory
from stapo.texts import counted

GENERIC = {
    "invalid": "the response broke the format, or (where the run asks for it) named no offered command",
    "repeated": "without effect, and given before in the same state",
}


@dataclass(frozen=True)
class Judgment:
    """What a judge said.

    Attributes:
        names: every fault that is looked for, with a sentence.
        faults: per trajectory and step, its faults; None where a step could not be judged.
        judge: whether the environment has a judge of its own.
        remarks: what could not be judged, and why.
    """

    names: dict[str, str]
    faults: list[list[frozenset[str] | None]]
    judge: bool
    remarks: list[str] = field(default_factory=list)


def judge_steps(
    make_env: Callable[[], Env],
    trajectories: Sequence[Trajectory],
    progress: Callable[[int, int], None] | None = None,
) -> Judgment:
    """Judge every step of `trajectories`.

    Args:
        make_env: builds the environment in which they were played.
        trajectories: episodes; their actions are given to a fresh episode of the same task.
        progress: called with (finished, all) episodes.
    """
    env = make_env()
    try:
        if not isinstance(env, HasJudge):
            return _without_judge(trajectories)
        names: dict[str, str] = dict(GENERIC)
        judged, reasons = [], Counter[str]()
        for done, trajectory in enumerate(trajectories, start=1):
            found, reason = _replay(env, trajectory, names)
            judged.append(found)
            if reason:
                reasons[reason] += 1
            if progress is not None:
                progress(done, len(trajectories))
        remarks = [
            f"{counted(count, 'episode')} could not be judged to their end: {why}." for why, count in reasons.items()
        ]
        return Judgment(names, judged, True, remarks)
    finally:
        close_quietly(env)


def _generic(trajectory: Trajectory) -> list[frozenset[str] | None]:
    return [
        frozenset([*(() if s.valid else ["invalid"]), *(["repeated"] if s.repeated and s.effect is False else ())])
        for s in trajectory.steps
    ]


def _without_judge(trajectories: Sequence[Trajectory]) -> Judgment:
    silent = all(step.effect is None for t in trajectories for step in t.steps)
    names = {name: why for name, why in GENERIC.items() if name != "repeated" or not silent}
    remarks = ["The environment has no judge, so only what every environment tells counts as bad."]
    if silent:
        remarks.append("It does not say either whether an action had an effect, so repetition is not counted.")
    return Judgment(names, [_generic(t) for t in trajectories], False, remarks)


def _replay(env: Env, trajectory: Trajectory, names: dict[str, str]) -> tuple[list[frozenset[str] | None], str]:
    """Faults of each step, and why the rest could not be judged ("" where all could)."""
    begun = start(env, trajectory.task_id)
    judged: list[frozenset[str] | None] = [None] * len(trajectory.steps)
    if not isinstance(begun, Started):
        return judged, begun.error
    seen = begun.observation.text
    try:
        judge = env.judge()  # type: ignore[attr-defined]
        names.update(judge.faults)
        for k, (step, generic) in enumerate(zip(trajectory.steps, _generic(trajectory), strict=True)):
            if seen != step.observation:
                return judged, "an episode that was played again went another way"
            judge.before(step.action)
            out = advance(env, step.action)
            if not isinstance(out, StepResult):
                return judged, out.error
            found = frozenset(judge.after(out))
            # The judge knows the state, of which the observation is a part: its word on repetition counts.
            own = {name for name in generic or () if name != "repeated" or name not in judge.faults}
            judged[k], seen = found | own, out.text
    except Exception as err:  # a judge is the code of an environment: what it raises has no common base
        return judged, raised(err, "judging").error
    return judged, ""
