"""A critic in training.

1. It begins as a copy of the policy that says 0 of every state, and is a model of its own.
2. Its values depend on the prompt alone, and not on what they are computed with.
3. It is trained beside the policy: values come nearer to their targets; micro-batches do not matter.
4. Warm-up trains it alone.
5. It is saved and restored.
6. An algorithm without one is not touched.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from stapo.algo import CriticConfig, get_algorithm
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.config.training import OptimConfig
from stapo.errors import SaveError
from stapo.policy import RowTokens, load_policy
from stapo.run import RunDirectory
from stapo.training.batch import build_batch, rows_of
from stapo.training.critic import Critic, CriticLearner, prompts_of
from stapo.training.loop import Trainer
from toy_world import small_policy, toy_settings

OPTIM = OptimConfig(mini_batch=1000, grad_clip=1e9)
PROMPTS = [[5, 6, 7], [5, 6, 7, 8, 9, 10], [11], [5, 6, 8]]


def prompts(ids):
    return prompts_of([RowTokens(prompt, [1]) for prompt in ids])


def start(model, out, **changes):
    changes = {"algorithm": {"name": "ppo", "critic": {"learning_rate": 0.01}}, **changes}
    config = from_data(RunConfig, toy_settings(model, **changes))
    run = RunDirectory.create(out, to_data(config), ["test"])
    return Trainer(config, load_policy(str(model), config.model), run)


def state(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def taught(policy, seed=0):
    """A critic whose head is not 0."""
    critic = Critic.of(policy)
    torch.manual_seed(seed)
    torch.nn.init.normal_(critic.head.weight)
    return critic


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_it_starts_as_a_copy_that_says_0(architecture):
    policy = small_policy(architecture=architecture)
    policy.model.requires_grad_(False)
    before = state(policy.model)
    critic = Critic.of(policy)
    assert critic(prompts(PROMPTS), 0).tolist() == [0, 0, 0, 0]
    assert same(state(critic.body), state(policy.model.base_model))
    assert all(p.requires_grad for p in critic.parameters())
    with torch.no_grad():
        for p in critic.parameters():
            p.add_(1.0)
    assert same(state(policy.model), before)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_values_do_not_depend_on_their_company():
    critic = taught(small_policy())
    together = critic(prompts(PROMPTS), 0)
    for prompt, value in zip(PROMPTS, together, strict=True):
        assert torch.allclose(critic(prompts([prompt]), 0)[0], value, atol=1e-5)
    assert len({round(v, 4) for v in together.tolist()}) == 4


def test_a_value_is_read_at_the_end_of_the_prompt():
    critic = taught(small_policy())
    ids = torch.tensor([PROMPTS[1]])
    hidden = critic.body(input_ids=ids).last_hidden_state[0, -1]
    assert torch.allclose(critic(prompts([PROMPTS[1]]), 0)[0], critic.head(hidden)[0], atol=1e-5)


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def trainer(toy_model, tmp_path):
    made = start(toy_model, tmp_path / "run")
    yield made
    made.collector.close()


def test_metrics_of_an_iteration(trainer):
    first = trainer.iterate(1)
    assert first["critic"]["mean_value"] == 0
    assert first["critic"]["explained_variance"] == pytest.approx(0)
    assert first["update"]["value_loss"] > 0
    assert {"value_grad_norm", "value_clipped"} <= set(first["update"])
    assert first["seconds"]["values"] > 0
    second = trainer.iterate(2)
    assert second["critic"]["mean_value"] != 0
    # Every row's advantage is whitened over the batch, but for the penalty of invalid ones, which is in the returns.
    assert second["advantage"]["mean"] == pytest.approx(0, abs=1e-5)
    assert second["advantage"]["std"] == pytest.approx(1, abs=0.05)


def test_values_come_nearer_to_their_targets(trainer):
    losses, learned = [], trainer.critic
    sampled = trainer._roll_out(1)[0][""]
    steps, _ = rows_of(sampled.kept)
    algorithm = replace(trainer.config.algorithm, critic=CriticConfig(value_clip=None, learning_rate=0.01))
    learned.config = algorithm.critic
    for _ in range(60):
        batch = build_batch(sampled.kept, algorithm, value_b=learned.values(steps))
        losses.append(learned.backward(batch, list(range(len(batch))), "here")["value_loss"])
        learned.optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    explained = learned.summary(build_batch(sampled.kept, algorithm, value_b=learned.values(steps)))[
        "explained_variance"
    ]
    assert explained > 0.3


def test_a_value_moves_no_farther_than_the_clip_lets_it(trainer):
    """Many steps on one batch: what has left the clip towards its target is no longer pushed."""
    learned = trainer.critic
    learned.config = CriticConfig(value_clip=0.05, learning_rate=1e-3)
    sampled = trainer._roll_out(1)[0][""]
    steps, _ = rows_of(sampled.kept)
    target = build_batch(
        sampled.kept, trainer.config.algorithm, value_b=learned.values(steps)
    ).advantages.value_target_b
    learned.set_rate(1.0)
    batch = build_batch(sampled.kept, trainer.config.algorithm, value_b=np.zeros(len(steps)))
    for _ in range(200):
        log = learned.backward(batch, list(range(len(batch))), "here")
        learned.optimizer.step()
    assert abs(target).max() == pytest.approx(1.0, abs=0.2)
    assert log["value_clipped"] > 0.3
    assert learned.values(steps).max() < 0.3


@pytest.mark.parametrize("budget", [1, 40, 300])
def test_micro_batches_do_not_change_the_gradient(trainer, budget):
    trainer.iterate(1)
    sampled = trainer._roll_out(2)[0][""]
    steps, _ = rows_of(sampled.kept)
    found = []
    for tokens in (100_000, budget):
        learned = trainer.critic
        learned.optim = replace(learned.optim, micro_tokens=tokens, grad_clip=1e9)
        values = learned.values(steps)
        batch = build_batch(sampled.kept, trainer.config.algorithm, value_b=values)
        log = learned.backward(batch, list(range(len(batch))), "here")
        found.append((values, log, torch.cat([p.grad.flatten() for p in learned.parameters if p.grad is not None])))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)
    assert torch.allclose(found[0][2], found[1][2], atol=1e-5)
    assert float(found[0][2].norm()) > 1e-3


def test_the_schedule_applies_to_the_critic(toy_model, tmp_path):
    made = start(toy_model, tmp_path / "run", optim__schedule="linear", optim__iterations=2)
    made.iterate(2)
    assert made.critic.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.55)
    assert made.updater.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.55)


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_warm_up_trains_the_critic_alone(toy_model, tmp_path):
    made = start(
        toy_model,
        tmp_path / "run",
        algorithm={"name": "ppo", "critic": {"learning_rate": 0.01, "warmup_iterations": 1}},
    )
    policy, critic = state(made.policy.model), state(made.critic.model)
    row = made.iterate(1)
    assert same(state(made.policy.model), policy)
    assert not same(state(made.critic.model), critic)
    assert not made.updater.optimizer.state
    assert row["update"]["optimizer_steps"] == 2
    assert row["update"]["value_loss"] > 0
    assert "loss" not in row["update"]
    made.iterate(2)
    assert not same(state(made.policy.model), policy)


# -- 5 -----------------------------------------------------------------------------------------------------------------


def test_a_critic_is_saved_and_restored(trainer, tmp_path):
    trainer.iterate(1)
    learned = trainer.critic
    learned.write(tmp_path / "critic")
    assert sorted(p.name for p in (tmp_path / "critic").iterdir()) == ["optimizer.safetensors", "weights.safetensors"]
    fresh = CriticLearner(small_policy(5), learned.config, learned.optim)
    fresh.restore(tmp_path / "critic")
    assert same(state(fresh.model), state(learned.model))
    for one, two in zip(fresh.parameters, learned.parameters, strict=True):
        theirs = learned.optimizer.state[two]
        assert all(torch.equal(fresh.optimizer.state[one][key], theirs[key]) for key in theirs)
        assert len(theirs) == 3


def test_one_that_does_not_fit_or_is_missing_is_an_error(trainer, tmp_path):
    with pytest.raises(SaveError, match="cannot be read"):
        trainer.critic.restore(tmp_path / "none")
    small = CriticLearner(small_policy(hidden_size=8), CriticConfig(), OPTIM)
    small.write(tmp_path / "critic")
    with pytest.raises(SaveError, match="does not fit the model of this run"):
        trainer.critic.restore(tmp_path / "critic")


def test_every_save_of_a_run_holds_it(toy_model, tmp_path):
    made = start(toy_model, tmp_path / "run")
    made.train()
    newest = made.run.saves.complete()[0]
    assert (newest / "critic" / "weights.safetensors").is_file()
    # What is evaluated needs none.
    assert not list(made.run.checkpoint("final").rglob("critic*"))


# -- 6 -----------------------------------------------------------------------------------------------------------------


def test_others_have_none(toy_model, tmp_path):
    made = start(toy_model, tmp_path / "run", algorithm="grpo")
    assert made.critic is None
    made.train()
    row = made.run.rows("metrics")[0]
    assert "critic" not in row
    assert "values" not in row["seconds"]
    assert not any(key.startswith("value") for key in row["update"])
    assert not (made.run.saves.complete()[0] / "critic").exists()


def test_a_batch_without_values_is_a_mistake(trainer):
    sampled = trainer._roll_out(1)[0][""]
    batch = build_batch(sampled.kept, get_algorithm("grpo"))
    with pytest.raises(ValueError, match="the batch has no values"):
        trainer.critic.backward(batch, [0], "here")


def test_the_policy_is_not_trained_through_the_critic(trainer):
    """The two share no weight and no gradient."""
    trainer.iterate(1)
    before = copy.deepcopy(state(trainer.policy.model))
    sampled = trainer._roll_out(2)[0][""]
    steps, _ = rows_of(sampled.kept)
    batch = build_batch(sampled.kept, trainer.config.algorithm, value_b=trainer.critic.values(steps))
    trainer.updater.optimizer.zero_grad(set_to_none=True)
    trainer.critic.backward(batch, list(range(len(batch))), "here")
    assert all(p.grad is None for p in trainer.policy.model.parameters())
    assert same(state(trainer.policy.model), before)
