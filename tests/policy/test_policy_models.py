"""Building, saving and loading policies."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PhiConfig, PhiForCausalLM

from stapo.errors import ConfigError, ModelError
from stapo.policy import ModelConfig, check_model, head_of, load_policy
from toy_world import TEXTS, small_policy

CPU = ModelConfig(device="cpu")
ARCHITECTURES = ("qwen2", "qwen3", "llama")
PROMPT = TEXTS[4]


def logits(policy, model=None):
    ids = torch.tensor([policy.tokenizer.encode(PROMPT)])
    with torch.no_grad():
        return (model or policy.model)(input_ids=ids).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_seed_decides_the_weights_and_nothing_else(architecture):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (small_policy(seed, architecture=architecture) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [p.model.state_dict() for p in (one, same, other)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not all(torch.equal(weights[0][k], weights[2][k]) for k in weights[0])
    assert one.model.config.model_type == architecture
    assert one.parameter_count == sum(w.numel() for w in one.model.parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_save_and_load_give_the_same_policy(tmp_path, architecture):
    policy = small_policy(architecture=architecture)
    policy.save(tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}
    loaded = load_policy(str(tmp_path), CPU)
    assert torch.equal(logits(loaded), logits(policy))
    assert loaded.eos_ids == policy.eos_ids == [policy.tokenizer.eos_token_id]
    assert torch.equal(logits(policy, AutoModelForCausalLM.from_pretrained(tmp_path)), logits(policy))


def test_the_number_type_is_the_configured_one(tmp_path):
    small_policy().save(tmp_path)
    policy = load_policy(str(tmp_path), ModelConfig(device="cpu", dtype="bfloat16"))
    assert {p.dtype for p in policy.model.parameters()} == {torch.bfloat16}
    assert policy.device == torch.device("cpu")


def test_all_end_tokens_of_the_model_end_a_response(tmp_path):
    """Chat models name several; the tokenizer knows one."""
    policy = small_policy()
    policy.model.generation_config.eos_token_id = [7, 9]
    policy.save(tmp_path)
    assert load_policy(str(tmp_path), CPU).eos_ids == sorted({7, 9, policy.tokenizer.eos_token_id})


def test_without_a_pad_token_the_end_token_pads(tmp_path):
    policy = small_policy()
    policy.tokenizer.pad_token = None
    policy.save(tmp_path)
    loaded = load_policy(str(tmp_path), CPU)
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id


def test_a_head_with_a_bias_is_seen(tmp_path):
    policy = small_policy()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = PhiForCausalLM(PhiConfig(vocab_size=300, bos_token_id=0, eos_token_id=1, **sizes))
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    weight, bias = head_of(load_policy(str(tmp_path), CPU).model)
    assert torch.equal(bias, model.lm_head.bias)
    assert weight.shape == (300, 16)
    assert head_of(policy.model)[1] is None


def test_a_head_that_caps_its_logits_is_refused():
    """The cap shows in the configuration even where the logits of a small model are too small to be bent."""
    from stapo.policy.model import finish_policy

    policy = small_policy()
    policy.model.config.final_logit_softcapping = 30.0
    with pytest.raises(ModelError, match="changes its logits"):
        finish_policy(policy.model, policy.tokenizer, CPU)


def test_looking_at_a_model_leaves_its_mode_alone(tmp_path):
    from stapo.policy.model import finish_policy

    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=1)
    )
    for training in (True, False):
        model.train(training)
        assert finish_policy(model, small_policy().tokenizer, CPU).model.training is training


def test_nothing_but_safetensors_is_asked_for(tmp_path, monkeypatch):
    """A folder is looked at first; of a name on the hub only these settings keep pickles and foreign code away."""
    small_policy().save(tmp_path)
    asked = {}
    real = AutoModelForCausalLM.from_pretrained

    def spy(source, **settings):
        asked.update(settings)
        return real(source, **settings)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    load_policy(str(tmp_path), CPU)
    assert asked["use_safetensors"] is True
    assert asked["trust_remote_code"] is False


@pytest.mark.slow
def test_a_name_of_the_hub_is_loaded_as_a_folder_is(tmp_path):
    """From the cache, without a network; in a process of its own, since the cache's place is read on import."""
    folder = tmp_path / "hub" / "models--someone--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    policy = small_policy()
    policy.save(folder / "snapshots" / ("0" * 40))
    text = "please the red judge. 17 judges"
    program = (
        "import sys; from stapo.policy import ModelConfig, load_policy\n"
        "policy = load_policy('someone/tiny', ModelConfig(device='cpu'))\n"
        "print(policy.parameter_count, policy.tokenizer.encode(sys.argv[1]))"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", program, text], env=env, capture_output=True, text=True, timeout=600)
    assert done.stdout.split(maxsplit=1) == [str(policy.parameter_count), f"{policy.tokenizer.encode(text)}\n"], done


def test_a_good_folder_passes_the_check(tmp_path):
    small_policy().save(tmp_path)
    check_model(str(tmp_path))


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"architecture": "qwen4"}, "model.architecture is 'qwen4'"),
        ({"dtype": "float16"}, "model.dtype is 'float16'"),
        ({"hidden_size": 66, "heads": 4}, "expected a multiple of 8"),
        ({"layers": 0}, "model.layers is 0"),
        ({"vocab_size": 299}, "of 300 or more"),
        ({"rope_theta": float("inf")}, "model.rope_theta is inf"),
        ({"initializer_range": 0.0}, "model.initializer_range is 0.0"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ConfigError, match=said):
        ModelConfig(**settings)
