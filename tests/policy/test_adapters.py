"""Adapters: they start as nothing, learn apart from the model, can be switched off, merged, saved and read."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from stapo.errors import ConfigError, ModelError
from stapo.policy import LoraConfig, ModelConfig, load_policy
from stapo.policy.adapter import Adapter
from stapo.training.critic import Critic
from toy_world import TEXTS, small_policy

LORA = LoraConfig(rank=4)
FAMILIES = ("qwen2", "qwen3", "llama")


def adapted(architecture="qwen2", config=LORA, seed=0, *, stirred=True):
    """A policy with adapters that are not 0 any more."""
    policy = small_policy(architecture=architecture, hidden_size=32)
    policy.attach(config, seed)
    if stirred:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, weight in policy.model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return policy


@torch.no_grad()
def logits(model, policy):
    return model(input_ids=torch.tensor([policy.tokenizer.encode(TEXTS[3])])).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_start_the_policy_is_the_model(family):
    plain = small_policy(architecture=family, hidden_size=32)
    policy = adapted(family, stirred=False)
    assert torch.equal(logits(policy.model, policy), logits(plain.model, plain))
    trained = {n for n, p in policy.model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in policy.model.named_parameters() if ".lora_" in n}
    # Seven linear layers in a block of these families, two factors for each.
    assert len(trained) == 14
    assert type(policy.model) is type(plain.model)


def test_the_seed_decides_the_first_factors_and_nothing_else():
    before = torch.get_rng_state()
    one, same, other = (adapted(seed=s, stirred=False).model.state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    first = next(name for name in one if "lora_A" in name)
    assert torch.equal(one[first], same[first])
    assert not torch.equal(one[first], other[first])


def test_switched_off_it_is_the_model_and_afterwards_it_learns_on():
    plain, policy = small_policy(hidden_size=32), adapted()
    moved = logits(policy.model, policy)
    assert not torch.allclose(moved, logits(plain.model, plain), atol=1e-2)
    with policy.as_reference() as model:
        assert torch.equal(logits(model, policy), logits(plain.model, plain))
    assert torch.equal(logits(policy.model, policy), moved)
    assert sum(p.requires_grad for p in policy.model.parameters()) == 14
    with pytest.raises(ValueError, match="no adapters"), plain.as_reference():
        pass


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_is_a_plain_model_and_holds_the_adapters_beside(tmp_path, family):
    policy = adapted(family)
    base = tmp_path / "base"
    small_policy(architecture=family, hidden_size=32).save(base)
    policy.save(tmp_path / "saved", base=str(base))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert not any("lora" in name for name in merged.state_dict())
    assert torch.allclose(logits(merged, policy), logits(policy.model, policy), atol=1e-4)
    # Saving has not merged anything into the policy itself.
    assert sum(p.requires_grad for p in policy.model.parameters()) == 14
    assert torch.equal(logits(load_policy(str(tmp_path / "saved"), ModelConfig(device="cpu")).model, policy),
                       logits(merged, policy))  # fmt: skip
    from peft import AutoPeftModelForCausalLM

    by_peft = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "saved" / "adapter")
    assert torch.equal(logits(by_peft, policy), logits(policy.model, policy))
    files = {p.suffix for p in (tmp_path / "saved").rglob("*") if p.is_file()}
    assert files <= {".json", ".safetensors", ".jinja"}


def test_before_it_has_learned_the_merged_model_is_the_model_bit_for_bit(tmp_path):
    policy = adapted(stirred=False)
    with torch.no_grad():
        policy.model.model.layers[0].mlp.up_proj.base_layer.weight[0, 0] = -0.0
    policy.save(tmp_path)
    weight = AutoModelForCausalLM.from_pretrained(tmp_path).model.layers[0].mlp.up_proj.weight[0, 0]
    assert torch.signbit(weight)


def test_what_is_saved_of_training_is_read_back_exactly(tmp_path):
    policy, fresh = adapted(), adapted(seed=9, stirred=False)
    policy.save_trained(tmp_path / "policy")
    assert {p.name for p in (tmp_path / "policy").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    fresh.adapter.load(tmp_path / "policy")
    one, two = policy.model.state_dict(), fresh.model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert json.loads((tmp_path / "policy" / "adapter_config.json").read_text())["r"] == 4


def test_adapters_of_another_rank_do_not_fit(tmp_path):
    adapted().save_trained(tmp_path / "policy")
    with pytest.raises(ModelError, match="do not fit this model"):
        adapted(config=LoraConfig(rank=8)).adapter.load(tmp_path / "policy")
    (tmp_path / "policy" / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot be read"):
        adapted().adapter.load(tmp_path / "policy")


def test_adapters_of_a_half_precision_model_are_float32():
    policy = small_policy(dtype="bfloat16")
    policy.attach(LORA, 0)
    types = {p.dtype for n, p in policy.model.named_parameters() if ".lora_" in n}
    assert types == {torch.float32}
    assert {p.dtype for n, p in policy.model.named_parameters() if ".lora_" not in n} == {torch.bfloat16}


def test_chosen_layers():
    policy = adapted(config=LoraConfig(rank=4, alpha=3.0, target_modules=("q_proj", "v_proj")))
    assert sum(p.requires_grad for p in policy.model.parameters()) == 4
    assert {layer.scaling["default"] for layer in policy.adapter._layers.values()} == {0.75}


@pytest.mark.parametrize("names, said", [(("nope",), "nope"), (("lm_head",), "names the head")])
def test_layers_that_cannot_have_one(names, said):
    with pytest.raises(ModelError, match=said):
        Adapter(small_policy().model, LoraConfig(rank=2, target_modules=names), 0)


def test_a_critic_of_such_a_policy_has_adapters_of_its_own():
    policy = adapted()
    critic = Critic.of(policy)
    assert sum(p.requires_grad for p in critic.parameters()) == 14 + 2
    with torch.no_grad():
        next(p for p in critic.parameters() if p.requires_grad).add_(1.0)
    assert torch.equal(logits(policy.model, policy), logits(adapted().model, policy))


def test_without_peft_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[lora\]'"):
        small_policy().attach(LORA, 0)
    small_policy().attach(LoraConfig(), 0)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"rank": -1}, "rank is -1"),
        ({"rank": 2, "alpha": 0.0}, "alpha is 0.0"),
        ({"rank": 2, "dropout": 1.0}, "dropout is 1.0, expected a number from 0 to below 1"),
        ({"dropout": 0.1}, "rank is 0, so there is no adapter"),
        ({"target_modules": ("q_proj",)}, "rank is 0, so there is no adapter"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ConfigError, match=said):
        LoraConfig(**settings)


def test_dropout_is_on_inside_its_block_alone_and_its_stream_decides_it():
    policy, without = adapted(config=LoraConfig(rank=4, dropout=0.5)), adapted()
    assert policy.adapter.drops_out
    assert not without.adapter.drops_out
    policy.model.eval()
    quiet, before = logits(policy.model, policy), torch.get_rng_state()
    assert torch.equal(quiet, logits(without.model.eval(), without))
    seen = []
    for stream in ((1, 2), (1, 2), (1, 3)):
        with policy.adapter.dropping_out(stream):
            seen.append(logits(policy.model, policy))
            with policy.as_reference() as model:  # the reference has no noise
                assert torch.equal(logits(model, policy), logits(small_policy(hidden_size=32).model, policy))
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], seen[2], atol=1e-3)
    assert not torch.allclose(seen[0], quiet, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(logits(policy.model, policy), quiet)


def test_a_copy_as_reference_and_adapters_exclude_each_other():
    with pytest.raises(ConfigError, match="no copy to place"):
        ModelConfig(lora=LORA, reference="cpu")
