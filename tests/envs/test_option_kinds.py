"""Options of other types: one error that names the option, for every environment of ours and for those of others."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from stapo.envs.registry import ENVIRONMENTS, check_options, make, option_parameters, takes_mapping, wrong_kind
from stapo.envs.sokoban.env import SokobanEnv
from stapo.errors import ConfigError, EnvError

NEEDED = {"gymnasium": {"id": "FrozenLake-v1"}, "openenv": {"url": "http://127.0.0.1:1"}}


@pytest.mark.parametrize("name", ENVIRONMENTS.own_names())
def test_every_option_of_ours_refuses_other_types(name):
    for option in option_parameters(name):
        for wrong in (object(), [object()], 1j):
            with pytest.raises(ConfigError, match=f"^{option} is .*, expected "):
                check_options(name, {**NEEDED.get(name, {}), option: wrong})


@pytest.mark.parametrize("name, option, wrong, said", [
    ("alfworld", "scenes", ["x"], "scenes is ['x'], expected a text."),
    ("alfworld", "task_types", {"a": 1}, "task_types"),
    ("alfworld", "games_per_type", 10**30, "expected a whole number from 1 to 100,000"),
    ("search", "corpus", True, "corpus is True, expected a text or a path or null."),
    ("search", "seed", "abc", "seed is 'abc', expected a whole number."),
    ("search", "retriever_seconds", math.nan, "retriever_seconds is nan, expected a number above 0"),
    ("webshop", "size", b"tiny", "size is b'tiny', expected a text."),
    ("webshop", "verl_seed", -1, "verl_seed is -1, expected a whole number of 0 or more"),
    ("webshop", "catalog_products", 0, "catalog_products is 0, expected a whole number of 1 or more"),
    ("sokoban", "max_steps", 10**30, "expected a whole number from 1 to 9,223,372,036,854,775,807"),
    ("sokoban", "size", "8", "size is '8', expected a whole number from 5 to 10."),
])  # fmt: skip
def test_what_an_environment_cannot_use_is_said(name, option, wrong, said):
    with pytest.raises(ConfigError) as caught:
        make(name, **{option: wrong})
    assert said in str(caught.value)


class Fragile(SokobanEnv):
    """Of another package: it looks at nothing before it uses it."""

    def __init__(self, levels: int = 20, names: Any = None):
        super().__init__(levels=20 + 0 * len(range(levels)))
        if names == "broken":
            raise RuntimeError("the data is gone")


def test_environments_of_others_fail_in_one_line(monkeypatch):
    monkeypatch.setitem(ENVIRONMENTS._objects, "fragile", Fragile)
    with pytest.raises(ConfigError, match=r"^levels is 'x', expected a whole number"):
        make("fragile", levels="x")
    with pytest.raises(EnvError, match=r"^environment 'fragile' cannot be built: RuntimeError: the data is gone"):
        make("fragile", names="broken")
    # What they accept besides what they name is their affair.
    assert make("fragile", levels=True).tasks


def kinds(
    number: float = 0, count: int | None = None, flag: bool = False, word: Literal["a", "b"] = "a",
    names: Sequence[str] = (), path: str | os.PathLike[str] = "", table: Mapping[str, Any] | None = None, free: Any = 0,
):  # fmt: skip
    """An environment as far as its signature goes."""


@pytest.mark.parametrize("option, fits, not_", [
    ("number", (1, 0.5, math.inf), (True, "1", None)),
    ("count", (1, None), (1.0, False, "1")),
    ("flag", (True,), (1, "true")),
    ("word", ("b",), ("c", 1, ["a"])),
    ("names", (["x"], ("x",)), ("x", [1], {"x": 1})),
    ("path", ("x", os.curdir), (b"x", 3)),
    ("table", ({"a": object()}, None), ("a", [("a", 1)])),
    ("free", (object(), [1]), ()),
])  # fmt: skip
def test_types(option, fits, not_):
    assert not any(wrong_kind(kinds, {option: value}) for value in fits)
    assert all(wrong_kind(kinds, {option: value}).startswith(f"{option} is ") for value in not_)


def test_mappings_are_known():
    assert [name for name, option in option_parameters("openenv").items() if takes_mapping(option)] == [
        "reset", "heldout_reset",
    ]  # fmt: skip
