"""What the dry run expects of episodes whose prompts extend each other.

1. An episode by hand: one sequence, or several where prompts become too long.
2. A pass reads sequences, the rollout what is new, and the memory is that of the longest sequence.
3. The estimate agrees with episodes as they are played, and with batches of SFT as they are drawn.
4. It is shown; prompts of other kinds cost what they did.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice

import pytest

from stapo.cli.dry_run import workload
from stapo.cli.expected_episodes import expect
from stapo.cli.main import main
from stapo.config.presets import load_config
from stapo.estimate.costs import Device, Workload, chunked_head, memory, seconds, within_budget
from stapo.estimate.sequences import Growth, longest_of, read_episode
from stapo.estimate.shapes import ModelShape
from stapo.estimate.whole import Speed, measured_seconds

SMALL = ModelShape(hidden=4, inner=8, layers=2, heads=2, kv_heads=1, head_dim=2, vocabulary=10, tied=True, bias=True)
GROWTH = Growth(opening=10, turn=6, response=2, limit=1000, halves=True)
# Five steps with prompts of 10, 16, 22, 28, 34 tokens and responses of 2: rows of 120 tokens, a sequence of 36.
READING = read_episode(GROWTH, 5)
ROWS = Workload(
    episodes=4, steps=5, prompt=22, response=2, longest_prompt=40, longest_response=4, iterations=7, epochs=1,
    mini_batch=40, micro_tokens=88, batch_tokens=88, bytes_per_weight=2, lora_rank=0, reference="device",
    scored_by_reference=True, checkpointing=False, blind=True, critic=False,
)  # fmt: skip
READ = replace(
    ROWS, sequences=READING.sequences, sequence=READING.sequence, new=READING.new, kept_bytes=1e9, blind_prompt=8
)
SPEED = Speed(read=0.1, train=0.5, step=1.0, answered=0.25)
CONVERSATION = {"agent": {"prompt": "conversation", "decode": "constrained"}}


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_an_episode_is_one_sequence_by_hand():
    assert (READING.prompt, READING.rows, READING.sequences, READING.sequence) == (22, 120, 1, 36)
    # 10 tokens at first, then four messages of 4.
    assert READING.new == pytest.approx(26 / 5)


def test_a_prompt_that_is_too_long_begins_a_sequence_with_half_of_its_turns():
    found = read_episode(replace(GROWTH, limit=30), 7)
    # Turns shown: 0 1 2 3, then 2 of 4: 2 3, then 2 of 4 again. Sequences of 30, 30 and 24 tokens.
    assert (found.sequences, found.sequence) == (3, 28)
    assert found.rows == 7 * 2 + 10 + 16 + 22 + 28 + 22 + 28 + 22
    assert found.new == pytest.approx((10 + 3 * 4 + 22 + 4 + 22) / 7)
    # Where only the oldest turns go, every further step begins one.
    assert read_episode(replace(GROWTH, limit=30, halves=False), 7).sequences == 4


def test_a_first_prompt_that_is_too_long_is_one_all_the_same():
    assert read_episode(replace(GROWTH, limit=5), 2).sequences == 2


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_seconds_are_those_of_sequences():
    rows, read = measured_seconds(ROWS, SPEED), measured_seconds(READ, SPEED)
    assert (rows["update"], read["update"]) == (pytest.approx(4 * 120 * 0.5), pytest.approx(4 * 36 * 0.5))
    assert read["reference"] == pytest.approx(4 * 36 * 0.1)
    assert rows["generation"] - read["generation"] == pytest.approx(4 * (110 - 26) * 0.1)
    # One row in a hundred, 8 + 2 tokens, read by the policy with gradient and by the reference.
    assert read["blind passes"] == pytest.approx(0.01 * 20 * 10 * 0.6)
    assert rows["blind passes"] == pytest.approx(0.01 * 20 * 24 * 0.6)
    assert read["environment"] == rows["environment"]
    device = Device("cpu", 1e9, 1000 / 0.35, 1e12)
    # 640 operations a token of the layers, 16 of attention for each before it, 80 a scored token.
    assert seconds(SMALL, READ, device)["reference"] == pytest.approx((640 * 144 + 16 * 36 * 144 + 80 * 40) / 1000)


def test_keys_beyond_the_budget_are_not_counted_on():
    # 16 bytes for each of 36 tokens of four episodes.
    assert within_budget(SMALL, READ) == READ
    half = within_budget(SMALL, replace(READ, kept_bytes=0.5 * 16 * 36 * 4))
    assert half.new == pytest.approx((READING.new + 22) / 2)
    assert within_budget(SMALL, replace(READ, kept_bytes=0)).new == 22
    assert within_budget(SMALL, ROWS) == ROWS
    with_vllm = replace(READ, kept_bytes=0, vllm_share=0.5)
    assert within_budget(SMALL, with_vllm) == with_vllm


def test_a_sequence_scores_the_responses_of_all_its_steps():
    shape = replace(SMALL, vocabulary=100_000)
    # Chunks of 100 tokens; two rows of 4 response tokens, or two sequences of five times as many.
    assert chunked_head(shape, replace(ROWS, blind=False)) == 8 * 16 * 100_000 + 2 * 400_000
    assert chunked_head(shape, replace(READ, blind=False)) == 40 * 16 * 100_000 + 2 * 400_000
    assert memory(SMALL, READ)["activations"] == memory(SMALL, ROWS)["activations"]


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen():
    return expect(load_config("tiny", None, CONVERSATION))


def test_an_episode_is_expected_as_one_is_played(seen):
    # Three iterations of 32 episodes: 1,799 tokens as 14.9 rows, 207 as one sequence, 12.8 new ones a step.
    steps = 14.9
    grown = seen.reading.sequence * steps / seen.steps
    assert seen.reading.sequences == 1
    assert grown == pytest.approx(207, rel=0.1)
    assert seen.reading.rows * (steps / seen.steps) ** 2 == pytest.approx(1799, rel=0.2)
    assert seen.reading.new == pytest.approx(12.8, rel=0.15)
    assert seen.prompt == seen.reading.prompt


def test_a_batch_of_sft_has_as_many_tokens_as_expected(seen):
    from stapo.policy.sequences import chained
    from stapo.policy.tokenizer import train_tokenizer
    from stapo.rollout.encoding import PromptEncoder
    from stapo.training.demonstrations import demonstrate, tokenizer_texts
    from stapo.training.factories import RunEnv
    from stapo.training.sft import _batches

    config = load_config("tiny", None, CONVERSATION)
    sft = replace(config.sft, episodes=48, steps=60)
    env = RunEnv(config)
    demos = demonstrate(env.pool, config.agent, sft, "train", config.algorithm.selective.blind_mask, 1)
    env.close()
    encoder = PromptEncoder(train_tokenizer(tokenizer_texts(demos), 640))
    tokens, padded = [], []
    for rows in islice(_batches(demos, encoder, sft, 0, lambda done, total: None), sft.steps):
        numbers = [-1 - i if row.chain is None else row.chain for i, row in enumerate(rows)]
        lengths = [rows[places[-1]].length + 1 for places in chained(range(len(rows)), numbers)]
        tokens.append(sum(lengths))
        padded.append(len(lengths) * max(lengths))
    assert sum(tokens) / len(tokens) == pytest.approx(sft.batch_size * seen.imitated, rel=0.2)
    assert max(padded) == pytest.approx(workload(config, seen).sft_tokens, rel=0.5)


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_the_workload_reads_sequences_where_they_are_merged(seen):
    config = load_config("tiny", None, CONVERSATION)
    merged = workload(config, seen)
    assert (merged.sequences, merged.sequence, merged.new) == (1, seen.reading.sequence, seen.reading.new)
    alone = workload(replace(config, optim=replace(config.optim, merge=False)), seen)
    assert (alone.sequences, alone.new) == (0, seen.reading.new)
    nothing_kept = workload(replace(config, rollout=replace(config.rollout, kept_keys_gib=0.0)), seen)
    assert (nothing_kept.sequences, nothing_kept.new) == (1, 0)


def test_prompts_that_do_not_grow_are_rows():
    config = load_config("tiny")
    plain = workload(config, expect(config))
    assert (plain.sequences, plain.new, plain.blind_prompt) == (0, 0, 0)
    assert plain.read == plain.episodes * plain.steps * (plain.prompt + plain.response)


def test_dropped_thoughts_make_no_sequences():
    agent = {"prompt": "conversation", "response": "think_action", "earlier_thoughts": "drop"}
    found = expect(load_config("tiny", None, {"agent": agent}))
    assert found.reading is None


def test_where_nothing_is_played_a_conversation_grows_to_its_limit():
    values = {"model": {"path": "Qwen/Qwen2.5-0.5B"}}
    found = expect(load_config("tiny", None, values | CONVERSATION))
    assert found.reading.prompt == pytest.approx(200, rel=0.1)
    assert found.reading.sequences == 1
    assert expect(load_config("tiny", None, values)).reading is None


def test_it_is_shown(capsys):
    assert main(["train", "tiny", "--agent.prompt", "conversation", "--dry-run", "--gpu", "h100"]) == 0
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "tokens as 1 sequence" in shown
    assert "times fewer" in shown
    assert main(["train", "tiny", "--dry-run", "--gpu", "h100"]) == 0
    assert "sequence" not in capsys.readouterr().err


FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "named"),
    [(FORGETFUL, "rewrites a conversation"), ("{{ messages[0].content }}", "model.chat_template")],
)
def test_a_chat_template_with_which_steps_are_no_sequence_is_named(template, named, toy_model, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(toy_model, model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    given = ["train", "tiny", "--model.path", str(model), "--sft.steps", "0", "--dry-run", "--gpu", "h100"]
    assert main([*given, "--agent.prompt", "conversation"]) == 0
    assert named in " ".join(capsys.readouterr().err.split())
    assert main([*given, "--agent.prompt", "conversation", "--model.chat_template", "none"]) == 0
    assert named not in " ".join(capsys.readouterr().err.split())


def test_responses_that_are_answered_together_wait_for_the_longest():
    assert longest_of([1, 3], 1) == 2
    assert longest_of([3, 1], 2) == 2.5  # one of the four pairs has no 3
    assert longest_of([1, 3, 3, 3], 3) == pytest.approx(3 - 2 / 64)
    assert longest_of([], 5) == 0
