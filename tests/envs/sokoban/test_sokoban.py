"""Sokoban: levels that are the same everywhere, the published rules and rewards, an expert that is optimal, a judge."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections import deque

import pytest

import stapo
from stapo.agent import AgentConfig
from stapo.agent.memory import Turn
from stapo.agent.prompts import PromptFields, render_prompt
from stapo.envs.protocol import Demonstrator, Expert, HasDemonstrator, HasJudge, Thinks
from stapo.envs.sokoban import env as module
from stapo.envs.sokoban.board import DIRECTIONS, Board, State, direction_in
from stapo.envs.sokoban.env import SokobanEnv
from stapo.envs.sokoban.generator import Level
from stapo.envs.sokoban.levels import Sizes, distances, level_of, looks, shortest_plan, tasks_with
from stapo.envs.tasks import SeededTasks
from stapo.errors import ConfigError, EnvError, UnknownNameError

USUAL = Sizes(6, 1, 30, 10_000)
LARGE = Sizes(8, 2, 30, 100)
HASHES = {
    ("usual", "train"): "b2d3cc2098947057",
    ("usual", "heldout"): "ff0343613fed8c25",
    ("large", "train"): "16f2dc86c3b95585",
}

ROOM = """
######
#P___#
#_X__#
#____#
#__O_#
######
"""


def levels(sizes, split, number):
    return [level_of(sizes, task) for task in tasks_with(sizes).tasks_of(split)[:number]]


def hash_of(drawn):
    return hashlib.sha256("\n\n".join(looks(level)[0] for level in drawn).encode()).hexdigest()[:16]


def level_from(rows):
    """The level that a drawing shows; the inverse of `Board.rows`."""
    lines = rows.split()
    cells = "".join(lines)
    where = {sign: [i for i, cell in enumerate(cells) if cell in signs] for sign, signs in
             {"player": "PS", "box": "X√", "target": "O√S"}.items()}  # fmt: skip
    board = Board(len(lines), tuple(cell == "#" for cell in cells), tuple(where["target"]))
    return Level(board, State(where["player"][0], tuple(where["box"])))


@pytest.fixture
def room(monkeypatch):
    """An environment whose every level is the one drawn."""

    def build(rows=ROOM, **options):
        level = level_from(rows)
        monkeypatch.setattr(module, "level_of", lambda sizes, task: level)
        monkeypatch.setattr(module, "distances_of", lambda sizes, task: distances(level.board))
        env = SokobanEnv(levels=10, **options)
        env.reset(env.tasks[0])
        return env

    return build


def rows_of(env):
    return "\n".join(env.board.rows(env.state))


# -- levels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, sizes, split, number", [
    ("usual", USUAL, "train", 200), ("usual", USUAL, "heldout", 20), ("large", LARGE, "train", 5),
])  # fmt: skip
def test_levels_are_the_recorded_ones(name, sizes, split, number):
    assert hash_of(levels(sizes, split, number)) == HASHES[name, split]


def test_levels_do_not_depend_on_the_process():
    """Python salts the hashes of texts for each process; the published retry seed is such a hash."""
    code = (
        "from stapo.envs.sokoban.levels import *; s = Sizes(6, 1, 30, 10000); import hashlib; "
        "print(hashlib.sha256('\\n\\n'.join(looks(level_of(s, t))[0] for t in tasks_with(s).tasks_of('heldout')[:20])"
        ".encode()).hexdigest()[:16])"
    )
    for salt in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": salt}
        )
        assert done.stdout.strip() == HASHES["usual", "heldout"], done.stderr


def test_no_heldout_room_is_in_train_however_it_is_turned():
    train = {min(looks(level)) for level in levels(USUAL, "train", 600)}
    heldout = {min(looks(level)) for level in levels(USUAL, "heldout", 60)}
    assert len(train) > 300
    assert len(heldout) > 30
    assert not train & heldout


def test_looks_are_the_eight_ways_to_see_a_room():
    level = level_from("#### #PO# #X_# ####")
    assert looks(level)[0] == "####\n#PO#\n#X_#\n####"
    assert len(set(looks(level))) == 8
    turned = level_from(looks(level)[3])
    assert sorted(looks(turned)) == sorted(looks(level))


@pytest.mark.parametrize("sizes", [USUAL, LARGE])
def test_rooms_keep_the_rules_of_the_generator(sizes):
    for board, start in levels(sizes, "train", 20):
        n = sizes.size
        border = [*range(n), *range(n * n - n, n * n), *range(0, n * n, n), *range(n - 1, n * n, n)]
        assert all(board.walls[cell] for cell in border)
        assert len(start.boxes) == len(board.targets) == sizes.boxes
        assert not set(start.boxes) & set(board.targets)
        assert start.player not in start.boxes
        assert not any(board.walls[cell] for cell in (start.player, *start.boxes, *board.targets))


def test_a_room_that_cannot_be_had_is_an_error(monkeypatch):
    import stapo.envs.sokoban.levels as drawn

    monkeypatch.setattr(drawn, "MOST_ATTEMPTS", 3)
    monkeypatch.setattr(drawn, "draw_level", lambda name, **options: None)
    with pytest.raises(ConfigError, match=r"no room of 7 by 7 cells with 2 boxes .* 3 attempts; give a larger"):
        level_of(Sizes(7, 2, 9, 10), "train/000001")


# -- the expert --------------------------------------------------------------------------------------------------------


def test_the_expert_solves_a_thousand_levels_within_the_limit():
    env = SokobanEnv()
    for task in env.tasks_of("train")[:1000]:
        env.reset(task)
        plan = env.expert_plan()
        assert 0 < len(plan) <= env.max_steps
        for left, move in zip(range(len(plan), 0, -1), plan, strict=True):
            assert env.remaining() == left
            result = env.step(move)
        assert (result.won, result.done, env.expert_plan(), env.remaining()) == (True, True, [], 0)


def forwards(board, state):
    """Moves to a solved state by a search from the front, which shares nothing with the expert but the rules."""
    pending, seen = deque([(state, 0)]), {state}
    while pending:
        state, moves = pending.popleft()
        if board.won(state):
            return moves
        for direction in DIRECTIONS:
            after = board.move(state, direction)
            if after not in seen:
                seen.add(after)
                pending.append((after, moves + 1))
    return None


@pytest.mark.parametrize("sizes, number", [(USUAL, 40), (LARGE, 6)])
def test_distances_are_those_of_a_search_from_the_front(sizes, number):
    rng, unsolvable = random.Random(0), 0
    for board, start in levels(sizes, "train", number):
        left, state = distances(board), start
        for _ in range(12):
            assert left.get(state) == forwards(board, state)
            unsolvable += state not in left
            plan = shortest_plan(board, state, left)
            assert (None if plan is None else len(plan)) == left.get(state)
            state = board.move(state, rng.choice(DIRECTIONS))
    assert unsolvable


# -- rules and rewards -------------------------------------------------------------------------------------------------


def test_a_level_played_by_hand(room):
    env = room()
    played = [
        ("up", -0.1, False),  # a wall
        ("down", -0.1, True),
        ("right", -0.1, True),  # a push
        ("xyzzy", -0.1, False),
        ("up", -0.1, True),
        ("right", -0.1, True),
        ("Down.", -0.1, True),  # a push
        ("<action>down</action>", -0.1, False),
        ("go down", 10.9, True),  # onto the target
    ]
    for action, reward, effect in played:
        result = env.step(action)
        assert (pytest.approx(reward), effect) == (result.reward, result.info["effect"]), action
    assert result.won
    assert rows_of(env) == "######\n#____#\n#____#\n#__P_#\n#__√_#\n######"
    assert result.text == "\n".join("".join(f" {sign} \t" for sign in row) for row in rows_of(env).split("\n"))
    with pytest.raises(EnvError, match="after the episode ended"):
        env.step("up")


TWO = """
#######
#P____#
#_XO__#
#_XO__#
#_____#
#_____#
#######
"""


def test_boxes_on_and_off_targets(room):
    env = room(TWO, boxes=2)
    env.step("down")
    assert env.step("right").reward == pytest.approx(0.9)
    assert "√" in rows_of(env)
    off = env.step("right")
    assert (off.reward, off.won, off.done) == (pytest.approx(-1.1), False, False)
    assert "S" in rows_of(env)


def test_nothing_is_pushed_into_a_wall_or_another_box(room):
    env = room("####### #PXXO_# #____O# #_____# #_____# #_____# #######", boxes=2)
    assert env.step("right").info == {"truncated": False, "effect": False}
    env = room("#### #PX# #_O# ####")
    assert not env.step("right").info["effect"]


def test_positions_are_said_below_the_room(room):
    said = room("######\n#P___#\n#_X__#\n#__X_#\n#OO__#\n######", positions=True)
    assert said.step("right").text.splitlines()[-1] == (
        "Player at row 2, column 3. "
        "Box at row 3, column 3; row 4, column 4. Target at row 5, column 2; row 5, column 3."
    )
    assert said.step("down").text.splitlines()[-1].startswith("Player at row 3, column 3. Box at row 4, column 3;")
    plain = room(ROOM).reset("train/000000").text
    assert room(ROOM, positions=True).reset("train/000000").text == plain + (
        "\nPlayer at row 2, column 2. Box at row 3, column 3. Target at row 5, column 4."
    )


def test_the_limit_ends_an_episode(room):
    env = room(max_steps=3)
    results = [env.step("nonsense") for _ in range(3)]
    assert [(r.done, r.info["truncated"]) for r in results] == [(False, False)] * 2 + [(True, True)]
    assert not any(result.won for result in results)


@pytest.mark.parametrize("text, meant", [
    ("up", "up"), (" LEFT\n", "left"), ("I push right!", "right"), ("up, then down", None), ("upwards", None),
    ("", None), (None, None), ("up " * 9, "up"), ("x" * 5_000 + " up", None),
])  # fmt: skip
def test_which_direction_a_text_names(text, meant):
    assert direction_in(text) == meant


# -- the protocol ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"size": 7, "boxes": 2, "levels": 30, "max_steps": 9}])
def test_it_follows_the_protocol(options):
    passed = stapo.check_env(stapo.make("sokoban", **options))
    assert {"judging", "same actions, same episode", "the goal is hidden"} <= set(passed)
    env = stapo.make("sokoban", **options)
    assert all(isinstance(env, part) for part in (Expert, HasDemonstrator, HasJudge))


def test_tasks():
    env = SokobanEnv(levels=25)
    assert (list(env.splits), len(env.tasks_of("train")), len(env.tasks_of("heldout"))) == (["train", "heldout"], 25, 2)
    assert env.task_type(env.tasks[0]) == "6x6-1-box"
    for task in ("train/000025", "train/25", "nowhere/000000", "train/", "train/٣"):
        with pytest.raises(UnknownNameError, match="unknown task"):
            env.reset(task)
    with pytest.raises(UnknownNameError, match="Known: train/000000 to train/000002"):
        SeededTasks({"train": 3, "heldout": 0}).place_of("heldout/000000")


@pytest.mark.parametrize("option, wrong, said", [
    ("size", 4, "size is 4, expected a whole number from 5 to 10"),
    ("size", 11, "size is 11, expected a whole number from 5 to 10"),
    ("boxes", 4, "boxes is 4, expected a whole number from 1 to 3"),
    ("levels", 0, "levels is 0, expected a whole number from 1 to"),
    ("search_depth", True, "search_depth is True, expected a whole number"),
    ("positions", 1, "positions is 1, expected true or false"),
    ("demonstrator_slips", 1.5, "demonstrator_slips is 1.5, expected a number from 0 to 1"),
])  # fmt: skip
def test_options_are_checked(option, wrong, said):
    with pytest.raises(ConfigError, match=said):
        SokobanEnv(**{option: wrong})


# -- the judge ---------------------------------------------------------------------------------------------------------


def judged(env, moves):
    judge, found = env.judge(), []
    for move in moves:
        judge.before(move)
        found.append(set(judge.after(env.step(move))))
    return found


def test_the_judge_names_each_fault_where_it_happens(room):
    assert judged(room(), ["up", "up", "jump", "jump", "down", "right"]) == [
        {"blocked"}, {"blocked", "repeated"}, {"invalid"}, {"invalid", "repeated"}, set(), set(),
    ]  # fmt: skip
    # Away from the box and back: the first makes the way longer, the second is the shortest way again.
    assert judged(room("###### #____# #_XP_# #_O__# #____# ######"), ["right", "left"]) == [{"detour"}, set()]
    into_a_corner = "###### #____# #___S# #___X# #____# ######"
    assert judged(room(into_a_corner), ["down"]) == [{"corner", "dead_end"}]
    along_the_wall = "###### #____# #_O__# #_XP_# #____# ######"
    assert judged(room(along_the_wall), ["left", "up"]) == [{"dead_end"}, set()]


def test_what_was_lost_before_is_not_lost_again(room):
    """A box beside a wall reaches no target in the middle, before the push into the corner and after."""
    env = room("###### #____# #_O_P# #___X# #____# ######")
    assert env.remaining() is None
    assert judged(env, ["down"]) == [{"corner"}]


# -- demonstrations and prompts ----------------------------------------------------------------------------------------


def test_the_demonstrator_wins_and_says_why():
    env = SokobanEnv()
    for task in env.tasks_of("heldout")[:20]:
        env.reset(task)
        judge, player = env.judge(), env.demonstrator(random.Random(0))
        assert isinstance(player, Demonstrator)
        assert isinstance(player, Thinks)
        shortest, moves = env.remaining(), 0
        while (move := player.action()) is not None:
            assert move == player.action()
            assert move in player.thought()
            judge.before(move)
            result = env.step(move)
            assert judge.after(result) == frozenset()
            player.played(move, bool(result.info["effect"]))
            moves += 1
        assert (result.won, moves) == (True, shortest)
        assert player.thought() == "Nothing is left to do."


def test_a_demonstrator_that_slips_wanders_and_never_gets_stuck():
    env = SokobanEnv(demonstrator_slips=0.5, max_steps=200)
    extra = 0
    for task in env.tasks_of("train")[:30]:
        env.reset(task)
        player, extra = env.demonstrator(random.Random(task)), extra - env.remaining()
        while (move := player.action()) is not None:
            result = env.step(move)
            player.played(move, bool(result.info["effect"]))
            assert env.remaining() is not None
            extra += 1
        assert result.won
    assert extra > 30


def test_the_prompt_tells_what_the_published_one_tells():
    fields = PromptFields(
        goal=module.GOAL, step=1, steps_taken=1, history=(Turn("BEFORE", "BEFORE", "up", "up", None),),
        observation="NOW", blind_observation="NOW", admissible=("down", "up"), earlier=("left",),
    )  # fmt: skip
    config = AgentConfig(prompt="sokoban")
    full, blind = (render_prompt(fields, config, mask).text for mask in ("none", "goal_history"))
    for part in ("# wall, _ floor", module.GOAL, "never pull", "BEFORE\nyour action: 'up'", "left", "NOW", "down\nup"):
        assert part in full
    assert "<action>" in full
    for part in (module.GOAL, "BEFORE", "left", "have taken"):
        assert part not in blind
    assert "NOW" in blind
    numbered = render_prompt(fields, AgentConfig(prompt="sokoban", response="choice"), "none").text
    assert "1. down\n2. up" in numbered
    assert "number of exactly one command" in numbered
