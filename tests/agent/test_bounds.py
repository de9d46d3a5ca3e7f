"""What an environment may put into a prompt is bounded, marked and counted; what it takes is not."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

import stapo
from stapo.agent import AgentConfig, PromptFields, Turn, cut_commands, cut_text, render_prompt
from stapo.envs import Observation, StepResult
from stapo.envs.webshop.env import WebShopEnv
from stapo.errors import ConfigError
from stapo.rollout import StopReason, Trajectory
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.episode import Episode
from stapo.rollout.sampler import Sample
from toy_world import small_policy

ENCODER = PromptEncoder(small_policy().tokenizer)


def episode(agent):
    return Episode(
        ENCODER,
        agent,
        Trajectory("t", "t", "", 0, 0),
        blind_mask="goal_history",
        anchor="observation",
        reward_scale=1.0,
    )


def answered(playing, text="look"):
    ids = ENCODER.encode_response(text)
    playing.answer(Sample(ids, [-1.0] * len(ids), [0.1] * len(ids), True))
    return playing._step


def test_short_texts_are_left_alone_and_long_ones_say_how_much_is_missing():
    assert cut_text("abcdef", 6) == "abcdef"
    assert cut_text("abcdefg" * 1000, 6) == "abcdef [… 6,994 characters cut]"


def test_commands_are_listed_whole_or_not_at_all():
    assert cut_commands(["a", "bb", "ccc"], 9, 99) == ("a", "bb", "ccc")
    assert cut_commands(["a", "bb", "ccc"], 2, 99) == ("a", "bb")
    assert cut_commands(["a", "b" * 50, "ccc"], 9, 10) == ("a", "ccc")


def test_a_page_without_blanks_is_shown_in_part_and_counted():
    agent = AgentConfig(prompt="compact", response="action", max_observation_characters=300)
    playing = episode(agent)
    playing.begin(Observation("b" * 100_000, "g" * 5_000, ["look", "c" * 400, "take"]))
    started = time.process_time()
    assert playing.prompt() is not None
    assert time.process_time() - started < 5
    step = answered(playing)
    assert "now " + "b" * 300 + " [… 99,700 characters cut]" in step.prompt
    assert "goal " + "g" * 300 + " [… 4,700 characters cut]" in step.prompt
    assert "\nlook\ntake\n" in step.prompt
    assert "c" * 400 not in step.prompt
    assert (step.cut_texts, step.valid) == (3, True)
    assert "b" * 300 + " […" in step.blind_prompt


def test_the_world_still_takes_what_was_not_listed():
    agent = AgentConfig(prompt="compact", response="action", max_commands=2, require_admissible=True)
    playing = episode(agent)
    playing.begin(Observation("here", "goal", ["a", "b", "c"]))
    assert playing.prompt() is not None
    step = answered(playing, "c")
    assert "\na\nb\nstep" in step.prompt
    assert (step.valid, step.cut_texts) == (True, 1)


def test_pages_that_differ_behind_the_cut_are_two_states():
    agent = AgentConfig(prompt="compact", response="action", max_observation_characters=10)
    anchors = set()
    for end in "xyx":
        playing = episode(agent)
        playing.begin(Observation("a" * 50 + end, "goal"))
        playing.prompt()
        anchors.add(answered(playing).anchor)
    assert len(anchors) == 2


def test_a_later_page_is_cut_too():
    playing = episode(AgentConfig(prompt="compact", response="action", max_observation_characters=10))
    playing.begin(Observation("here", "goal"))
    playing.prompt()
    assert answered(playing).cut_texts == 0
    playing.observe(StepResult("z" * 50, None, 0.0, False, False))
    playing.prompt()
    step = answered(playing)
    assert "z" * 10 + " [… 40 characters cut]" in step.prompt
    assert step.cut_texts == 1


def test_by_default_an_endless_page_ends_its_episode_within_seconds():
    playing = episode(AgentConfig(prompt="compact", response="action"))
    playing.begin(Observation("a" * 1_000_000, "goal", [f"go {i}" for i in range(100_000)]))
    started = time.process_time()
    assert playing.prompt() is None
    assert time.process_time() - started < 20
    assert playing.trajectory.stop_reason is StopReason.PROMPT_TOO_LONG
    assert len(playing.observation) < 60_000


@pytest.mark.parametrize("name, options", [("alfworld", {"scenes": "tiny"}), ("webshop", {"size": "tiny"})])
def test_no_text_of_the_built_in_worlds_comes_near_the_bounds(name, options):
    env, agent = stapo.make(name, **options), AgentConfig()
    first = env.reset(env.tasks[0])
    longest = max(len(first.text), *(len(env.step(c).text) for c in list(first.admissible)[:3]))
    assert longest * 10 < agent.max_observation_characters
    assert len(first.admissible) * 10 < agent.max_commands
    env.close()


@pytest.mark.parametrize("field", ["max_observation_characters", "max_commands"])
def test_bounds_are_at_least_one(field):
    with pytest.raises(ConfigError, match=field):
        AgentConfig(**{field: 0})


FIELDS = PromptFields(
    "find a red mug",
    2,
    2,
    (Turn("p0", "p0", "search[red mug]"), Turn("p1", "p1", "click[b1]")),
    "p2",
    "p2",
    ("click[buy now]",),
    ("search[red]",),
    WebShopEnv.command_shapes,
)
ASKED = (Turn("q", "q", "<think>the red mug</think><search> red mug </search>"), Turn("r1", "r1", "red mug"))


@pytest.mark.parametrize("style", ["standard", "compact", "webshop", "search-r1", "search-stepwise", "search-compact"])
def test_the_agents_own_queries_can_be_hidden_with_the_goal(style):
    fields = replace(FIELDS, history=ASKED, earlier=()) if style.startswith("search") else FIELDS
    plain, masking = AgentConfig(prompt=style), AgentConfig(prompt=style, mask_own_queries=True)
    shown, hidden = (render_prompt(fields, agent, "goal").shown for agent in (plain, masking))
    assert "red" in shown
    assert "red" not in hidden
    assert "p2" in hidden
    assert ("r1" if style.startswith("search") else "click[b1]") in hidden
    for mask in ("none", "history", "goal_history"):
        assert render_prompt(fields, masking, mask) == render_prompt(fields, plain, mask)
