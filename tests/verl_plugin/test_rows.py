"""Rows that travelled through verl give the numbers of the embedded engine, whatever their order and padding.

1. Trajectories come back from shuffled rows as they were.
2. Advantages and flags are those of `build_batch`, bit for bit.
3. Padding is in no statistic, is never flagged, and has advantage 0.
4. What is not a whole episode of ours is an error.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from stapo.algo import get_algorithm
from stapo.errors import EngineError
from stapo.rollout import Step, StopReason, Trajectory
from stapo.training.batch import build_batch
from stapo.verl_plugin.credit import NO_TRAJECTORY, assign_credit
from stapo.verl_plugin.rows import VerlRow, payloads, trajectories_of


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


def rows_of(trajectories: list[Trajectory]) -> list[VerlRow]:
    return [
        VerlRow(f"uid{t.group}", t.member, s.prompt_ids, s.response_ids, s.logprobs, s.entropies, p)
        for t in trajectories
        for s, p in zip(t.steps, json.loads(json.dumps(payloads(t, 10 + t.group))), strict=True)
    ]


def padded(rows: list[VerlRow]) -> list[VerlRow]:
    """As verl pads: copies of the first row's payload under a new id, other tokens, no mask."""
    made_up = replace(rows[0], uid="pad0", prompt_ids=[0] * 127, response_ids=[0], logprobs=[0.0], entropies=[9.0])
    return [*rows, *(replace(made_up, member=k, padding=True) for k in range(3))]


def shuffled(rows: list[VerlRow], seed: int = 0) -> tuple[list[VerlRow], np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[i] for i in order], order


def without_text(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory, steps=[replace(s, prompt="", blind_prompt="", response="") for s in trajectory.steps])


def test_trajectories_come_back():
    rows, order = shuffled(rows_of(episodes()))
    found, places = trajectories_of(rows)
    assert found == [without_text(t) for t in episodes()]
    assert [order[place] for place in places] == list(range(len(rows)))


@pytest.mark.parametrize("name", ["stapo", "stapo-all-steps", "gigpo", "grpo", "hgpo", "empg", "reinforce++"])
def test_same_numbers_as_the_embedded_engine(name):
    algorithm = get_algorithm(name)
    batch = build_batch(episodes(), algorithm)
    rows, order = shuffled(padded(rows_of(episodes())), seed=1)
    credit = assign_credit(rows, algorithm)
    real = order < len(batch)
    assert np.array_equal(credit.advantage_b[real], batch.advantages.total_b[order[real]])
    wanted = batch.flag_b if algorithm.selective_on else np.zeros(len(batch), dtype=bool)
    assert np.array_equal(credit.flag_b[real], wanted[order[real]])
    assert np.array_equal(credit.traj_b[real], batch.traj_b[order[real]])


def test_flagged_steps_take_their_blind_prompts_along():
    """Hall .20 .21 .22 has z -1 0 1, the desks 0, the loop eleven about -.29 and one (12-1)/sqrt(12) = 3.18.

    Sorted: -1, eleven times -.29, four times 0, 1, 3.18, so Q1 -.29, Q3 0, fences about -.72 and .43.
    """
    credit = assign_credit(rows_of(episodes()), get_algorithm("stapo"))
    assert credit.flag_b.nonzero()[0].tolist() == [0, 4, 17]
    assert [ids for b, ids in enumerate(credit.blind_ids) if b in (0, 4, 17)] == [[1, 3]] * 3
    assert [ids for b, ids in enumerate(credit.blind_ids) if b not in (0, 4, 17)] == [[]] * 15


def test_padding_counts_nowhere():
    rows = rows_of(episodes())
    alone, filled = assign_credit(rows, get_algorithm("stapo")), assign_credit(padded(rows), get_algorithm("stapo"))
    assert np.array_equal(filled.advantage_b[:18], alone.advantage_b)
    assert filled.advantage_b[18:].tolist() == [0.0, 0.0, 0.0]
    assert not filled.flag_b[18:].any()
    assert filled.traj_b[18:].tolist() == [NO_TRAJECTORY] * 3
    assert filled.batch.outliers.included == alone.batch.outliers.included == 18


def test_an_episode_with_a_hole():
    rows = rows_of(episodes())
    with pytest.raises(EngineError, match=r"holds 1 step of task 't/1' \(prompt uid0, attempt 1\), expected all 2"):
        assign_credit(rows[:2] + rows[3:], get_algorithm("stapo"))


def test_a_step_twice():
    rows = rows_of(episodes())
    with pytest.raises(EngineError, match=r"step 2 of task 't/1'.* twice"):
        assign_credit([*rows, rows[1]], get_algorithm("stapo"))


def test_rows_of_another_agent_loop():
    rows = rows_of(episodes())
    rows[4] = replace(rows[4], payload=None)
    with pytest.raises(EngineError, match="default_agent_loop=stapo"):
        assign_credit(rows, get_algorithm("stapo"))


def test_nothing_but_padding():
    with pytest.raises(EngineError, match="nothing but padding"):
        assign_credit(padded(rows_of(episodes()))[18:], get_algorithm("stapo"))
