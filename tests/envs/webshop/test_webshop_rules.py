"""What actions do, quirks included, on a few products made by hand."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from small_shop import ODD, PRODUCTS, product, values, write

import stapo
from stapo.envs.webshop.env import WebShopEnv
from stapo.envs.webshop.goals import ShoppingGoal
from stapo.envs.webshop.reward import builtin_nouns, noun_extractor, score
from stapo.envs.webshop.shop import parsed
from stapo.errors import ConfigError, EnvError, UnknownNameError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def env(files):
    return WebShopEnv(products=files, max_steps=50)


def open_odd(env):
    env.reset(f"{ODD}/000")
    env.step("search[odd lamp]")
    return env.step(f"click[{ODD.lower()}]")


@pytest.mark.parametrize(
    "action, found",
    [
        ("search[red lamp]", ("search", "red lamp")),
        ("click[Buy Now]", ("click", "buy now")),
        ("search[a] and more", ("search", "a")),
        ("search[a][b]", ("search[a]", "b")),
        ("search[[a]]", ("search[", "a]")),
        ("search[a]]", ("search", "a]")),
        ("search[]", ("search[]", "")),
        ("search[][x]", ("search[]", "x")),
        ("[x]", ("[x]", "")),
        ("search[a\nb]", ("search[a\nb]", "")),
        ("think\nsearch[a]", ("think\nsearch[a]", "")),
        ("", ("", "")),
        ("search[ÄÖ]", ("search", "äö")),
    ],
)
def test_reading_an_action(action, found):
    assert parsed(action) == found


def test_reading_is_the_pattern_of_the_original():
    pattern, rng = re.compile(r"(.+)\[(.+)\]"), random.Random(0)
    for _ in range(20_000):
        action = "".join(rng.choice("[]ab\n") for _ in range(rng.randrange(12)))
        found = pattern.match(action)
        assert parsed(action) == ((found[1], found[2]) if found else (action, ""))


def test_the_pages_word_for_word(env):
    first = env.reset("B0LAMP0001/000")
    # Names sorted: color, then size, the last one fastest.
    assert first.goal.startswith("Find me dimmable lamps with color: navy blue, and size: large, and price lower than ")
    assert first.text == f"WebShop [SEP] Instruction: [SEP] {first.goal} [SEP] Search"
    assert first.blind_text == "WebShop [SEP] Search"
    assert first.admissible == ["click[search]", "search[<your query>]"]
    results = env.step("search[Brass LAMP]")
    head = f"Instruction: [SEP] {first.goal} [SEP] "
    assert results.text.startswith(head + "Back to Search [SEP] Page 1 (Total results: 3) [SEP] Next > [SEP] ")
    assert "B0LAMP0001 [SEP] Brass desk lamp [SEP] $19.99 to $29.99" in results.text
    assert results.blind_text == results.text.removeprefix(head)
    assert results.admissible == sorted(results.admissible)
    item = env.step("click[b0lamp0001]")
    assert item.text == head + (
        "Back to Search [SEP] < Prev [SEP] size [SEP] large [SEP] small | flat [SEP] color [SEP] navy blue [SEP] red "
        "[SEP] Brass desk lamp [SEP] Price: $19.99 to $29.99 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] "
        "Reviews [SEP] Buy Now"
    )
    assert env.step("click[description]").text == head + "Back to Search [SEP] < Prev [SEP] A lamp of brass."
    env.step("click[< prev]")
    # An empty bullet still is a line of its page; an empty description is not.
    assert env.step("click[features]").text == head + "Back to Search [SEP] < Prev [SEP] dimmable [SEP] "
    env.step("click[< prev]")
    assert env.step("click[reviews]").text == head + "Back to Search [SEP] < Prev"


def test_paging_past_both_ends(env):
    env.reset("B0LAMP0001/000")
    assert "Total results: 25" in env.step("search[paper shade]").text
    assert "[SEP] < Prev [SEP] Next > [SEP] B0MORE" in env.step("click[next >]").text
    assert env.step("click[next >]").text.count("B0MORE") == 5
    past = env.step("click[next >]")
    assert past.text.endswith("Page 4 (Total results: 25) [SEP] < Prev [SEP] Next >")
    assert past.info["effect"]
    for _ in range(3):
        back = env.step("click[< prev]")
    assert "Page 1 " in back.text
    assert "click[< prev]" not in back.admissible


@pytest.mark.parametrize(
    "action",
    ["click[search]", "search[]", "SEARCH[lamp]", "search", "click[b0lamp0001]", "buy now", "", "[", "click[buy now]"],
)
def test_what_leaves_the_start_page_as_it_is(env, action):
    first = env.reset("B0LAMP0001/000")
    seen = env.step(action)
    assert seen.text == first.text
    assert not seen.info["effect"]
    assert seen.reward == 0


def test_searching_works_from_every_page_and_forgets_options(env):
    open_odd(env)
    env.step("click[plain]")
    assert env.visit.options == {"color": "plain"}
    env.step("search[ ]")
    assert env.visit.page == "search_results"
    assert env.visit.options == {}
    assert "Total results: 0" in env.visit.text()


def test_going_back_keeps_options_from_a_sub_page_only(env):
    env.reset("B0LAMP0001/000")
    env.step("search[brass]")
    env.step("click[B0LAMP0001]")
    env.step("click[Large]")
    assert not env.step("click[large]").info["effect"]
    env.step("click[features]")
    env.step("click[< prev]")
    assert env.visit.options == {"size": "large"}
    env.step("click[small | flat]")
    assert env.visit.options == {"size": "small | flat"}
    env.step("click[< prev]")
    assert (env.visit.page, env.visit.options) == ("search_results", {})
    env.step("click[back to search]")
    assert env.visit.page == "start"


def test_option_values_that_read_like_buttons_work_like_them(env):
    page = open_odd(env)
    assert page.admissible.count("click[reviews]") == 1
    assert not env.step("click[search]").info["effect"]
    env.step("click[next >]")
    assert env.visit.options == {"shape": "next >"}
    env.step("click[reviews]")
    assert env.visit.page == "item_sub_page"
    env.step("click[< prev]")
    assert env.visit.options == {"shape": "next >"}
    # There is no such button here, but an option value of that name.
    assert env.step("click[attributes]").text.endswith(
        "Back to Search [SEP] < Prev [SEP] odd [SEP] garden [SEP] lamps [SEP] Home › Lamps"
    )
    env.step("click[< prev]")
    assert env.step("click[buy now]").done


def test_a_value_under_two_names_belongs_to_the_later_one(env):
    page = open_odd(env)
    assert page.text.count("plain [SEP] plain") == 1
    env.step("click[shared]")
    assert env.visit.options == {"style": "shared"}


def test_marked_pages(files):
    env = WebShopEnv(products=files, observation="text_rich", max_steps=50)
    page = open_odd(env)
    assert page.text.startswith(f"Instruction:\n{env.goal.instruction}\n[button] Back to Search [button_]\n")
    assert "shape\n  [button] reviews [button_]\n  [button] buy now [button_]\n" in page.text
    page = env.step("click[plain]")
    # Both labels of the value are marked, and each is told.
    assert page.text.startswith("You have clicked plain.\nYou have clicked plain.\nInstruction:\n")
    assert page.text.count("[clicked button] plain [clicked button_]") == 2
    assert env.goal.instruction not in page.blind_text
    # The original looks for the quoted value in the page's address, where quotes and other letters are escaped.
    assert '  [button] 12" wide [button_]\n' in env.step('click[12" wide]').text
    page = env.step("click[tür]")
    assert "  [button] tür [button_]\n" in page.text
    # The name of the option stands in the address in quotes, too.
    assert "[clicked button] shape [clicked button_]" in page.text
    env.step("click[< prev]")
    assert f"\n[clicked button] {ODD} [clicked button_]\nOdd lamp\n" in env.visit.rich_text()


def test_texts_of_blanks_alone(tmp_path):
    """As the original's HTML parser has them: one blank, or nothing where a line end is among them."""
    shown = product(ODD, " \n", small_description=[" ", "\n", "x \n"], full_description=" \t", category="\n",
                    customization_options={"\n": values("a/"), " ": values("\t", "B")})  # fmt: skip
    files = write(tmp_path / "shop", [shown, *PRODUCTS])
    env = WebShopEnv(products=files, max_steps=50, show_attrs=True)
    head = " [SEP] Back to Search [SEP] < Prev [SEP] "
    env.reset(f"{ODD}/000")
    env.step("search[b]")
    page = env.step(f"click[{ODD.lower()}]")
    assert head + "a | [SEP]  [SEP] b [SEP] Price: $10.0 [SEP] Rating" in page.text
    assert {"click[]", "click[a | ]", "click[b]"} < set(page.admissible)
    assert env.step("click[description]").text.endswith("< Prev [SEP] ")
    env.step("click[< prev]")
    env.observation = "text_rich"
    assert env.step("click[features]").text.endswith("[button] < Prev [button_]\n \n x \n\n")


def test_the_button_of_the_attributes(files):
    env = WebShopEnv(products=files, show_attrs=True)
    env.reset("B0LAMP0001/000")
    env.step("search[brass]")
    page = env.step("click[b0lamp0001]")
    assert page.text.endswith("Features [SEP] Reviews [SEP] Attributes [SEP] Buy Now")
    seen = env.step("click[Attributes]")
    assert seen.blind_text == (
        "Back to Search [SEP] < Prev [SEP] dimmable [SEP] solid brass [SEP] garden [SEP] lamps [SEP] Home › Lamps"
    )
    env.step("click[< prev]")
    assert env.visit.page == "item_page"
    # Both kinds of pages live beside each other.
    assert "Attributes" not in open_odd(WebShopEnv(products=files)).text


def test_the_wording_of_verl_agent(files):
    env = WebShopEnv(products=files, observation="verl-agent")
    first = env.reset("B0LAMP0002/000" if "B0LAMP0002/000" in env.tasks else "B0LAMP0001/000")
    assert first.text == first.blind_text == "'Search'"
    results = env.step("search[floor]")
    assert results.text == (
        "'Back to Search' [SEP] 'Page 1 (Total results: 1)' [SEP] 'Next >' [SEP] 'B0LAMP0002' [SEP] 'Brass floor lamp' "
        "[SEP] '$15.5'"
    )
    env.step("click[b0lamp0002]")
    assert env.step("click[buy now]").text.startswith("Thank you for shopping with us! [SEP] Your code: [SEP] None")


def test_buying(env):
    env.reset("B0LAMP0001/000")
    env.step("search[brass]")
    env.step("click[b0lamp0001]")
    env.step("click[navy blue]")
    partly = env.step("click[buy now]")
    # One attribute, one of two options and the price, of four things.
    assert partly.info["task_score"] == 0.75
    assert (partly.reward, partly.done, partly.won) == (0.0, True, False)
    assert partly.admissible == []
    with pytest.raises(EnvError, match="after the episode ended"):
        env.step("click[buy now]")
    env.reset("B0LAMP0001/000")
    for action in ("search[brass]", "click[b0lamp0001]", "click[navy blue]", "click[large]"):
        env.step(action)
    bought = env.step("click[buy now]")
    assert (bought.reward, bought.won, bought.info["task_score"]) == (1.0, True, 1.0)
    assert 'options [SEP] {"color": "navy blue", "size": "large"} [SEP]' in bought.text
    assert env.visit.score.details()["w_option"] == 0.5


def test_the_reward_may_be_the_score(files):
    env = WebShopEnv(products=files, reward="score")
    env.reset("B0LAMP0001/000")
    actions = ("search[brass]", "click[b0lamp0001]", "click[navy blue]")
    assert [env.step(action).reward for action in actions] == [0, 0, 0]
    partly = env.step("click[buy now]")
    assert (partly.reward, partly.done, partly.won) == (0.75, True, False)
    with pytest.raises(ConfigError, match=r"reward is 'scores', expected one of success, score\. Did you mean 'score'"):
        WebShopEnv(products=files, reward="scores")


def test_the_step_limit(files):
    env = WebShopEnv(products=files, max_steps=2)
    env.reset("B0LAMP0001/000")
    assert not env.step("x").done
    last = env.step("x")
    assert (last.done, last.won, last.info["truncated"], last.info["task_score"]) == (True, False, True, 0.0)


def test_scores_by_hand(env):
    catalog = env.catalog
    lamp, chandelier = (catalog.product(catalog.find(a)) for a in ("B0LAMP0001", "B0DEAR0001"))
    attributes, size = ["solid brass", "brass"], [("size", "x-large")]
    goal = ShoppingGoal("B0LAMP0001", lamp.title, "garden", "lamps", lamp.product_category, "", attributes, 25.0, size)
    # "brass" is in the title, "large" is contained in the wanted pair, the price is within the limit.
    assert score(lamp, 24.0, ["large"], goal, builtin_nouns).total == 1.0
    assert score(lamp, 26.0, ["large"], goal, builtin_nouns).total == 0.75
    # No noun of the title is shared: nothing is worth anything, though search term and categories are the same.
    other = score(chandelier, 24.0, [], goal, builtin_nouns)
    assert (other.r_type, other.total, other.title_score) == (0.0, 0.0, 0.0)
    assert builtin_nouns("A set of 2 B12 Lamps, X in red") == ("set", "b12", "lamps", "red")
    with pytest.raises(ConfigError, match="Did you mean 'spacy'"):
        noun_extractor("spacey")


@pytest.mark.parametrize(
    "pair, chosen, matches",
    [
        # A value that is a color word stands for itself: its name no longer takes part.
        (("color", "red"), "color", 0),
        (("color", "red"), "dark red", 0),
        (("color", "red"), "bright red", 1),
        # A name that is one, too; of two the first in the alphabet.
        (("gold", "10k"), "10k", 0),
        (("gold", "10k"), "white gold", 1),
        (("wine", "red"), "wine", 0),
        # Anything else is compared as the text of the pair.
        (("fit type", "red shirt"), "fit type", 1),
        (("color", "navy blue"), "sky blue", 1),
        (("size", "x-large"), "large", 1),
        (("size", "small"), "x-small", 0),
    ],
)
def test_an_option_is_compared_as_a_pair_but_for_color_words(env, pair, chosen, matches):
    lamp = env.catalog.product(env.catalog.find("B0LAMP0001"))
    goal = ShoppingGoal("B0LAMP0001", lamp.title, "garden", "lamps", "", "", ["brass"], 25.0, [pair])
    assert score(lamp, 24.0, [chosen], goal, builtin_nouns).r_option == matches


def test_human_goals(files):
    env = WebShopEnv(products=files, goals="human")
    # The one without attributes cannot be scored and is left out.
    assert list(env.tasks) == ["B0LAMP0001/000", "B0LAMP0001/001"]
    first = env.reset("B0LAMP0001/000")
    assert re.fullmatch(r"i want a brass lamp, and price lower than \d+\.00 dollars", first.goal)
    assert env.goal.options == ["navy blue"]


def test_a_range_with_equal_ends_is_drawn_from(tmp_path):
    """As in the original; each draw moves all that follow."""
    equal = product("B0EQUAL", "Equal", pricing="$5.00 to $5.00")
    env = WebShopEnv(products=write(tmp_path / "shop", [equal, *PRODUCTS]), price_seed=7)
    rng = random.Random(7)
    assert env.goals.price(env.catalog.find("B0EQUAL")) == rng.uniform(5.0, 5.0) == 5.0
    assert env.goals.price(env.catalog.find("B0LAMP0001")) == rng.uniform(19.99, 29.99)
    assert env.catalog.product(0).price_tag == "$5.0 to $5.0"


def test_an_instruction_with_blanks_around_it(tmp_path):
    """The page strips it, so that it could not be found there."""
    asked = {"B0LAMP0001": [
        {"instruction": " a lamp ", "instruction_attributes": ["a"], "instruction_options": []}]}  # fmt: skip
    dear = [product("B0LAMP0001", "Lamp", pricing="$2000")]
    env = WebShopEnv(products=write(tmp_path / "shop", dear, human=asked), goals="human", observation="verl-agent")
    assert env.reset("B0LAMP0001/000").text == "'Search'"
    assert env.step("search[lamp]").blind_text.startswith("'Back to Search' [SEP] 'Page 1")


def test_a_dear_product_has_no_price_limit(env):
    first = env.reset("B0DEAR0001/000")
    assert first.goal == "Find me chandeliers"
    assert env.goal.price_upper == 1_000_000
    assert env.task_type("B0DEAR0001/000") == "fashion"
    assert env.goals.price(env.catalog.find("B0DEAR0001")) == 1299.0


def test_unknown_tasks(env):
    for task in (
        "B0LAMP0001/004",
        "B0LAMP0001/0",
        "B0LAMP0001/-01",
        "B0LAMP0001",
        "nan/000",
        "",
        "/",
        "B0LAMP0001/٠٠٠",
    ):
        with pytest.raises(UnknownNameError, match="unknown task"):
            env.reset(task)
    with pytest.raises(UnknownNameError, match=r"unknown split 'tests'.*Did you mean 'test'"):
        env.tasks_of("tests")


def test_splits(files):
    env = WebShopEnv(products=files)
    parts = {split: {task.partition("/")[0] for task in env.tasks_of(split)} for split in env.splits}
    assert list(parts) == ["train", "valid", "test"]
    assert not parts["train"] & parts["test"]
    assert not parts["train"] & parts["valid"]
    original = WebShopEnv(products=files, splits="original")
    # Few goals: all are among the first 500, which are the test.
    assert original.splits == ("test",)
    assert list(original.tasks_of("test")) == list(original.tasks)
    assert WebShopEnv(products=files, splits="verl-agent").splits == ("eval",)


def test_the_seed_of_a_verl_agent_worker_moves_the_price_limits(files):
    limits = set()
    for seed in range(8):
        env = WebShopEnv(products=files, verl_seed=seed)
        limits.add(env.reset("B0LAMP0001/000").goal)
    assert len(limits) > 1


def test_what_a_model_may_write(env):
    env.reset(f"{ODD}/000")
    for text in ("[" * 100_000, "]" * 100_000, "search[" * 20_000, "search[" + "é" * 100_000 + "]", "\ud800[\ud800]",
                 "search[\ud800]", "search[\x00]", "click[\n]", "search[<r>]", "search[http://x/item_page/]",
                 "search[search_results]"):  # fmt: skip
        seen = env.step(text)
        assert not seen.done
        json.dumps(seen.text)
    assert env.step(None).info["effect"] is False


def test_a_query_can_mislead_the_back_button(env):
    """The original guesses the page from its address, which holds the query."""
    env.reset(f"{ODD}/000")
    env.step("search[odd search_results]")
    env.step(f"click[{ODD.lower()}]")
    assert "Page 0 (Total results: 1)" in env.step("click[< prev]").text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"goals": "humans"}, "Did you mean 'human'"),
        ({"observation": "rich"}, "observation is 'rich'"),
        ({"splits": "verl"}, "splits is 'verl'"),
        ({"max_steps": 0}, "max_steps is 0, expected a whole number of 1 or more"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"attributes": "x"}, "belong to products"),
        ({"show_attrs": 1}, "show_attrs is 1, expected true or false"),
        ({"noun_extractor": "nltk"}, "noun_extractor is 'nltk'"),
    ],
)
def test_options(options, message):
    with pytest.raises(ConfigError, match=message):
        stapo.make("webshop", **options)


@pytest.mark.parametrize("observation", ["text", "text_rich", "verl-agent"])
def test_follows_the_protocol(files, observation):
    assert len(stapo.check_env(WebShopEnv(products=Path(files), observation=observation))) == 12
