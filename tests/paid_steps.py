"""Episodes by hand, and what their steps are paid."""

from __future__ import annotations

from stapo.rollout import Step, Trajectory


def step(action="go", reward=0.0, tokens=2, **rewards):
    ids = list(range(10, 10 + tokens))
    return Step([1], [2], ids, [-0.1] * tokens, [0.5] * tokens, "p", "b", "r", action, True, "", "s", "o", reward,
                rewards=rewards)  # fmt: skip


def group(number, *members, won=()):
    return [Trajectory("task", "type", "goal", number, m, s, m in won) for m, s in enumerate(members)]


def paid(trajectories):
    return [[s.reward for s in t.steps] for t in trajectories]
