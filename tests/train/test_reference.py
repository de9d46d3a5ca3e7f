"""The divergence from the reference: how it is estimated, and a reference that is refreshed.

1. Estimators by hand, and where their gradients lead on average.
2. The exact divergence in an update.
3. A refreshed reference: the policy of that moment, with and without adapters; a resumed run has the same.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from test_update import trajectories_of

from slow import slow_except
from stapo.algo import LossDenominators, PolicyLossConfig, base_loss, get_algorithm, reference_kl, two_context_kl
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.config.training import OptimConfig
from stapo.errors import ConfigError, ModelError
from stapo.policy import LoraConfig, load_policy
from stapo.policy.model import head_of
from stapo.run import RunDirectory
from stapo.training.batch import build_batch
from stapo.training.callbacks import Callback, Callbacks, StopTraining
from stapo.training.interrupt import RunInterrupted
from stapo.training.pipeline import train_run
from stapo.training.update import Updater
from toy_world import small_policy, toy_settings

STAPO = get_algorithm("stapo")


def loss_config(kl, **more):
    return PolicyLossConfig(kl=kl, beta=1.0, **more)


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, expected", [("k1", math.log(2)), ("k2", math.log(2) ** 2 / 2), ("k3", 0.5 - 1 + math.log(2))]
)
def test_estimators_by_hand(kind, expected):
    """A token of probability 1/2 that the reference gives 1/4; the other way round only k1 is negative."""
    half, quarter = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert reference_kl(half, quarter, loss_config(kind)).item() == pytest.approx(expected, rel=1e-5)
    back = reference_kl(quarter, half, loss_config(kind)).item()
    assert (back < 0) == (kind == "k1")
    capped = reference_kl(quarter - 9, half, loss_config(kind, kl_cap=0.5)).item()
    assert capped == (-0.5 if kind == "k1" else 0.5)


def mean_gradient(kind):
    """The gradient of an estimator, averaged over the tokens that the policy would sample."""
    logits = torch.tensor([0.3, -1.0, 1.2, 0.0], requires_grad=True)
    ref = torch.log_softmax(torch.tensor([1.0, 0.5, -0.5, 0.2]), 0)
    logp = torch.log_softmax(logits, 0)
    if kind in ("forward", "reverse"):
        value = (logp.exp() * (logp - ref)).sum() if kind == "forward" else (ref.exp() * (ref - logp)).sum()
    else:
        value = (logp.detach().exp() * reference_kl(logp, ref, loss_config(kind))).sum()
    return torch.autograd.grad(value, logits)[0]


def test_where_the_gradients_lead_on_average():
    assert mean_gradient("k1").abs().max() < 1e-6
    torch.testing.assert_close(mean_gradient("k2"), mean_gradient("forward"))
    torch.testing.assert_close(mean_gradient("k3"), mean_gradient("reverse"))


def test_what_a_kind_needs_is_said():
    logp, mask = torch.zeros(1, 2), torch.ones(1, 2)
    rest = (logp, logp, torch.zeros(1), mask)
    divisors = LossDenominators.of(mask)
    with pytest.raises(ValueError, match=r"ref_kl_bl is None with loss\.beta 1 and loss\.kl full"):
        base_loss(*rest, loss_config("full"), divisors, ref_logp_bl=logp)
    with pytest.raises(ValueError, match=r"ref_logp_bl is None with loss\.beta 1 and loss\.kl k2"):
        base_loss(*rest, loss_config("k2"), divisors, ref_kl_bl=logp)
    exact = torch.tensor([[0.5, 20.0]])
    assert base_loss(*rest, loss_config("full"), divisors, ref_kl_bl=exact).kl.item() == pytest.approx(5.25)
    with pytest.raises(ConfigError, match=r"loss\.kl is 'k4'"):
        loss_config("k4")


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played():
    policy = small_policy(3, initializer_range=0.2)
    return policy, trajectories_of(policy, 3)


def algorithm_of(kl):
    return replace(STAPO, loss=replace(STAPO.loss, kl=kl, beta=0.5))


def updated(played, algorithm, reference):
    policy = replace(played[0], model=copy.deepcopy(played[0].model))
    batch = build_batch(played[1], algorithm)
    optim = OptimConfig(learning_rate=1e-3, mini_batch=1000, micro_tokens=400, grad_clip=1e9)
    metrics, seconds = Updater(policy, reference, algorithm, optim, 1.0).update(batch, 1e-3, seed=(0, 2, 1))
    return batch, metrics["update"], seconds


def test_the_exact_divergence_is_that_of_whole_distributions(played):
    reference = small_policy(4, initializer_range=0.2).model.eval().requires_grad_(False)
    batch, found, seconds = updated(played, algorithm_of("full"), reference)
    expected = []
    with torch.no_grad():
        for b in range(len(batch)):
            step, models = batch.steps[b], (played[0].model, reference)
            ids = torch.tensor([step.prompt_ids + step.response_ids])
            n = len(step.response_ids)
            logs = [torch.log_softmax(m(input_ids=ids).logits[0, -n - 1 : -1].float(), -1) for m in models]
            expected += (logs[0].exp() * (logs[0] - logs[1])).sum(-1).clamp(max=10).tolist()
    assert found["ref_kl"] == pytest.approx(sum(expected) / len(expected), rel=1e-3)
    assert seconds["reference"] > 0
    # Estimates of the same number.
    for kind in ("k1", "k3"):
        assert updated(played, algorithm_of(kind), reference)[1]["ref_kl"] == pytest.approx(found["ref_kl"], rel=0.5)


def test_two_heads_may_have_two_biases():
    states, weight = torch.randn(5, 4), torch.randn(7, 4)
    one, two = torch.randn(7), torch.randn(7)
    logs = [torch.log_softmax(states @ weight.T + bias, -1) for bias in (one, two)]
    found = two_context_kl(states, states, weight, bias_v=one, bias_q_v=two)
    torch.testing.assert_close(found, (logs[0].exp() * (logs[0] - logs[1])).sum(-1))


# -- 3 -----------------------------------------------------------------------------------------------------------------


def adapted(seed):
    policy = small_policy(hidden_size=32)
    policy.attach(LoraConfig(rank=4), 0)
    stir(policy, seed)
    return policy


@torch.no_grad()
def stir(policy, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))


@torch.no_grad()
def states(model):
    return model(input_ids=torch.tensor([[5, 9, 7, 30]])).logits


def test_refreshed_adapters_are_those_of_that_moment():
    policy = adapted(1)
    then = states(policy.model)
    policy.adapter.refresh_reference()
    stir(policy, 2)
    now = states(policy.model)
    with policy.as_reference() as model:
        assert torch.equal(states(model), then)
    assert torch.equal(states(policy.model), now)
    with pytest.raises(ModelError, match="do not fit this model"):
        policy.adapter.refresh_reference({"x": torch.zeros(1)})


def test_a_pass_by_the_reference_does_not_disturb_gradients():
    """The reference is asked between a pass forward and its pass backward, as the update does."""
    grads = []
    for asked in (False, True):
        policy = adapted(1)
        policy.adapter.refresh_reference()
        stir(policy, 2)
        loss = policy.model(input_ids=torch.tensor([[5, 9, 7, 30]])).logits.square().mean()
        if asked:
            with torch.no_grad(), policy.as_reference() as model:
                states(model)
        loss.backward()
        grads.append([p.grad for p in policy.model.parameters() if p.requires_grad])
    assert all(torch.equal(one, two) for one, two in zip(*grads, strict=True))
    assert any(g.abs().max() > 0 for g in grads[0])


class StopAt(Callback):
    def __init__(self, iteration):
        self.iteration = iteration

    def on_update(self, event):
        if event.iteration == self.iteration:
            raise StopTraining("enough")


@pytest.mark.parametrize("rank", slow_except([0, 2], 2))
def test_a_resumed_run_has_the_same_refreshed_reference(toy_model, tmp_path, rank):
    """Refreshed after iterations 2 and 4; stopped after 3. The divergence of an update is small after a refresh."""
    loss = {"reference_every": 2, "beta": 0.1}
    changes = {"optim__iterations": 5, "eval__episodes": 2, "model__lora": {"rank": rank} if rank else None}
    changes |= {"algorithm": {"name": "stapo", "loss": loss}, "optim__learning_rate": 0.02}
    config = from_data(RunConfig, toy_settings(toy_model, **changes))
    whole = train_run(config, tmp_path / "whole", ["test"]).run
    with pytest.raises(RunInterrupted):
        train_run(config, tmp_path / "parts", ["test"], Callbacks([StopAt(3)]))
    parts = train_run(config, tmp_path / "parts", ["test"]).run
    kl = [row["update"]["ref_kl"] for row in whole.rows("metrics")]
    assert kl == [row["update"]["ref_kl"] for row in parts.rows("metrics")]
    assert [row["update"]["loss"] for row in whole.rows("metrics")] == [
        row["update"]["loss"] for row in parts.rows("metrics")
    ]
    assert kl[1] > 0
    never = from_data(
        RunConfig, toy_settings(toy_model, **{**changes, "algorithm": {"name": "stapo", "loss": {"beta": 0.1}}})
    )
    other = [row["update"]["ref_kl"] for row in train_run(never, tmp_path / "never", ["test"]).run.rows("metrics")]
    # The first two iterations are the same; then one reference has moved, and is nearer.
    assert kl[:2] == other[:2]
    assert kl[2] < other[2]


def test_the_save_after_a_refresh_holds_the_policy_as_reference(toy_model, tmp_path):
    changes = {"algorithm": {"name": "stapo", "loss": {"reference_every": 2}}, "eval__episodes": 2}
    config = from_data(RunConfig, toy_settings(toy_model, **changes))
    run: RunDirectory = train_run(config, tmp_path / "run", ["test"]).run
    newest = run.saves.complete()[0]
    policy, reference = (load_policy(str(newest / name), config.model).model for name in ("policy", "reference"))
    assert torch.equal(head_of(policy)[0], head_of(reference)[0])
