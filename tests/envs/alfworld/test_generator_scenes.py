"""What generated games contain: solvable, within their size, and kept apart between the splits."""

import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import pytest

from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.expert import shortest_plan
from stapo.envs.alfworld.game import TASK_TYPES
from stapo.envs.alfworld.generator import GeneratedGames
from stapo.envs.alfworld.generator.goals import is_held_out, offers
from stapo.envs.alfworld.generator.layouts import families, layout_of, split_of
from stapo.envs.alfworld.generator.sizes import APPLIANCE, KINDS, OPENABLE, SIZES, Room
from stapo.envs.alfworld.goals import compile_goal
from stapo.envs.alfworld.text import grammar_named
from stapo.envs.alfworld.world import compile_world
from stapo.errors import ConfigError

PER_TYPE = 40

WORDINGS = {
    "pick_and_place_simple": (r"put a (\w+) in (\w+)\.", r"put some (\w+) on (\w+)\."),
    "look_at_obj_in_light": (
        r"look at (\w+) under the (\w+)\.",
        r"examine the (\w+) with the (\w+)\.",
    ),
    "pick_clean_then_place_in_recep": (
        r"put a clean (\w+) in (\w+)\.",
        r"clean some (\w+) and put it in (\w+)\.",
    ),
    "pick_heat_then_place_in_recep": (
        r"put a hot (\w+) in (\w+)\.",
        r"heat some (\w+) and put it in (\w+)\.",
    ),
    "pick_cool_then_place_in_recep": (
        r"put a cool (\w+) in (\w+)\.",
        r"cool some (\w+) and put it in (\w+)\.",
    ),
    "pick_two_obj_and_place": (
        r"put two (\w+) in (\w+)\.",
        r"find two (\w+) and put them in (\w+)\.",
    ),
}


@lru_cache
def games(scenes):
    source = GeneratedGames(scenes, PER_TYPE)
    return [source.load(i) for split in source.splits() for i in source.ids(split)]


def facts(game, predicate):
    init = game.pddl_problem.split("(:goal")[0]
    return [m.split() for m in re.findall(rf"\({predicate} ([^()]*)\)", init)]


def asked(game):
    """The (object, target) of a goal, read from the formula as the dialect writes it."""
    goal = game.pddl_problem.split("(:goal")[1]
    (obj,) = set(re.findall(r"objectType \?o[12]? (\w+)Type", goal))
    (target,) = set(re.findall(r"(?:receptacleType \?r|objectType \?ot) (\w+)Type", goal))
    return obj, target


def solve(game):
    world = compile_world(game)
    goal = compile_goal(world)
    state = State(world, grammar_named("move"))
    assert not goal.holds(state), game.id
    plan = shortest_plan(state, goal)
    return plan, state, goal


every_size = pytest.mark.parametrize("scenes", sorted(SIZES))


@every_size
def test_the_expert_solves_every_game(scenes):
    for game in games(scenes):
        plan, state, goal = solve(game)
        assert plan, game.id
        for command in plan:
            assert command in state.admissible()
            state.step(command)
        assert goal.holds(state), game.id


def test_small_games_take_three_to_nine_actions():
    lengths = Counter(len(solve(game)[0]) for game in games("small"))
    assert min(lengths) == 3
    assert max(lengths) == 9


@every_size
def test_scenes_keep_to_their_size(scenes):
    size = SIZES[scenes]
    for game in games(scenes):
        receptacles, objects = facts(game, "receptacleType"), facts(game, "objectType")
        assert size.receptacles[0] <= len(receptacles) <= size.receptacles[1]
        assert size.objects[0] <= len(objects) <= size.objects[1]
        assert max(Counter(kind for _, kind in objects).values()) <= size.most_alike


def test_small_has_a_small_vocabulary():
    objects = {kind for game in games("small") for _, kind in facts(game, "objectType")}
    receptacles = {kind for game in games("small") for _, kind in facts(game, "receptacleType")}
    numbers = Counter(
        (game.id, kind)
        for game in games("small")
        for predicate in ("objectType", "receptacleType")
        for _, kind in facts(game, predicate)
    )
    assert 16 <= len(objects) <= 22
    assert len(receptacles) <= 13
    assert max(numbers.values()) <= 3


def test_standard_has_a_wide_vocabulary():
    objects = {kind for game in games("standard") for _, kind in facts(game, "objectType")}
    assert len(objects) > 45


@every_size
def test_wording_and_formula_ask_for_the_same(scenes):
    used = Counter()
    for game in games(scenes):
        found = [re.fullmatch(w, game.goal) for w in WORDINGS[game.task_type]]
        (index,) = [i for i, match in enumerate(found) if match]
        obj, target = asked(game)
        assert found[index].groups() == (obj.lower(), target.lower())
        used[game.task_type, index] += 1
    for task_type in TASK_TYPES:
        first, second = used[task_type, 0], used[task_type, 1]
        assert 0.3 < first / (first + second) < 0.7


@every_size
def test_facts_agree_with_one_another(scenes):
    for game in games(scenes):
        kind, type_of = dict(facts(game, "objectType")), dict(facts(game, "receptacleType"))
        spot = dict(facts(game, "receptacleAtLocation"))
        place = dict(facts(game, "inReceptacle"))
        assert place.keys() == kind.keys()
        assert spot.keys() == type_of.keys()
        assert dict(facts(game, "objectAtLocation")) == {o: spot[r] for o, r in place.items()}
        (start,) = facts(game, "atLocation")
        assert start[1] not in spot.values()
        holds = set(map(tuple, facts(game, "canContain")))
        for (thing,) in facts(game, "pickupable"):
            assert (type_of[place[thing]], kind[thing]) in holds


@every_size
def test_the_wanted_object_never_starts_where_it_must_end(scenes):
    for game in games(scenes):
        obj, target = asked(game)
        kind, type_of = dict(facts(game, "objectType")), dict(facts(game, "receptacleType"))
        for thing, place in facts(game, "inReceptacle"):
            if kind[thing] == f"{obj}Type":
                assert type_of[place] != f"{target}Type"


@every_size
def test_layouts_of_train_never_occur_in_heldout(scenes):
    by_split = {"train": set(), "heldout": set()}
    for family in families(scenes):
        assert split_of(layout_of(family.receptacles)) == family.split
        by_split[family.split].add(layout_of(family.receptacles))
    assert not by_split["train"] & by_split["heldout"]
    count = Counter((f.room, f.split) for f in families(scenes))
    for room in SIZES[scenes].rooms:
        assert count[room, "train"] >= 10, room
        assert count[room, "heldout"] >= 6, room


@every_size
def test_games_use_the_layouts_of_their_split(scenes):
    """Read from the games, not from the tables: types, doors and shared spots."""
    seen = {"train": set(), "heldout": set()}
    for game in games(scenes):
        doors = {r for (r,) in facts(game, "openable")}
        spot = dict(facts(game, "receptacleAtLocation"))
        seen[game.split].add(tuple(sorted((r, t, r in doors, spot[r]) for r, t in facts(game, "receptacleType"))))
    assert not seen["train"] & seen["heldout"]


@every_size
def test_train_never_asks_for_a_pair_kept_for_heldout(scenes):
    for game in games(scenes):
        if game.split == "train":
            assert not is_held_out(*asked(game)), game.id


@every_size
def test_about_half_of_heldout_asks_for_pairs_new_to_it(scenes):
    heldout = [game for game in games(scenes) if game.split == "heldout"]
    share = sum(is_held_out(*asked(game)) for game in heldout) / len(heldout)
    assert 0.4 < share < 0.6


@every_size
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_every_word_of_a_heldout_goal_occurs_in_train_goals_of_its_type(scenes, task_type):
    """Else heldout would test words that were never learned, not new combinations of known ones."""

    def goals(split, held_out):
        rooms = offers(scenes, split, task_type, held_out)
        return {offer.goal for room in rooms for offer in room}

    train = goals("train", False)
    for goal in goals("heldout", True) | goals("heldout", False):
        assert goal.object in {g.object for g in train}
        assert goal.target in {g.target for g in train}
    assert goals("heldout", True)


def test_search_hides_the_object_anywhere_and_mostly_behind_doors():
    source = GeneratedGames("search", 300)
    behind_door, at = 0, Counter()
    ids = [i for i in source.ids("train") if "/pick_and_place_simple/" in i]
    for game in map(source.load, ids):
        obj, _ = asked(game)
        doors = {r for (r,) in facts(game, "openable")}
        type_of = dict(facts(game, "receptacleType"))
        (place,) = [r for o, r in facts(game, "inReceptacle") if o.startswith(f"{obj}_bar_")]
        behind_door += place in doors
        at[type_of[place]] += 1
        assert len(doors) > len(type_of) / 2
    assert behind_door > 0.6 * len(ids)
    # Cabinets and drawers make up about two thirds of the furniture, whatever is searched for.
    assert 0.5 < (at["CabinetType"] + at["DrawerType"]) / len(ids) < 0.85


def test_in_small_an_object_is_usually_but_not_always_in_its_place():
    usual = []
    for game in games("small"):
        obj, _ = asked(game)
        type_of = dict(facts(game, "receptacleType"))
        for thing, place in facts(game, "inReceptacle"):
            if thing.startswith(f"{obj}_bar_"):
                usual.append(type_of[place].removesuffix("Type") in KINDS[obj].usual)
    assert 0.6 < sum(usual) / len(usual) < 0.9


def test_the_number_of_an_object_does_not_tell_where_the_goal_is():
    first = [
        place.startswith("Fridge")
        for game in games("small")
        for thing, place in facts(game, "inReceptacle")
        if thing == "Egg_bar_01"
    ]
    assert any(first)
    assert not all(first)


def test_games_exercise_every_verb_of_the_engine():
    offered = set()
    for scenes in SIZES:
        for game in games(scenes):
            plan, state, _ = solve(game)
            for command in plan:
                offered |= {c.split()[0] for c in state.admissible()}
                state.step(command)
    assert offered >= {"go", "open", "close", "take", "move", "heat", "cool", "clean", "use"}
    assert "slice" in offered
    sources = {t for game in games("standard") for _, t in facts(game, "receptacleType")}
    assert sources >= {f"{t}Type" for t in (*OPENABLE, *APPLIANCE.values(), "GarbageCan")}
    lamps = {asked(g)[1] for g in games("standard") if g.task_type == "look_at_obj_in_light"}
    assert lamps == {"DeskLamp", "FloorLamp"}


def test_standard_has_shared_spots_and_fronts_that_do_not_open():
    shared = stuck = 0
    for game in games("standard"):
        spots = [spot for _, spot in facts(game, "receptacleAtLocation")]
        shared += len(spots) != len(set(spots))
        doors = {r for (r,) in facts(game, "openable")}
        stuck += any(t in ("CabinetType", "DrawerType") and r not in doors for r, t in facts(game, "receptacleType"))
    assert shared
    assert stuck


def test_a_room_that_cannot_reach_its_size_is_refused(monkeypatch):
    room = Room({"Desk": (1, 2), "Shelf": (0, 1)}, ("Book",))
    monkeypatch.setitem(SIZES, "broom", replace(SIZES["small"], rooms={"closet": room}))
    with pytest.raises(ConfigError, match="1 to 3 receptacles and its size asks for 7 to 9"):
        families("broom")


def test_rooms_that_offer_no_goal_of_a_type_say_so(monkeypatch):
    room = Room({"Desk": (2, 9), "Shelf": (1, 9)}, ("Book", "Pen"))
    monkeypatch.setitem(SIZES, "office", replace(SIZES["small"], rooms={"office": room}))
    source = GeneratedGames("office")
    assert source.load("generated-office/train/pick_and_place_simple/000000").goal
    with pytest.raises(ConfigError, match="no room of 'office' offers a pick_heat"):
        source.load("generated-office/train/pick_heat_then_place_in_recep/000000")


def test_tables_name_only_what_exists():
    for scenes, size in SIZES.items():
        pieces = {name for room in size.rooms.values() for name in room.furniture}
        for name, room in size.rooms.items():
            low, high = map(sum, zip(*room.furniture.values(), strict=True))
            assert low <= size.receptacles[1], (scenes, name)
            assert high >= size.receptacles[0], (scenes, name)
            for kind in room.objects:
                assert KINDS[kind].places, kind
                assert set(KINDS[kind].places) & room.furniture.keys(), (scenes, name, kind)
            mute = room.furniture.keys() - {p for k in KINDS.values() for p in k.places}
            assert mute <= {"Toaster"}, "a receptacle that nothing can be put in"
        assert size.targets is None or set(size.targets) <= pieces
    for kind in KINDS.values():
        assert not set(kind.usual) & set(kind.other), kind.name
