"""12. Degenerate groups: finite advantages with the documented value, no division by zero, for every algorithm.

Documented: where all returns of a group are equal, or a group has one member, the episode advantage is 0; where a state
was seen once, or always led to the same return, the step advantage is 0; entropies that are all equal have z-score 0.
With a critic the same holds where it says the same of every state: its advantages are centered over the batch.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from reliable import FLAGGING

from slow import slow_except
from stapo.algo import ALGORITHMS, anchor_groups, compute_advantages, get_algorithm, select_outliers
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.policy import load_policy
from stapo.run import RunDirectory
from stapo.training.loop import Trainer
from toy_world import toy_settings


def rows(members, steps, reward=lambda member, step: 0.0, state=lambda member, step: f"state {step}"):
    """One task group of `members` attempts of `steps` steps."""
    place = [(member, step) for member in range(members) for step in range(steps)]
    return {
        "reward": np.array([reward(m, s) for m, s in place], dtype=float),
        "traj": np.array([m for m, _ in place]),
        "step": np.array([s for _, s in place]),
        "keys": [state(m, s) for m, s in place],
    }


CASES = {
    "all lost": rows(4, 3),
    "all won": rows(4, 3, lambda m, s: float(s == 2)),
    "one attempt": rows(1, 3, lambda m, s: float(s == 2)),
    "one step": rows(4, 1),
    "one attempt of one step": rows(1, 1),
    "one state": rows(4, 3, state=lambda m, s: "here"),
    "no state twice": rows(4, 3, state=lambda m, s: f"{m} {s}"),
}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_to_compare_is_advantage_0(name, case):
    data, algorithm = CASES[case], get_algorithm(name)
    count = len(data["keys"])
    with np.errstate(all="raise"):
        anchor = anchor_groups(np.zeros(count, int), data["keys"], algorithm.advantage)
        found = compute_advantages(
            data["reward"], np.ones(count, bool), np.zeros(count, int), data["traj"], data["step"], anchor,
            np.ones(count), algorithm.advantage, critic=algorithm.critic,
            value_b=np.full(count, 0.25) if algorithm.needs_critic else None,
        )  # fmt: skip
    assert np.isfinite(found.total_b).all()
    assert found.episode_b == pytest.approx(0.0, abs=1e-9)
    # In one and the same state an early step has a smaller discounted return than a late one: that is a difference.
    if algorithm.advantage.step_credit == "g2po" and case in ("all won", "one attempt"):
        # It also compares the steps of a task by how they raise the value of the state; those of one attempt differ.
        assert found.step_b.mean() == pytest.approx(0.0, abs=1e-6)
    elif case != "one state" or not data["reward"].any():
        assert found.step_b == pytest.approx(0.0, abs=1e-9)
        assert found.total_b == pytest.approx(0.0, abs=1e-9)


ENTROPIES = {
    "zero": (np.zeros(12), np.arange(12) % 3),
    "equal": (np.full(12, 0.7), np.arange(12) % 3),
    "one row": (np.array([0.7]), np.array([0])),
    "every state once": (np.linspace(0, 1, 12), np.arange(12)),
    "one state": (np.linspace(0, 1, 12), np.zeros(12, int)),
    "almost equal": (0.5 + 1e-12 * np.arange(12), np.zeros(12, int)),
}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("case", ENTROPIES)
@pytest.mark.parametrize("included", [True, False], ids=["rows that count", "none that counts"])
def test_entropies_without_a_spread(name, case, included):
    entropy, anchor = ENTROPIES[case]
    config = get_algorithm(name).outlier
    with np.errstate(all="raise"):
        found = select_outliers(
            entropy, anchor, np.full(len(entropy), included), config, seed=(0,), state_b=[f"state {a}" for a in anchor]
        )
    assert np.isfinite(found.normalized_b[found.included_b]).all()
    if case in ("zero", "equal") and config.metric != "shannon":
        assert found.normalized_b[found.included_b] == pytest.approx(0.0, abs=1e-6)
    if config.select == "all":
        assert found.mask_b.tolist() == found.included_b.tolist()
    elif case in ("zero", "equal", "one row", "almost equal") or not included:
        # Without a spread there is no outlier.
        assert not found.mask_b.any()


RUNS = [(name, flags) for name in ALGORITHMS for flags in (["all", "none"] if name.startswith("stapo") else ["none"])]
"""Only STAPO and its variants have flags to change."""


@pytest.mark.parametrize("name, flags", RUNS)
@pytest.mark.parametrize("reward", slow_except([0.0, 1.0], 0.0))
def test_a_run_goes_through(toy_model, tmp_path, name, flags, reward):
    """Every step flagged or none, rewards all 0 or not, groups of one: every number that is logged is finite."""
    # Algorithms that compare the trajectories of a group refuse groups of one.
    preset = get_algorithm(name)
    for group_size in (3,) if preset.needs_groups or preset.sampling.dynamic else (1, 3):
        algorithm = {"name": name}
        if name.startswith("stapo"):
            algorithm |= {"outlier": {"select": flags}, "selective": FLAGGING["selective"]}
        settings = toy_settings(
            toy_model, algorithm=algorithm, rollout__group_size=group_size, env__options={"reward": reward},
            optim__iterations=1,
        )  # fmt: skip
        config = from_data(RunConfig, settings)
        made = RunDirectory.create(tmp_path / str(group_size), to_data(config), ["test"])
        trainer = Trainer(config, load_policy(str(toy_model), config.model), made)
        with np.errstate(divide="raise", invalid="raise"):
            row = trainer.iterate(1)
        update = {k: v for k, v in row["update"].items() if v is not None}
        assert all(math.isfinite(v) for v in update.values()), update
        expected = row["rows"] if name.startswith("stapo") and flags == "all" else 0
        assert row["outlier"]["flagged"] == expected
        sampling, critic = row.get("sampling"), row.get("critic")
        if sampling is not None and reward == 0:
            # No group can differ: every round is played in vain, and one group is kept so that there is something.
            assert sampling == {"rounds": 10, "kept_groups": 0, "dropped_groups": 20}
            assert row["episodes"] == group_size
        if critic is not None:
            assert math.isfinite(critic["mean_value"])
            assert critic["explained_variance"] is None or math.isfinite(critic["explained_variance"])
        trainer.collector.close()
