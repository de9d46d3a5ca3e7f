"""What training pays: named rewards of the environment and of functions of the user's, costs, and their weighted sum.

Functions are imported by name where a run trains, and nowhere else: what reads a run folder never runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from stapo.algo import cost_rewards
from stapo.config.rewards import COSTS, ENV, RewardsConfig
from stapo.documents import plain
from stapo.envs.guard import EnvFailure, attempt, short, wrong_reward
from stapo.registry import imported
from stapo.rollout import Trajectory
from stapo.rollout.config import RolloutConfig
from stapo.rollout.faults import Attempts, Outcome
from stapo.rollout.types import LIMITS, StopReason

Function = Callable[..., Any]


def reward_functions(config: RewardsConfig) -> dict[str, Function]:
    """The functions that `rewards.functions` names, imported.

    Raises:
        ConfigError: one cannot be imported, or is not a function; the setting is named.
    """
    return {name: imported(f"rewards.functions.{name}", target) for name, target in config.functions.items()}


class Rewards:
    """Pays trajectories as the settings say.

    Args:
        config: rewards and weights.
        rollout: its scale of rewards, and what is paid at a limit.

    Raises:
        ConfigError: as `reward_functions` does.
    """

    def __init__(self, config: RewardsConfig, rollout: RolloutConfig) -> None:
        self.config = config
        self.scale = rollout.reward_scale
        self.unpaid_at = LIMITS if rollout.limits.reward == "zero" else ()
        self.functions = reward_functions(config)

    def pay(self, played: Sequence[Trajectory], attempts: Attempts) -> None:
        """Set the named rewards of every step, and its reward to their weighted sum.

        A function that raises, or returns something else than a number, is called again as often as a failed episode is
        played again; then its episode counts as failed, in its reward.

        Args:
            played: whole groups, as a collector returns them; failed ones are left alone.
            attempts: counts failures.

        Raises:
            FailureLimitError: too many in a row.
        """
        for trajectory in played:
            if trajectory.failure is None and not self.config.plain:
                self._call_functions(trajectory, attempts)
            if trajectory.stop_reason in self.unpaid_at:
                for step in trajectory.steps:
                    step.reward, step.rewards = 0.0, dict.fromkeys(step.rewards, 0.0)
        if self.config.plain:
            return
        self._add_up([t for t in played if t.failure is None])

    def unpaid(self, played: Sequence[Trajectory]) -> list[str]:
        """Rewards with a weight that nothing paid in these episodes: misspelled, or rare."""
        paid = {name for t in played for step in t.steps for name in step.rewards}
        return [name for name, weight in self.config.weights.items() if weight and name not in paid] if paid else []

    def _call_functions(self, trajectory: Trajectory, attempts: Attempts) -> None:
        number = 1
        while True:
            found = self._earned(trajectory)
            if not isinstance(found, EnvFailure):
                break
            t = trajectory
            failure = attempts.note(found, t.task_id, t.group, t.member, len(t.steps), number)
            if failure.outcome is not Outcome.RETRIED:
                trajectory.failure, trajectory.stop_reason = failure, StopReason.ERROR
                attempts.give_up(failure, found)
                return
            number += 1
        if self.functions:
            attempts.went_well()
        for step, earned in zip(trajectory.steps, found, strict=True):
            step.rewards = {**step.rewards, ENV: step.reward, **earned}

    def _earned(self, trajectory: Trajectory) -> list[dict[str, float]] | EnvFailure:
        """What the functions pay for each step."""
        paid: list[dict[str, float]] = [{} for _ in trajectory.steps]
        for name, function in self.functions.items() if paid else ():
            if name in self.config.per_step:
                calls = [(k, partial(function, step, trajectory)) for k, step in enumerate(trajectory.steps)]
            else:
                calls = [(-1, partial(function, trajectory))]
            for place, call in calls:
                what = f"rewards.functions.{name} ({self.config.functions[name]})"
                value = attempt(call, lambda what=what: what)  # type: ignore[misc]
                if isinstance(value, EnvFailure):
                    return replace(value, boundary="reward")
                value = plain(value)
                if wrong := wrong_reward(value):
                    return EnvFailure("reward", f"{what} returned {short(value)}: {wrong}")
                paid[place][name] = float(value) * self.scale
        return paid

    def _add_up(self, trajectories: list[Trajectory]) -> None:
        rows = [(j, t, step) for j, t in enumerate(trajectories) for step in t.steps]
        weights = self.config.weights
        for cost in COSTS:
            if cost in weights:
                amount = [len(step.response_ids) if cost == "tokens" else 1 for _, _, step in rows]
                costs = cost_rewards(
                    amount, [t.won for _, t, _ in rows], [t.group for _, t, _ in rows], [r[0] for r in rows]
                )
                for (_, _, step), paid in zip(rows, costs.tolist(), strict=True):
                    step.rewards[cost] = paid * self.scale
        for _, _, step in rows:
            step.reward = sum(weight * step.rewards.get(name, 0.0) for name, weight in weights.items())
