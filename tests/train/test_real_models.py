"""Pretrained models in the embedded engine, on tiny ones of each family that come with a chat template.

1. One command trains a model from a local folder, all of it or adapters, and the results load in plain transformers.
2. With adapters the reference is the model without them, and there is no copy; a copy on the CPU gives the same update.
3. Where beta and gamma are 0 there is no reference, however its place is set.
4. Gradient checkpointing changes no gradient, and leaves dropout off.
5. Dropout of adapters touches gradients and not what is measured, also where layers are computed twice.
6. In bfloat16 small steps add up, and sampler and trainer agree as far as rounding lets them.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from slow import slow_except
from stapo.agent import AgentConfig
from stapo.algo import OutlierConfig, get_algorithm
from stapo.cli.main import main
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.config.training import OptimConfig
from stapo.errors import ConfigError, ModelError
from stapo.health import gap_limit
from stapo.policy import LoraConfig, ModelConfig, Policy, RowTokens, copy_of, head_of, hidden_states, load_policy
from stapo.policy.model import checkpoint_layers
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import HFSampler
from stapo.run import RunDirectory
from stapo.training.batch import build_batch
from stapo.training.loop import Trainer
from stapo.training.optimizer import MasterAdamW, build_optimizer
from stapo.training.update import Updater
from toy_world import TEXTS, ToyEnv, small_policy, toy_settings

FAMILIES = ("qwen2", "qwen3", "llama")
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
LORA = LoraConfig(rank=4)
AGENT = AgentConfig(prompt="compact", response="action", history_length=1, max_prompt_tokens=300, max_response_tokens=6)
ALL_ROWS = replace(get_algorithm("stapo"), outlier=OutlierConfig(select="all"))
OPTIM = OptimConfig(learning_rate=1e-3, mini_batch=1000, grad_clip=1e9)


def chat_model(folder, architecture):
    """A folder as a user has one: weights, configuration, tokenizer and its chat template."""
    policy = small_policy(architecture=architecture, hidden_size=32, layers=2)
    policy.tokenizer.chat_template = TEMPLATE
    policy.save(folder)
    return folder


def played(policy):
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 6)
    tasks = ["toy/train/red", "toy/train/blue"]
    return Collector(ToyEnv, PromptEncoder(policy.tokenizer), sampler, AGENT).collect(tasks, 4, 1.0, (0, 1))


def updated(policy, trajectories, algorithm, reference, steps=2):
    """Metrics of the last of a few updates on one batch, and the trained weights."""
    updater = Updater(policy, reference, algorithm, OPTIM, 1.0)
    batch = build_batch(trajectories, algorithm)
    for _ in range(steps):
        metrics, _ = updater.update(batch, 1e-2, seed=(0,))
    return metrics["update"], [p.detach().clone() for p in policy.model.parameters() if p.requires_grad]


@torch.no_grad()
def logits(model, tokenizer):
    return model(input_ids=torch.tensor([tokenizer.encode(TEXTS[3])])).logits


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", slow_except([0, 4], 4))
@pytest.mark.parametrize("family", slow_except(FAMILIES, "qwen3"))
def test_one_command_trains_a_local_model(tmp_path, capsys, family, rank):
    model = chat_model(tmp_path / "model", family)
    settings = toy_settings(
        model, agent__prompt="standard", agent__max_prompt_tokens=400, eval__greedy=False, optim__mini_batch=999
    )
    settings["algorithm"] |= {"outlier": {"select": "all"}}
    (tmp_path / "chat.yaml").write_text(yaml.safe_dump(settings))
    argv = ["train", str(tmp_path / "chat.yaml"), "--quiet", "--out", str(tmp_path / "run")]
    assert main([*argv, "--model.lora.rank", str(rank)]) == 0, capsys.readouterr().err
    run = RunDirectory.open(tmp_path / "run")
    rows = run.rows("metrics")
    assert len(rows) == 2
    for row in rows:
        assert 0 < row["update"]["logprob_gap_mean"] <= row["update"]["logprob_gap"] < 1e-4
        assert row["update"]["selective_rows"] > 0
    # Neither forgotten nor given twice: the reference has not moved, and the policy has.
    assert rows[0]["update"]["ref_kl"] == pytest.approx(0, abs=1e-4)
    assert rows[1]["update"]["ref_kl"] > 0
    final = run.checkpoint("final")
    ours = load_policy(str(final), ModelConfig(device="cpu"))
    assert ours.tokenizer.chat_template == TEMPLATE
    plain = AutoModelForCausalLM.from_pretrained(final)
    assert torch.equal(logits(plain, ours.tokenizer), logits(ours.model, ours.tokenizer))
    before = AutoModelForCausalLM.from_pretrained(model)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(run.checkpoint("start")), ours.tokenizer),
                       logits(before, ours.tokenizer))  # fmt: skip
    assert not torch.allclose(logits(plain, ours.tokenizer), logits(before, ours.tokenizer), atol=1e-3)
    assert (final / "adapter").is_dir() is bool(rank)
    if rank:
        from peft import AutoPeftModelForCausalLM

        by_peft = AutoPeftModelForCausalLM.from_pretrained(final / "adapter")
        assert torch.allclose(logits(by_peft, ours.tokenizer), logits(plain, ours.tokenizer), atol=1e-4)
        newest = run.saves.complete()[0]
        assert not list((newest / "policy").glob("model*.safetensors"))
    assert main(["eval", str(run.path), "--episodes", "2", "--seeds", "0", "--json"]) == 0


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_switched_off_adapters_are_the_reference():
    policy = small_policy(3, hidden_size=32)
    base = copy.deepcopy(policy.model)
    trajectories = played(policy)
    policy.attach(LORA, 0)
    other = small_policy(3, hidden_size=32)
    other.attach(LORA, 0)
    found, weights = updated(policy, trajectories, ALL_ROWS, None)
    # The same with a copy: a policy that hides its adapters from the scorer is given one.
    expected, others = updated(Policy(other.model, other.tokenizer, other.eos_ids), trajectories, ALL_ROWS, base)
    assert found == expected
    assert found["ref_kl"] > 0
    assert found["p_ti"] > 0
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


def test_a_reference_on_the_cpu_gives_the_same_update():
    policy, other = (small_policy(3, hidden_size=32) for _ in range(2))
    trajectories = played(policy)
    found, weights = updated(policy, trajectories, ALL_ROWS, copy_of(policy, on_cpu=True))
    expected, others = updated(other, trajectories, ALL_ROWS, copy_of(other, on_cpu=False))
    assert found == expected
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


def test_the_trainer_keeps_no_second_copy_beside_adapters(tmp_path, toy_model):
    config = from_data(RunConfig, toy_settings(toy_model, model__lora={"rank": 4}))
    run = RunDirectory.create(tmp_path / "run", {}, [])
    trainer = Trainer(config, load_policy(str(toy_model), config.model), run)
    assert trainer.reference is None
    assert trainer.policy.adapter is not None
    assert len(trainer.updater.parameters) == 14
    trainer.collector.close()


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_without_coefficients_there_is_no_reference_and_no_difference(tmp_path, toy_model):
    ends = []
    for place in ("auto", "none"):
        settings = toy_settings(toy_model, algorithm__name="gigpo", model__reference=place, optim__iterations=1)
        settings["algorithm"] |= {"loss": {"beta": 0.0}}
        config = from_data(RunConfig, settings)
        run = RunDirectory.create(tmp_path / place, {}, [])
        trainer = Trainer(config, load_policy(str(toy_model), config.model), run)
        assert trainer.reference is None
        trainer.train()
        assert not list(run.path.rglob("reference"))
        ends.append(trainer.policy.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_an_algorithm_that_needs_one_is_refused(toy_model):
    with pytest.raises(ConfigError, match="compares with a reference"):
        from_data(RunConfig, toy_settings(toy_model, model__reference="none"))


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [LoraConfig(), LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", slow_except(FAMILIES, "qwen3"))
def test_checkpointing_changes_no_gradient(family, lora):
    ends = []
    for wrapped in (False, True):
        policy = small_policy(3, architecture=family, hidden_size=32, layers=2)
        trajectories = played(policy)
        policy.attach(lora, 0)
        if wrapped:
            checkpoint_layers(policy.model)
        ends.append(updated(policy, trajectories, ALL_ROWS, None if lora.rank else copy_of(policy, on_cpu=False)))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))


def test_checkpointed_layers_run_again_in_backward_and_dropout_stays_off():
    ends = {"bos_token_id": 0, "eos_token_id": 1, "vocab_size": 300}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**ends, n_embd=16, n_layer=1, n_head=2, n_positions=64, resid_pdrop=0.5)).eval()
    runs = []
    model.transformer.h[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    checkpoint_layers(model)
    rows = [RowTokens([5, 6, 7], [8, 9])]
    with torch.no_grad():
        quiet, _, _ = hidden_states(model, rows, 0)
    assert len(runs) == 1
    hidden, _, _ = hidden_states(model, rows, 0)
    assert torch.equal(hidden, quiet)
    (hidden @ head_of(model)[0].T).sum().backward()
    assert len(runs) == 3  # forward without a gradient, forward, and once more in backward


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ModelError, match="has no layers that can be checkpointed"):
        checkpoint_layers(torch.nn.Linear(2, 2))


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_dropout_touches_gradients_and_not_what_is_measured():
    ends = []
    for dropout, wrapped in ((0.5, False), (0.5, True), (0.0, False)):
        policy = small_policy(3, hidden_size=32)
        trajectories = played(policy)
        policy.attach(LoraConfig(rank=4, dropout=dropout), 0)
        with torch.no_grad():  # adapters that do something, so that leaving some out makes a difference
            for name, weight in policy.model.named_parameters():
                if "lora_B" in name:
                    weight.fill_(0.05)
        for trajectory in trajectories:  # as sampled by this very policy
            for step in trajectory.steps:
                step.logprobs = logprobs(policy, step)
        if wrapped:
            checkpoint_layers(policy.model)
        before = torch.get_rng_state()
        ends.append(updated(policy, trajectories, ALL_ROWS, None, steps=1))
        assert torch.equal(torch.get_rng_state(), before)
        assert not any(m.training for m in policy.model.modules())
    (noisy, weights), (again, others), (quiet, straight) = ends
    assert noisy == again
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    assert not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(weights, straight, strict=True))
    assert noisy["loss"] != quiet["loss"]
    for metrics in (noisy, quiet):
        assert metrics["logprob_gap_mean"] <= metrics["logprob_gap"] < 1e-4


def test_dropout_does_not_touch_the_comparison_with_unflagged_rows():
    found = []
    for dropout in (0.5, 0.0):
        policy = small_policy(3, hidden_size=32)
        batch = build_batch(played(policy), ALL_ROWS)
        batch = replace(batch, flag_b=np.arange(len(batch)) % 2 == 0)
        policy.attach(LoraConfig(rank=4, dropout=dropout), 0)
        with torch.no_grad():
            for name, weight in policy.model.named_parameters():
                if "lora_B" in name:
                    weight.fill_(0.05)
        found.append(Updater(policy, None, ALL_ROWS, OPTIM, 1.0).update(batch, 1e-2, seed=(0,))[0])
    noisy, quiet = found
    assert noisy["update"]["r_ta"] != pytest.approx(quiet["update"]["r_ta"], rel=1e-2)
    assert noisy["unflagged_kl"] == pytest.approx(quiet["unflagged_kl"], rel=1e-4)
    assert quiet["unflagged_kl"] > 1e-6


@torch.no_grad()
def logprobs(policy, step):
    policy.model.eval()
    hidden, targets, _ = hidden_states(policy.model, [RowTokens(step.prompt_ids, step.response_ids)], 0)
    return (hidden @ head_of(policy.model)[0].T).log_softmax(-1).gather(1, targets[:, None])[:, 0].tolist()


def test_null_is_no_adapters():
    assert from_data(RunConfig, yaml.safe_load("{model: {lora: null}}")).model.lora == LoraConfig()
    assert from_data(RunConfig, yaml.safe_load("{model: {lora: {rank: 4, dropout: 0.1}}}")).model.lora.dropout == 0.1


# -- 6 -----------------------------------------------------------------------------------------------------------------


def test_the_optimizer_of_half_precision_weights_is_adamw_on_float32_copies():
    torch.manual_seed(0)
    start = torch.randn(40).bfloat16()
    half, whole = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.float())
    ours = build_optimizer([half], 1e-5, (0.9, 0.99), 0.1)
    torchs = build_optimizer([whole], 1e-5, (0.9, 0.99), 0.1)
    assert isinstance(ours, MasterAdamW)
    assert isinstance(torchs, torch.optim.AdamW)
    for _ in range(20):
        half.grad = torch.randn(40).bfloat16()
        whole.grad = half.grad.float()
        ours.step()
        torchs.step()
    assert torch.allclose(ours.state[half]["master"], whole, rtol=1e-6, atol=1e-9)
    assert torch.equal(half, ours.state[half]["master"].bfloat16())


def test_steps_too_small_for_bfloat16_add_up():
    """1 + 1e-5 is 1 in bfloat16; a thousand such steps are 1.01, which is not."""
    weight = torch.nn.Parameter(torch.ones(1).bfloat16())
    optimizer = build_optimizer([weight], 1e-5, (0.0, 0.0), 0.0)
    weight.grad = torch.full((1,), -1.0).bfloat16()
    optimizer.step()
    assert weight.item() == 1.0
    for _ in range(999):
        optimizer.step()
    assert weight.item() == pytest.approx(1.01, abs=0.004)


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_bfloat16_trains(tmp_path, toy_model, rank):
    lora = {"rank": rank} if rank else {}
    settings = toy_settings(toy_model, model__dtype="bfloat16", model__lora=lora, eval__greedy=False)
    settings["algorithm"] |= {"outlier": {"select": "all"}}
    config = from_data(RunConfig, settings)
    run = RunDirectory.create(tmp_path / "run", {}, [])
    trainer = Trainer(config, load_policy(str(toy_model), config.model), run)
    before = {n: p.clone() for n, p in trainer.policy.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert all(not torch.equal(p, before[n]) for n, p in trainer.policy.model.named_parameters() if n in before)
    for row in run.rows("metrics"):
        assert row["update"]["logprob_gap_mean"] < gap_limit("bfloat16", 10**5) / 2
        assert not any(text.startswith("sampler-gap") for text in row["warnings"])
    final = AutoModelForCausalLM.from_pretrained(run.checkpoint("final"))
    assert {p.dtype for p in final.parameters()} == {torch.bfloat16}


def test_a_sampler_with_other_weights_is_told(tmp_path, toy_model):
    config = from_data(RunConfig, toy_settings(toy_model, optim__iterations=1, eval__greedy=False))
    run = RunDirectory.create(tmp_path / "run", {}, [])
    trainer = Trainer(config, load_policy(str(toy_model), config.model), run)
    other = small_policy(5)
    trainer.collector.sampler = HFSampler(other.model, other.eos_ids, other.tokenizer.pad_token_id, 6)
    trainer.train()
    (row,) = run.rows("metrics")
    assert row["update"]["logprob_gap_mean"] > 0.01
    assert any(text.startswith("sampler-gap: before any weight moved") for text in row["warnings"])
