"""The referee finds differences, and none between the engines where TextWorld is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from tiny_games import Tiny, kitchen, look_at, put, put_two

from stapo.envs.alfworld.sources import open_source
from stapo.errors import ConfigError

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import textworld_referee as referee
from textworld_referee import Mismatch, Native, Original, compare, random_actions

installed = pytest.mark.skipif(
    importlib.util.find_spec("textworld") is None or importlib.util.find_spec("alfworld") is None,
    reason="TextWorld is not installed; pip install '.[alfworld]'",
)


class Distracted(Native):
    """Plays like the native engine, but never notices what lies on the desk."""

    def step(self, action):
        seen = super().step(action)
        return seen._replace(observation=seen.observation.replace("a knife 1, ", ""))


def test_equal_engines_agree():
    game = kitchen(goal=put("spoon", "desk")).game()
    actions = random_actions(game, steps=40, seed=3)
    assert compare(game, actions, original=Native()) == []


def test_a_difference_is_reported_where_it_is_seen():
    actions = ["look", "go to desk 1", "take knife 1 from desk 1"]
    (found,) = compare(kitchen().game(), actions, original=Distracted())
    assert found == Mismatch(
        step=2,
        action="go to desk 1",
        field="observation",
        original="You arrive at desk 1. On the desk 1, you see and a mug 1.",
        native="You arrive at desk 1. On the desk 1, you see a knife 1, and a mug 1.",
    )


def test_walks_are_reproducible_and_mix_in_nonsense():
    game = kitchen().game()
    walk = random_actions(game, steps=200, seed=1)
    assert walk == random_actions(game, steps=200, seed=1)
    assert walk != random_actions(game, steps=200, seed=2)
    assert 2 < sum(action in referee._MALFORMED for action in walk) < 60
    assert {"take", "move", "open", "clean"} <= {action.partition(" ")[0] for action in walk}


def test_without_textworld_the_message_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(referee, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install '\.\[alfworld\]'"):
        compare(kitchen().game(), ["look"])


def odd_worlds():
    """Worlds built around what recorded games rarely or never do."""
    burners = Tiny().at("burner 1", 1, "mug 1").at("burner 2", 1, "mug 1").at("burner 3", 1)
    yield burners.at("desk 1", 2, "pan 1")
    lamps = Tiny(goal=look_at("mug", "desklamp")).at("desk 1", 1, "desklamp 1", "mug 1")
    yield lamps.at("shelf 1", 1, "desklamp 1").at("bed 1", 2)
    hidden = Tiny(goal=look_at("mug", "desklamp")).at("desk 1", 1, "mug 1").at("bed 1", 2)
    yield hidden.at("cabinet 1", 1, "desklamp 1", door="closed")
    portable = Tiny(goal=look_at("mug", "desklamp")).at("desk 1", 1, "desklamp 1", "mug 1")
    yield portable.fact("pickupable", portable.entity("desklamp 1")).at("bed 1", 2)
    elsewhere = Tiny().at("desk 1", 1, "knife 1", "mug 1").at("bed 1", 3)
    yield elsewhere.at("shelf 1", 2, "apple 1", spot=3)
    marked = kitchen(start=1)
    yield marked.fact("isCool", marked.entity("apple 1")).fact("isClean", marked.entity("mug 1"))
    filled = kitchen().at("shelf 1", 6, "bowl 1", "key 1")
    yield filled.fact("inReceptacleObject", filled.entity("key 1"), filled.entity("bowl 1"))
    yield Tiny(goal=put_two("mug", "shelf")).at("desk 1", 1, "mug 1", "mug 2").at("shelf 1", 2)
    yield Tiny().at("desk 1", 1, *(f"mug {i}" for i in range(1, 13))).at("shelf 1", 2)


@installed
@pytest.mark.slow
@pytest.mark.parametrize("grammar", ["move", "put"])
def test_odd_worlds_play_alike_in_textworld(grammar):
    original = Original(grammar)
    for number, tiny in enumerate(odd_worlds()):
        game = tiny.game()
        for seed in range(2):
            actions = random_actions(game, steps=50, seed=seed, grammar=grammar)
            differences = compare(game, actions, grammar=grammar, original=original)
            assert differences == [], f"world {number}, seed {seed}"


@installed
@pytest.mark.slow
@pytest.mark.parametrize("grammar", ["move", "put"])
def test_generated_games_play_alike_in_textworld(grammar):
    source = open_source(None, games_per_type=2)
    original = Original(grammar)
    for split in source.splits():
        for task in source.ids(split)[::3]:
            game = source.load(task)
            actions = random_actions(game, steps=30, seed=7, grammar=grammar)
            assert compare(game, actions, grammar=grammar, original=original) == [], task


@installed
@pytest.mark.slow
def test_recorded_games_play_alike_in_textworld(shared):
    source = open_source(shared / "data" / "alfworld")
    original = Original()
    for task in source.ids("valid_seen")[::28]:
        game = source.load(task)
        actions = random_actions(game, steps=40, seed=11)
        assert compare(game, actions, original=original) == [], task
