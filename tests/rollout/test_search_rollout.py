"""Episodes of search through the whole text side: transcripts, blind prompts, failing search engines."""

from __future__ import annotations

import pytest
from chat_tokenizers import llama3, qwen3, smollm

from stapo.agent import RESPONSE_BEGINS, AgentConfig, PromptFields, Turn, render_prompt
from stapo.envs import make
from stapo.errors import RetrieverError
from stapo.policy import RowTokens, find_chains
from stapo.rollout import StopReason
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import Sample
from toy_world import small_policy

ENCODER = PromptEncoder(small_policy().tokenizer)
SAID = ["<think>a</think><search> Rex </search> dropped", "nothing", "<answer> Rex </answer>"]


class Player:
    """Says the same in every episode."""

    def sample(self, prompts, streams, temperature):
        ids = [[*ENCODER.tokenizer.encode(SAID[step]), ENCODER.tokenizer.eos_token_id] for *_, step in streams]
        return [Sample(i, [-1.0] * len(i), [0.5] * len(i), True) for i in ids]


class Broken:
    def search(self, queries, k):
        raise RetrieverError("found no server at port 1; expected one.", "refused")


def play(style, broken=False):
    def build():
        env = make("search", topk=1)
        if broken:
            env._search = Broken()
        return env

    agent = AgentConfig(prompt=style, response="search_answer", history_length=5, max_prompt_tokens=4000)
    collector = Collector(build, ENCODER, Player(), agent)
    (trajectory,) = collector.collect(build().tasks_of("train")[:1], 1, 1.0, (0, 1))
    return trajectory, collector.take_failures()


def test_each_turn_is_a_row_whose_prompt_holds_what_was_found():
    trajectory, failures = play("search-r1")
    assert (failures, trajectory.stop_reason) == ([], StopReason.FAILED)
    first, second, third = trajectory.steps
    assert [s.valid for s in trajectory.steps] == [True, False, True]
    assert [s.response for s in trajectory.steps] == SAID
    rules, question = first.prompt.split(" Question: ")
    begun = second.prompt.removeprefix(f"{rules} Question: {question}{RESPONSE_BEGINS}")
    assert begun == "<think>a</think><search> Rex </search>" + second.observation
    assert third.prompt == second.prompt + "nothing" + third.observation
    assert "dropped" not in third.prompt
    assert {s.blind_prompt for s in trajectory.steps} == {rules}
    for step in trajectory.steps:
        assert step.prompt_ids == ENCODER.tokenizer.encode(step.prompt.replace(RESPONSE_BEGINS, ""))
        assert "<information>" not in step.response


@pytest.mark.parametrize("style", ["search-r1", "search-stepwise", "search-compact"])
def test_a_failing_search_engine_is_counted_and_the_episode_goes_on(style):
    trajectory, failures = play(style, broken=True)
    assert failures == []
    assert trajectory.failure is None
    assert [s.retriever_error for s in trajectory.steps] == ["refused", None, None]
    assert "could not be reached" in trajectory.steps[1].prompt
    assert all("port 1" not in s.prompt for s in trajectory.steps)


@pytest.mark.parametrize("kind", [smollm, llama3, qwen3])
@pytest.mark.parametrize("behind", ["", " and more"])
def test_a_transcript_keeps_the_sampled_tokens_and_its_rows_are_one_sequence(kind, behind):
    """Text alone would be cut elsewhere: Qwen has one token for the end of a tag and the lines behind it."""
    encoder = PromptEncoder(kind())
    agent = AgentConfig(prompt="search-r1", response="search_answer")
    history, rows = [], []
    for number, observation in enumerate(["question", "\n\n<information>a</information>\n\n", "\n\n<information>b"]):
        fields = PromptFields("q", number, number, tuple(history), observation, observation, None)
        said = f"<think>{number}</think><search> Rex </search>{behind}"
        ids = [*encoder.tokenizer.encode(said, add_special_tokens=False), encoder.tokenizer.eos_token_id]
        rows.append(RowTokens(encoder.encode(render_prompt(fields, agent)), ids))
        action = encoder.parse(ids, agent, ()).action
        history.append(Turn(observation, observation, action, said, tuple(ids)))
    chains = find_chains(rows, [0, 0, 0])
    assert chains.breaks == ({"response": 2} if behind else {})
    assert chains.sequences == (3 if behind else 1)
    # Whatever its tokens, the text is that of the transcript.
    shown = encoder.tokenizer.decode(rows[2].prompt_ids)
    assert shown.endswith("".join(turn.observation * bool(i) + turn.action for i, turn in enumerate(history[:2]))
                          + "\n\n<information>b")  # fmt: skip
