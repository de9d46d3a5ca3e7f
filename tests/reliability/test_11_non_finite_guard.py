"""11. A number that is not finite stops the run before the weights move.

1. NaN and infinity in reward, log-probability, entropy, advantage, reference and gradient: exit code 1, the weights are
   those of the last save, the rows are written down, step and rows are named. Where there is a critic, the same holds
   for its values, its loss and its gradient, and for the weights of both.
2. `optim.skip_non_finite` leaves out so many optimizer steps in a row and counts them; one more stops the run.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from reliable import run, write_settings

from slow import slow_except
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import NonFiniteError
from stapo.policy import load_policy
from stapo.run import RunDirectory
from stapo.training import environments
from stapo.training.loop import Trainer
from toy_world import toy_settings

BAD = [math.nan, math.inf]


def trainer(model, out, **changes):
    config = from_data(RunConfig, toy_settings(model, **changes))
    made = RunDirectory.create(out, to_data(config), ["test"])
    return Trainer(config, load_policy(str(model), config.model), made)


def weights(made):
    return {name: value.clone() for name, value in made.policy.model.state_dict().items()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


class Poisoned:
    """Puts `bad` into one number of one sample."""

    def __init__(self, sampler, field, bad):
        self.sampler, self.field, self.bad = sampler, field, bad

    def sample(self, prompts, streams, temperature):
        first, *rest = self.sampler.sample(prompts, streams, temperature)
        values = [*getattr(first, self.field)[:-1], self.bad]
        return [replace(first, **{self.field: values}), *rest]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("field", ["logprobs", "entropies"])
def test_in_what_the_model_computed_while_sampling(toy_model, tmp_path, field, bad):
    made = trainer(toy_model, tmp_path / "run")
    made.collector.sampler = Poisoned(made.collector.sampler, field, bad)
    before = weights(made)
    named = {"logprobs": "log-probability", "entropies": "entropy"}[field]
    with pytest.raises(
        NonFiniteError, match=rf"iteration 1: the {named} of step 1 of task 'toy/train/\w+' \(group 0, m"
    ):
        made.iterate(1)
    assert same(weights(made), before)


ENOUGH = [*(("stapo", bad) for bad in BAD), ("ppo", BAD[0])]


@pytest.mark.parametrize("algorithm, bad", slow_except(product(["stapo", "ppo", "dapo"], BAD), *ENOUGH))
def test_in_a_reward_through_the_command(toy_model, tmp_path, bad, algorithm):
    source = write_settings(tmp_path, toy_settings(toy_model, env__options={"reward": bad}, algorithm=algorithm))
    argv = ["train", str(source), "--quiet", "--out", str(tmp_path / "run")]
    assert run(argv, tmp_path / "log") == 1
    said = (tmp_path / "log").read_text()
    assert "error: iteration 1: the reward of step 3 of task 'toy/train/" in said
    assert "The weights were not changed." in said
    assert "Traceback" not in said
    made = RunDirectory(tmp_path / "run")
    assert made.info()["status"] == "failed"
    assert made.rows("metrics") == []
    # What was played can be read, with nothing in the place of what cannot be computed.
    steps = [step for t in made.rows("transcripts/iteration-00001") for step in t["steps"]]
    assert {step["reward"] for step in steps} == {0.0, None}
    assert {step["advantage"] for step in steps} == {step["entropy"] for step in steps} == {None}
    assert all(step["prompt"] and step["tokens"] for step in steps)
    start, saved = (made.path / p / "model.safetensors" for p in ("checkpoints/start", "saves/000002/policy"))
    assert start.read_bytes() == saved.read_bytes()


def poison_advantage(made, bad):
    build = environments.build_batch

    def poisoned(trajectories, algorithm, **given):
        batch = build(trajectories, algorithm, **given)
        batch.advantages.total_b[5] = bad
        return batch

    return "build_batch", poisoned


@pytest.mark.parametrize("bad", BAD)
def test_in_an_advantage(toy_model, tmp_path, monkeypatch, bad):
    made = trainer(toy_model, tmp_path / "run")
    monkeypatch.setattr(environments, *poison_advantage(made, bad))
    before = weights(made)
    with pytest.raises(NonFiniteError, match=r"iteration 1: the loss at optimizer step \d is \S+ on rows \[") as error:
        made.iterate(1)
    # The optimizer steps before that one were sound; the one that was not is not taken.
    assert same(weights(made), before) or "optimizer step 2" in str(error.value)
    dumped = made.run.path / "transcripts" / "iteration-00001.jsonl"
    assert str(dumped) in str(error.value)
    assert len(made.run.rows("transcripts/iteration-00001")) == 8


def test_in_the_reference(toy_model, tmp_path):
    made = trainer(toy_model, tmp_path / "run", algorithm__loss={"beta": 0.1})
    before = weights(made)
    with torch.no_grad():
        made.reference.model.norm.weight[0] = math.nan
    with pytest.raises(NonFiniteError, match="the loss at optimizer step 1 is nan"):
        made.iterate(1)
    assert same(weights(made), before)


def spoil_gradients(made, times):
    """The first `times` backward passes give NaN."""
    left = [times]

    def hook(grad):
        left[0] -= 1
        return grad * math.nan if left[0] >= 0 else grad

    next(iter(made.policy.model.parameters())).register_hook(hook)


def test_in_a_gradient(toy_model, tmp_path):
    made = trainer(toy_model, tmp_path / "run")
    before = weights(made)
    spoil_gradients(made, 1)
    with pytest.raises(NonFiniteError, match="the gradient norm is nan at optimizer step 1, though the loss is finite"):
        made.iterate(1)
    assert same(weights(made), before)


def critic_weights(made):
    return {name: value.clone() for name, value in made.critic.model.state_dict().items()}


def ppo(model, out, **changes):
    """A trainer with a critic that has been trained for an iteration: its head is no longer 0."""
    critic = {"learning_rate": 0.01}
    made = trainer(model, out, algorithm={"name": "ppo", "critic": critic}, optim__mini_batch=1000, **changes)
    made.iterate(1)
    return made, weights(made), critic_weights(made)


@pytest.mark.parametrize("bad", BAD)
def test_in_the_weights_of_a_critic(toy_model, tmp_path, bad):
    made, before, _ = ppo(toy_model, tmp_path / "run")
    with torch.no_grad():
        made.critic.model.head.bias[0] = bad
    spoilt = critic_weights(made)
    with pytest.raises(NonFiniteError, match=r"iteration 2: value_b holds (nan|inf) at row 0"):
        made.iterate(2)
    assert same(weights(made), before)
    assert same({k: v for k, v in critic_weights(made).items() if k != "head.bias"}, spoilt)


@pytest.mark.parametrize("bad", BAD)
def test_in_the_loss_of_a_critic(toy_model, tmp_path, monkeypatch, bad):
    made, before, critic = ppo(toy_model, tmp_path / "run")
    build = environments.build_batch

    def poisoned(trajectories, algorithm, **given):
        batch = build(trajectories, algorithm, **given)
        batch.advantages.value_target_b[5] = bad
        return batch

    monkeypatch.setattr(environments, "build_batch", poisoned)
    with pytest.raises(NonFiniteError, match=r"iteration 2: the value loss at optimizer step 1 is (nan|inf)"):
        made.iterate(2)
    assert same(weights(made), before)
    assert same(critic_weights(made), critic)


def test_in_a_gradient_of_a_critic(toy_model, tmp_path):
    """Neither of the two models moves, as the gradient of either is bad."""
    made, before, critic = ppo(toy_model, tmp_path / "run")
    made.critic.model.head.weight.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(NonFiniteError, match="iteration 2: the critic's gradient norm is nan at optimizer step 1"):
        made.iterate(2)
    assert same(weights(made), before)
    assert same(critic_weights(made), critic)


def test_in_a_gradient_of_the_policy_a_critic_does_not_move(toy_model, tmp_path):
    made, before, critic = ppo(toy_model, tmp_path / "run")
    spoil_gradients(made, 1)
    with pytest.raises(NonFiniteError, match="iteration 2: the gradient norm is nan at optimizer step 1"):
        made.iterate(2)
    assert same(weights(made), before)
    assert same(critic_weights(made), critic)


def test_a_step_that_a_critic_spoils_is_left_out_too(toy_model, tmp_path):
    made, before, critic = ppo(toy_model, tmp_path / "run", optim__skip_non_finite=1)
    made.critic.model.head.weight.register_hook(lambda grad: grad * math.nan)
    row = made.iterate(2)
    assert (row["update"]["skipped_steps"], row["update"]["optimizer_steps"]) == (1, 0)
    assert same(weights(made), before)
    assert same(critic_weights(made), critic)


def test_so_many_steps_are_left_out(toy_model, tmp_path):
    """Mini-batches of 8 rows of 24: three optimizer steps an iteration; the first two are spoilt."""
    changes = {"optim__mini_batch": 8, "algorithm": {"name": "gigpo"}}
    made = trainer(toy_model, tmp_path / "run", optim__skip_non_finite=2, **changes)
    spoil_gradients(made, 2)
    before = weights(made)
    row = made.iterate(1)
    assert (row["update"]["skipped_steps"], row["update"]["optimizer_steps"]) == (2, 1)
    assert made.updater.non_finite_in_a_row == 0
    assert not same(weights(made), before)
    assert all(torch.isfinite(value).all() for value in weights(made).values())


def test_one_more_stops_the_run(toy_model, tmp_path):
    """In a row over the border of iterations: two in the first, the third in the second."""
    made = trainer(toy_model, tmp_path / "run", optim__skip_non_finite=2, optim__mini_batch=12, algorithm="gigpo")
    spoil_gradients(made, 3)
    before = weights(made)
    assert made.iterate(1)["update"]["skipped_steps"] == 2
    assert made.updater.non_finite_in_a_row == 2
    with pytest.raises(NonFiniteError, match="iteration 2: the gradient norm is nan at optimizer step 1"):
        made.iterate(2)
    assert same(weights(made), before)
