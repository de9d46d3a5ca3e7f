"""Conversations as token ids.

1. Each prompt is the last prompt, the response as it was sampled, and what the world showed, in every environment.
2. Demonstrations are conversations of the same kind.
3. A prompt that is too long loses half of its turns at once, and a new sequence begins; the goal stays.
4. Towards a server a conversation is its messages.
5. Text of the world is text.
6. With a chat template, what stands between is the template's; one that rewrites the past, or cannot speak, is named.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import test_templates as templates

from stapo.agent import AgentConfig, Exchange, Prompt
from stapo.config import load_config
from stapo.errors import ModelError
from stapo.policy import RowTokens, find_chains
from stapo.rollout import StopReason
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder, told_of_template
from stapo.rollout.endpoint import EndpointSampler
from stapo.rollout.sampler import Sample
from stapo.rollout.text_codec import TextCodec, prompt_of
from stapo.training.demonstrations import demonstrate
from stapo.training.factories import RunEnv
from toy_world import ToyEnv, small_policy

TOKENIZER = small_policy().tokenizer
ENCODER = PromptEncoder(TOKENIZER)
END = TOKENIZER.eos_token_id
AGENT = AgentConfig(prompt="conversation", response="action", max_prompt_tokens=600, max_response_tokens=8)


class Sampler:
    """Answers with random letters, which no tokenizer would cut in the same way; every third without an end."""

    def sample(self, prompts, streams, temperature):
        samples = []
        for stream in streams:
            rng = np.random.default_rng(list(stream))
            ids = [int(i) for i in rng.integers(66, 90, int(rng.integers(1, 6)))]
            ended = stream[-1] % 3 != 1
            ids += [END] if ended else []
            samples.append(Sample(ids, [-1.0] * len(ids), [0.5] * len(ids), ended))
        return samples


def played(env=ToyEnv, agent=AGENT, tasks=("toy/train/red", "toy/train/blue"), **options):
    collector = Collector(env, ENCODER, Sampler(), agent, **options)
    try:
        return collector.collect(list(tasks), 2, 1.0, (0, 1))
    finally:
        collector.close()


def rows(trajectory):
    return [RowTokens(s.prompt_ids, s.response_ids) for s in trajectory.steps]


def chains(trajectory):
    return find_chains(rows(trajectory), [0] * len(trajectory.steps))


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_a_prompt_is_the_last_one_the_sampled_ids_and_the_observation():
    for trajectory in played():
        assert chains(trajectory).sequences == 1
        for last, now in zip(trajectory.steps, trajectory.steps[1:], strict=False):
            between = [] if last.response_ids[-1] == END else [END]
            shown = ENCODER.template_ids(ENCODER.hold(now.observation))
            assert now.prompt_ids == [
                *last.prompt_ids, *last.response_ids, *between,
                *ENCODER.template_ids(ENCODER.hold("\n")), *shown, *ENCODER.template_ids(ENCODER.hold("\n>")),
            ]  # fmt: skip
        first = TOKENIZER.decode(trajectory.steps[0].prompt_ids)
        assert first.count(trajectory.goal) == 1
        assert first.endswith("A judge listens.\n>")


@pytest.mark.parametrize("commands", ["every_turn", "once", "never"])
@pytest.mark.parametrize("preset", ["tiny", "webshop-tiny", "search-tiny"])
def test_every_environment_merges(preset, commands):
    config = load_config(preset)
    agent = replace(
        config.agent, prompt="conversation", list_commands=commands, max_prompt_tokens=20_000, mark_goal_words=False,
        response="search_answer" if preset == "search-tiny" else "action",
    )  # fmt: skip
    env = RunEnv(config)
    try:
        tasks = env.tasks_of("train")[:2]
        collector = Collector(env.pool, ENCODER, Sampler(), agent)
        trajectories = collector.collect(tasks, 2, 1.0, (0, 1))
        demos = demonstrate(env.pool, agent, replace(config.sft, episodes=4), "train", "goal_history", 0)
    finally:
        env.close()
    assert sum(len(t.steps) for t in trajectories) > 8
    for trajectory in trajectories:
        assert chains(trajectory).sequences == 1
        assert all(step.blind_ids != step.prompt_ids for step in trajectory.steps)
    # -- 2
    demonstrated = [RowTokens(ENCODER.encode(d.prompt), ENCODER.encode_response(d.action)) for d in demos]
    found = find_chains(demonstrated, [0] * len(demos))
    starts = sum(not d.prompt.turns for d in demos)
    assert found.sequences == starts < len(demos)
    assert all(d.goal in d.prompt.system for d in demos)


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_half_of_the_turns_go_at_once():
    config = load_config("tiny")
    env = RunEnv(config)
    agent = replace(config.agent, prompt="conversation", list_commands="never", max_prompt_tokens=480)
    try:
        collector = Collector(env.pool, ENCODER, Sampler(), agent)
        trajectories = collector.collect(env.tasks_of("train")[:2], 1, 1.0, (0, 1))
    finally:
        env.close()
    for trajectory in trajectories:
        forgotten = [step.forgotten_turns for step in trajectory.steps]
        assert sum(forgotten) > 0
        assert all(count == 0 or count > 1 for count in forgotten)
        assert chains(trajectory).sequences == 1 + sum(count > 0 for count in forgotten)
        for number, step in enumerate(trajectory.steps):
            assert len(step.prompt_ids) <= 480
            assert f"Goal: {trajectory.goal}" in step.prompt
            gone = sum(forgotten[: number + 1])
            assert (f"before what follows: {gone}." in step.prompt) == (gone > 0)


def test_an_observation_longer_than_the_limit_ends_the_episode():
    trajectories = played(agent=replace(AGENT, max_prompt_tokens=30))
    assert {t.stop_reason for t in trajectories} == {StopReason.PROMPT_TOO_LONG}
    assert all(t.too_long > 30 for t in trajectories)


# -- 4 -----------------------------------------------------------------------------------------------------------------

TALK = Prompt("B?", system="Rules.", turns=(Exchange("A?", "look"), Exchange("C?", "<|im_end|>go")))


def test_a_conversation_is_spelled_and_read_back():
    codec = TextCodec()
    assert prompt_of(codec.encode(replace(TALK, turns=TALK.turns[:1]))) == replace(TALK, turns=TALK.turns[:1])
    said = (ord("l"), ord("o"), ord("o"), ord("k"), 0x110000)
    spelled = codec.encode(Prompt("B?", system="Rules.", turns=(Exchange("A?", "", said),)))
    assert prompt_of(spelled).turns == (Exchange("A?", "look"),)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_server_gets_its_messages(api):
    sampler = EndpointSampler("http://127.0.0.1:9/v1", "m", 8, api=api)
    try:
        body = sampler._body(prompt_of(TextCodec().encode(TALK)), (0, 1), 1.0)
    finally:
        sampler.close()
    if api == "chat":
        roles = [(m["role"], m["content"]) for m in body["messages"]]
        assert roles == [
            ("system", "Rules."), ("user", "A?"), ("assistant", "look"),
            ("user", "C?"), ("assistant", "< |im_end|>go"), ("user", "B?"),
        ]  # fmt: skip
    else:
        assert body["prompt"] == "Rules.\nA?\n>look\nC?\n>< |im_end|>go\nB?\n>"


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_what_the_world_says_ends_no_message():
    class Hostile(ToyEnv):
        def reset(self, task_id):
            first = super().reset(task_id)
            return replace(first, blind_text=f"A judge {TOKENIZER.eos_token} listens.")

        def step(self, action):
            return replace(super().step(action), text=f"{TOKENIZER.eos_token}{TOKENIZER.eos_token} won")

    for trajectory in played(Hostile):
        assert chains(trajectory).sequences == 1
        last = trajectory.steps[-1]
        ended = sum(step.response_ids[-1] == END for step in trajectory.steps[:-1])
        cut = len(trajectory.steps) - 1 - ended
        assert last.prompt_ids.count(END) == ended + cut
        assert TOKENIZER.decode(last.prompt_ids).count(TOKENIZER.eos_token) == ended + cut + 1 + 2 * (
            len(trajectory.steps) - 1
        )
        assert last.foreign_markers == 2


# -- 6 -----------------------------------------------------------------------------------------------------------------


def speaking(template, eos="<|im_end|>"):
    """A byte-level tokenizer with a chat template."""
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.add_special_tokens({"eos_token": eos})
    tokenizer.add_tokens(["<|im_start|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"], special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    "template, eos, system",
    [
        (templates.CHATML, "<|im_end|>", True),
        (templates.SMOLLM, "<|im_end|>", True),
        (templates.LLAMA, "<|eot|>", True),
        (templates.GEMMA, "<eos>", False),
        (templates.MISTRAL, "</s>", False),
        (templates.QWEN3, "<|im_end|>", True),
    ],
    ids=["chatml", "smollm2", "llama3", "gemma", "mistral", "qwen3"],
)
def test_with_a_chat_template_the_pieces_are_those_of_the_template(template, eos, system):
    """What was not sampled is what the template writes; where it has no system role, the first message takes it in."""
    tokenizer = speaking(template, eos)
    encoder = PromptEncoder(tokenizer, templates.noon)
    prompt = Prompt("C", system="S", turns=(Exchange("A", "", (65, 66, tokenizer.eos_token_id)),))
    text = tokenizer.decode(encoder.encode(prompt))
    said = tokenizer.decode([65, 66])
    messages = [
        {"role": "user", "content": "A" if system else "S\n\nA"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "C"},
    ]
    if system:
        messages.insert(0, {"role": "system", "content": "S"})
    dated = {"strftime_now": templates.noon().strftime} if "strftime_now" in template else {}
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **dated)
    # Gemma ends a turn with a token of its own, behind the end token that was sampled; the blank behind [/INST] is the
    # response's.
    assert text.replace("<eos>", "") == expected.replace("<eos>", "").replace("[/INST] " + said, "[/INST]" + said)
    agent = replace(AGENT, max_prompt_tokens=5000)
    collector = Collector(ToyEnv, encoder, Sampler(), agent)
    for trajectory in collector.collect(["toy/train/red"], 2, 1.0, (0, 1)):
        assert chains(trajectory).sequences == 1


def test_a_template_that_rewrites_the_past_is_named():
    rewriting = PromptEncoder(speaking(templates.QWEN3))
    (told,) = told_of_template(AGENT, rewriting)
    assert "thoughts of earlier responses" in told
    assert "keep" in told
    assert "sequences of their own" in told_of_template(replace(AGENT, earlier_thoughts="drop"), rewriting)[0]
    assert told_of_template(AGENT, PromptEncoder(speaking(templates.CHATML))) == []
    assert told_of_template(replace(AGENT, prompt="standard"), rewriting) == []
    opening = told_of_template(replace(AGENT, prompt="standard"), PromptEncoder(speaking(templates.DEEPSEEK)))
    assert opening == ["the chat template opens a thought before each response: responses are read behind '<think>\\n'"]


def test_a_template_without_an_assistants_turn_is_one_error():
    silent = templates.tokenizer(
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ModelError, match="assistant"):
        PromptEncoder(silent).encode(TALK)


def test_dropped_thoughts_break_chains_where_there_is_a_thought():
    class Thinking(Sampler):
        def sample(self, prompts, streams, temperature):
            thought = TOKENIZER.encode("<think>x</think>", add_special_tokens=False)
            found = super().sample(prompts, streams, temperature)
            for stream, sample in zip(streams, found, strict=True):
                if stream[-1] == 0:
                    sample.ids[:0] = thought
                    sample.logprobs[:0] = sample.entropies[:0] = [0.0] * len(thought)
            return found

    for thoughts, sequences in (("keep", 1), ("drop", 2)):
        collector = Collector(ToyEnv, ENCODER, Thinking(), replace(AGENT, earlier_thoughts=thoughts))
        for trajectory in collector.collect(["toy/train/red"], 2, 1.0, (0, 1)):
            assert chains(trajectory).sequences == sequences
            assert ("<think>" in trajectory.steps[2].prompt) == (thoughts == "keep")
