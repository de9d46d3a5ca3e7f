"""A whole run by hand-worked numbers: SFT, evaluations, saves, disk; and this machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slow import slow_except
from stapo.cli.dry_run import advice, disk, elsewhere, overhead_of, workload
from stapo.cli.expected_episodes import expect, half_of_limits
from stapo.cli.main import main
from stapo.cli.this_machine import measured, this_machine
from stapo.config.presets import load_config
from stapo.estimate.costs import DEVICES, RESERVED, Device, Workload, memory, seconds
from stapo.estimate.shapes import ModelShape
from stapo.estimate.whole import WRITING, RunOverhead, Speed, disk_bytes, measured_seconds, run_seconds, save_bytes

SMALL = ModelShape(hidden=4, inner=8, layers=2, heads=2, kv_heads=1, head_dim=2, vocabulary=10, tied=True, bias=True)
WORK = Workload(
    episodes=4, steps=5, prompt=10, response=2, longest_prompt=20, longest_response=4, iterations=7, epochs=1,
    mini_batch=40, micro_tokens=48, batch_tokens=40, bytes_per_weight=2, lora_rank=0, reference="device",
    scored_by_reference=True, checkpointing=False, blind=False, critic=False,
)  # fmt: skip
OVERHEAD = RunOverhead(
    sft_steps=10, sft_rows=3, sft_tokens=12, demonstration_seconds=9.0,
    sft_save_seconds=100.0, full_evaluations=8, quick_evaluations=2, saves=7, keep_saves=2,
    checkpoints=3,
)  # fmt: skip
SPEED = Speed(read=0.1, train=0.5, step=1.0, answered=0.25)


def test_an_iteration_by_hand():
    found = measured_seconds(WORK, SPEED)
    # 20 rows of 10 + 2 tokens; four are answered together, two tokens each: 5 x 2 steps of 1 + 4 * 0.25 seconds.
    assert found["generation"] == pytest.approx(200 * 0.1 + 10 * 2)
    assert found["reference"] == pytest.approx(240 * 0.1)
    assert found["update"] == pytest.approx(240 * 0.5)
    assert found["run"] == pytest.approx(7 * (40 + 24 + 120))
    assert measured_seconds(replace(WORK, critic=True), SPEED)["critic"] == pytest.approx(240 * 0.6)
    # The longest of four responses has 3 tokens, a prompt takes 0.01 s besides, and a scored token 0.3 s.
    probed = measured_seconds(replace(WORK, decoded=3), replace(SPEED, turn=0.01, score=0.3))
    assert probed["generation"] == pytest.approx(200 * 0.1 + 20 * 0.01 + 5 * 3 * 2)
    assert probed["reference"] == pytest.approx(240 * 0.3)
    # 20 steps of the environment.
    assert measured_seconds(replace(WORK, step_seconds=0.3), SPEED)["environment"] == pytest.approx(6)
    assert seconds(SMALL, replace(WORK, step_seconds=0.3), DEVICES["h100"])["environment"] == pytest.approx(6)


def test_a_whole_run_by_hand():
    found = run_seconds(SMALL, WORK, OVERHEAD, SPEED)
    assert found["demonstrations"] == 9
    assert found["SFT"] == pytest.approx(10 * 3 * 12 * 0.5)
    assert found["iterations"] == pytest.approx(7 * 184)
    # Eight episodes of five steps, of which four fit a batch: 400 tokens read, 40 / 4 * 2 steps.
    assert found["evaluations"] == pytest.approx((400 * 0.1 + 20 * 2) / 8 * 10)
    # 364 weights: 2 bytes each, 12 of the optimizer. Seven saves, and 180 s of SFT with one in 100 s.
    assert save_bytes(SMALL, WORK) == 364 * 14
    assert found["saves"] == pytest.approx((7 + 1.8) * 364 * 14 / WRITING)
    assert found["all"] == pytest.approx(sum(v for k, v in found.items() if k != "all"))
    slow = run_seconds(SMALL, replace(WORK, step_seconds=0.3), OVERHEAD, SPEED)
    assert slow["evaluations"] - found["evaluations"] == pytest.approx(10 * 5 * 0.3)
    assert run_seconds(SMALL, WORK, OVERHEAD, DEVICES["h100"])["all"] > 0
    assert run_seconds(SMALL, WORK, OVERHEAD, replace(SPEED, sft=0.7))["SFT"] == pytest.approx(10 * 0.7)


def test_disk_by_hand():
    found = disk_bytes(SMALL, WORK, OVERHEAD)
    assert found["kept"] == 3 * 728 + 728 + 2 * 364 * 14
    assert found["most"] == found["kept"] + 364 * 14
    # Adapters: 384 of rank 3, 4 bytes and 8 of moments; the model beneath them is there once.
    assert save_bytes(SMALL, replace(WORK, lora_rank=3)) == 384 * 12
    assert save_bytes(SMALL, replace(WORK, bytes_per_weight=4)) == 364 * 12


def test_what_a_preset_does_beside_its_iterations():
    tiny, webshop = load_config("tiny"), load_config("webshop-tiny")
    found = overhead_of(tiny, half_of_limits(tiny))
    # Blind prompts take the place of full ones: a batch has as many rows as the setting says.
    assert (found.sft_steps, found.sft_rows) == (3800, 32)
    # 500 episodes, sampled and greedy, before and after; 120 of both after 10, 20 and 30 iterations.
    assert (found.full_evaluations, found.quick_evaluations) == (2000, 3 * 240)
    assert (found.saves, found.keep_saves, found.checkpoints) == (40, 2, 2)
    stopping = overhead_of(webshop, half_of_limits(webshop))
    assert stopping.quick_evaluations == 2 * 240 + 20 * 64


def test_episodes_are_expected_as_the_demonstrations_are():
    tiny = load_config("tiny")
    seen = expect(tiny)
    # Means over 16 iterations of a run of the preset: 64.0 tokens of 400, 3.3 of 10, and 10.5 steps of 15.
    assert seen.prompt == pytest.approx(64.0, rel=0.1)
    assert seen.response == pytest.approx(3.3, rel=0.1)
    assert seen.steps == pytest.approx(10.5, rel=0.35)
    assert seen.tasks == 4000
    assert seen.counted
    assert seen.demonstrated == pytest.approx(4000 * (2 * seen.steps - 15), rel=0.01)
    work = workload(tiny, seen)
    assert (work.prompt, work.response, work.steps) == (seen.prompt, seen.response, seen.steps)
    assert work.sft_tokens == 32 * seen.longest
    assert "demonstrations" in seen.basis


def test_a_row_of_sft_has_as_many_tokens_as_expected():
    from itertools import islice

    from stapo.policy.tokenizer import train_tokenizer
    from stapo.rollout.encoding import PromptEncoder
    from stapo.training.demonstrations import demonstrate, tokenizer_texts
    from stapo.training.factories import RunEnv
    from stapo.training.sft import _batches

    tiny = load_config("tiny")
    sft = replace(tiny.sft, episodes=48, steps=40)
    env = RunEnv(tiny)
    demos = demonstrate(env.pool, tiny.agent, sft, "train", tiny.algorithm.selective.blind_mask, 1)
    env.close()
    encoder = PromptEncoder(train_tokenizer(tokenizer_texts(demos), 640))
    batches = _batches(demos, encoder, sft, 0, lambda done, total: None)
    lengths = [[row.length + 1 for row in rows] for rows in islice(batches, sft.steps)]
    seen = expect(tiny)
    assert {len(rows) for rows in lengths} == {32}
    assert sum(map(sum, lengths)) / (40 * 32) == pytest.approx(seen.imitated, rel=0.15)


@pytest.mark.parametrize(
    "values, why",
    [
        ({"env": {"options": {"games": "/nowhere"}}}, "/nowhere"),
        ({"model": {"path": "Qwen/Qwen2.5-0.5B"}}, ""),
    ],
)
def test_where_nothing_can_be_played_half_of_every_limit_is_expected(values, why):
    config = load_config("tiny", None, values)
    seen = expect(config)
    assert (seen.steps, seen.prompt, seen.response, seen.imitated) == (7.5, 200, 5, 205)
    assert seen.basis.startswith("at half of every limit")
    assert why in seen.why
    assert bool(seen.why) is bool(why)
    assert not seen.counted


@pytest.mark.parametrize("decode", slow_except(["free", "constrained"], "constrained"))
def test_a_run_without_sft_is_expected_to_play_as_demonstrations_do(decode, toy_model):
    given = {"model": {"path": str(toy_model)}, "agent": {"decode": decode, "max_response_tokens": 50}}
    taught, untaught = (
        expect(load_config("tiny", None, given | {"sft": {"episodes": 24, "steps": steps}})) for steps in (10, 0)
    )
    assert untaught.basis == taught.basis
    assert (untaught.steps, untaught.prompt) == (taught.steps, taught.prompt)
    assert (taught.demonstrated > 0, untaught.demonstrated) == (True, 0)
    # What a model says that nothing holds is not known.
    assert untaught.response == (taught.response if decode == "constrained" else 25)


def test_a_batch_of_sft_is_one_pass_and_counts_as_memory():
    small = memory(SMALL, WORK)
    large = memory(SMALL, replace(WORK, sft_tokens=480))
    assert large["activations"] == 10 * small["activations"]  # passes of 48 tokens otherwise
    lines = advice(SMALL, replace(WORK, sft_tokens=10**7), Device("little", RESERVED, 1.0, 1.0))
    assert "batch_size" in "".join(lines)


def test_every_other_device_has_a_line():
    lines = elsewhere(SMALL, WORK, OVERHEAD)
    assert [line.split(":")[0].strip() for line in lines[1:]] == list(DEVICES)
    assert all("fits" in line for line in lines[1:])


def test_a_disk_that_is_too_small_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config("tiny")
    assert "does NOT fit" not in disk(config, SMALL, WORK, OVERHEAD)
    assert "It does NOT fit" in disk(config, SMALL, WORK, replace(OVERHEAD, keep_saves=10**15))


@pytest.mark.slow
def test_this_machine_is_measured_and_comes_first(capsys):
    shape = ModelShape(hidden=64, inner=256, layers=2, heads=2, kv_heads=2, head_dim=32, vocabulary=640, tied=True)
    speed = measured(shape, False, 1, 32, 200, False)
    assert 0 < speed.read < speed.train
    assert speed.step > 0
    assert measured(shape, False, 1, 32, 200, False) is speed
    assert this_machine(False).memory > 1e8
    deeper = measured(replace(shape, layers=40), False, 1, 32, 200, False)
    assert deeper.train > 4 * speed.train
    assert main(["train", "tiny", "--dry-run"]) == 0
    err = capsys.readouterr().err
    for shown in (
        "speed: measured here with the model, in ",
        "estimate for this machine (cpu)",
        "the whole run: about",
        "SFT",
        "evaluations",
        "disk: about",
    ):
        assert shown in err
    assert err.index("this machine") < err.index("h100")
