"""Pieces of other packages: found by name, checked where their results come in, listed with what is wrong with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stapo.algo import (
    ADVANTAGE_ESTIMATORS,
    POLICY_LOSSES,
    STEP_SCORES,
    AdvantageConfig,
    AlgorithmConfig,
    LossDenominators,
    OutlierConfig,
    PolicyLossConfig,
    base_loss,
    compute_advantages,
    entropy_scores,
)
from stapo.cli.main import main
from stapo.errors import ConfigError, NonFiniteError
from stapo.registry import Registry, traits

REWARDS = [0.0, 1.0, 0.0, 0.0]
GROUPS, TRAJECTORIES, STEPS, ANCHORS = [0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 0, 2]


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch):
    for registry in (ADVANTAGE_ESTIMATORS, STEP_SCORES, POLICY_LOSSES):
        monkeypatch.setattr(registry, "_objects", dict(registry._objects))


def advantages(name, weights=None, **more):
    config = AdvantageConfig(episode=name, step_advantage=False)
    valid = [True] * 4
    return compute_advantages(REWARDS, valid, GROUPS, TRAJECTORIES, STEPS, ANCHORS, weights, config, **more)


def scores(name, weights=None):
    return entropy_scores([1.0, 2.0, 3.0, 4.0], ANCHORS, weights, OutlierConfig(metric=name))


def loss(name, **settings):
    logp = torch.full((2, 3), -1.0, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    config = PolicyLossConfig(policy=name, beta=0.0, aggregation="token", **settings)
    out = base_loss(logp, torch.full((2, 3), -1.5), torch.tensor([1.0, -2.0]), mask, config, LossDenominators.of(mask))
    out.loss.backward()
    return out, logp.grad


# -- what they are given, and what becomes of it -----------------------------------------------------------------------


def test_an_estimator_is_given_rows_and_its_advantage_is_trained_with():
    seen = []

    @ADVANTAGE_ESTIMATORS.register("half")
    def half(rows, config, critic):
        seen.append(rows)
        return rows.return_b / 2

    out = advantages("half", [1, 1, 1, 0])
    assert out.total_b.tolist() == pytest.approx([0.95 / 2, 0.5, 0.0, 0.0])
    assert out.total_b.dtype == np.float32
    assert seen[0].real_b.tolist() == [True, True, True, False]
    assert seen[0].value_b is None
    with pytest.raises(ValueError, match="read-only"):
        seen[0].reward_b[0] = 7
    config = AlgorithmConfig(name="x", paper="", advantage=AdvantageConfig(episode="half"))
    assert (config.needs_groups, config.needs_critic) == (False, False)


def test_an_estimator_with_values_has_a_critic_trained():
    @ADVANTAGE_ESTIMATORS.register("td")
    @traits(needs_values=True)
    def td(rows, config, critic):
        return rows.return_b - rows.value_b, rows.return_b

    assert AlgorithmConfig(name="x", paper="", advantage=AdvantageConfig(episode="td")).needs_critic
    out = advantages("td", value_b=[0.5, 0.5, 0.5, 0.5])
    assert out.episode_b.tolist() == pytest.approx([0.45, 0.5, -0.5, -0.5])
    assert out.value_target_b.tolist() == pytest.approx([0.95, 1.0, 0.0, 0.0])
    with pytest.raises(ConfigError, match=r"'td' failed.*value_b is None"):
        advantages("td")


def test_a_score_is_held_against_the_fences():
    STEP_SCORES.register("square", lambda rows, config: rows.entropy_b**2)
    out = scores("square", [1, 1, 1, 0])
    assert out.score_b.tolist() == [1.0, 4.0, 9.0, 0.0]
    assert out.scored_b.tolist() == [True, True, True, False]
    assert out.size_b.tolist() == [2, 1, 2, 0]


def test_a_policy_loss_has_its_gradient_inside_the_mask_alone():
    POLICY_LOSSES.register("plain", lambda logp_bl, old, advantage_b, mask, config: -advantage_b[:, None] * logp_bl)
    out, grad = loss("plain")
    assert out.loss.item() == pytest.approx((1.0 + 1.0 - 2.0) / 3)
    assert grad.tolist() == [pytest.approx([-1 / 3, -1 / 3, 0.0]), pytest.approx([2 / 3, 0.0, 0.0])]
    assert float(out.stats["tokens"]) == 3
    algorithm = AlgorithmConfig(name="x", paper="", loss=PolicyLossConfig(policy="plain", beta=0.0))
    assert algorithm.needs_every_row
    assert not AlgorithmConfig(name="x", paper="", loss=PolicyLossConfig(beta=0.0)).needs_every_row


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "returned, error, said",
    [
        ([1.0, 2.0], ConfigError, "expected 4 numbers, one per row"),
        ("four", ConfigError, "returned 'four'"),
        (None, ConfigError, "expected 4 numbers"),
        ([0.0, np.nan, 0.0, 0.0], NonFiniteError, "holds nan at row 1"),
    ],
)
def test_what_is_no_number_per_row_is_named(returned, error, said):
    ADVANTAGE_ESTIMATORS.register("odd", lambda rows, config, critic: returned)
    STEP_SCORES.register("odd", lambda rows, config: returned)
    for call, kind in ((advantages, "advantage estimator"), (scores, "step score")):
        with pytest.raises(error, match=said) as found:
            call("odd")
        assert f"{kind} 'odd'" in str(found.value)


@pytest.mark.parametrize("returned", [torch.zeros(2), torch.zeros(3, 2), 1.0, None])
def test_what_is_no_loss_per_token_is_named(returned):
    POLICY_LOSSES.register("odd", lambda *given: returned)
    with pytest.raises(ConfigError, match=r"policy loss 'odd' returned .*expected a tensor of shape \(2, 3\)"):
        loss("odd")


def test_what_raises_is_one_error_that_names_it():
    ADVANTAGE_ESTIMATORS.register("raises", lambda rows, config, critic: rows.no_such)
    with pytest.raises(ConfigError, match=r"advantage estimator 'raises' failed: AttributeError.*no_such"):
        advantages("raises")


@pytest.mark.parametrize(
    "config, setting, meant",
    [
        (lambda: AdvantageConfig(episode="grop"), "advantage.episode", "grpo"),
        (lambda: OutlierConfig(metric="shanon"), "outlier.metric", "shannon"),
        (lambda: PolicyLossConfig(policy="clib"), "loss.policy", "clip"),
    ],
)
def test_a_typo_is_told(config, setting, meant):
    with pytest.raises(ConfigError, match=f"{setting} is .*expected one of .*Did you mean '{meant}'"):
        config()


def test_a_name_of_this_package_cannot_be_taken():
    with pytest.raises(ConfigError, match="registered already"):
        ADVANTAGE_ESTIMATORS.register("grpo", lambda rows, config, critic: rows.reward_b)


# -- the listing -------------------------------------------------------------------------------------------------------


def test_everything_is_listed_by_kind_and_package(capsys):
    STEP_SCORES.register("mine", scores)
    assert main(["plugins", "--json"]) == 0
    rows = {(row["group"], row["name"]): row for row in json.loads(capsys.readouterr().out)}
    assert rows["stapo.environments", "alfworld"]["target"] == "stapo.envs.alfworld.env:AlfworldEnv"
    assert rows["stapo.algorithms", "stapo"]["package"] == "stapo"
    assert rows["stapo.step_scores", "mine"]["target"] == f"{__name__}:scores"
    assert all(row["error"] is None for row in rows.values())


def test_every_name_of_this_package_can_be_imported():
    from stapo.cli.plugins_command import REGISTRIES

    optional = {"tantivy", "dense"}
    for registry in REGISTRIES:
        assert registry.own_names()
        for name in set(registry.own_names()) - optional:
            assert registry.get(name) is not None


def test_every_prompt_style_and_response_format_says_what_it_is(capsys):
    assert main(["plugins", "--json"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out) if row["package"] == "stapo"]
    for row in rows:
        explained = row["kind"] in ("prompt style", "response format")
        assert bool(row["about"].endswith(".") if explained else row["about"]) == explained, row


def test_every_group_that_is_listed_has_a_registry():
    from stapo import registry
    from stapo.cli.plugins_command import REGISTRIES

    assert set(registry._listed()) <= {r.group for r in REGISTRIES}
    assert isinstance(REGISTRIES[0], Registry)
