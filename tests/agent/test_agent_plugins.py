"""Prompt styles and response formats of other packages, and what an environment says of its commands.

1. A style is rendered full and blind, and named where it fails; it never breaks a rule of the masks.
2. A format reads, and writes what it reads; what it returns otherwise costs the response, not the run.
3. An environment's shapes reach its prompts from a worker process as well, and are checked where they come in.
"""

from __future__ import annotations

import pytest

from stapo.agent import (
    PROMPT_STYLES,
    RESPONSE_FORMATS,
    AgentConfig,
    CommandShapes,
    ParsedResponse,
    PromptFields,
    Turn,
    parse_response,
    render_prompt,
    write_response,
)
from stapo.envs.guard import EnvFailure, Started
from stapo.envs.protocol import NO_SHAPES
from stapo.envs.slot import EnvSlot
from stapo.envs.webshop.env import WebShopEnv
from stapo.envs.wire import dump, load, pack, unpack
from stapo.errors import ConfigError
from stapo.registry import traits
from toy_world import ToyEnv

FIELDS = PromptFields(
    goal="find a mug", step=1, steps_taken=1, history=(Turn("A desk.", "A desk.", "ask(red mug)"),),
    observation="A shelf.", blind_observation="A shelf.", admissible=("walk to bed", "walk to desk", "take mug"),
    shapes=CommandShapes(grouped=("walk to ",), query=("ask(", ")")),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch):
    for registry in (PROMPT_STYLES, RESPONSE_FORMATS):
        monkeypatch.setattr(registry, "_objects", dict(registry._objects))


# -- 1 -----------------------------------------------------------------------------------------------------------------


def terse(fields, config, hide_goal, hide_history):
    said = [] if hide_history else [turn.action for turn in fields.history]
    return "|".join([*said, *([] if hide_goal else [fields.goal])])


def test_a_style_is_rendered_with_what_a_mask_leaves():
    PROMPT_STYLES.register("terse-in-a-test", terse)
    agent = AgentConfig(prompt="terse-in-a-test", response="action", mask_own_queries=True)
    texts = {mask: render_prompt(FIELDS, agent, mask).text for mask in ("none", "goal", "history", "goal_history")}
    assert texts == {"none": "ask(red mug)|find a mug", "goal": "ask(…)", "history": "find a mug", "goal_history": ""}
    assert agent.for_chat_models


@pytest.mark.parametrize(
    "style, said",
    [
        (lambda *given: 7, "returned 7; expected a text, role messages, or a Prompt"),
        (lambda *given: None, "returned None"),
        (lambda fields, *given: fields.gaol, r"failed: AttributeError: .*gaol"),
        (lambda: "", r"failed: TypeError"),
    ],
)
def test_a_style_that_fails_is_named(style, said):
    PROMPT_STYLES.register("odd", style)
    with pytest.raises(ConfigError, match=f"prompt style 'odd' {said}"):
        render_prompt(FIELDS, AgentConfig(prompt="odd"))


def test_a_style_says_what_it_is_for():
    PROMPT_STYLES.register("small", traits(for_chat_models=False, marks=False)(lambda *given: ""))
    assert not AgentConfig(prompt="small").for_chat_models
    with pytest.raises(ConfigError, match="'small' have no marks"):
        AgentConfig(prompt="small", mark_goal_words=True)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"prompt": "compat"}, r"agent\.prompt is 'compat'.*Did you mean 'compact'"),
        ({"response": "chioce"}, r"agent\.response is 'chioce'.*Did you mean 'choice'"),
        ({"prompt": 7}, r"agent\.prompt is 7; expected one of 'standard'"),
    ],
)
def test_a_typo_is_told(settings, said):
    with pytest.raises(ConfigError, match=said):
        AgentConfig(**settings)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_a_format_reads_what_it_writes_and_is_asked_for():
    @RESPONSE_FORMATS.register("shout")
    @traits(write=lambda action, listed: f"{action.upper()}!", instruction="Shout one command.", reminder="shout")
    def shout(text, listed, fallback_characters):
        return ParsedResponse(text.lower().rstrip("!"), "", text.endswith("!"))

    assert write_response("take mug", "shout") == "TAKE MUG!"
    assert parse_response("TAKE MUG!", "shout") == ParsedResponse("take mug", "", True)
    assert not parse_response("take mug", "shout").valid
    for style, end in (("standard", "\n\nShout one command."), ("webshop", "\n\nShout one command."),
                       ("compact", "\nshout\n>")):  # fmt: skip
        assert render_prompt(FIELDS, AgentConfig(prompt=style, response="shout")).text.endswith(end)


def test_a_thought_of_the_demonstrator_is_written_by_the_format_alone():
    """One that writes in its own way, and knows no thoughts, keeps its way, whatever parts it has."""

    @traits(has_parts=True, write=lambda action, listed: f"[{action}]")
    def brackets(text, listed, fallback_characters):
        return ParsedResponse(text.strip("[]"), "", True)

    RESPONSE_FORMATS.register("brackets", brackets)
    assert write_response("take mug", "brackets", thought="I need it.") == "[take mug]"
    assert write_response("take mug", "action", thought="I need it.") == "take mug"
    told = "<think>I need it.</think><action>take mug</action>"
    assert write_response("take mug", "think_action", thought="I need it.") == told


@pytest.mark.parametrize("name", RESPONSE_FORMATS.own_names())
def test_what_our_formats_write_they_read(name):
    if name.startswith("search"):
        action = "<search> mug </search>"
        assert parse_response(write_response(action, name), name).action == action
    else:
        assert (
            parse_response(write_response("look", name, ("go", "look")), name, listed=("go", "look")).action == "look"
        )


@pytest.mark.parametrize(
    "read", [lambda *given: "look", lambda *given: 1 / 0, lambda *given: ParsedResponse(7, "", True)]
)
def test_a_format_that_fails_is_named(read):
    RESPONSE_FORMATS.register("odd", read)
    with pytest.raises(ConfigError, match=r"response format 'odd' (returned|failed: ZeroDivisionError)"):
        parse_response("x", "odd")


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_shapes_shorten_lists_and_keep_queries_apart():
    text = render_prompt(FIELDS, AgentConfig(prompt="compact", response="action")).text
    assert "\ncan\ntake mug\nwalk to bed desk\n" in text
    assert FIELDS.shapes.without_query("ask(x) and more") == "ask(x) and more"
    assert NO_SHAPES.in_groups(["b", "a"]) == ["b", "a"]


class Shaped(ToyEnv):
    command_shapes: object = WebShopEnv.command_shapes


def test_shapes_come_with_the_first_observation_and_pass_the_wire():
    begun = EnvSlot(Shaped).reset("toy/train/red")
    assert isinstance(begun, Started)
    assert begun.shapes == WebShopEnv.command_shapes
    assert unpack(load(dump(pack(begun)))) == begun
    assert EnvSlot(ToyEnv).reset("toy/train/red").shapes is NO_SHAPES


def test_shapes_of_another_type_cost_the_episode():
    class Odd(ToyEnv):
        command_shapes = ("go to ",)

    failed = EnvSlot(Odd).reset("toy/train/red")
    assert isinstance(failed, EnvFailure)
    assert "command_shapes ('go to ',), expected CommandShapes" in failed.error


@pytest.mark.parametrize(
    "odd", [{"grouped": "go to "}, {"link": ("click[",)}, {"query": (1, 2)}, {"separator": ""}, {"choice_hint": None}]
)
def test_shapes_are_texts(odd):
    with pytest.raises(ValueError, match=r"is not a tuple of texts|a hint that is not a text"):
        CommandShapes(**odd)
