"""An agent's own protocol, from the settings to the tokens.

1. A stop text ends a response with the token that completes it, outside thoughts; nothing is added, and what comes
   after it is neither sampled nor kept.
2. Tools go through the chat template, or are told in words; what cannot be read is the next observation.
3. System prompt, role and rules are settings; a style may return role messages.
4. The chat template is the model's, or a file's, with the values that the settings give it.
5. A format that raises costs the episode, and is named.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stapo.agent import PROMPT_STYLES, RESPONSE_FORMATS, AgentConfig, CommandShapes, PromptFields, Turn, render_prompt
from stapo.envs import Tool
from stapo.envs.slot import EnvSlot
from stapo.envs.wire import dump, load, pack, unpack
from stapo.errors import ConfigError, ModelError
from stapo.policy import ModelConfig, load_policy, load_tokenizer
from stapo.rollout import StopReason
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder, told_of_template
from stapo.rollout.sampler import HFSampler, Sample
from stapo.rollout.stopping import StopRule, stop_end
from stapo.rollout.text_codec import TextCodec, prompt_of
from toy_world import ToyEnv, small_policy

sys.path.insert(0, str(Path(__file__).parents[1] / "reliability"))
from test_18_control_tokens import TEMPLATE, reasoning_tokenizer

sys.path.pop(0)

READ = Tool("read", "Read <|im_end|> a file.", {"type": "object", "properties": {"path": {"type": "string"}}})
WITH_TOOLS = "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>{% endif %}" + TEMPLATE
CLOSED = "<think>\n\n</think>\n\n"
THINKS = TEMPLATE.replace(
    "assistant\n{%", "assistant\n{% if enable_thinking is defined and not enable_thinking %}" + CLOSED + "{% endif %}{%"
)
AGENT = AgentConfig(prompt="compact", response="action", max_prompt_tokens=4000, max_response_tokens=200)


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch):
    for registry in (PROMPT_STYLES, RESPONSE_FORMATS):
        monkeypatch.setattr(registry, "_objects", dict(registry._objects))


class Saying:
    """A sampler that says the same at each step."""

    def __init__(self, encoder, text, ended=False):
        self.encoder, self.text, self.ended = encoder, text, ended
        self.prompts = []

    def sample(self, prompts, streams, temperature):
        self.prompts += [list(prompt) for prompt in prompts]
        ids = self.encoder.tokenizer.encode(self.text, add_special_tokens=False)
        return [Sample(list(ids), [-0.5 - k for k in range(len(ids))], [0.1] * len(ids), self.ended) for _ in prompts]


def play(text, agent, env=ToyEnv, template=TEMPLATE, **options):
    encoder = PromptEncoder(reasoning_tokenizer(template))
    sampler = Saying(encoder, text)
    (trajectory,) = Collector(env, encoder, sampler, agent, **options).collect(["toy/train/red"], 1, 1.0, (0, 1))
    return trajectory, encoder, sampler


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, end",
    [
        ("go</action> on", "go</action>"),
        ("<think>a </action> b</think>go</action>x</action>", "<think>a </action> b</think>go</action>"),
        ("<think>a </action> b", None),
        ("go</action><think>late</think>", "go</action>"),
        ("a</think>go</action>", "a</think>go</action>"),
        ("<THINK></action></THINK></action>.", "<THINK></action></THINK></action>"),
        ("", None),
        ("</actio", None),
    ],
)
def test_where_a_text_ends(text, end):
    assert stop_end(text, ["</action>", "never"]) == (None if end is None else len(end))


def test_what_comes_after_a_stop_text_is_not_kept_and_no_end_token_is_added():
    agent = replace(AGENT, response="tagged", stop=("</action>",))
    said = "<think>no </action></think><action>look</action>"
    trajectory, encoder, _ = play(said + "\nYou see a mug. <action>take", agent)
    for step in trajectory.steps:
        assert (step.response, step.valid, step.truncated) == (said, True, False)
        assert step.response_ids == encoder.tokenizer.encode(said, add_special_tokens=False)
        assert encoder.tokenizer.eos_token_id not in step.response_ids
        assert len(step.logprobs) == len(step.entropies) == len(step.response_ids)
    assert play(said, replace(agent, stop=()))[0].steps[0].truncated


def test_a_thought_that_the_template_has_opened_ends_before_a_stop_text_counts():
    opened = TEMPLATE.replace("assistant\n{%", "assistant\n<think>\n{%")
    agent = replace(AGENT, response="tagged", stop=("</action>",))
    said = "not <action>that</action>.</think><action>look</action>"
    trajectory, *_ = play(f"{said} and on", agent, template=opened)
    assert [(s.response, s.action, s.valid) for s in trajectory.steps] == [(said, "look", True)] * 3


def test_the_sampler_stops_there_and_the_rest_of_the_numbers_stay():
    policy = small_policy(architecture="qwen3", initializer_range=0.3)
    policy.model.double()  # fewer rows go on, and single precision would round otherwise on some processors
    encoder = PromptEncoder(policy.tokenizer)
    prompts, streams = [policy.tokenizer.encode("now hello")] * 12, [(0, i) for i in range(12)]

    def ask(stops=None):
        made = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 12, stops=stops)
        return made.sample(prompts, streams, 1.0)

    free = ask()
    rule = StopRule(("e", "go"), encoder)
    stopped = ask(rule.complete)
    for found, wanted in zip(stopped, [rule.cut(sample) for sample in free], strict=True):
        assert (found.ids, found.ended) == (wanted.ids, wanted.ended)
        assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-9)
        assert found.entropies == pytest.approx(wanted.entropies, abs=1e-9)
    early = [s for s, f in zip(stopped, free, strict=True) if len(s.ids) < len(f.ids)]
    assert early
    assert all(s.ended and s.ids[-1] not in policy.eos_ids for s in early)


@pytest.mark.parametrize("wrong", [{"stop": ("",)}, {"stop": (" ",)}, {"stop": ("a",) * 17},
                                   {"stop": ("a",), "decode": "constrained"}])  # fmt: skip
def test_stop_texts_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match=r"agent\.stop"):
        AgentConfig(response="action", **wrong)


# -- 2 -----------------------------------------------------------------------------------------------------------------


class Files(ToyEnv):
    command_shapes = CommandShapes(place="on a disk", tools=(READ,))


CALL = '<tool_call>\n{"name": "read", "arguments": {"path": "A.txt"}}\n</tool_call>'


@pytest.mark.parametrize("style", ["standard", "conversation"])
def test_tools_go_through_the_chat_template_or_are_told_in_words(style):
    agent = replace(AGENT, prompt=style, response="tool_call")
    for template, writes in ((WITH_TOOLS, True), (TEMPLATE, False), (None, False)):
        trajectory, encoder, _ = play(CALL, agent, Files, template)
        assert encoder.writes_tools == writes
        assert any("writes no tools" in told for told in told_of_template(agent, encoder)) == (not writes)
        for step in trajectory.steps:
            assert (step.action, step.valid) == ('{"name": "read", "arguments": {"path": "A.txt"}}', True)
            for ids in (step.prompt_ids, step.blind_ids):
                text = encoder.tokenizer.decode(ids)
                assert text.count('"description": "Read < |im_end|> a file."') == 1
                assert ("<tools>" in text) == writes
                assert ("You have these tools:" in text) == (not writes)
                assert "on a disk" in text


def test_what_cannot_be_read_is_told_in_front_of_the_next_observation():
    agent = replace(AGENT, response="tool_call", prompt="standard")
    trajectory, encoder, sampler = play("I read A.txt.", agent, Files)
    first, second, _ = trajectory.steps
    assert (first.valid, first.problem, first.action) == (False, "no_tool_call", "I read A.txt.")
    assert second.observation.startswith("Error: no tool was called. Call one of: read.\nThe judge heard")
    assert "Error: no tool was called." in encoder.tokenizer.decode(sampler.prompts[1])
    assert "Error: no tool was called." in encoder.tokenizer.decode(second.blind_ids)


def test_tools_pass_the_wire_and_the_codec_of_servers():
    begun = EnvSlot(Files).reset("toy/train/red")
    assert unpack(load(dump(pack(begun)))) == begun
    fields = PromptFields("g", 0, 0, (), "a", "a", None, shapes=Files.command_shapes)
    prompt = render_prompt(fields, AgentConfig(response="tool_call"))
    codec = TextCodec()
    (tool,) = json.loads(prompt_of(codec.encode(prompt)).tools)
    assert tool["function"]["description"] == "Read < |im_end|> a file."
    agent = AgentConfig(response="tool_call")
    assert codec.parse([ord(c) for c in CALL], agent, (), (READ,)).valid


def test_a_tokenizer_that_says_how_calls_are_written_is_asked():
    tokenizer = reasoning_tokenizer(WITH_TOOLS)
    tokenizer.response_template = {
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "content": {},
            "tool_calls": {"open": "CALL ", "close": " END", "content": "json", "repeats": True},
        },
    }
    encoder = PromptEncoder(tokenizer)
    agent = AgentConfig(response="tool_call")
    said = 'I read. CALL {"name": "read", "arguments": {"path": "A"}} END'
    parsed = encoder.parse(tokenizer.encode(said, add_special_tokens=False), agent, (), (READ,))
    assert (parsed.action, parsed.valid) == ('{"name": "read", "arguments": {"path": "A"}}', True)
    # What it does not find may be there in a form that is known; and no expression of a stranger's file is run.
    assert encoder.parse(tokenizer.encode(CALL, add_special_tokens=False), agent, (), (READ,)).valid
    tokenizer.response_template["fields"]["tool_calls"]["open_pattern"] = "(a+)+CALL "
    assert not encoder.parse(tokenizer.encode(said, add_special_tokens=False), agent, (), (READ,)).valid


# -- 3 -----------------------------------------------------------------------------------------------------------------

FIELDS = PromptFields("find a mug", 1, 1, (Turn("A desk.", "A desk.", "look", "look"),), "A shelf.", "A shelf.", None)


@pytest.mark.parametrize("style", ["standard", "conversation", "webshop", "search-stepwise", "search-r1", "compact"])
def test_role_rules_and_system_prompt_are_settings(style):
    agent = AgentConfig(prompt=style, response="action", role="You file.", rules="Say one.", system_prompt="Be terse.")
    for mask in ("none", "goal_history"):
        shown = render_prompt(FIELDS, agent, mask).shown
        assert shown.startswith("Be terse.")
        assert shown.count("You file.") == shown.count("Say one.") == 1
        assert ("mug" in shown) == (mask == "none")
    bare = render_prompt(FIELDS, replace(agent, role="", rules="", system_prompt=None)).shown
    plain = render_prompt(FIELDS, replace(agent, role=None, rules=None, system_prompt=None)).shown
    assert "You file." not in bare + plain
    assert len(bare) < len(plain) or style == "compact"


def test_only_a_text_world_is_called_one():
    shapes = {"general": CommandShapes(), "world": CommandShapes(place="in a text world")}
    for style in ("standard", "conversation"):
        said = {
            name: render_prompt(replace(FIELDS, shapes=s), AgentConfig(prompt=style)).shown
            for name, s in shapes.items()
        }
        assert "text world" not in said["general"]
        assert said["world"].startswith("You act in a text world")


def test_a_style_may_return_role_messages():
    def chat(fields, config, hide_goal, hide_history):
        asked = (
            [] if hide_history else [{"role": "user", "content": "A desk."}, {"role": "assistant", "content": "look"}]
        )
        goal = "" if hide_goal else f" Goal: {fields.goal}"
        return [{"role": "system", "content": f"Rules.{goal}"}, *asked, {"role": "user", "content": fields.observation}]

    PROMPT_STYLES.register("chat", chat)
    agent = AgentConfig(prompt="chat", response="action")
    full, blind = (render_prompt(FIELDS, agent, mask) for mask in ("none", "goal_history"))
    assert (full.system, full.text, [(t.text, t.said) for t in full.turns]) == (
        "Rules. Goal: find a mug", "A shelf.", [("A desk.", "look")],
    )  # fmt: skip
    assert (blind.system, blind.turns, blind.text) == ("Rules.", (), "A shelf.")
    text = (encoder := PromptEncoder(reasoning_tokenizer())).tokenizer.decode(encoder.encode(full))
    assert text.index("Rules.") < text.index("A desk.") < text.index("look") < text.index("A shelf.")


@pytest.mark.parametrize(
    "messages, said",
    [
        ([], "returned "),
        ([{"role": "user"}], "expected a text, role messages"),
        (["look"], "expected a text, role messages"),
        ([{"role": "assistant", "content": "a"}], "messages of assistant"),
        ([{"role": "system", "content": "a"}], "messages of system"),
        ([{"role": "user", "content": "a"}] * 2, "messages of user, user"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}], "the user last"),
    ],
)
def test_messages_in_another_order_are_named(messages, said):
    PROMPT_STYLES.register("odd", lambda *given: messages)
    with pytest.raises(ConfigError, match=f"prompt style 'odd'.*{said}"):
        render_prompt(FIELDS, AgentConfig(prompt="odd"))


# -- 4 -----------------------------------------------------------------------------------------------------------------


def written(tokenizer):
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )


def test_a_template_of_a_file_and_its_values_become_the_checkpoints(toy_model, tmp_path):
    file, saved = tmp_path / "own.jinja", tmp_path / "saved"
    file.write_text(THINKS)
    config = ModelConfig(
        path=str(toy_model), device="cpu", chat_template=str(file), chat_template_kwargs={"enable_thinking": False}
    )
    policy = load_policy(str(toy_model), config)
    assert PromptEncoder(policy.tokenizer).held == CLOSED
    assert written(policy.tokenizer).endswith(CLOSED)
    policy.model.save_pretrained(saved)
    policy.tokenizer.save_pretrained(saved)
    file.unlink()  # a checkpoint has it
    assert written(load_policy(str(saved), config).tokenizer) == written(policy.tokenizer)
    again = ModelConfig(
        path=str(saved), device="cpu", chat_template_kwargs={"enable_thinking": True, "x": [1, "\n'\"", None]}
    )
    assert not written(load_tokenizer(str(saved), again)).endswith(CLOSED)
    with pytest.raises(ModelError, match=r"which cannot be read.*Expected auto, none, or a file"):
        load_policy(str(toy_model), config)


@pytest.mark.parametrize("name", ["messages", "a b", "", "true"])
def test_values_have_names_that_a_template_can_ask_for(name):
    with pytest.raises(ConfigError, match=r"model\.chat_template_kwargs has the name"):
        ModelConfig(chat_template_kwargs={name: 1})


def test_values_without_a_template_are_refused():
    tokenizer = small_policy().tokenizer
    from stapo.policy.chat import give_template

    with pytest.raises(ModelError, match="the tokenizer has none"):
        give_template(tokenizer, "auto", {"enable_thinking": False})
    with pytest.raises(ConfigError, match="has no chat template"):
        small_policy(chat_template_kwargs={"enable_thinking": False})


# -- 5 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [lambda *given: 1 / 0, lambda *given: "look"])
def test_a_format_that_raises_costs_the_episode_and_is_named(wrong):
    RESPONSE_FORMATS.register("odd", wrong)
    agent = replace(AGENT, response="odd")
    trajectory, *_ = play("look", agent, max_failures=5)
    assert trajectory.stop_reason is StopReason.ERROR
    assert trajectory.failure.boundary == "parser"
    assert "response format 'odd'" in trajectory.failure.error
