"""The judge of shopping trips names each fault at the step where it happens, and at no other."""

from __future__ import annotations

import random

import pytest

from stapo.envs import check_env
from stapo.envs.offers import is_template
from stapo.envs.protocol import Judge
from stapo.envs.webshop.env import WebShopEnv
from stapo.envs.webshop.pages import LINK, Node
from stapo.errors import EnvError

TINY = {"size": "tiny", "catalog_products": 60, "max_steps": 12}


@pytest.fixture(scope="module")
def shop():
    return WebShopEnv(**TINY)


def take(env, judge, action):
    judge.before(action)
    return set(judge.after(env.step(action)))


def begin(env, accept):
    """Start the first task whose plan is accepted, and has its product on the first page of results."""
    for task in env.tasks:
        env.reset(task)
        plan = env.expert_plan()
        if plan and plan[0].startswith("search[") and plan[1] != "click[next >]" and accept(plan):
            return env.judge(), plan
    raise AssertionError("no such task")


def test_the_experts_plan_has_no_faults(shop):
    for task in random.Random(0).sample(list(shop.tasks), 40):
        shop.reset(task)
        judge = shop.judge()
        for action in shop.expert_plan():
            assert take(shop, judge, action) == set(), (task, action)


def test_each_fault_at_its_step(shop):
    judge, plan = begin(shop, lambda plan: len(plan) >= 4)
    search, product, *_ = plan
    assert take(shop, judge, "click[buy now]") == {"invalid"}
    assert take(shop, judge, "click[buy now]") == {"invalid", "repeated"}
    assert take(shop, judge, search) == set()
    # Back to the start and the same search: a step further away, then no further than before.
    assert take(shop, judge, "click[back to search]") == {"detour"}
    assert take(shop, judge, search) == set()
    links = [text for text, target in shop.visit.targets.items() if isinstance(target, Node) and target.kind == LINK]
    other = next(f"click[{link}]" for link in links if f"click[{link}]" != product)
    assert "detour" in take(shop, judge, other)
    assert take(shop, judge, "click[< prev]") == set()
    again = take(shop, judge, other)
    assert {"detour", "revisit"} <= again
    assert take(shop, judge, "click[< prev]") == set()
    assert take(shop, judge, product) == set()
    assert take(shop, judge, "click[description]") == {"detour"}
    assert take(shop, judge, "click[< prev]") == set()


def test_a_purchase_of_something_else_is_wrong(shop):
    judge, plan = begin(shop, lambda plan: len(plan) >= 4)
    search, product, *_, buy = plan
    assert take(shop, judge, search) == set()
    assert take(shop, judge, product) == set()
    assert take(shop, judge, buy) == {"wrong"}


def test_it_keeps_the_protocol():
    env = WebShopEnv(**TINY)
    with pytest.raises(EnvError, match="before reset"):
        env.judge()
    seen = env.reset(env.tasks[0])
    assert any(is_template(c) for c in seen.admissible)
    assert isinstance(env.judge(), Judge)
    check_env(WebShopEnv(**TINY))
