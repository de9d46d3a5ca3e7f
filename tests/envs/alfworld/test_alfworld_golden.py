"""The native engine against transcripts of the original one: no difference is tolerated."""

from __future__ import annotations

import gzip
import json

import pytest

from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.env import AlfworldEnv
from stapo.envs.alfworld.goals import compile_goal
from stapo.envs.alfworld.sources import open_source
from stapo.envs.alfworld.text import GRAMMARS
from stapo.envs.alfworld.world import compile_world


@pytest.fixture(scope="module")
def transcripts(shared):
    path = shared / "golden" / "alfworld" / "transcripts.json.gz"
    if not path.exists():
        pytest.skip(f"no recorded transcripts at {path}")
    with gzip.open(path) as stream:
        return json.load(stream)


@pytest.fixture(scope="module")
def source(shared):
    return open_source(shared / "data" / "alfworld")


def episodes(entry):
    for kind, value in entry.items():
        if isinstance(value, dict) and "steps" in value:
            yield kind, "put" if "2_1_1" in kind else "move", value


def test_every_step_of_every_transcript_is_reproduced(transcripts, source):
    different, steps, seen = [], 0, set()
    for entry in transcripts:
        world = compile_world(source.load(entry["id"]))
        goal = compile_goal(world)
        for kind, grammar, episode in episodes(entry):
            seen.add(grammar)
            state = State(world, GRAMMARS[grammar])
            shown = [("", state.intro(entry["goal"]), state.admissible())]
            wanted = [("", episode["initial_observation"], episode["initial_admissible"])]
            for step in episode["steps"]:
                text, _ = state.step(step["action"])
                won = goal.holds(state)
                shown.append((step["action"], text, state.admissible(), won, int(won), won))
                wanted.append(tuple(step[k] for k in ("action", "observation", "admissible", "won", "score", "done")))
                steps += 1
            different += [
                (entry["id"], kind, i, ours, theirs)
                for i, (ours, theirs) in enumerate(zip(shown, wanted, strict=True))
                if ours != theirs
            ]
    assert steps > 1000
    assert seen == {"move", "put"}
    assert not different, f"{len(different)} of {steps} steps differ, first: {different[0]}"


def test_walkthroughs_through_the_public_environment(transcripts, shared):
    played = 0
    for grammar in ("move", "put"):
        env = AlfworldEnv(games=shared / "data" / "alfworld", grammar=grammar)
        for entry in transcripts:
            for kind, wording, episode in episodes(entry):
                if wording != grammar or not kind.startswith("walkthrough"):
                    continue
                first = env.reset(entry["id"])
                assert first.text == episode["initial_observation"]
                assert first.goal == entry["goal"]
                assert first.admissible == episode["initial_admissible"]
                for step in episode["steps"]:
                    result = env.step(step["action"])
                    assert (result.text, result.admissible) == (
                        step["observation"],
                        step["admissible"],
                    )
                    assert (result.won, result.done, result.reward) == (
                        step["won"],
                        step["done"],
                        step["score"],
                    )
                assert result.won
                played += 1
    assert played >= 50


def test_plans_are_no_longer_than_the_original_planners(transcripts, shared):
    env = AlfworldEnv(games=shared / "data" / "alfworld")
    compared = 0
    for entry in transcripts:
        if entry.get("plan"):
            env.reset(entry["id"])
            assert len(env.expert_plan()) <= len(entry["plan"]), entry["id"]
            compared += 1
    assert compared >= 40
