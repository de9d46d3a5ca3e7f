"""Whatever stands at whatever setting: it is accepted, or refused in one error that names the setting."""

from __future__ import annotations

import datetime
import math
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest

from stapo.config.run_config import RunConfig
from stapo.config.schema import check_values, from_data, to_data
from stapo.errors import ConfigError, StapoError


def leaves(cls, path=()):
    hints = get_type_hints(cls)
    for field in fields(cls):
        hint = hints[field.name]
        if is_dataclass(hint):
            yield from leaves(hint, (*path, field.name))
        else:
            yield (*path, field.name), str(hint)


LEAVES = dict(leaves(RunConfig))
deep = []
for _ in range(500):
    deep = [deep]
ODD = [
    math.nan, math.inf, -math.inf, -1, -0.5, 0, 1e308, -1e308, 1e-320, 2**31, 2**63, 2**64, -(2**64), 10**400, 16**5000,
    True, "", "abc", "nan", "inf", "1e999", "1_0", "1" * 10_000, "\0", "a\x1b[2J", "\ud800", "x" * 100_000, None,
    [], {}, [[]], [None], {"a": 1}, {1: 2}, {"a\n": deep}, deep, b"\xff", {1}, 1j, object(),
    datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1),
]  # fmt: skip


def nested(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


def test_the_schema_is_whole():
    assert len(LEAVES) > 100
    assert {"int", "<class 'float'>", "<class 'str'>", "<class 'bool'>"} - {"int"} <= set(LEAVES.values())


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_odd_values_are_accepted_or_named(path):
    for value in ODD:
        try:
            config = from_data(RunConfig, nested(path, value))
        except StapoError as err:
            said = str(err)
            assert path[-1] in said or (path == ("algorithm", "name") and "unknown algorithm" in said), said
            assert len(said) < 1000
            assert said.isprintable(), said
        else:
            check_values(config)
            for key in path:
                config = getattr(config, key)
            # What is accepted is a value that YAML and JSON hold, and is what was given.
            assert to_data(config) == (list(value) if isinstance(value, tuple) else value) or "dict" in LEAVES[path]
            assert not (isinstance(config, float) and not math.isfinite(config))
            assert not (type(config) is int and config > 2**63)


NUMBERS = [path for path, hint in LEAVES.items() if "float" in hint or "int" in hint]


@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**64, -(2**64), 1e308])
def test_no_number_is_out_of_all_bounds(path, value):
    with pytest.raises(ConfigError, match=path[-1]):
        from_data(RunConfig, nested(path, value))


@pytest.mark.parametrize("key", ["optim", "sft"])
@pytest.mark.parametrize(
    "value", [3e38, "3e38", 1.5, 0, -1e-3, "1e-400", "-1e-3", "nan", "infinity", "", " 1", "1_0", "１"]
)
def test_learning_rates_that_nobody_means(key, value):
    with pytest.raises(ConfigError, match="learning_rate"):
        from_data(RunConfig, {key: {"learning_rate": value}})


@pytest.mark.parametrize("value", ["1e-3", "0.001", ".001", "1.e-3", "+1e-3"])
def test_numbers_as_text(value):
    assert from_data(RunConfig, {"optim": {"learning_rate": value}}).optim.learning_rate == 1e-3


@pytest.mark.parametrize("seed, said", [(2**64, "seed"), (2**63, "seed"), (-1, "seed is -1"), (1.0, "seed is 1.0")])
def test_seeds(seed, said):
    assert from_data(RunConfig, {"seed": 2**63 - 1}).seed == 2**63 - 1
    with pytest.raises(ConfigError, match=said):
        from_data(RunConfig, {"seed": seed})


def test_options_of_environments_are_plain_data():
    fine = {"games": "a,b", "n": 3, "x": 0.5, "types": [1, 2], "deep": {"a": {"b": None}}}
    assert from_data(RunConfig, {"env": {"options": fine}}).env.options == fine
    for odd in (datetime.date(2024, 1, 1), {1}, b"", "\0", {3: 4}, list(range(20_000))):
        with pytest.raises(ConfigError, match=r"env\.options\.when"):
            from_data(RunConfig, {"env": {"options": {"when": odd}}})


def test_a_model_to_build_that_no_machine_holds():
    with pytest.raises(ConfigError, match=r"model\.layers 1,000,000"):
        from_data(RunConfig, {"model": {"layers": 10**6, "hidden_size": 1024}})
