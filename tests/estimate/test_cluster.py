"""Seconds of an iteration over nodes, by hand; what more nodes change and what they do not.

The model has 66 weights (44 in its layer, 20 in the tied embedding, 2 in the last norm) and 8 bytes of keys and values
for a token. 16 episodes of 2 steps, 6 tokens of prompt and 2 of response: 256 tokens in 32 rows. 2 machines of 2 GPUs,
each 1,000 operations and 100 bytes a second after the shares that are reached.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from stapo.estimate.costs import STREAMING, UTILIZATION, Device, Workload, find_device
from stapo.estimate.shapes import ModelShape, known_shapes

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from cluster import LINKED, Cluster, iteration_seconds, rollout_seconds

SHAPE = ModelShape(hidden=2, inner=4, layers=1, heads=1, kv_heads=1, head_dim=2, vocabulary=10, tied=True)
WORK = Workload(
    episodes=16, steps=2.0, prompt=6.0, response=2.0, longest_prompt=8, longest_response=4, iterations=1, epochs=1,
    mini_batch=8, micro_tokens=16, batch_tokens=64, bytes_per_weight=2, lora_rank=0, reference="device",
    scored_by_reference=True, checkpointing=False, blind=True, critic=False, vllm_share=0.4,
)  # fmt: skip
DEVICE = Device("toy", 1e9, 1000 / UTILIZATION, 100 / STREAMING)
TWO = Cluster(device=DEVICE, nodes=2, gpus_per_node=2, inside=200 / LINKED, between=20 / LINKED)
LONGEST = 4.0


def test_what_travels():
    # Half of 132 bytes comes from the other machine, over two links of 20; inside, three quarters over 200.
    assert TWO.spread(132) == pytest.approx(66 / 40)
    assert replace(TWO, nodes=1).spread(132) == pytest.approx(66 / 200)
    # A network as fast as it likes leaves the links inside.
    assert replace(TWO, between=1e9).spread(132) == pytest.approx(99 / 200)


def test_a_rollout_ends_with_its_longest_episode():
    # 192 tokens of prompts: 2 x 44 x 192 in the layer, 2 x 2 x 6 x 192 of attention, 2 x 20 x 32 in the head.
    prefill = (16_896 + 4_608 + 1_280) / 4_000
    # 8 tokens one after the other. 4 episodes of a server are 2 on average: 132 bytes of weights, 2 x 8 x 8 of keys.
    assert rollout_seconds(SHAPE, WORK, TWO, LONGEST) == pytest.approx(prefill + 8 * 260 / 100)
    # Two GPUs of a server read it twice as fast, and it holds twice as many.
    half = replace(TWO, tensor_parallel=2)
    assert rollout_seconds(SHAPE, WORK, half, LONGEST) == pytest.approx(prefill + 8 * (132 + 4 * 64) / 200)


def test_an_iteration_by_hand():
    parts = iteration_seconds(SHAPE, WORK, TWO, LONGEST)
    gather, reduce = 66 / 40, 132 / 40
    # 2 x 44 x 256 in the layer, 2 x 2 x 8 x 256 of attention, 2 x 20 x 64 in the head; 4 GPUs.
    forward = (22_528 + 8_192 + 2_560) / 4_000
    assert forward == pytest.approx(8.32)
    assert parts["weight transfer"] == pytest.approx(gather + 2 * 132 / 100)
    # 64 tokens of a GPU are 4 passes, whose 4 gathers take less than computing.
    assert 4 * gather < forward
    assert parts["old log-probs"] == parts["reference"] == pytest.approx(forward)
    # 4 mini-batches of one micro-batch, each with two gathers and a reduction; then 28 x 66 / 4 bytes of the optimizer.
    assert 3 * forward < 4 * (2 * gather + reduce)
    assert parts["update"] == pytest.approx(4 * (2 * gather + reduce) + 4 * 28 * 66 / 4 / 100)
    # Passes of half the size gather twice as often, and reduce as often.
    small = iteration_seconds(SHAPE, replace(WORK, micro_tokens=8), TWO, LONGEST)
    assert small["update"] - parts["update"] == pytest.approx(4 * 2 * gather)
    # 1 % of it, in the same passes; the reference gathers once for each mini-batch's flagged rows.
    assert parts["blind passes"] == pytest.approx(3 * forward / 100 + 4 * gather)
    assert parts["iteration"] == pytest.approx(sum(parts.values()) - parts["iteration"])


def test_rows_that_do_not_divide_wait():
    fast = replace(TWO, inside=1e9, between=1e9)
    even, uneven = (iteration_seconds(SHAPE, replace(WORK, mini_batch=n), fast, LONGEST) for n in (8, 16))
    step = 28 * 66 / 4 / 100
    assert even["update"] - 4 * step == pytest.approx(uneven["update"] - 2 * step)
    # 6 rows on 4 GPUs: two of them have two.
    odd = iteration_seconds(SHAPE, replace(WORK, mini_batch=6), fast, LONGEST)
    assert odd["update"] - 6 * step == pytest.approx((even["update"] - 4 * step) * 8 / 6)


def test_what_is_switched_off_takes_nothing():
    w = replace(WORK, blind=False, scored_by_reference=False)
    parts = iteration_seconds(SHAPE, w, TWO, LONGEST)
    assert parts["blind passes"] == parts["reference"] == 0


def test_nodes_divide_the_update_and_not_the_longest_episode():
    shape, work = known_shapes()["qwen2.5-7b"], replace(WORK, episodes=128, steps=25.0, prompt=1024.0, response=256.0)
    work = replace(work, mini_batch=256, micro_tokens=8192)
    found = [iteration_seconds(shape, work, Cluster(device=find_device("h100"), nodes=n), 50.0) for n in (1, 2, 4)]
    for one, other in pairwise(found):
        assert other["update"] == pytest.approx(one["update"] / 2, rel=0.1)
        assert 0.8 * one["rollout"] < other["rollout"] < one["rollout"]
