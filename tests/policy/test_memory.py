"""What a training keeps in memory, worked out by hand, and the check before a model is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stapo.errors import ModelError
from stapo.memory_model import ModelSize
from stapo.policy import LoraConfig, ModelConfig, memory, require_memory
from stapo.policy.memory import available_bytes, memory_need, model_size, parts_in_words
from toy_world import small_policy

SIZE = ModelSize(all=1000, adapters=10)


def need(reference=True, critic=False, all_trained=False, **settings):
    return memory_need(SIZE, ModelConfig(**settings), reference=reference, critic=critic, all_trained=all_trained)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_weights_are_counted_without_loading(tmp_path, architecture):
    policy = small_policy(architecture=architecture)
    policy.save(tmp_path)
    policy.attach(LoraConfig(rank=3), 0)
    size = model_size(str(tmp_path), LoraConfig(rank=3))
    assert size.adapters == sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    assert size.all == policy.parameter_count - size.adapters
    chosen = model_size(str(tmp_path), LoraConfig(rank=2, target_modules=("q_proj",)))
    assert chosen.adapters == 2 * (16 + 16)


def test_the_parts_by_hand():
    full = need()
    assert (full.weights, full.gradients, full.optimizer, full.reference) == (4000, 4000, 8000, 4000)
    assert full.on_device == 20_000
    half = need(dtype="bfloat16")
    # Two moments and a copy of 4 bytes each beside 2 bytes of weight and gradient.
    assert (half.weights, half.gradients, half.optimizer, half.reference) == (2000, 2000, 12_000, 2000)
    lora = need(dtype="bfloat16", lora=LoraConfig(rank=1))
    assert (lora.weights, lora.gradients, lora.optimizer, lora.reference) == (2040, 40, 80, 0)
    assert need(lora=LoraConfig(rank=1), all_trained=True).gradients == 4000
    assert need(reference=False).on_device == 16_000
    assert need(reference=True, critic=True).critic == 4000 + 4000 + 8000
    # Of adapters, whatever SFT trains; without a head of its own.
    assert need(critic=True, all_trained=True, lora=LoraConfig(rank=1)).critic == 4000 + 160
    untied = memory_need(replace(SIZE, untied_head=100), ModelConfig(), reference=False, critic=True, all_trained=False)
    assert untied.critic == 900 * 16


def test_a_reference_on_the_cpu_is_not_on_the_device():
    moved = memory_need(SIZE, ModelConfig(reference="cpu"), reference=True, critic=False, all_trained=False)
    assert moved.on_device == 16_000
    assert moved.reference == 4000
    assert "reference" not in parts_in_words(moved)


def test_what_fits_passes_and_what_does_not_is_told_with_what_helps(tmp_path, monkeypatch):
    small_policy(hidden_size=256, intermediate_size=512).save(tmp_path)
    rest = {"reference": True, "critic": False, "all_trained": False}
    whole = memory_need(model_size(str(tmp_path), LoraConfig()), ModelConfig(), **rest).on_device
    for free, fits in ((whole, True), (whole - 1, False), (None, True)):
        monkeypatch.setattr(memory, "available_bytes", lambda device, free=free: free)
        if fits:
            require_memory(str(tmp_path), ModelConfig(device="cpu"), **rest)
        else:
            with pytest.raises(ModelError, match=r"model\.lora\.rank 32"):
                require_memory(str(tmp_path), ModelConfig(device="cpu"), **rest)
    # A device that is not there is for loading to complain of.
    require_memory(str(tmp_path), ModelConfig(device="nonsense"), **rest)


def test_cached_files_do_not_count_as_used_by_a_container(tmp_path):
    assert memory._container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    assert memory._container(tmp_path) == 100
    (tmp_path / "memory.stat").write_text("anon 300\nactive_file 50\ninactive_file 550\n")
    assert memory._container(tmp_path) == 650
    (tmp_path / "memory.current").write_text("1700\n")
    assert memory._container(tmp_path) == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container(tmp_path) is None


def test_this_machine_has_some():
    free = available_bytes(torch.device("cpu"))
    assert free is None or free > 10_000_000
    assert available_bytes(torch.device("meta")) is None
