"""Rows that travelled through verl give the numbers of the embedded engine, whatever their order and padding.

1. Trajectories come back from shuffled rows as they were.
2. Advantages and flags are those of `build_batch`, bit for bit.
3. Padding is in no statistic, is never flagged, and has advantage 0.
4. What is not a whole episode of ours is an error.
5. Steps whose prompts extend each other share a row; each comes back with its own tokens, and gets its own advantage.
6. A mask that is not that of the steps is an error.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from random_episodes import conversation
from stapo.algo import get_algorithm
from stapo.errors import EngineError
from stapo.rollout import Step, StopReason, Trajectory
from stapo.training.batch import build_batch
from stapo.verl_plugin.credit import NO_TRAJECTORY, Credit, assign_credit, columns
from stapo.verl_plugin.fields import BLIND_LENGTHS, STEP
from stapo.verl_plugin.rows import sent_rows, trajectories_of
from verl_rows import padded, shuffled, verl_rows


def step(anchor: str, reward: float, entropy: float, valid: bool = True) -> Step:
    return Step(
        prompt_ids=[1, 2, 3],
        blind_ids=[1, 3],
        response_ids=[7, 8],
        logprobs=[-1.0, -0.5],
        entropies=[entropy, entropy],
        prompt="",
        blind_prompt="",
        response="",
        action=f"go {anchor}",
        valid=valid,
        problem="" if valid else "no_action",
        anchor=anchor,
        observation=anchor,
        reward=reward,
        effect=True,
        parts={"action": (0, 1)},
    )


def episodes() -> list[Trajectory]:
    """Two groups of three; in the second all attempts loop through one state, where one step is very uncertain."""
    made = []
    for member, won in enumerate((True, False, False)):
        steps = [step("hall", 0.0, 0.2 + 0.01 * member), step("desk", 10.0 * won, 0.3, valid=member != 1)]
        made.append(
            Trajectory("t/1", "warm", "goal one", 0, member, steps, won, StopReason.WON if won else StopReason.FAILED)
        )
    for member in range(3):
        steps = [step("loop", 0.0, 0.5 + 0.002 * (4 * member + k)) for k in range(4)]
        if member == 2:
            steps[3].entropies = [2.0, 2.0]
        made.append(Trajectory("t/2", "cold", "goal two", 1, member, steps, False, StopReason.STEP_LIMIT))
    return made


def without_text(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory, steps=[replace(s, prompt="", blind_prompt="", response="") for s in trajectory.steps])


def advantages(credit: Credit) -> np.ndarray:
    return np.array([step.advantage for steps in credit.steps for step in steps])


def flags(credit: Credit) -> np.ndarray:
    return np.array([bool(step.blind_ids) for steps in credit.steps for step in steps])


def test_trajectories_come_back():
    rows, order = shuffled(verl_rows(episodes()))
    found, places = trajectories_of(rows)
    assert found == [without_text(t) for t in episodes()]
    assert [(order[place], part) for place, part in places] == [(b, 0) for b in range(len(rows))]


NEXT = ("stapo+pgpo", "graphgpo", "stapo-all-steps+g2po", "gigpo-tmn")


@pytest.mark.parametrize("name", ["stapo", "stapo-all-steps", "gigpo", "grpo", "hgpo", "empg", "reinforce++", *NEXT])
def test_same_numbers_as_the_embedded_engine(name):
    algorithm = get_algorithm(name)
    batch = build_batch(episodes(), algorithm)
    rows, order = shuffled(padded(verl_rows(episodes())), seed=1)
    credit = assign_credit(rows, algorithm, merge=True)
    real = order < len(batch)
    assert np.array_equal(advantages(credit)[real], batch.advantages.total_b[order[real]])
    wanted = batch.flag_b if algorithm.selective_on else np.zeros(len(batch), dtype=bool)
    assert np.array_equal(flags(credit)[real], wanted[order[real]])
    assert np.array_equal(credit.traj_b[real], batch.traj_b[order[real]])


def test_flagged_steps_take_their_blind_prompts_along():
    """Hall .20 .21 .22 has z -1 0 1, the desks 0, the loop eleven about -.29 and one (12-1)/sqrt(12) = 3.18.

    Sorted: -1, eleven times -.29, four times 0, 1, 3.18, so Q1 -.29, Q3 0, fences about -.72 and .43.
    """
    credit = assign_credit(verl_rows(episodes()), get_algorithm("stapo"), merge=True)
    assert flags(credit).nonzero()[0].tolist() == [0, 4, 17]
    assert [credit.steps[b][0].blind_ids for b in (0, 4, 17)] == [[1, 3]] * 3


def test_padding_counts_nowhere():
    rows = verl_rows(episodes())
    alone, filled = (assign_credit(given, get_algorithm("stapo"), merge=True) for given in (rows, padded(rows)))
    assert np.array_equal(advantages(filled)[:18], advantages(alone))
    assert advantages(filled)[18:].tolist() == [0.0, 0.0, 0.0]
    assert not flags(filled)[18:].any()
    assert filled.traj_b[18:].tolist() == [NO_TRAJECTORY] * 3
    assert filled.batch.outliers.included == alone.batch.outliers.included == 18


def test_an_episode_with_a_hole():
    rows = verl_rows(episodes())
    with pytest.raises(EngineError, match=r"holds 1 step of task 't/1' \(prompt uid0, attempt 1\), expected all 2"):
        assign_credit(rows[:2] + rows[3:], get_algorithm("stapo"), merge=True)


def test_a_step_twice():
    rows = verl_rows(episodes())
    with pytest.raises(EngineError, match=r"step 2 of task 't/1'.* twice"):
        assign_credit([*rows, rows[1]], get_algorithm("stapo"), merge=True)


def test_rows_of_another_agent_loop():
    rows = verl_rows(episodes())
    rows[4] = replace(rows[4], payload=None)
    with pytest.raises(EngineError, match="default_agent_loop=stapo"):
        assign_credit(rows, get_algorithm("stapo"), merge=True)


def test_nothing_but_padding():
    with pytest.raises(EngineError, match="nothing but padding"):
        assign_credit(padded(verl_rows(episodes()))[18:], get_algorithm("stapo"), merge=True)


# -- rows of several steps ---------------------------------------------------------------------------------------------


def grown() -> list[Trajectory]:
    rng = np.random.default_rng(0)
    return [conversation(rng, j // 2, j % 2, 5, {3} if j else ()) for j in range(4)]


def test_a_chain_is_one_row():
    first = grown()[0]
    (row,) = sent_rows(first, 0, merge=True)
    assert row.steps == [0, 1, 2, 3, 4]
    assert row.prompt_ids == first.steps[0].prompt_ids
    last = first.steps[-1]
    assert row.prompt_ids + row.response_ids == last.prompt_ids + last.response_ids
    sampled = [k for k, m in enumerate(row.mask) if m]
    assert [row.response_ids[k] for k in sampled] == [i for s in first.steps for i in s.response_ids]
    assert [row.logprobs[k] for k in sampled] == [p for s in first.steps for p in s.logprobs]
    assert {p for p, m in zip(row.logprobs, row.mask, strict=True) if not m} == {0.0}
    assert [r.steps for r in sent_rows(grown()[1], 0, merge=True)] == [[0, 1, 2], [3, 4]]


def test_rows_of_their_own_where_nothing_is_merged():
    for trajectory in (grown()[0], episodes()[0]):
        rows = sent_rows(trajectory, 0, merge=False)
        assert [(r.prompt_ids, r.response_ids, r.logprobs) for r in rows] == [
            (s.prompt_ids, s.response_ids, s.logprobs) for s in trajectory.steps
        ]
        assert all(r.mask == [1] * len(r.response_ids) for r in rows)
    assert len(sent_rows(episodes()[0], 0, merge=True)) == 2


@pytest.mark.parametrize("name", ["stapo", "grpo", "hgpo"])
def test_steps_of_a_chain_come_back_with_their_own_credit(name):
    algorithm = get_algorithm(name)
    rows, _ = shuffled(padded(verl_rows(grown())), seed=2)
    assert len(rows) == 7 + 3
    found, places = trajectories_of(rows)
    assert found == grown()
    credit, batch = assign_credit(rows, algorithm, merge=True), build_batch(grown(), algorithm)
    given = [credit.steps[place][part] for place, part in places]
    assert [step.advantage for step in given] == batch.advantages.total_b.tolist()
    assert len({step.advantage for step in given}) > 2
    assert credit.batch.chains.sequences == 7
    written = columns(credit, [len(row.response_ids) for row in rows])
    for b, row in enumerate(rows):
        steps = written[STEP][b].tolist()
        assert [int(number >= 0) for number in steps] == ([1] if row.padding else row.mask)
        spread = [0.0 if number < 0 else credit.steps[b][number].advantage for number in steps]
        assert written["advantages"][b].tolist() == pytest.approx(spread, rel=1e-6)
        assert len(written[BLIND_LENGTHS][b]) == len(credit.steps[b])


@pytest.mark.parametrize("shift", [1, -1])
def test_a_mask_off_by_one(shift):
    rows = verl_rows(grown())
    rows[2] = replace(rows[2], mask=np.roll(rows[2].mask, shift).tolist())
    with pytest.raises(EngineError, match=r"response mask of a row of task 'task 0' \(prompt uid0, attempt 1\)"):
        assign_credit(rows, get_algorithm("grpo"), merge=True)


def test_a_response_that_was_cut():
    rows = verl_rows(grown())
    short = replace(rows[0], response_ids=rows[0].response_ids[:-1], mask=rows[0].mask[:-1])
    with pytest.raises(EngineError, match="Does a setting of verl's cut responses"):
        assign_credit([short, *rows[1:]], get_algorithm("grpo"), merge=True)
