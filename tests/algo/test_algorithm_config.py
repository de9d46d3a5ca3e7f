"""Configuration values are checked where they are built, and presets are what the papers say."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

import stapo.algo
from stapo.algo import (
    ALGORITHMS,
    AdvantageConfig,
    AlgorithmConfig,
    ModulationConfig,
    OutlierConfig,
    PolicyLossConfig,
    SelectiveConfig,
    get_algorithm,
)
from stapo.errors import ConfigError, UnknownNameError


@pytest.mark.parametrize(
    ("make", "field", "found", "expected"),
    [
        (lambda: AdvantageConfig(discount=1.5), "advantage.discount", "1.5", "a number from 0 to 1"),
        (lambda: AdvantageConfig(omega=float("nan")), "advantage.omega", "nan", "a number of 0 or more"),
        (lambda: AdvantageConfig(episode="gpo"), "advantage.episode", "'gpo'", "'rloo', 'batch', 'gae', 'none'"),
        (lambda: AdvantageConfig(ddof=2), "advantage.ddof", "2", "from 0 to 1"),
        (lambda: AdvantageConfig(step_advantage=1), "advantage.step_advantage", "1", "true or"),
        (
            lambda: AdvantageConfig(episode="none", step_advantage=False),
            "advantage.step_advantage",
            "False",
            "at least one",
        ),
        (lambda: OutlierConfig(lam=-1), "outlier.lam", "-1", "a number of 0 or more"),
        (lambda: OutlierConfig(n_min=1), "outlier.n_min", "1", "of 2 or more"),
        (lambda: OutlierConfig(n_min=2.0), "outlier.n_min", "2.0", "a whole number"),
        (lambda: OutlierConfig(max_fraction=0.0), "outlier.max_fraction", "0.0", "a number above 0, at most 1"),
        (lambda: OutlierConfig(sides="up"), "outlier.sides", "'up'", "both, high, low"),
        (lambda: SelectiveConfig(alpha=-0.1), "selective.alpha", "-0.1", "a number of 0 or more"),
        (lambda: SelectiveConfig(alpha=True), "selective.alpha", "True", "a number of 0 or more"),
        (lambda: SelectiveConfig(kl_estimator="k1"), "selective.kl_estimator", "'k1'", "one of full"),
        (lambda: SelectiveConfig(kl_cap=0), "selective.kl_cap", "0", "a number above 0"),
        (lambda: SelectiveConfig(log_ratio_clamp=200), "selective.log_ratio_clamp", "200", "80"),
        (lambda: PolicyLossConfig(clip_low=2), "loss.clip_low", "2", "a number from 0 to 1"),
        (lambda: PolicyLossConfig(dual_clip=1.0), "loss.dual_clip", "1.0", "a number above 1"),
        (lambda: PolicyLossConfig(ratio="step"), "loss.ratio", "'step'", "token, sequence"),
        (lambda: ModulationConfig(kind="egpo"), "modulation.kind", "'egpo'", "none, empg"),
        (lambda: ModulationConfig(k=60.0), "modulation.k", "60.0", "a number from 0 to 50"),
        (lambda: AdvantageConfig(history_depth=-1), "advantage.history_depth", "-1", "of 0 or more"),
        (lambda: AdvantageConfig(step_groups="past"), "advantage.step_groups", "'past'", "anchor, history"),
        (lambda: OutlierConfig(min_scale=0.0), "outlier.min_scale", "0.0", "a number above 0"),
        (lambda: OutlierConfig(running_states=0), "outlier.running_states", "0", "of 1 or more"),
        (lambda: OutlierConfig(running_decay=1.1), "outlier.running_decay", "1.1", "a number from 0 to 1"),
        (lambda: PolicyLossConfig(constant_length=0), "loss.constant_length", "0", "of 1 or more"),
        (lambda: AlgorithmConfig(name="", paper="x"), "name", "''", "such as"),
    ],
)
def test_a_bad_value_names_field_found_and_expected(make, field, found, expected):
    with pytest.raises(ConfigError) as error:
        make()
    text = str(error.value)
    assert field in text
    assert found in text
    assert expected in text


def test_configs_are_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_algorithm("stapo").advantage.omega = 2.0
    with pytest.raises(TypeError):
        AdvantageConfig("grpo")


def test_presets_carry_the_papers_settings():
    stapo = get_algorithm("stapo")
    assert (stapo.selective.alpha, stapo.selective.gamma, stapo.loss.beta) == (0.01, 0.01, 0.01)
    assert (stapo.outlier.lam, stapo.outlier.sides, stapo.outlier.metric) == (
        1.5,
        "both",
        "normalized",
    )
    assert (stapo.advantage.omega, stapo.advantage.discount) == (1.0, 0.95)
    assert (stapo.loss.clip_low, stapo.loss.clip_high, stapo.loss.dual_clip) == (0.2, 0.2, 3.0)
    assert stapo.advantage.invalid_penalty_on == "return"
    assert stapo.selective.norm == "flagged"
    for name, preset in ALGORITHMS.items():
        assert preset.name == name
        assert "arXiv" in preset.paper
        assert preset.description.endswith(".")


def changed(name: str) -> dict[str, object]:
    """Fields in which a preset differs from stapo."""
    found = {}
    for part in ("advantage", "outlier", "selective", "loss"):
        a, b = getattr(get_algorithm("stapo"), part), getattr(get_algorithm(name), part)
        for f in dataclasses.fields(a):
            if getattr(a, f.name) != getattr(b, f.name):
                found[f"{part}.{f.name}"] = getattr(b, f.name)
    return found


def test_each_ablation_changes_one_thing():
    assert changed("stapo-literal") == {"selective.norm": "all"}
    assert changed("stapo-shannon") == {"outlier.metric": "shannon"}
    assert changed("stapo-goal-only") == {"selective.blind_mask": "goal"}
    assert changed("stapo-history-only") == {"selective.blind_mask": "history"}
    assert changed("stapo-single-penalty") == {"selective.gamma": 0.0}
    assert changed("stapo-penalty-only") == {"selective.alpha": 0.0}
    assert changed("stapo-all-steps") == {"outlier.select": "all"}
    assert changed("stapo-random") == {"outlier.select": "random"}
    assert changed("stapo-loo") == {"outlier.metric": "leave-one-out"}
    assert changed("stapo-mad") == {"outlier.metric": "median-mad"}
    assert changed("stapo-shrunken") == {"outlier.metric": "shrunken"}
    assert changed("stapo-running") == {"outlier.metric": "running"}
    off = {"outlier.select": "none", "selective.alpha": 0.0, "selective.gamma": 0.0}
    assert changed("gigpo") == off
    assert changed("grpo") == {"advantage.step_advantage": False, **off}


def test_what_a_run_needs_follows_from_the_weights():
    assert not get_algorithm("gigpo").selective_on
    assert get_algorithm("stapo").needs_blind_reference
    single = get_algorithm("stapo-single-penalty")
    assert single.selective_on
    assert not single.needs_blind_reference
    assert single.needs_reference  # beta
    unmasked = dataclasses.replace(
        get_algorithm("stapo"),
        selective=SelectiveConfig(blind_mask="none"),
        loss=PolicyLossConfig(beta=0.0),
    )
    assert not unmasked.selective_on
    assert not unmasked.needs_reference


def test_an_unknown_preset_proposes_the_closest():
    with pytest.raises(UnknownNameError, match="Did you mean 'stapo-shannon'"):
        get_algorithm("stapo-shanon")


def test_every_public_name_loads_and_an_unknown_one_does_not():
    for name in stapo.algo.__all__:
        assert getattr(stapo.algo, name) is not None
    assert "get_algorithm" in dir(stapo.algo)
    with pytest.raises(AttributeError, match="no attribute 'select_outlier'"):
        stapo.algo.select_outlier  # noqa: B018


def test_reading_a_configuration_does_not_import_torch():
    code = "import sys, stapo.algo as a; a.get_algorithm('stapo'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "call, kind",
    [
        (lambda c: stapo.algo.compute_advantages([1.0], [True], [0], [0], [0], [0], None, c), "AdvantageConfig"),
        (lambda c: stapo.algo.anchor_groups([0], ["a"], c), "AdvantageConfig"),
        (lambda c: stapo.algo.select_outliers([1.0], [0], None, c), "OutlierConfig"),
    ],
)
@pytest.mark.parametrize("config", ["stapo", None, get_algorithm("stapo")], ids=["name", "none", "algorithm"])
def test_a_config_of_another_kind_is_one_error(call, kind, config):
    with pytest.raises(ConfigError, match=f"expected {kind}: a part of get_algorithm"):
        call(config)
