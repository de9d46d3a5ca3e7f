"""Trajectories become rows: one per step, in order, with the numbers of the step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stapo.algo import OutlierConfig, get_algorithm
from stapo.errors import NonFiniteError
from stapo.rollout import Step, Trajectory
from stapo.training.batch import build_batch, counted_entropies

STAPO = get_algorithm("stapo")


def step(anchor="a", *, reward=0.0, valid=True, entropies=(0.5, 1.5), blind=(1,), **facts):
    n = len(entropies)
    return Step(
        prompt_ids=[1, 2, 3], blind_ids=list(blind), response_ids=list(range(10, 10 + n)), logprobs=[-1.0] * n,
        entropies=list(entropies), prompt="p", blind_prompt="b", response="r", action="go", valid=valid,
        problem="" if valid else "x", anchor=anchor, observation=anchor, reward=reward, **facts,
    )  # fmt: skip


def episodes(*groups):
    """Trajectories of task groups, each a list of lists of steps."""
    return [
        Trajectory(f"task{g}", "type", "goal", g, j, steps)
        for g, members in enumerate(groups)
        for j, steps in enumerate(members)
    ]


def test_rows_are_the_steps_in_order():
    trajectories = episodes([[step("a"), step("b")], [step("a")]], [[step("a")], [], [step("c"), step("c")]])
    batch = build_batch(trajectories, STAPO)
    assert len(batch) == 6
    assert batch.steps == [s for t in trajectories for s in t.steps]
    assert batch.group_b.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.traj_b.tolist() == [0, 0, 1, 2, 4, 4]
    assert batch.step_b.tolist() == [0, 1, 0, 0, 0, 1]
    # The same observation in another task is another anchor group.
    assert batch.anchor_b.tolist() == [0, 1, 0, 2, 3, 3]
    assert batch.entropy_b == pytest.approx([1.0] * 6)


def test_advantages_are_those_of_the_method_notes():
    """Success at the third step with reward 10 and discount .95 against a failure; one invalid step."""
    win = [step("a"), step("b"), step("c", reward=10.0)]
    loss = [step("a", valid=False), step("d")]
    batch = build_batch(episodes([win, loss]), replace(STAPO, advantage=replace(STAPO.advantage, invalid_penalty=0.1)))
    assert batch.advantages.return_b == pytest.approx([9.025, 9.5, 10, -0.1, 0])
    assert batch.advantages.episode_b[:3] == pytest.approx([0.7071] * 3, abs=1e-4)
    # Only the first observation was seen twice; its two returns are +-0.7071 spreads from their mean.
    assert batch.advantages.step_b == pytest.approx([0.7071, 0, 0, -0.7071, 0], abs=1e-4)


def test_row_tokens_share_the_response():
    batch = build_batch(episodes([[step(blind=(7, 8))]]), STAPO)
    assert (batch.full(0).prompt_ids, batch.blind(0).prompt_ids) == ([1, 2, 3], [7, 8])
    assert batch.full(0).response_ids is batch.blind(0).response_ids is batch.steps[0].response_ids


def _outlier_steps(blind=(1,)):
    """Thirteen visits of one state; the last is far more uncertain than the others."""
    common = [0.20, 0.22, 0.18, 0.21, 0.19, 0.20, 0.23, 0.17, 0.20, 0.21, 0.19, 0.20]
    return [step("loop", entropies=(h,), blind=blind) for h in (*common, 0.65)]


def test_the_outlier_is_flagged_and_acted_on():
    batch = build_batch(episodes([_outlier_steps()]), STAPO)
    assert np.flatnonzero(batch.outliers.high_b).tolist() == [12]
    assert np.flatnonzero(batch.flag_b).tolist() == [12]


def test_a_row_whose_blind_prompt_hides_nothing_is_not_acted_on():
    batch = build_batch(episodes([_outlier_steps(blind=(1, 2, 3))]), STAPO)
    assert np.flatnonzero(batch.outliers.mask_b).tolist() == [12]
    assert not batch.flag_b.any()


def test_tokens_of_one_part_make_the_entropy():
    parts = {"think": (1, 3), "action": (3, 4)}
    s = step(entropies=(9.0, 1.0, 3.0, 5.0, 9.0), parts=parts)
    assert counted_entropies(s, "response") == [9.0, 1.0, 3.0, 5.0, 9.0]
    for tokens, expected in (("response", 5.4), ("think", 2.0), ("action", 5.0)):
        algorithm = replace(STAPO, outlier=OutlierConfig(tokens=tokens))
        assert build_batch(episodes([[s]]), algorithm).entropy_b == pytest.approx([expected])


def test_rows_without_counted_tokens_are_in_no_statistic():
    """What such a row holds must not move the fences, and it is never flagged, not even when all steps are."""
    marked = [replace_parts(s, {"action": (0, 1)}) for s in _outlier_steps()]
    empty = [step("loop", entropies=(50.0, 60.0)) for _ in range(4)]
    for select in ("iqr", "all"):
        algorithm = replace(STAPO, outlier=OutlierConfig(tokens="action", select=select))
        alone = build_batch(episodes([marked]), algorithm).outliers
        batch = build_batch(episodes([marked + empty]), algorithm)
        assert np.isnan(batch.entropy_b[13:]).all()
        assert not batch.outliers.included_b[13:].any()
        assert not batch.outliers.mask_b[13:].any()
        assert batch.outliers.mask_b[:13].tolist() == alone.mask_b.tolist()
        assert (batch.outliers.lower, batch.outliers.upper) == (alone.lower, alone.upper)


def replace_parts(s, parts):
    s.parts = parts
    return s


@pytest.mark.parametrize(
    "bad, said",
    [
        (step(reward=float("nan")), r"reward of step 2 of task 'task0' \(group 0, member 1\) is nan"),
        (step(entropies=(0.5, float("inf"))), "entropy of step 2 .* is inf"),
        (replace(step(), logprobs=[-1.0, float("-inf")]), "log-probability of step 2 .* is -inf"),
    ],
)
def test_numbers_that_are_not_finite_are_named(bad, said):
    with pytest.raises(NonFiniteError, match=said):
        build_batch(episodes([[step()], [step(), bad]]), STAPO)


@pytest.mark.parametrize(
    "group",
    [
        [[step(reward=1.0)], [step(reward=1.0)]],
        [[step()]],
        [[step(entropies=(0.0,))], [step(entropies=(0.0,))]],
        [[step(valid=False)], [step(valid=False)], []],
    ],
    ids=["equal rewards", "group of one, one step", "no entropy", "all invalid"],
)
@pytest.mark.parametrize("select", ["iqr", "all", "none"])
def test_degenerate_groups_give_finite_numbers(group, select):
    batch = build_batch(episodes(group), replace(STAPO, outlier=OutlierConfig(select=select)))
    assert np.isfinite(batch.advantages.total_b).all()
    assert batch.advantages.total_b == pytest.approx(np.zeros(len(batch)))
    assert batch.flag_b.all() == (select == "all")
    assert batch.flag_b.any() == (select == "all")


# -- pieces that other algorithms pick ---------------------------------------------------------------------------------


def test_hgpo_compares_steps_with_a_common_past():
    """Two attempts saw a b, one x b; in b returns are .95, 0 and 0, in a b .95 and 0 (population spread)."""
    members = [[step("a"), step("b"), step("won", reward=1.0)], [step("a"), step("b")], [step("x"), step("b")]]
    batch = build_batch(episodes(members), get_algorithm("hgpo"))
    z = 2**-0.5
    # b after x is in level 0 alone; the others weigh level 0 by a third and level 1, where they are +-1, by two thirds.
    expected = [(2 * z + 2) / 3, (-z - 2) / 3, -z]
    assert batch.advantages.total_b[[1, 4, 6]] == pytest.approx(expected, abs=1e-4)
    # The same past in another task is another past.
    twice = build_batch(episodes(members, members), get_algorithm("hgpo"))
    assert twice.advantages.total_b == pytest.approx(np.tile(batch.advantages.total_b, 2), abs=1e-6)


def test_empg_bends_the_advantage_of_grpo():
    members = [[step(reward=1.0, entropies=(0.1,))], [step(entropies=(0.9,))]]
    grpo, empg = (build_batch(episodes(members), get_algorithm(name)).advantages for name in ("grpo", "empg"))
    assert empg.episode_b == pytest.approx(grpo.total_b)
    # Scales 2 / (1 + 1/e) and its 1/e-th on +-.7071, centered: both are off by half of their sum.
    scale = 2 / (1 + np.exp(-1))
    half = 0.70711 * scale * (1 + np.exp(-1)) / 2
    assert empg.total_b == pytest.approx([half, -half], abs=1e-4)


def test_empg_leaves_rows_without_tokens_as_they_are():
    batch = build_batch(episodes([[step(reward=1.0, entropies=())], [step(entropies=(0.4,))]]), get_algorithm("empg"))
    assert np.isfinite(batch.advantages.total_b).all()
    assert batch.advantages.total_b == pytest.approx([0.7071, -0.7071], abs=1e-4)


def test_rows_drawn_by_chance_are_as_many_and_depend_on_the_seed():
    steps = [s for _ in range(3) for s in _outlier_steps()]
    usual = build_batch(episodes([steps]), STAPO)
    drawn = [build_batch(episodes([steps]), get_algorithm("stapo-random"), seed=(0, 3, i)) for i in (1, 1, 2, 3)]
    assert {int(b.flag_b.sum()) for b in drawn} == {int(usual.flag_b.sum())} != {0}
    assert (drawn[0].flag_b == drawn[1].flag_b).all()
    assert len({tuple(b.flag_b) for b in drawn}) > 1
    with pytest.raises(ValueError, match="seed is None"):
        build_batch(episodes([steps]), get_algorithm("stapo-random"))


def test_what_is_known_of_a_state_is_handed_on():
    algorithm = get_algorithm("stapo-running")
    first = build_batch(episodes([_outlier_steps()]), algorithm)
    (key,) = first.outliers.states
    assert first.outliers.states[key][0] == 13
    # In another task, and as a list, as a save gives it back.
    states = {k: list(v) for k, v in first.outliers.states.items()}
    second = build_batch(episodes([[step("elsewhere")]], [[step("loop", entropies=(0.9,))]]), algorithm, states=states)
    assert second.outliers.states[key][0] == pytest.approx(0.9 * 13 + 1)
    assert second.outliers.normalized_b[1] > 2
    assert build_batch(episodes([_outlier_steps()]), STAPO).outliers.states is None
