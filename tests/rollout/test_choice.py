"""Responses that are the number of an offered command: in episodes, and as demonstrated."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from stapo.agent import AgentConfig
from stapo.config.training import SFTConfig
from stapo.envs import make
from stapo.envs.pool import LocalPool
from stapo.errors import ConfigError
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import Sample
from stapo.training.demonstrations import demonstrate
from toy_world import small_policy

SHOP = {"size": "tiny", "max_steps": 5, "offered_queries": True}
AGENT = AgentConfig(
    prompt="compact",
    response="choice",
    hidden_commands=("click[reviews]",),
    require_admissible=True,
    max_prompt_tokens=4000,
    max_response_tokens=6,
)
TOKENIZER = small_policy().tokenizer


class Says:
    """A sampler that gives the same answers in every episode, and keeps the prompts."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.prompts = []

    def sample(self, prompts, seeds, temperature):
        self.prompts += [TOKENIZER.decode(ids) for ids in prompts]
        ids = [*TOKENIZER.encode(self.answers.pop(0)), TOKENIZER.eos_token_id]
        return [Sample(ids, [-1.0] * len(ids), [0.5] * len(ids), True) for _ in prompts]


def numbered(prompt):
    """Commands by number, as a reader of the prompt sees them: in the page before their links, or in the list."""
    lines = [line.partition(". ") for line in prompt.partition("\ncan\n")[2].splitlines()]
    listed = {number: command for number, dot, command in lines if dot and number.isdigit()}
    page = re.search(r"^now (.*)$", prompt, re.MULTILINE)[1]
    links = [re.fullmatch(r"\[(\d+)\] (.*)", part) for part in page.split(" [SEP] ")]
    return listed | {link[1]: f"click[{link[2].replace('*', '').lower()}]" for link in links if link}


def test_a_number_plays_the_command_that_the_prompt_gave_it():
    sampler = Says("1", "the first", "99", "1", "1")
    env = make("webshop", **SHOP)
    collector = Collector(lambda: make("webshop", **SHOP), PromptEncoder(TOKENIZER), sampler, AGENT)
    steps = collector.collect(env.tasks_of("train")[:1], 1, 1.0, (0, 1))[0].steps
    assert [(s.valid, s.problem) for s in steps[:3]] == [(True, ""), (False, "no_number"), (False, "no_such_number")]
    for prompt, step in zip(sampler.prompts, steps, strict=True):
        assert "click[reviews]" not in prompt
        if step.valid:
            assert step.action == numbered(prompt)["1"]
    assert steps[0].action.startswith("search[")
    assert steps[3].action.startswith("click[")


def test_demonstrations_are_numbers_of_what_the_demonstrator_does():
    env = make("webshop", **SHOP)
    demos = demonstrate(
        LocalPool(lambda: env), AGENT, SFTConfig(steps=1, episodes=20, wander=0.1), "train", "goal_history", 0
    )
    played = [numbered(demo.prompt.text)[demo.action] for demo in demos]
    assert any(command.startswith("search[") for command in played)
    assert sum(command == "click[buy now]" for command in played) > 10
    for demo in demos:
        assert numbered(demo.prompt.text) == numbered(demo.blind_prompt.text) == numbered(demo.short_prompt.text)


@pytest.mark.parametrize("marks", [False, True])
def test_every_offered_command_has_one_number_and_links_have_theirs_in_the_order_of_the_page(marks):
    env, agent = make("webshop", **SHOP), replace(AGENT, mark_goal_words=marks)
    config = SFTConfig(steps=1, episodes=20)
    demos = demonstrate(LocalPool(lambda: env), agent, config, "train", "goal_history", 0)
    pages = {d.prompt.text: d for d in demos}
    for prompt in pages:
        found = numbered(prompt)
        assert sorted(map(int, found)) == list(range(1, len(found) + 1))
        assert len(set(found.values())) == len(found)
        inline = [int(n) for n in re.findall(r"\[(\d+)\] ", prompt.split("\nstep")[0])]
        assert inline == list(range(1, len(inline) + 1))
    assert any("[SEP] [5] " in prompt for prompt in pages)
    asking = [d for d in pages.values() if "\nasked " in d.prompt.text]
    assert bool(asking) == marks
    for demo in asking:
        goal = demo.goal.lower()
        for number in re.search(r"^asked (.*)$", demo.prompt.text, re.MULTILINE)[1].split():
            assert all(word in goal for word in re.findall(r"[a-z0-9]+", numbered(demo.prompt.text)[number][6:-1]))
    assert not any("*" in d.blind_prompt.text or "asked" in d.blind_prompt.text for d in pages.values())


@pytest.mark.parametrize(
    "name, options, found, hint",
    [
        ("webshop", {**SHOP, "offered_queries": False}, "no complete command", " Or: --env.offered-queries true"),
        ("search", {}, "no list of commands", "$"),
    ],
)
def test_nothing_to_choose_from_is_said_at_once(name, options, found, hint):
    env, agent = make(name, **options), replace(AGENT, hidden_commands=("click[search]",))
    collector = Collector(lambda: make(name, **options), PromptEncoder(TOKENIZER), Says("1"), agent)
    with pytest.raises(ConfigError, match=rf"the environment offers {found}.*Use another response format\.{hint}"):
        collector.collect(env.tasks_of("train")[:1], 1, 1.0, (0, 1))
    with pytest.raises(ConfigError, match="the environment offers"):
        demonstrate(LocalPool(lambda: env), agent, SFTConfig(steps=1, episodes=6), "train", "goal_history", 0)
