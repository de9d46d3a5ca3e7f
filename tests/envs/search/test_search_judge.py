"""The judge of questions names each fault at the turn where it happens, and at no other."""

from __future__ import annotations

import random

import pytest

from stapo.envs import check_env
from stapo.envs.protocol import Judge
from stapo.envs.search.env import SearchEnv
from stapo.errors import EnvError


@pytest.fixture
def env():
    """A question of two look-ups has begun."""
    env = SearchEnv(topk=3)
    env.reset(next(t for t in env.tasks_of("heldout") if t.startswith("2-hop")))
    return env


def judged(env, responses):
    judge, found = env.judge(), []
    for response in responses:
        judge.before(response)
        found.append(set(judge.after(env.step(response))))
    return found


def search(hop):
    return f"<search> {hop.entity} {hop.key} </search>"


def test_the_demonstrator_has_no_faults():
    env = SearchEnv()
    for task in env.tasks_of("heldout")[::8]:
        env.reset(task)
        judge, player = env.judge(), env.demonstrator(random.Random(0))
        done = False
        while not done:
            action = player.action()
            judge.before(action)
            out = env.step(action)
            found = judge.after(out)
            # A first query that misses is followed by one with the name alone.
            assert found <= {"fruitless"}, (task, action)
            player.played(action, bool(out.info["effect"]))
            done = out.done


def test_each_fault_at_its_turn(env):
    first, second = env.question.hops
    right = f"<answer> {env.question.golds[0]} </answer>"
    script = [
        ("what?", {"invalid"}),
        (search(first), set()),
        (
            search(first).replace("<search> ", "<search>  ").upper().replace("SEARCH>", "search>"),
            {"repeated", "fruitless"},
        ),
        (search(second), set()),
        (right, set()),
    ]
    assert judged(env, [response for response, _ in script]) == [expected for _, expected in script]


def test_a_search_for_something_else_is_fruitless(env):
    assert judged(env, ["<search> qwertz </search>"]) == [{"fruitless"}]


@pytest.mark.parametrize("right, expected", [(True, {"hasty"}), (False, {"hasty", "wrong"})])
def test_an_answer_before_everything_was_shown(env, right, expected):
    name = env.question.golds[0] if right else "nobody"
    assert judged(env, [search(env.question.hops[0]), f"<answer> {name} </answer>"]) == [set(), expected]


def test_without_a_known_way_only_the_rest_is_judged(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"id": "0", "contents": "\\"Rex\\"\\nRex is a king."}\n')
    (tmp_path / "nq_test.jsonl").write_text('{"question": "Who is king?", "golden_answers": ["Rex"]}\n')
    env = SearchEnv(questions=str(tmp_path / "nq_test.jsonl"), corpus=tmp_path / "corpus.jsonl")
    env.reset(env.tasks[0])
    said = ["<search>king</search>", "<search>King </search>", "hm", "<answer>Max</answer>"]
    assert judged(env, said) == [set(), {"repeated"}, {"invalid"}, {"wrong"}]


@pytest.mark.parametrize("options", [{}, {"protocol": "stepwise"}])
def test_it_keeps_the_protocol(options):
    env = SearchEnv(**options)
    with pytest.raises(EnvError, match="no question before reset"):
        env.judge()
    env.reset(env.tasks[0])
    assert isinstance(env.judge(), Judge)
    check_env(SearchEnv(**options))
