"""The expert and the demonstrator.

1. The expert's plan scores 1 for every goal of a generated shop, from the start and from wherever play has led to.
2. It says None where nothing scores 1 any more.
3. The demonstrator buys what is asked for, by commands that are offered, and from what it has seen alone.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from slow import slow_except
from stapo.envs.offers import is_template, offers
from stapo.envs.webshop.demonstrator import Demonstrator
from stapo.envs.webshop.env import WebShopEnv
from stapo.envs.webshop.expert import query_of
from stapo.errors import ConfigError

TINY = {"size": "tiny", "catalog_products": 60, "max_steps": 10}


@pytest.fixture(scope="module")
def tiny():
    return WebShopEnv(**TINY)


@pytest.fixture(scope="module")
def standard():
    return WebShopEnv()


def play(env, commands):
    result = None
    for command in commands:
        result = env.step(command)
    return result


def demonstrate(env, task, seed=0):
    seen = env.reset(task)
    offered, rng = seen.admissible, random.Random(seed)
    shopper, commands, result = env.demonstrator(rng), [], None
    while (command := shopper.action()) is not None:
        assert offers(offered, command), (command, offered)
        result = env.step(command)
        shopper.played(command, result.info["effect"])
        offered = result.admissible
        commands.append(command)
        if result.done:
            break
    return commands, result


# -- 1 -----------------------------------------------------------------------------------------------------------------


def sample(env, count):
    tasks = list(env.tasks)
    return random.Random(0).sample(tasks, min(count, len(tasks)))


SHOPS = [TINY, {}, {"goals": "human"}, {"catalog_products": 3000, "catalog_seed": 5}]


@pytest.mark.parametrize("options", slow_except(SHOPS, TINY, {"goals": "human"}))
def test_every_goal_is_reached(options):
    env = WebShopEnv(**options)
    for task in sample(env, 300):
        env.reset(task)
        result = play(env, env.expert_plan())
        assert result.won, task
        assert result.info["task_score"] == 1.0


def test_from_anywhere(tiny):
    rng = random.Random(1)
    for task in sample(tiny, 120):
        offered = tiny.reset(task).admissible
        for _ in range(4):
            ready = [c for c in offered if not is_template(c) and c != "click[buy now]"]
            command = rng.choice([*ready, f"search[{rng.choice(['soap', 'warm mug', tiny.goal.title])}]"])
            offered = tiny.step(command).admissible
        plan = tiny.expert_plan()
        assert play(tiny, plan).won, (task, plan)


def test_the_plan_is_no_longer_than_needed(tiny):
    tiny.reset(tiny.tasks[0])
    plan = tiny.expert_plan()
    assert len(plan) == 3 + len(tiny.goal.options)
    tiny.step(plan[0])
    assert tiny.expert_plan() == plan[1:]
    assert tiny.expert_plan()[0] == plan[1]
    tiny.step(plan[1])
    tiny.step("click[features]")
    assert tiny.expert_plan() == ["click[< prev]", *plan[2:]]


def test_chosen_options_are_not_chosen_again(tiny):
    task = next(t for t in tiny.tasks if tiny.reset(t) and len(tiny.goal.options) == 2)
    tiny.reset(task)
    play(tiny, tiny.expert_plan()[:3])
    assert len(tiny.expert_plan()) == 2


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_nothing_to_do_after_success_and_no_way_after_a_wrong_purchase(tiny):
    tiny.reset(tiny.tasks[0])
    play(tiny, tiny.expert_plan())
    assert tiny.expert_plan() == []
    wrong = next(t for t in tiny.tasks if tiny.reset(t) and tiny.goal.options)
    tiny.reset(wrong)
    play(tiny, tiny.expert_plan()[:2])
    assert not tiny.step("click[buy now]").won
    assert tiny.expert_plan() is None


def test_options_that_the_score_cannot_match_are_no_plan(tiny):
    """The score reads the color out of a value: "rectangular" is tan, and no click gives that."""
    tiny.reset(next(t for t in tiny.tasks if tiny.reset(t) and tiny.goal.options))
    tiny.visit.goal = replace(tiny.visit.goal, options=[("shape", "rectangular")])
    assert tiny.expert_plan() is None


@pytest.mark.parametrize(
    ("text", "query"),
    [("Mug [Set of 2]", "mug set of 2"), (" a\nb ", "a b"), ("[]", ""), ('18" x 30"', '18" x 30"')],
)
def test_queries_keep_to_the_grammar(text, query):
    assert query_of(text) == query


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_the_demonstrator_shops_well_and_within_what_is_offered(tiny, standard):
    for env, least in ((tiny, 0.9), (standard, 0.75)):
        results = [demonstrate(env, task, seed)[1] for seed, task in enumerate(sample(env, 150))]
        assert sum(r.won for r in results) / len(results) >= least
        assert all(r.done for r in results)


def test_a_hasty_demonstrator_reads_nothing_and_buys_worse():
    shops = [WebShopEnv(demonstrator_haste=haste) for haste in (0.0, 1.0)]
    played = [[demonstrate(env, task, seed) for seed, task in enumerate(sample(env, 80))] for env in shops]
    pages = [sum(c in ("click[features]", "click[description]") for cs, _ in part for c in cs) for part in played]
    assert pages[0] > 40
    assert pages[1] == 0
    assert sum(r.won for _, r in played[0]) > sum(r.won for _, r in played[1]) > 0


def test_ready_queries_are_all_that_is_offered_and_the_demonstrator_keeps_to_them():
    env = WebShopEnv(offered_queries=True)
    commands = []
    for seed, task in enumerate(sample(env, 60)):
        seen = env.reset(task)
        assert 1 <= len(seen.admissible) <= 3
        asked = env.goal.instruction.lower()
        for offered in seen.admissible:
            assert all(word in asked for word in offered[len("search[") : -1].split())
        commands.append(demonstrate(env, task, seed)[0])
    assert len({cs[0].count(" ") for cs in commands}) > 2
    assert any(sum(c.startswith("search[") for c in cs) > 1 for cs in commands)


def test_goals_per_product_thins_every_split_evenly():
    every, some = WebShopEnv(), WebShopEnv(goals_per_product=2)
    for split in every.splits:
        by_product = {}
        for task in every.tasks_of(split):
            by_product.setdefault(task.partition("/")[0], []).append(task)
        assert max(map(len, by_product.values())) > 2
        kept = {t for ts in by_product.values() for t in ([ts[0], ts[len(ts) // 2]] if len(ts) > 1 else ts)}
        assert some.tasks_of(split) == [t for t in every.tasks_of(split) if t in kept]
    assert some.reset(some.tasks_of("train")[0]).goal == every.reset(some.tasks_of("train")[0]).goal


@pytest.mark.parametrize("goals", [0, 1.5, True, "2"])
def test_goals_per_product_is_checked(goals):
    with pytest.raises(ConfigError, match=r"goals_per_product is .*, expected a whole number of 1 or more"):
        WebShopEnv(goals_per_product=goals)


@pytest.mark.parametrize("option", [{"demonstrator_haste": 1.1}, {"demonstrator_haste": True}, {"offered_queries": 1}])
def test_options_of_the_demonstrator_are_checked(option):
    with pytest.raises(ConfigError, match=f"{next(iter(option))} is .*, expected (a number|true or false)"):
        WebShopEnv(**option)


def test_it_is_not_all_knowing(standard):
    """It opens wrong products and comes back, and reads what titles do not say."""
    played = [demonstrate(standard, task, seed)[0] for seed, task in enumerate(sample(standard, 60))]
    assert any(commands.count("click[< prev]") > 2 for commands in played)
    assert any("click[features]" in commands for commands in played)
    assert any(sum(c.startswith("search[") for c in commands) > 1 for commands in played)


def test_the_meant_product_makes_no_difference(standard):
    """Two goals with one text are shopped for in the same way, whichever product was meant."""
    for task in sample(standard, 25):
        first, _ = demonstrate(standard, task)
        standard.reset(task)
        goal = replace(standard.visit.goal, asin="G000000000", title="something else", query="x", product_category="y")
        standard.visit.goal = goal
        shopper, second = Demonstrator(standard.visit, random.Random(0), standard.max_steps), []
        while (command := shopper.action()) is not None:
            result = standard.step(command)
            shopper.played(command, result.info["effect"])
            second.append(command)
            if result.done:
                break
        assert second == first


def test_queries_use_words_of_the_instruction(standard):
    for seed, task in enumerate(sample(standard, 40)):
        commands, _ = demonstrate(standard, task, seed)
        standard.reset(task)
        asked = standard.goal.instruction.lower()
        assert all(word in asked for word in commands[0][len("search[") : -1].split())
        assert "dollars" not in commands[0]


def test_the_rng_decides_and_nothing_else(standard):
    task = standard.tasks[3]
    assert demonstrate(standard, task, 4) == demonstrate(standard, task, 4)
    queries = {demonstrate(standard, standard.tasks[40], seed)[0][0] for seed in range(12)}
    assert len(queries) > 1


def test_steps_off_the_way_do_not_confuse_it(tiny):
    rng, won = random.Random(2), 0
    tasks = sample(tiny, 100)
    for task in tasks:
        offered = tiny.reset(task).admissible
        shopper, result = tiny.demonstrator(rng), None
        while (command := shopper.action()) is not None:
            ready = [c for c in offered if not is_template(c) and c != "click[buy now]"]
            if rng.random() < 0.1:
                command = rng.choice(ready or [command])
            result = tiny.step(command)
            offered = result.admissible
            shopper.played(command, result.info["effect"])
            if result.done:
                break
        won += result.won
    assert won / len(tasks) > 0.75
