"""No purchase that wins a goal of training wins one that is held out."""

import json

import numpy as np
import pytest
from small_shop import product, values

from slow import slow_except
from stapo import progress
from stapo.envs.overlap import plain_text
from stapo.envs.webshop import splits, substitutes
from stapo.envs.webshop.env import WebShopEnv
from stapo.envs.webshop.reward import builtin_nouns, score


def purchases(env, tasks):
    """What an expert buys for some goals: product, its price, chosen values."""
    found = {}
    for task in tasks:
        number, _ = env.goals.find(task)
        goal = env.goals.goal(*env.goals.find(task))
        chosen = tuple(option if isinstance(option, str) else option[1] for option in goal.options)
        found[number, chosen] = (env.catalog.product(number), env.goals.price(number), list(chosen))
    return list(found.values())


def won_by(env, bought, tasks):
    """Goals of `tasks` that some of the purchases win."""
    won = set()
    for task in tasks:
        goal = env.goals.goal(*env.goals.find(task))
        if any(score(row, price, chosen, goal, builtin_nouns).total == 1 for row, price, chosen in bought):
            won.add(task)
    return won


@pytest.mark.parametrize(
    "options",
    slow_except(
        [
            {"size": "tiny"},
            {"size": "tiny", "catalog_products": 100, "catalog_seed": 3},
            {"catalog_products": 240, "goals_per_product": 2},
            {"catalog_products": 240, "catalog_seed": 1, "goals": "human"},
            {"catalog_products": 160, "price_seed": 7, "goals_per_product": 3},
        ],
        {"size": "tiny"},
        {"catalog_products": 160, "price_seed": 7, "goals_per_product": 3},
    ),
)
def test_what_training_buys_wins_nothing_that_is_held_out(options):
    env = WebShopEnv(**options)
    assert env.splits == ("train", "valid", "test")
    for split in env.splits:
        for other in env.splits:
            if split != other:
                assert won_by(env, purchases(env, env.tasks_of(split)), env.tasks_of(other)) == set()
    # The check sees what it looks for: every goal that can be won is won by the purchases of its own split.
    assert len(won_by(env, purchases(env, env.tasks_of("test")), env.tasks_of("test"))) > len(env.tasks_of("test")) // 2
    assert env.notes == []


@pytest.mark.parametrize(
    "options, sizes",
    [
        ({"size": "tiny", "catalog_products": 480}, (1358, 158, 167)),
        ({}, (1813, 146, 182)),
    ],
)
def test_shops_of_the_presets_share_no_instruction(options, sizes):
    env = WebShopEnv(**options)
    worded = {
        split: {plain_text(env.goals.goal(*env.goals.find(task)).instruction) for task in env.tasks_of(split)}
        for split in env.splits
    }
    assert not worded["train"] & worded["test"]
    assert not worded["train"] & worded["valid"]
    assert not worded["valid"] & worded["test"]
    assert tuple(len(env.tasks_of(split)) for split in ("train", "valid", "test")) == sizes


@pytest.mark.slow  # Of the generated shops, the tests above say it.
def test_the_thousand_products_share_no_purchase(shared):
    path = shared / "data" / "webshop" / "items_shuffle_1000.json"
    env = WebShopEnv(products=path, goals_per_product=1)
    train = purchases(env, env.tasks_of("train"))
    assert len(env.tasks_of("test")) == len(env.tasks_of("valid")) == 41
    assert won_by(env, train, [*env.tasks_of("test"), *env.tasks_of("valid")]) == set()


def shop(folder, rows):
    """Files of a shop: rows of id, name, price, options, wanted attributes, instruction."""
    products = [
        product(asin, name, pricing=price, customization_options={k: values(*v) for k, v in options.items()})
        for asin, name, price, options, _, _ in rows
    ]
    asked = {
        asin: {"attributes": wanted, "instruction": text, "instruction_attributes": wanted}
        for asin, _, _, _, wanted, text in rows
    }
    path = folder / "items_shuffle_9.json"
    path.write_text(json.dumps(products))
    (folder / "items_ins_v2_9.json").write_text(json.dumps(asked))
    return path


RED = {"Color": ("red",)}
ROWS = [
    ("A1", "One soft mug", "$12", RED, ["soft"], "Find me soft mugs"),
    ("A2", "Two soft mug", "$18", RED, ["soft"], "A soft mug for me"),
    # Wins A1's goals and nobody else's: its own ask for what the others lack.
    ("A3", "Three soft round mug", "$15", RED, ["soft", "round"], "Find me soft, round mugs"),
    # Dearer than any limit of a goal of the others.
    ("B1", "Four soft mug", "$95", RED, ["soft", "gilded"], "Find me soft, gilded mugs"),
    # Lacks the option.
    ("C1", "Five soft mug", "$14", {"Color": ("blue",)}, ["soft", "tiny"], "Find me soft, tiny mugs"),
    # In the same words but for case, blanks, width and the mark at the end.
    ("D1", "Six bowl", "$14", {}, ["flat"], "Find  me a FLAT bowl."),
    ("D2", "Seven pan", "$14", {}, ["hot"], "find me a \uff46lat bowl"),
]


def groups_of(env):
    found = substitutes.substitutes(env.goals).groups
    asins = [str(asin) for asin in env.catalog.column("asins")]
    return {frozenset(asins[i] for i in np.flatnonzero(found == group)) for group in set(found.tolist()) - {-1}}


def test_products_that_win_each_others_goals_are_together(tmp_path):
    env = WebShopEnv(products=shop(tmp_path, ROWS))
    assert groups_of(env) == {frozenset(g) for g in (("A1", "A2", "A3"), ("B1",), ("C1",), ("D1", "D2"))}
    sides = [{task.partition("/")[0] for task in env.tasks_of(split)} for split in env.splits]
    for group in (("A1", "A2", "A3"), ("D1", "D2")):
        assert sum(bool(side & set(group)) for side in sides) == 1
    # Other prices, the same groups.
    assert groups_of(WebShopEnv(products=shop(tmp_path, ROWS), price_seed=5)) == groups_of(env)


def test_one_group_is_for_training(tmp_path):
    rows = [(f"A{i}", f"Soft mug {i}", "$12", {}, ["soft"], "Find me soft mugs") for i in range(12)]
    assert WebShopEnv(products=shop(tmp_path, rows)).splits == ("train",)


def test_groups_of_two_are_held_out_though_a_tenth_is_one(tmp_path):
    rows = [
        (f"{part}{i}", f"Mug {word} {part}", "$12", {}, [word], f"Find me {word} mugs")
        for i, word in enumerate(("soft", "hard", "flat", "round", "tall", "wide", "thin"))
        for part in "AB"
    ]
    env = WebShopEnv(products=shop(tmp_path, rows))
    assert [len(env.tasks_of(split)) for split in ("train", "valid", "test")] == [10, 2, 2]


def test_too_many_products_are_said_to_be_compared_by_words_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(substitutes, "MOST_WORK", 10)
    env = WebShopEnv(products=shop(tmp_path, ROWS))
    assert frozenset(("D1", "D2")) in groups_of(env)
    assert frozenset(("A1",)) in groups_of(env)
    assert ["too many products" in text for text in env.notes] == [True]


def test_what_published_splits_have_in_common_is_counted(monkeypatch):
    told = []
    monkeypatch.setattr(progress, "_note_listeners", [])
    monkeypatch.setattr(progress, "_noted", set())
    progress.listen_to_notes(told.append)
    env = WebShopEnv(size="tiny", catalog_products=480, splits="original")
    asked = {
        split: [env.goals.goal(*env.goals.find(t)).instruction for t in env.tasks_of(split)] for split in env.splits
    }
    same = sum(text in set(asked["train"]) for text in asked["test"])
    assert same > 0
    assert env.notes[0].startswith(f"'train' holds {same} of 500 tasks of 'test' word for word")
    assert "'train' asks for the products of 500 of 500 tasks of 'test'" in " ".join(env.notes)
    assert told == env.notes
    assert splits.notes_on(env.goals, "disjoint", splits.splits_of(env.goals, "disjoint", 0)) == []


@pytest.mark.parametrize(
    "one, other",
    [
        ("Who wrote It?", "who  wrote\tit"),
        ("\uff37ho\u00a0wrote it ?", "who wrote it"),
        ("Stra\u00dfe!", "STRASSE"),
        ("Caf\u00e9.", "cafe\u0301"),
        (" x\u200a", "X"),
    ],
)
def test_plain_text_is_equal(one, other):
    assert plain_text(one) == plain_text(other)


@pytest.mark.parametrize("one, other", [("who wrote it", "who wrote that"), ("?", ""), ("c", "c++"), ("a b", "ab")])
def test_plain_text_differs(one, other):
    assert plain_text(one) != plain_text(other)
