"""The rules of the domain, worked out by hand on small worlds."""

from __future__ import annotations

import pytest
from tiny_games import Tiny, kitchen, put

from stapo.envs.alfworld.text import HELP

NOTHING = "Nothing happens."


def say(state, *commands):
    return [state.step(command)[0] for command in commands][-1]


def test_intro_lists_all_receptacles_and_look_in_the_room_lists_none():
    state = kitchen().play()
    assert state.intro("put a mug in desk.") == (
        "-= Welcome to TextWorld, ALFRED! =-\n\n"
        "You are in the middle of a room. Looking quickly around you, you see a desk 1, "
        "a drawer 2, a drawer 1, a fridge 1, a microwave 1, and a sinkbasin 1.\n\n"
        "Your task is to: put a mug in desk."
    )
    assert say(state, "look") == ("You are in the middle of a room. Looking quickly around you, you see nothing.")


def test_intro_of_an_agent_that_starts_at_a_receptacle_faces_it():
    assert "You are facing the desk 1. Next to it, you see nothing." in kitchen(start=1).play().intro("x.")


def test_numbers_count_down_in_the_order_of_the_ids_also_beyond_nine():
    names = [f"mug {i}" for i in range(1, 13)]
    state = Tiny().at("desk 1", 1, *names).play()
    seen = say(state, "go to desk 1")
    listed = ", ".join(f"a mug {i}" for i in range(12, 1, -1))
    assert seen == f"You arrive at desk 1. On the desk 1, you see {listed}, and a mug 1."
    takes = [c for c in state.admissible() if c.startswith("take")]
    assert takes == sorted(takes)
    assert takes[1] == "take mug 10 from desk 1"


@pytest.mark.parametrize("grammar, arrival", [("move", "You arrive at drawer 1. "), ("put", "You arrive at loc 4. ")])
def test_arrival_names_the_receptacle_or_the_location(grammar, arrival):
    # Six locations, numbered downwards: loc_bar_2 is the third of 0..5.
    assert say(kitchen().play(grammar), "go to drawer 1") == arrival + "The drawer 1 is closed."


def test_going_is_offered_to_every_other_place_and_to_no_receptacle_here():
    state = kitchen().play()
    say(state, "go to drawer 1")
    going = [c for c in state.admissible() if c.startswith("go to")]
    assert going == [f"go to {r}" for r in ("desk 1", "fridge 1", "microwave 1", "sinkbasin 1")]
    assert say(state, "go to drawer 2") == NOTHING
    assert say(state, "look") == "You are facing the drawer 2, and drawer 1. Next to it, you see nothing."


def test_doors():
    state = kitchen().play()
    assert say(state, "go to drawer 1", "examine drawer 1") == "The drawer 1 is closed."
    assert say(state, "take mug 2 from drawer 1") == NOTHING
    assert say(state, "open drawer 1") == ("You open the drawer 1. The drawer 1 is open. In it, you see a mug 2.")
    assert say(state, "open drawer 1") == NOTHING
    assert say(state, "examine drawer 2") == "The drawer 2 is open. In it, you see a spoon 1."
    assert say(state, "close drawer 1") == "You close the drawer 1."
    assert say(state, "close drawer 1") == NOTHING
    assert say(state, "open desk 1") == NOTHING
    assert say(state, "go to desk 1", "open desk 1") == NOTHING


def test_taking_and_putting_in_both_wordings():
    for grammar, command, answer in (
        ("move", "move mug 1 to drawer 2", "You move the mug 1 to the drawer 2."),
        ("put", "put mug 1 in/on drawer 2", "You put the mug 1 in/on the drawer 2."),
    ):
        state = kitchen().play(grammar)
        assert say(state, "go to desk 1", "take mug 1 from desk 1") == ("You pick up the mug 1 from the desk 1.")
        assert say(state, "take knife 1 from desk 1") == NOTHING
        assert say(state, "inventory") == "You are carrying: a mug 1."
        assert say(state, "go to drawer 1", command) == answer
        assert say(state, "inventory") == "You are not carrying anything."
        assert say(state, "examine drawer 2") == ("The drawer 2 is open. In it, you see a mug 1, and a spoon 1.")


def test_the_other_wording_is_not_understood():
    state = kitchen().play("move")
    say(state, "go to desk 1", "take mug 1 from desk 1")
    assert say(state, "put mug 1 in/on desk 1") == NOTHING
    state = kitchen().play("put")
    say(state, "go to desk 1", "take mug 1 from desk 1")
    assert say(state, "move mug 1 to desk 1") == NOTHING


def test_a_type_that_does_not_fit_is_neither_offered_nor_accepted():
    tiny = kitchen()
    tiny.refuses.add(("drawer", "mug"))
    state = tiny.play()
    say(state, "go to desk 1", "take mug 1 from desk 1", "go to drawer 2")
    assert say(state, "move mug 1 to drawer 2") == NOTHING
    assert not [c for c in state.admissible() if c.startswith("move")]


def test_a_closed_receptacle_takes_nothing():
    state = kitchen().play()
    say(state, "go to desk 1", "take mug 1 from desk 1", "go to fridge 1")
    assert say(state, "move mug 1 to fridge 1") == NOTHING
    assert say(state, "open fridge 1", "move mug 1 to fridge 1") == "You move the mug 1 to the fridge 1."


@pytest.mark.parametrize(
    "tool, verb, mark",
    [
        ("sinkbasin 1", "clean", "clean"),
        ("microwave 1", "heat", "hot"),
        ("fridge 1", "cool", "cold"),
    ],
)
def test_treatments_ignore_the_door_and_show_when_examined(tool, verb, mark):
    state = kitchen().play()
    say(state, "go to desk 1", "take mug 1 from desk 1", f"go to {tool}")
    command = f"{verb} mug 1 with {tool}"
    assert command in state.admissible()
    assert state.step(command) == (f"You {verb} the mug 1 using the {tool}.", True)
    assert state.step(command) == (f"You {verb} the mug 1 using the {tool}.", False)
    assert say(state, "examine mug 1") == f"This is a {mark} mug 1."
    assert say(state, command.replace("mug", "knife")) == NOTHING


def test_treatments_need_the_right_tool_and_the_object_in_hand():
    state = kitchen().play()
    say(state, "go to sinkbasin 1")
    assert say(state, "clean plate 1 with sinkbasin 1") == NOTHING
    say(state, "take plate 1 from sinkbasin 1")
    assert say(state, "heat plate 1 with sinkbasin 1") == NOTHING
    assert say(state, "heat plate 1 with microwave 1") == NOTHING


def test_heat_and_cold_replace_each_other_and_join_with_clean():
    state = kitchen().play()
    say(
        state,
        "go to desk 1",
        "take mug 1 from desk 1",
        "go to fridge 1",
        "cool mug 1 with fridge 1",
    )
    say(state, "go to microwave 1", "heat mug 1 with microwave 1")
    assert say(state, "examine mug 1") == "This is a hot mug 1."
    say(state, "go to sinkbasin 1", "clean mug 1 with sinkbasin 1")
    assert say(state, "examine mug 1") == "This is a hot and clean mug 1."
    say(state, "go to fridge 1", "cool mug 1 with fridge 1")
    assert say(state, "examine mug 1") == "This is a cool and clean mug 1."


def test_only_a_held_object_can_be_examined():
    state = kitchen().play()
    say(state, "go to desk 1")
    assert say(state, "examine knife 1") == NOTHING
    say(state, "take knife 1 from desk 1")
    assert say(state, "examine knife 1") == "There's nothing special about knife 1."
    assert say(state, "examine fridge 1") == NOTHING


def test_examining_a_container_lists_what_the_facts_put_inside():
    tiny = kitchen().at("shelf 1", 6, "bowl 1", "key 1")
    tiny.fact("inReceptacleObject", tiny.entity("key 1"), tiny.entity("bowl 1"))
    state = tiny.play()
    say(state, "go to shelf 1", "take bowl 1 from shelf 1")
    assert say(state, "examine bowl 1") == "This is a normal bowl 1. In it, you see a key 1."
    state = kitchen().play()
    say(
        state,
        "go to sinkbasin 1",
        "take plate 1 from sinkbasin 1",
        "clean plate 1 with sinkbasin 1",
    )
    assert say(state, "examine plate 1") == "This is a normal plate 1. In it, you see nothing."


def test_slicing_goes_by_place_even_through_a_closed_door():
    state = kitchen().play()
    say(state, "go to desk 1", "take knife 1 from desk 1", "go to fridge 1")
    slices = [c for c in state.admissible() if c.startswith("slice")]
    assert slices == ["slice apple 1 with knife 1", "slice egg 1 with knife 1"]
    assert say(state, slices[0]) == "You sliced the apple 1 with the knife 1."
    say(state, "go to desk 1", "move knife 1 to desk 1", "go to fridge 1", "open fridge 1")
    assert say(state, "slice egg 1 with knife 1") == NOTHING
    say(state, "take apple 1 from fridge 1")
    assert say(state, "examine apple 1") == "This is a sliced apple 1."
    say(state, "cool apple 1 with fridge 1")
    assert say(state, "examine apple 1") == "This is a cool sliced apple 1."
    say(state, "go to sinkbasin 1", "clean apple 1 with sinkbasin 1")
    assert say(state, "examine apple 1") == "This is a cool and clean sliced apple 1."


def test_an_object_noted_elsewhere_is_sliced_there_and_not_where_it_lies():
    tiny = Tiny().at("desk 1", 1, "knife 1", "mug 1").at("shelf 1", 2, "apple 1", spot=3).at("bed 1", 3)
    state = tiny.play()
    say(state, "go to desk 1", "take knife 1 from desk 1", "go to shelf 1")
    assert "slice apple 1 with knife 1" not in state.admissible()
    say(state, "go to bed 1")
    assert "slice apple 1 with knife 1" in state.admissible()


def test_using_a_lamp_always_turns_it_on_with_full_hands_and_closed_doors():
    state = Tiny().at("desk 1", 1, "mug 1").at("cabinet 1", 1, "desklamp 1", door="closed").play()
    assert say(state, "use desklamp 1") == NOTHING
    say(state, "go to desk 1", "take mug 1 from desk 1")
    assert state.step("use desklamp 1") == ("You turn on the desklamp 1.", True)
    assert state.step("use desklamp 1") == ("You turn on the desklamp 1.", False)
    assert "take desklamp 1 from desk 1" not in state.admissible()


def test_a_lamp_in_two_receptacles_here_is_offered_once():
    tiny = Tiny().at("desk 1", 1, "desklamp 1", "mug 1").at("shelf 1", 1, "desklamp 1")
    state = tiny.play()
    say(state, "go to desk 1")
    assert state.admissible().count("use desklamp 1") == 1


def test_an_object_in_two_receptacles_leaves_one_at_a_time_and_is_noticed_beside_them():
    tiny = Tiny().at("burner 1", 1, "mug 1").at("burner 2", 1, "mug 1").at("desk 1", 2)
    state = tiny.play()
    say(state, "go to burner 1")
    takes = [c for c in state.admissible() if c.startswith("take")]
    assert takes == ["take mug 1 from burner 1", "take mug 1 from burner 2"]
    say(state, "take mug 1 from burner 1")
    assert say(state, "examine burner 2") == "On the burner 2, you see a mug 1."
    assert "take mug 1 from burner 2" not in state.admissible()
    say(state, "move mug 1 to burner 2")
    assert say(state, "look") == "You are facing the burner 2, and burner 1. Next to it, you see a mug 1."
    say(state, "take mug 1 from burner 2", "move mug 1 to burner 1", "take mug 1 from burner 1")
    assert say(state, "look").endswith("you see nothing.")
    say(state, "move mug 1 to burner 1")
    assert say(state, "look").endswith("you see a mug 1.")
    say(state, "take mug 1 from burner 1", "go to desk 1", "move mug 1 to desk 1")
    assert say(state, "look") == "You are facing the desk 1. Next to it, you see nothing."


def test_an_object_taken_from_two_receptacles_here_is_noticed_twice():
    tiny = Tiny().at("burner 1", 1, "mug 1").at("burner 2", 1, "mug 1").at("burner 3", 1)
    state = tiny.play()
    for burner in ("burner 1", "burner 2"):
        say(state, "go to burner 1", f"take mug 1 from {burner}", "move mug 1 to burner 3")
    assert say(state, "look") == (
        "You are facing the burner 3, burner 2, and burner 1. Next to it, you see a mug 1, and a mug 1."
    )


def test_marks_in_the_facts_count_from_the_start():
    tiny = kitchen()
    tiny.fact("isHot", tiny.entity("mug 1")).fact("isClean", tiny.entity("mug 1"))
    state = tiny.play()
    say(state, "go to desk 1", "take mug 1 from desk 1")
    assert say(state, "examine mug 1") == "This is a hot and clean mug 1."


def test_a_portable_lamp_shows_whether_it_was_ever_used():
    tiny = Tiny().at("desk 1", 1, "desklamp 1", "mug 1")
    tiny.fact("pickupable", tiny.entity("desklamp 1"))
    state = tiny.play()
    say(state, "go to desk 1", "take desklamp 1 from desk 1")
    assert say(state, "examine desklamp 1") == "There's nothing special about desklamp 1."
    assert say(state, "use desklamp 1") == NOTHING
    say(state, "move desklamp 1 to desk 1", "use desklamp 1", "take desklamp 1 from desk 1")
    assert say(state, "examine desklamp 1") == "This desklamp 1 is on."


def test_a_receptacle_without_a_place_is_never_seen():
    tiny = Tiny().at("desk 1", 1, "mug 1").fact("receptacleType", "Sofa_bar_98", "sofaType")
    state = tiny.play()
    assert "you see a desk 1." in state.intro("x.")
    assert "go to sofa 1" not in state.admissible()
    assert say(state, "go to sofa 1") == NOTHING


def test_help_belongs_to_the_newer_wording_and_is_always_offered():
    state = kitchen().play("move")
    assert "help" in state.admissible()
    assert say(state, "help") == HELP
    assert HELP.count("\n") == 14
    state = kitchen().play("put")
    assert "help" not in state.admissible()
    assert say(state, "help") == NOTHING


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "look around", "Look", "GO TO desk 1", "go to", "go to desk", "go to  desk 1"),
        *("go desk 1", "take mug 1", "take mug 1 from", "take  from desk 1", "examine", "use"),
        *("open", "inventory please", "help me", "look\x00", "go to desk 1.", "slice a with b"),
        *("clean", "clean with", "heat mug 1 with microwave 1", "möve mug 1 to desk 1", "🤖"),
        *("\ud800", "x" * 100_000, "take " * 20_000, "examine mug 1"),
    ],
)
def test_anything_else_changes_nothing(text):
    state = kitchen().play()
    before = state.facts()
    assert state.step(text) == (NOTHING, False)
    assert state.facts() == before


def test_surrounding_blanks_are_ignored():
    state = kitchen().play()
    assert say(state, "\t go to desk 1 \n").startswith("You arrive at desk 1.")


def test_every_offered_command_is_understood_and_no_other_is():
    state = kitchen(goal=put("apple", "desk")).play()
    rng_free_walk = ["go to desk 1", "take knife 1 from desk 1", "go to fridge 1", "open fridge 1"]
    everything = {
        f"{verb} {a}{joint}{b}"
        for verb, joint in (
            ("take", " from "),
            ("move", " to "),
            ("slice", " with "),
            ("clean", " with "),
        )
        for a in state.game.objects
        for b in (*state.game.receptacles, *state.game.objects)
    }
    everything |= {
        f"{verb} {name}"
        for verb in ("go to", "open", "close", "examine", "use")
        for name in (*state.game.receptacles, *state.game.objects)
    }
    for command in rng_free_walk:
        offered = set(state.admissible())
        understood = {c for c in everything if state.fork().step(c)[0] != NOTHING}
        assert understood == offered - {"look", "inventory", "help"}
        state.step(command)


def test_forks_are_independent():
    state = kitchen().play()
    twin = state.fork()
    say(twin, "go to desk 1", "take mug 1 from desk 1")
    assert state.key() == kitchen().play().key()
    assert twin.key() != state.key()
    say(state, "go to desk 1", "take mug 1 from desk 1")
    assert twin.key() == state.key()
