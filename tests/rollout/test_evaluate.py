"""Evaluation: what is played, and what is made of it."""

from __future__ import annotations

import json
import math
from statistics import stdev

import pytest

from stapo.agent import AgentConfig
from stapo.rollout import Step, StopReason, Trajectory
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.evaluate import EvalProtocol, evaluate, pass_shares, pick_tasks, summarize
from stapo.rollout.sampler import HFSampler
from toy_world import ToyEnv, small_policy

TASKS = list(ToyEnv().tasks_of("heldout"))


@pytest.fixture(scope="module")
def collector():
    policy = small_policy(architecture="qwen3", initializer_range=0.3)
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 5)
    agent = AgentConfig(prompt="compact", response="action", history_length=1, max_prompt_tokens=300)
    return Collector(ToyEnv, PromptEncoder(policy.tokenizer), sampler, agent)


@pytest.mark.parametrize(
    "episodes, picked",
    [
        (0, "abcdef"),
        (6, "abcdef"),
        (3, "ace"),
        (4, "abde"),
        (1, "a"),
        (8, "abcdefab"),
        (12, "abcdefabcdef"),
    ],
)
def test_tasks_are_cycled_or_evenly_thinned(episodes, picked):
    assert pick_tasks(list("abcdef"), episodes) == list(picked)


def test_the_protocol_is_stated_in_words():
    assert EvalProtocol("heldout", 0, 0.0, (0,)).describe(6) == (
        "6 episodes on 6 of the 6 tasks of split 'heldout' per seed, 1 seed (0), greedy"
    )
    assert EvalProtocol("valid_seen", 100, 0.4, (0, 1, 2)).describe(140) == (
        "100 episodes on 100 of the 140 tasks of split 'valid_seen' per seed, 3 seeds (0, 1, 2), "
        "sampled at temperature 0.4"
    )


def responses(played):
    return [[[s.response_ids for s in t.steps] for t in trajectories] for trajectories in played]


def test_seeds_play_the_same_tasks_with_their_own_numbers(collector):
    one, two = evaluate(collector, TASKS, EvalProtocol("heldout", 8, 1.0, (0, 1)))
    assert [t.task_id for t in one] == [t.task_id for t in two] == [*TASKS, *TASKS[:2]]
    assert responses([one]) != responses([two])
    # A task that is played twice is not played alike.
    assert responses([one])[0][0] != responses([one])[0][6]
    assert responses(evaluate(collector, TASKS, EvalProtocol("heldout", 8, 1.0, (1,)))) == responses([two])


def test_greedy_play_is_the_same_for_every_seed(collector):
    one, two = evaluate(collector, TASKS, EvalProtocol("heldout", 0, 0.0, (0, 1)))
    assert responses([one]) == responses([two])


def test_the_batch_does_not_matter(collector):
    protocol = EvalProtocol("heldout", 8, 1.0, (0, 1))
    whole = evaluate(collector, TASKS, protocol)
    told = []
    parts = evaluate(collector, TASKS, protocol, batch=3, progress=lambda done, total: told.append((done, total)))
    assert responses(parts) == responses(whole)
    assert [t.group for t in parts[0]] == list(range(8))
    assert told == sorted(told)
    assert told[-1] == (16, 16)


@pytest.mark.parametrize(("episodes_kept", "sizes"), [(9, [9, 9, 6]), (2, [8, 8, 8]), (64, [24])])
def test_no_more_are_played_together_than_keys_are_kept_of_on_a_cpu(episodes_kept, sizes):
    policy = small_policy(architecture="qwen3", initializer_range=0.3)
    shape = policy.model.config
    of_token = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * 4
    asked = []

    def played(growing):
        budget = episodes_kept * 305 * of_token
        sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 5, 16_384, budget, growing)
        agent = AgentConfig(
            prompt="compact", response="action", history_length=1, max_prompt_tokens=300, max_response_tokens=5
        )
        one = Collector(ToyEnv, PromptEncoder(policy.tokenizer), sampler, agent)
        collect = one.collect
        one.collect = lambda tasks, *args, **named: asked.append(len(tasks)) or collect(tasks, *args, **named)
        asked.clear()
        return responses(evaluate(one, TASKS, EvalProtocol("heldout", 24, 1.0, (0,))))

    kept = played(True)
    assert asked == sizes
    plain = played(False)
    assert asked == [24]
    assert kept == plain


def test_attempts_at_a_task_are_members_of_its_group(collector):
    protocol = EvalProtocol("heldout", 4, 1.0, (0, 1), attempts=3)
    told = []
    one, two = evaluate(collector, TASKS, protocol, batch=7, progress=lambda done, total: told.append((done, total)))
    assert [(t.group, t.member) for t in one] == [(g, m) for g in range(4) for m in range(3)]
    assert len({tuple(map(tuple, r)) for r in responses([one, two])[0][:3]}) > 1
    assert told == sorted(told)
    assert told[-1] == (24, 24)
    # The first attempts are the episodes of an evaluation with one attempt.
    assert responses([one[::3]]) == responses(evaluate(collector, TASKS, EvalProtocol("heldout", 4, 1.0, (0,))))
    shares = pass_shares([one, two], 6)
    assert list(shares) == [1, 2, 4, 6]
    assert shares[1].value == pytest.approx(summarize([one, two])["success"])
    by_task = {t.task_id for t in [*one, *two] if t.won}
    assert shares[6].value == len(by_task) / 4


def trajectory(task_type, won, valid=(True, True), effect=(True, False), reason=None):
    steps = [
        Step([1], [1], [2], [0.0], [0.0], "", "", "", "", v, "", "", "", effect=e, repeated=e is False)
        for v, e in zip(valid, effect, strict=True)
    ]
    reason = reason or (StopReason.WON if won else StopReason.STEP_LIMIT)
    return Trajectory("t", task_type, "g", 0, 0, steps, won, reason)


def test_summary_of_two_seeds():
    first = [trajectory("a", True), trajectory("a", True), trajectory("b", False), trajectory("b", True)]
    second = [trajectory("a", False), trajectory("a", True), trajectory("b", False), trajectory("b", False)]
    found = summarize([first, second])
    assert found["episodes"] == 8
    assert found["success"] == 0.5
    assert found["success_by_seed"] == [0.75, 0.25]
    assert found["success_std_over_seeds"] == pytest.approx(stdev([0.75, 0.25]))
    assert found["success_standard_error"] == pytest.approx(math.sqrt(0.25 / 8))
    assert found["by_type"]["a"] == {
        "episodes": 4,
        "success": 0.75,
        "success_std_over_seeds": pytest.approx(stdev([1.0, 0.5])),
        "task_score": None,
    }
    assert found["by_type"]["b"]["success"] == 0.25
    assert found["episode_length"] == 2
    assert found["valid_actions"] == 1
    assert found["ineffective_actions"] == found["repeated_actions"] == 0.5
    assert found["step_limit"] == 0.5
    json.dumps(found, allow_nan=False)


def test_task_scores_are_averaged_where_tasks_are_judged_by_degrees():
    first, second = [trajectory("a", True), trajectory("b", False)], [trajectory("a", False), trajectory("b", False)]
    for t, score in zip([*first, *second], (1.0, 0.5, 0.25, None), strict=True):
        t.task_score = score
    found = summarize([first, second])
    # (1 + 0.5) / 2 and (0.25 + 0) / 2: an episode that ended without a judgment counts 0.
    assert found["task_score"] == pytest.approx((0.75 + 0.125) / 2)
    assert found["by_type"]["a"]["task_score"] == pytest.approx(0.625)
    assert found["by_type"]["b"]["task_score"] == pytest.approx(0.25)


def test_each_type_counts_the_same_in_the_mean_of_types():
    played = [trajectory("a", True), trajectory("a", True), trajectory("a", True), trajectory("b", False)]
    found = summarize([played])
    assert (found["success"], found["mean_of_types"]) == (0.75, 0.5)


def test_summary_of_one_seed_has_no_spread():
    found = summarize([[trajectory("a", True), trajectory("a", False, (False,), (None,), StopReason.FAILED)]])
    assert found["success_std_over_seeds"] is None
    assert found["by_type"]["a"]["success_std_over_seeds"] is None
    assert found["valid_actions"] == pytest.approx(2 / 3)
    assert found["step_limit"] == 0


def test_summary_of_episodes_without_steps():
    found = summarize([[trajectory("a", False, (), (), StopReason.PROMPT_TOO_LONG)]])
    assert (found["success"], found["episode_length"]) == (0, 0)
    assert found["valid_actions"] is None
    assert found["ineffective_actions"] is None
