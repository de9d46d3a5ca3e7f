"""Presets are found by name, and so are the algorithms of other packages."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

import stapo.registry
from stapo.algo import ALGORITHM_FAMILIES, ALGORITHMS, algorithm_names, get_algorithm, presets, register_algorithm
from stapo.errors import ConfigError, UnknownNameError

MINE = replace(get_algorithm("gigpo"), name="mine", paper="none, arXiv 0000.00000")
WRONG = 7


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch):
    monkeypatch.setattr(presets.ALGORITHM_REGISTRY, "_objects", {})


def install(monkeypatch, name, attribute):
    entry = EntryPoint(name, f"{__name__}:{attribute}", "stapo.algorithms")
    monkeypatch.setattr(stapo.registry, "entry_points", lambda group: [entry] if group == entry.group else [])


def test_families_hold_every_preset_once():
    names = [preset.name for family in ALGORITHM_FAMILIES.values() for preset in family]
    assert names == list(ALGORITHMS)
    assert len(set(names)) == len(names)


def test_an_installed_package_brings_its_own(monkeypatch):
    install(monkeypatch, "mine", "MINE")
    assert get_algorithm("mine") is MINE
    assert algorithm_names() == [*ALGORITHMS, "mine"]
    with pytest.raises(UnknownNameError, match="Did you mean 'mine'"):
        get_algorithm("minne")


def test_it_is_listed_and_trained_with(monkeypatch, capsys):
    from stapo.cli.main import main

    install(monkeypatch, "mine", "MINE")
    assert main(["algorithms"]) == 0
    said = capsys.readouterr().out
    assert "of other packages" in said
    assert "arXiv 0000.00000" in said
    assert main(["train", "tiny", "--algorithm", "mine", "--dry-run", "--no-probe"]) == 0
    assert "name: mine" in capsys.readouterr().out


@pytest.mark.parametrize("name, attribute", [("seven", "WRONG"), ("other", "MINE"), ("gone", "GONE")])
def test_an_entry_point_that_gives_something_else(monkeypatch, name, attribute):
    install(monkeypatch, name, attribute)
    with pytest.raises(ConfigError, match=f"'{name}'.*(expected an AlgorithmConfig|cannot be imported)"):
        get_algorithm(name)


def test_a_preset_cannot_be_replaced(monkeypatch):
    """Neither by an entry point, which is not asked for a name that is there, nor in this process."""
    install(monkeypatch, "stapo", "MINE")
    assert get_algorithm("stapo").name == "stapo"
    assert algorithm_names().count("stapo") == 1
    with pytest.raises(ConfigError, match="registered already"):
        register_algorithm(replace(MINE, name="stapo"))


def test_registering_in_this_process():
    assert register_algorithm(MINE) is MINE
    assert get_algorithm("mine") is MINE
    with pytest.raises(ConfigError, match="registered already"):
        register_algorithm(replace(MINE, description="Another."))


def test_presets_say_what_the_papers_say():
    assert get_algorithm("reinforce++").advantage.discount == 1.0
    assert get_algorithm("dr-grpo").loss.aggregation == "sequence-sum-norm"
    hgpo = get_algorithm("hgpo").advantage
    assert (hgpo.episode, hgpo.step_groups, hgpo.history_depth, hgpo.length_alpha, hgpo.ddof) == (
        "none", "history", 2, 1.0, 0,
    )  # fmt: skip
    for family in ("STAPO", "ablations and controls", "beyond the paper"):
        for preset in ALGORITHM_FAMILIES[family]:
            assert preset.advantage == get_algorithm("gigpo").advantage
            assert preset.loss == get_algorithm("gigpo").loss
            assert preset.selective_on
    for family in ("baselines", "credit assignment"):
        for preset in ALGORITHM_FAMILIES[family]:
            assert not preset.selective_on
    pgpo = get_algorithm("pgpo").advantage
    assert (pgpo.episode, pgpo.potential_weight, pgpo.potential_power, pgpo.potential_discount, pgpo.discount) == (
        "none", 1.0, 2.0, 1.0, 0.95,
    )  # fmt: skip
    assert get_algorithm("graphgpo").advantage.distance_discount == 0.1


class TestTwoParts:
    def test_credit_of_the_one_and_flags_of_the_other(self):
        both, credit, flags = (get_algorithm(name) for name in ("stapo-mad+pgpo", "pgpo", "stapo-mad"))
        assert (both.advantage, both.loss, both.sampling) == (credit.advantage, credit.loss, credit.sampling)
        assert (both.outlier, both.selective) == (flags.outlier, flags.selective)
        assert both.name == "stapo-mad+pgpo"
        assert both.paper.startswith("STAPO changed by this project, after arXiv 2607.04963; PGPO, arXiv 2609")

    def test_the_paper_s_own_are_such_sums(self):
        for name, sum_of in (("stapo", "stapo+gigpo"), ("stapo-dynamic", "stapo+gigpo-dynamic")):
            same = get_algorithm(name)
            assert replace(get_algorithm(sum_of), name=name, paper=same.paper, description=same.description) == same

    def test_every_method_without_flags_takes_them(self):
        for preset in ALGORITHMS.values():
            if not preset.selective_on:
                assert get_algorithm(f"stapo+{preset.name}").selective_on

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("gigpo+pgpo", "'gigpo' is not STAPO with other flags"),
            ("stapo-dynamic+pgpo", "'stapo-dynamic' is not STAPO with other flags"),
            ("stapo+stapo-mad", "'stapo-mad' has flags of its own"),
        ],
    )
    def test_sums_that_mean_nothing(self, name, said):
        with pytest.raises(ConfigError, match=said):
            get_algorithm(name)

    @pytest.mark.parametrize(
        ("name", "guess"), [("stapo+pgop", "pgpo"), ("stabo+pgpo", "stapo"), ("stapo+a+b", "a\\+b")]
    )
    def test_a_part_that_is_none(self, name, guess):
        with pytest.raises(UnknownNameError, match=guess):
            get_algorithm(name)

    def test_a_file_says_something_of_them(self):
        from stapo.config.presets import load_config

        data = {
            "extends": "tiny",
            "algorithm": "stapo+g2po",
            "per_algorithm": {
                "stapo*": {"algorithm": {"selective": {"alpha": 0.5}}},
                "stapo+g2po": {"algorithm": {"selective": {"gamma": 0.25}}},
                "stapo+pgpo": {"seed": 9},
            },
        }
        config = load_config(data)
        assert (config.algorithm.selective.alpha, config.algorithm.selective.gamma) == (0.5, 0.25)
        assert (config.algorithm.advantage.step_credit, config.seed) == ("g2po", load_config("tiny").seed)
        for unknown in ("stapi", "stapi*+pgpo", "stapo*+pgop", "stapo+pgop"):
            with pytest.raises(UnknownNameError, match=r"Did you mean '(stapo|pgpo)'"):
                load_config({**data, "per_algorithm": {unknown: {}}})
        for pattern, seed in (("stapo*+g2po", 9), ("*+g?po", 9), ("stapo*+pgpo", config.seed)):
            assert load_config({**data, "per_algorithm": {pattern: {"seed": 9}}}).seed == seed
