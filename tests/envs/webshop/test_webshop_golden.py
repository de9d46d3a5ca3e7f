"""The engine gives what the original gave: pages, scores, prices, goals and search results, recorded from it."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest

from stapo.envs.webshop.goals import NO_LIMIT, GoalBook, ShoppingGoal
from stapo.envs.webshop.reward import builtin_nouns, score

# Words that begin with these switch the original's search off for its developers; here they are words.
DEBUG_QUERIES = "special_keywords"


def golden(shared, name):
    path = shared / "golden" / "webshop" / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return json.load(file)


def goal_of(book, number):
    return book.goal(*book.find(book.id_of(number)))


def test_every_transcript(shared, real_shop):
    order = real_shop.goals.shuffled(233)
    steps = 0
    played = [t for t in golden(shared, "transcripts.json.gz") if not t["policy"].startswith(DEBUG_QUERIES)]
    for told in played:
        real_shop.observation = told["mode"]
        first = real_shop.reset(real_shop.goals.id_of(order[told["goal_index"]]))
        assert first.text == told["initial_observation"]
        assert first.goal == told["goal"]["instruction_text"]
        assert real_shop.goal.price_upper == told["goal"]["price_upper"]
        visit = real_shop.visit
        assert {"has_search_bar": visit.can_search, "clickables": list(visit.targets)} == told["initial_available"]
        for step in told["steps"]:
            seen = real_shop.step(step["action"])
            assert seen.text == step["observation"]
            assert {"has_search_bar": visit.can_search, "clickables": list(visit.targets)} == step["available"]
            assert seen.done == step["done"]
            assert seen.info.get("task_score", 0) == step["reward"]
            assert seen.won == (step["reward"] == 1)
            assert visit.page == (step["page"] or "start")
            assert told["goal"]["instruction_text"] not in (seen.blind_text or "")
            if seen.done:
                assert seen.info["score_details"] == step["reward_info"]
                assert visit.options == step["bought"]["options"]
                assert real_shop.goals.price(visit.product) == step["bought"]["price"]
            steps += 1
    real_shop.observation = "text"
    assert len(played) >= 116
    assert steps >= 900


def test_every_reward_case(shared, real_shop):
    catalog = real_shop.catalog
    cases = golden(shared, "reward_cases.json.gz")
    assert len(cases) >= 1_800
    for case in cases:
        bought = catalog.product(catalog.find(case["bought_asin"]))
        wanted = catalog.product(catalog.find(case["goal"]["asin"]))
        options = case["goal"]["goal_options"]
        goal = ShoppingGoal(
            asin=wanted.asin, title=wanted.title, category=wanted.category, query=wanted.query,
            product_category=wanted.product_category, instruction="", attributes=case["goal"]["attributes"],
            price_upper=case["goal"]["price_upper"],
            options=list(options.items()) if isinstance(options, dict) else options,
        )  # fmt: skip
        found = score(bought, case["price"], list(case["options"].values()), goal, builtin_nouns)
        assert found.total == case["reward"]
        if "info" in case:
            assert found.details() == case["info"]
        if case.get("noun_sets"):
            of_bought, of_wanted = case["noun_sets"]
            assert sorted(set(builtin_nouns(bought.title))) == of_bought
            assert list(builtin_nouns(wanted.title)) == of_wanted


def test_prices(shared, real_shop):
    book, asins = real_shop.goals, real_shop.catalog.column("asins")
    assert {str(asin): book.price(i) for i, asin in enumerate(asins)} == golden(shared, "product_prices_seed0.json")


@pytest.mark.parametrize("name", ["verl_seed0", "verl_seed1", "verl_seed1000", "preseed0_shuffle233"])
def test_goals_in_order(shared, real_shop, name):
    facts = golden(shared, "goals_summary.json")[name]
    # In the recording of the last one something else had drawn one number from the generator before.
    book = GoalBook(real_shop.catalog, "synthetic", facts["load_seed"], drawn_before=int(name == "preseed0_shuffle233"))
    rows = []
    for number in book.shuffled(facts["shuffle_seed"]):
        goal = goal_of(book, number)
        limit = int(goal.price_upper) if goal.price_upper == NO_LIMIT else goal.price_upper
        rows.append([goal.asin, goal.instruction, limit, dict(goal.options)])
    assert len(rows) == facts["n_goals"]
    text = json.dumps(rows, ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == facts["sha256_of_asin_text_upper_options"]


def test_search(shared, real_shop):
    asins = real_shop.catalog.column("asins")
    for case in golden(shared, "search_bm25_top50.json.gz"):
        found = [str(asins[number]) for number in real_shop.catalog.search(case["query"], 50)]
        wanted = [asin for asin, _ in case["hits"]]
        assert found[: len(wanted)] == wanted
