"""What the `webshop` style tells, and what keeps its prompts short.

1. Full prompt: role, task, count of steps, the last turns, the page, the offered actions, the format.
2. Blind prompt: no task, no count, no history; the step index, the page, actions and format stay.
3. Pages are shown without the instruction that every one of them repeats, in either style.
4. A full prompt beyond `max_prompt_characters` is shown without history, and its blind prompt knows none either.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from stapo.agent import AgentConfig, PromptFields, Turn, parse_response, render_prompt
from stapo.envs.webshop.env import WebShopEnv
from stapo.errors import ConfigError

GOAL = "Find me warm, plain mug with color: blue, and price lower than 40.00 dollars"
BACK = "Back to Search [SEP] Page 1 (Total results: 1) [SEP] Next > [SEP] B12 [SEP] Tamwick Warm Plain Mug [SEP] $21.0"
ITEM = "Back to Search [SEP] < Prev [SEP] color [SEP] blue [SEP] Tamwick Warm Plain Mug [SEP] Price: $21.0"


def page(text: str) -> str:
    return f"Instruction: [SEP] {GOAL} [SEP] {text}"


FIELDS = PromptFields(
    goal=GOAL,
    step=2,
    steps_taken=2,
    history=(
        Turn(f"WebShop [SEP] {page('Search')}", "WebShop [SEP] Search", "search[warm mug]"),
        Turn(page(BACK), BACK, "click[b12]"),
    ),
    observation=page(ITEM),
    blind_observation=ITEM,
    admissible=("click[back to search]", "click[blue]", "click[buy now]", "search[<your query>]"),
    shapes=WebShopEnv.command_shapes,
)
WEBSHOP = AgentConfig(prompt="webshop")


class TestWhatIsTold:
    def test_full(self):
        text = render_prompt(FIELDS, WEBSHOP).shown
        assert f"Your task: {GOAL}" in text
        assert "Steps taken before this one: 2. The last 2 pages" in text
        assert "[Page 1: 'WebShop' [SEP] 'Search'; action 1: 'search[warm mug]']" in text
        assert "[Page 2: 'Back to Search' [SEP] 'Page 1 (Total results: 1)'" in text
        assert "This is step 3. The page now shows: 'Back to Search' [SEP] '< Prev' [SEP] 'color'" in text
        for action in FIELDS.admissible:
            assert f"'{action}'" in text
        assert "<think> </think>" in text
        assert text.count(GOAL) == 1

    def test_numbers_of_turns_count_from_the_start(self):
        text = render_prompt(replace(FIELDS, steps_taken=7, step=7), WEBSHOP).shown
        assert "[Page 6: " in text
        assert "action 7: 'click[b12]'" in text

    def test_blind(self):
        text = render_prompt(FIELDS, WEBSHOP, "goal_history").shown
        assert "task" not in text
        assert "Steps taken" not in text
        assert "warm mug" not in text
        for kept in ("This is step 3.", "'color' [SEP] 'blue'", "'search[<your query>]'", "<action> </action>"):
            assert kept in text

    @pytest.mark.parametrize("style", ["webshop", "compact"])
    def test_the_instruction_is_told_once(self, style):
        text = render_prompt(FIELDS, AgentConfig(prompt=style)).shown
        assert text.count(GOAL) == 1
        assert "Instruction:" not in text

    @pytest.mark.parametrize("style", ["webshop", "compact", "standard"])
    @pytest.mark.parametrize("mask", ["goal", "goal_history"])
    def test_the_goal_is_in_no_blind_prompt(self, style, mask):
        text = render_prompt(FIELDS, AgentConfig(prompt=style), mask).shown
        assert "dollars" not in text
        assert "Instruction" not in text

    def test_bare_answers_are_asked_for_without_tags(self):
        text = render_prompt(FIELDS, AgentConfig(prompt="webshop", response="action")).shown
        assert "<action>" not in text
        assert "nothing else" in text

    def test_compact_names_a_verb_once(self):
        text = render_prompt(FIELDS, AgentConfig(prompt="compact", response="action", history_length=0)).shown
        assert "can\nsearch[<your query>]\nclick[back to search] [blue] [buy now]\n" in text


class TestLongPrompts:
    def test_history_goes_all_at_once(self):
        full = render_prompt(FIELDS, WEBSHOP).shown
        fits = replace_config(max_prompt_characters=len(full))
        over = replace_config(max_prompt_characters=len(full) - 1)
        assert render_prompt(FIELDS, fits).shown == full
        assert render_prompt(FIELDS, over).shown == render_prompt(replace(FIELDS, history=()), WEBSHOP).shown

    def test_masks_follow_the_full_prompt(self):
        over = replace_config(max_prompt_characters=len(render_prompt(FIELDS, WEBSHOP).shown) - 1)
        # Hiding the goal makes the prompt short enough, and yet the history stays away.
        assert "warm mug" not in render_prompt(FIELDS, over, "goal").shown

    def test_without_history_nothing_is_dropped(self):
        first = replace(FIELDS, history=(), steps_taken=0, step=0)
        assert (
            render_prompt(first, replace_config(max_prompt_characters=1)).shown == render_prompt(first, WEBSHOP).shown
        )

    @pytest.mark.parametrize("bad", [0, -5])
    def test_bounds_are_positive(self, bad):
        with pytest.raises(ConfigError, match=r"agent\.max_prompt_characters is"):
            replace_config(max_prompt_characters=bad)


def replace_config(**changes):
    return replace(WEBSHOP, **changes)


class TestFallback:
    def test_how_many_characters_are_played(self):
        text = "I would rather look at the page and CLICK[Buy Now]"
        assert parse_response(text, "think_action", 20).action == "page and click[buy now]"[-20:].strip()
        assert parse_response(text, "think_action").action == text.lower()[-30:]
        assert not parse_response(text, "think_action", 20).valid

    def test_none_at_all(self):
        assert parse_response("click[buy now]", "think_action", 0).action == ""

    def test_shorter_texts_are_played_whole(self):
        assert parse_response("look", "think_action", 20).action == "look"

    def test_a_negative_number_is_named(self):
        with pytest.raises(
            ConfigError, match=r"agent\.fallback_characters is -1, expected a whole number of 0 or more"
        ):
            AgentConfig(fallback_characters=-1)
