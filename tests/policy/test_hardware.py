"""Which dtype and how many threads suit a model here: what is timed, what is decided, and what stays untouched."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch
from transformers import AutoConfig

from slow import slow_except
from stapo.errors import ModelError
from stapo.policy import hardware
from stapo.policy.config import ModelConfig
from stapo.policy.hardware import Speed, TimedModel, dtype_for, faster, much_slower, time_layers, timed_model_of
from stapo.policy.memory import memory_need, model_size
from stapo.training.checkpoint import random_state

CPU = "cpu"
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 5000,
}  # fmt: skip


def speeds(one, two):
    """Speeds of float32 and bfloat16, each as (forward, training)."""
    return {"float32": one and Speed(*one), "bfloat16": two and Speed(*two)}


class Slowed:
    """A clock on which a dtype takes so many times longer: it moves on by what the model asked last says."""

    def __init__(self, seconds):
        self.seconds, self.now, self.asked = seconds, 0.0, []

    def __call__(self):
        return self.now

    def watch(self, monkeypatch):
        real = hardware.one_pass

        def one_pass(ids_bl, *, train):
            once = real(ids_bl, train=train)

            def timed(model):
                name = str(model.dtype).removeprefix("torch.")
                self.asked.append((name, train))
                self.now += self.seconds[name, train]
                return once(model)

            return timed

        monkeypatch.setattr(hardware, "one_pass", one_pass)
        return self


@pytest.mark.parametrize(
    "one, two, best",
    [
        ((650, 160), (1300, 240), "bfloat16"),
        ((287, 90), (60, 4), "float32"),
        ((287, 90), (60, None), "float32"),
        ((100, 100), (109, 109), "float32"),  # a tie
        ((100, 100), (112, 112), "bfloat16"),
        # A token is read once and trained on once: 1/200 + 1/50 s against 1/100 + 1/60.
        ((200, 50), (100, 60), "float32"),
        ((100, 100), None, "float32"),
        (None, None, "float32"),
    ],
)
def test_the_faster_dtype_is_taken_and_float32_on_a_tie(one, two, best):
    assert faster(speeds(one, two)) == best
    assert faster({}) == "float32"


@pytest.mark.parametrize(
    "dtype, one, two, slow",
    [
        ("bfloat16", (287, 90), (60, 4), True),
        ("bfloat16", (287, 90), (60, None), True),
        ("bfloat16", (300, 90), (120, 45), False),
        ("bfloat16", (300, 90), (200, 10), True),
        ("bfloat16", (300, 90), None, True),
        ("float32", (300, 90), (1000, 400), True),
        ("float32", (300, 90), (500, 150), False),
        ("float32", (300, 90), (60, None), False),
        ("float32", (300, 90), None, False),
    ],
)
def test_a_dtype_is_slow_where_it_takes_three_times_as_long(dtype, one, two, slow):
    assert much_slower(dtype, speeds(one, two)) is slow
    assert not much_slower(dtype, {})


def test_what_was_timed_is_a_whole_model_in_tokens_a_second(monkeypatch):
    """Two of six layers: 256 tokens in 0.5 s are 256 * 2/6 / 0.5 tokens of the whole model a second."""
    seconds = {("float32", False): 0.5, ("float32", True): 2.0, ("bfloat16", False): 0.25, ("bfloat16", True): 1.0}
    clock = Slowed(seconds).watch(monkeypatch)
    found = time_layers(AutoConfig.for_model("llama", **SIZES), CPU, 1, clock)
    assert found["float32"].forward == pytest.approx(256 / 3 / 0.5)
    assert found["float32"].training == pytest.approx(256 / 3 / 2.0)
    assert found["bfloat16"] == Speed(2 * found["float32"].forward, 2 * found["float32"].training)
    assert dtype_for(TimedModel(10**8, False, lambda threads: found), 1)[0] == "bfloat16"


def test_long_passes_are_not_repeated_and_a_slow_dtype_is_not_trained(monkeypatch):
    seconds = {("float32", False): 1.0, ("float32", True): 3.0, ("bfloat16", False): 5.0, ("bfloat16", True): 64.0}
    clock = Slowed(seconds).watch(monkeypatch)
    found = time_layers(AutoConfig.for_model("qwen3", **SIZES), CPU, 1, clock)
    assert clock.asked == [("float32", False), ("bfloat16", False), ("float32", True)]
    assert found["bfloat16"].training is None
    assert much_slower("bfloat16", found)


def test_short_passes_are_repeated_in_turns_and_the_first_is_left_out(monkeypatch):
    seconds = dict.fromkeys([(name, train) for name in ("float32", "bfloat16") for train in (False, True)], 0.01)
    clock = Slowed(seconds).watch(monkeypatch)
    real, turns = clock.__call__, []
    found = time_layers(AutoConfig.for_model("qwen2", **SIZES), CPU, 1, lambda: turns.append(0) or real())
    assert clock.asked[:4] == [("float32", False), ("bfloat16", False)] * 2
    assert len(clock.asked) == 40
    assert found["float32"].forward == pytest.approx(256 / 3 / 0.01)


@pytest.mark.parametrize("sick", ["raises", "nan"])
def test_where_bfloat16_fails_float32_is_taken(monkeypatch, sick):
    real = hardware.one_pass

    def one_pass(ids_bl, *, train):
        def timed(model):
            out = real(ids_bl, train=train)(model)
            if model.dtype == torch.bfloat16 and train:
                if sick == "raises":
                    raise RuntimeError("not implemented for 'BFloat16'")
                out[0] = float("nan")
            return out

        return timed

    monkeypatch.setattr(hardware, "one_pass", one_pass)
    found = time_layers(AutoConfig.for_model("llama", **SIZES), CPU, 1)
    assert found["bfloat16"] is None
    assert faster(found) == "float32"
    assert "fails" in hardware.in_words(found)


@pytest.mark.parametrize("kind", slow_except(["llama", "qwen2", "qwen3"], "llama"))
def test_nothing_else_is_touched(monkeypatch, kind):
    """Random numbers of three generators, torch's threads, the configuration, and memory."""
    models = []
    real = hardware.one_pass
    monkeypatch.setattr(
        hardware, "one_pass", lambda ids, train: lambda m: models.append(weakref.ref(m)) or real(ids, train=train)(m)
    )
    config = AutoConfig.for_model(kind, **SIZES)
    plain, tensors = random_state()
    before, threads = config.to_dict(), torch.get_num_threads()
    found = time_layers(config, CPU, threads + 1)
    # On a busy machine one of them may seem so slow that its training is not timed.
    assert min(found["float32"].forward, found["bfloat16"].forward) > 0
    assert any(speed.training for speed in found.values())
    assert random_state()[0] == plain
    assert all(torch.equal(now, tensors[name]) for name, now in random_state()[1].items())
    assert torch.get_num_threads() == threads
    assert config.to_dict() == before
    gc.collect()
    assert models
    assert not [one for one in models if one() is not None]


def test_ctrl_c_ends_it(monkeypatch):
    threads = torch.get_num_threads()

    def one_pass(ids_bl, *, train):
        def interrupted(model):
            raise KeyboardInterrupt

        return interrupted

    monkeypatch.setattr(hardware, "one_pass", one_pass)
    with pytest.raises(KeyboardInterrupt):
        time_layers(AutoConfig.for_model("llama", **SIZES), CPU, threads + 1)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("device", ["cuda:7", "nonsense"])
def test_a_device_that_is_not_there_times_nothing(device):
    assert time_layers(AutoConfig.for_model("llama", **SIZES), device, 1) == {}


@pytest.mark.parametrize("weights, built", [(10**9, True), (4_999_999, False)])
def test_small_models_and_those_built_here_are_float32_without_being_timed(weights, built):
    def never(threads):
        raise AssertionError("timed")

    assert dtype_for(TimedModel(weights, built, never), 1) == ("float32", "")


def test_the_model_of_the_settings(tmp_path):
    built = timed_model_of(ModelConfig())
    assert built.built_here
    assert built.weights == ModelConfig().weights < hardware.ONE_THREAD
    assert set(built.time(1)) == {"float32", "bfloat16"}
    with pytest.raises(ModelError):
        timed_model_of(ModelConfig(path=str(tmp_path / "nothing")))


def test_memory_counts_the_dtype(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **SIZES}))
    size = model_size(str(tmp_path), ModelConfig().lora)

    def weights(dtype):
        config = ModelConfig(path=str(tmp_path), dtype=dtype)
        return memory_need(size, config, reference=False, critic=False, all_trained=True).weights

    assert weights("float32") == 2 * weights("bfloat16") == 4 * size.all
    assert weights("auto") == weights("float32")  # nothing may be promised that was not decided


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Four processors on two cores, as Linux shows them."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for cpu in range(4):
        (tmp_path / f"devices/system/cpu/cpu{cpu}/topology").mkdir(parents=True)
        siblings = tmp_path / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        siblings.write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    (tmp_path / "fs/cgroup").mkdir(parents=True)
    return tmp_path


def test_threads_are_cores_and_no_more_than_are_granted(system, monkeypatch):
    assert hardware.usable_cores(system) == 2
    (system / "fs/cgroup/cpu.max").write_text("max 100000\n")
    assert hardware.usable_cores(system) == 2
    (system / "fs/cgroup/cpu.max").write_text("50000 100000\n")
    assert hardware.usable_cores(system) == 1
    (system / "fs/cgroup/cpu.max").unlink()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert hardware.usable_cores(system) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert hardware.usable_cores(system) == 2
    assert hardware.usable_cores(system / "nothing") == 4


def test_small_models_have_one_thread(monkeypatch):
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    assert [hardware.threads_for(n) for n in (200_000, 19_999_999, 20_000_000, 135_000_000)] == [1, 1, 8, 8]
