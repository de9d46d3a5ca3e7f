"""Advantages and flags from plain rows: by hand, and those of a run's own transcripts."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from stapo.adapters.credit import StepRow, assign_credit
from stapo.algo import get_algorithm
from stapo.errors import ConfigError, NonFiniteError


def row(episode, reward=0.0, state="s", group="g", **more):
    return StepRow(group=group, episode=episode, reward=reward, state=state, **more)


def test_grpo_by_hand():
    """Returns 1 and 0: mean .5, standard deviation of the sample .7071, so +-.7071; all steps of an episode alike."""
    found = assign_credit([row("a"), row("a", 1.0), row("b"), row("c", 3.0, group="h")], "grpo")
    assert [c.advantage for c in found] == pytest.approx([0.7071, 0.7071, -0.7071, 0.0], abs=1e-4)
    assert not any(c.flagged or c.trajectory_weight or c.independence_weight for c in found)


def test_the_order_of_episodes_and_the_form_of_rows_change_nothing():
    rng = random.Random(0)
    rows = [
        row(f"{group}{episode}", float(rng.random() < 0.3), rng.choice("xyz"), group, entropy=rng.random())
        for group in "pq" for episode in range(4) for _ in range(5)
    ]  # fmt: skip
    found = assign_credit(rows, "gigpo")
    assert any(c.step_advantage for c in found)
    order = sorted(range(len(rows)), key=lambda n: (n % 5, rows[n].group == "p", rows[n].episode))
    shuffled = assign_credit([rows[n] for n in order], "gigpo")
    for place, n in enumerate(order):
        assert shuffled[place].advantage == pytest.approx(found[n].advantage, abs=1e-6)
    plain = assign_credit([vars_of(r) for r in rows], "gigpo")
    assert [c.advantage for c in plain] == [c.advantage for c in found]


def vars_of(step):
    return {name: getattr(step, name) for name in StepRow.__dataclass_fields__}


def test_outliers_are_flagged_with_the_weights_of_the_terms():
    """Eight alike entropies and one far off, all of one state; without a different blind prompt nothing acts on it."""
    algorithm = get_algorithm("stapo")
    algorithm = replace(algorithm, selective=replace(algorithm.selective, alpha=0.25, gamma=0.5))
    near = [0.50, 0.51, 0.49, 0.52, 0.48, 0.50, 0.51, 0.49]
    rows = [row(f"e{n}", entropy=h) for n, h in enumerate([*near, 5.0])]
    found = assign_credit(rows, algorithm)
    assert [c.flagged for c in found] == [False] * 8 + [True]
    assert (found[8].trajectory_weight, found[8].independence_weight) == (0.25, 0.5)
    assert found[8].normalized_entropy > 2
    assert not any(c.flagged for c in assign_credit([replace(r, acts=False) for r in rows], algorithm))
    without = assign_credit([replace(r, entropy=None) if n == 8 else r for n, r in enumerate(rows)], algorithm)
    assert not without[8].flagged


@pytest.mark.parametrize("reward, weight", [(1.0, 0.25), (-1.0, 0.0)])
def test_a_gate_by_credit_leaves_the_penalty(reward, weight):
    algorithm = get_algorithm("stapo")
    terms = replace(algorithm.selective, alpha=0.25, gamma=0.5, gate="positive")
    rows = [row(f"e{n}", entropy=0.5 + 0.01 * (n % 3)) for n in range(8)] + [row("last", reward, entropy=5.0)]
    last = assign_credit(rows, replace(algorithm, selective=terms))[8]
    assert (last.flagged, last.trajectory_weight, last.independence_weight) == (True, weight, 0.5)
    with pytest.raises(ConfigError, match="gate is 'bonus'"):
        assign_credit(rows, replace(algorithm, selective=replace(terms, gate="bonus")))


def test_a_run_of_ours_has_the_same_numbers(toy_run):
    """The rows of a transcript, as another trainer would hand them over."""
    recorded = [
        json.loads(line) for line in (toy_run / "transcripts" / "iteration-00001.jsonl").read_text().splitlines()
    ]
    rows, expected = [], []
    for episode in recorded:
        for step in episode["steps"]:
            rows.append(
                {
                    "group": episode["group"], "episode": (episode["group"], episode["member"]),
                    "reward": step["reward"],
                    "state": str(step["anchor_group"]), "entropy": step["entropy"], "valid": step["valid"],
                    "won": episode["won"],
                }
            )  # fmt: skip
            expected.append(step)
    assert len(rows) > 8
    for got, step in zip(assign_credit(rows, "stapo"), expected, strict=True):
        assert got.advantage == pytest.approx(step["advantage"], abs=1e-5)
        assert got.episode_advantage == pytest.approx(step["episode_advantage"], abs=1e-5)
        assert got.step_advantage == pytest.approx(step["step_advantage"], abs=1e-5)
        if step["normalized_entropy"] is None:
            assert math.isnan(got.normalized_entropy)
        else:
            assert got.normalized_entropy == pytest.approx(step["normalized_entropy"], abs=1e-4)


@pytest.mark.parametrize("rows, algorithm, said", [
    ([{"group": 0, "episode": 0, "reward": 1.0}], "stapo", "row 0 has no state; every row needs"),
    ([{"group": 0, "episode": 0, "reward": 1.0, "state": "s", "entropi": 1}], "stapo", "Did you mean 'entropy'?"),
    ([3], "stapo", "row 0 is 3, expected a StepRow"),
    ([row("a", group="g"), row("a", group="h")], "stapo", "episode 'a' has rows in 2 groups"),
    ([row("a")], "ppo", "needs values of a critic"),
    ([row("a")], "stapo-running", "needs entropies of earlier iterations"),
    ([row("a")], "stapo-random", "'stapo-random' draws rows by chance; give seed"),
    ([row("a")], 3, "algorithm is 3, expected a name of 'stapo algorithms'"),
    (None, "stapo", "rows is None, expected a list of rows"),
])  # fmt: skip
def test_what_cannot_be_used_is_said(rows, algorithm, said):
    with pytest.raises(ConfigError) as caught:
        assign_credit(rows, algorithm)
    assert said in str(caught.value)


def test_no_rows_and_no_numbers():
    assert assign_credit([]) == []
    with pytest.raises(NonFiniteError):
        assign_credit([row("a", math.nan)])


@pytest.mark.parametrize("field, wrong, expected", [
    ("reward", "1", "a number"),
    ("reward", None, "a number"),
    ("reward", True, "a number"),
    ("reward", 10**400, "a number"),
    ("state", 3, "a text"),
    ("state", ["s"], "a text"),
    ("entropy", -0.5, "a number of nats, 0 or more, or None"),
    ("entropy", [1.0], "a number of nats"),
    ("group", ["g"], "a name"),
    ("group", math.nan, "a name"),
    ("episode", None, "a name"),
    ("episode", ({},), "a name"),
    ("valid", "yes", "True or False"),
    ("won", "no", "True or False"),
    ("won", 2, "True or False"),
    ("acts", None, "True or False"),
])  # fmt: skip
def test_a_value_of_another_type_is_named_with_its_row(field, wrong, expected):
    """Also in a StepRow, which checks nothing itself."""
    bad = replace(row("b"), **{field: wrong})
    for rows in ([row("a"), bad], [asdict(row("a")), {**asdict(row("b")), field: wrong}]):
        with pytest.raises(ConfigError) as caught:
            assign_credit(rows, "grpo")
        assert str(caught.value).startswith(f"row 1: {field} is ")
        assert f"expected {expected}" in str(caught.value)


@pytest.mark.parametrize("field", ["reward", "entropy"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_named_with_its_row(field, wrong):
    with pytest.raises(NonFiniteError, match=rf"^row 1: {field} is (nan|inf), expected a finite number"):
        assign_credit([row("a"), replace(row("b"), **{field: wrong})], "stapo")


def test_numbers_of_numpy_and_torch_count_as_numbers():
    plain = [row("a", 1.0, group=0, entropy=0.5), row("b", 0.0, group=0, entropy=0.25)]
    others = [
        row("a", np.float32(1.0), group=np.int64(0), entropy=torch.tensor(0.5), valid=np.bool_(True), won=0),
        row("b", torch.tensor(0), group=0, entropy=np.float64(0.25)),
    ]
    assert assign_credit(others, "stapo") == assign_credit(plain, "stapo")


@pytest.mark.parametrize("seed", [3, "abc", (-1,), (0.5,), ()])
def test_a_seed_that_is_none_is_said(seed):
    with pytest.raises(ConfigError, match="expected whole numbers of 0 or more"):
        assign_credit([row("a")], "stapo-random", seed=seed)
