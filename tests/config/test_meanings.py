"""What is said of each setting: enough words, and of every number a range that is true."""

from __future__ import annotations

import re
from typing import get_args, get_origin, get_type_hints

import pytest

from stapo.config import RunConfig, from_data
from stapo.config.describe import meanings, settings_of
from stapo.config.training import OptimConfig
from stapo.errors import ConfigError

SETTINGS = {setting.name: setting for setting in settings_of(RunConfig())}
NUMBER = r"-?[\d,]*\d(?:\.\d+)?"
RANGE = re.compile(
    rf"(?:above (?P<over>{NUMBER})|(?P<low>{NUMBER})(?= or more| to (?:below )?-?\d))(?: or more)?"
    rf"(?:(?:, at most | to )(?P<high>{NUMBER})|(?:, below | to below )(?P<under>{NUMBER}))?"
)
TOGETHER = {
    "model.hidden_size": "with model.heads",
    "rollout.group_size": "with an algorithm that compares a group",
    "eval.stop_at": "with eval.keep_best",
}
"""Settings whose smallest value is refused with the defaults of others."""


def hint_of(name):
    cls = RunConfig
    for part in name.split("."):
        cls = get_type_hints(cls)[part]
    return cls


def is_number(name):
    hint = hint_of(name)
    several = get_args(hint)[1:] == (...,) or get_origin(hint) is dict
    return bool({hint, *get_args(hint)} & {int, float}) and hint is not bool and not several


NUMBERS = [name for name in SETTINGS if is_number(name)]


def range_of(meaning):
    """(bound, is it outside) below and above, as the first range in a text states them; None where it states none."""
    found = RANGE.search(meaning)
    if found is None:
        return None
    low, high = found["low"] or found["over"], found["high"] or found["under"]
    number = lambda text: None if text is None else float(text.replace(",", ""))  # noqa: E731
    return (number(low), found["over"] is not None), (number(high), found["under"] is not None)


def given(name, value):
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def test_the_check_can_fail():
    assert range_of("of AdamW.") is None
    assert range_of("see `schedule`.") is None
    assert range_of("AdamW's decay, per step; 0 or more, 0 turns it off.") == ((0, False), (None, False))
    assert range_of("share of rows; above 0, at most 1, or null for no bound.") == ((0, True), (1, False))
    assert range_of("threads, 0 to 4,096; 0 leaves torch's default.") == ((0, False), (4096, False))
    assert range_of("decay rate; 0 to below 1.") == ((0, False), (1, True))


def test_there_are_settings_and_numbers():
    assert len(SETTINGS) > 110
    assert len(NUMBERS) > 70
    assert "rollout.group_size" in NUMBERS
    assert "eval.greedy" not in NUMBERS


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_explained(name):
    meaning = SETTINGS[name].meaning
    assert len(re.findall(r"[A-Za-z_]{2,}", meaning)) >= 4, f"{name} says only: {meaning!r}"
    assert meaning[0].islower() or meaning.startswith(("`", "AdamW", "CPU")), meaning
    assert meaning.endswith((".", ".)")), meaning


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_states_its_range_and_it_is_true(name):
    said = range_of(SETTINGS[name].meaning)
    assert said is not None, (
        f"{name} states no range such as '1 or more', 'above 0' or '0 to 1': {SETTINGS[name].meaning}"
    )
    whole = int in {hint_of(name), *get_args(hint_of(name))}
    step = 1 if whole else 1e-3
    for (bound, outside), beyond in zip(said, (-step, step), strict=True):
        if bound is None:
            continue
        value = bound if outside else bound + beyond
        with pytest.raises(ConfigError, match=name.rpartition(".")[2]):
            from_data(RunConfig, given(name, int(value) if whole else value))
        if not outside and name not in TOGETHER:
            from_data(RunConfig, given(name, int(bound) if whole else bound))


def test_each_name_of_a_docstring_is_a_field():
    """A setting that was renamed, or went, is not explained any more."""
    assert set(meanings(OptimConfig)) == set(OptimConfig.__dataclass_fields__)
    for cls in {type(part) for part in _parts(RunConfig())}:
        assert set(meanings(cls)) == set(cls.__dataclass_fields__), cls


def _parts(config):
    yield config
    for name in config.__dataclass_fields__:
        if hasattr(getattr(config, name), "__dataclass_fields__"):
            yield from _parts(getattr(config, name))
