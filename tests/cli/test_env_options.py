"""`--env.OPTION VALUE`, and `--env.OPTION.NAME VALUE` for options that are mappings."""

from __future__ import annotations

import pytest

from stapo.cli.arguments import take_env_options
from stapo.cli.main import main
from stapo.errors import ConfigError


def test_names_of_a_mapping_are_given_one_by_one():
    given = ["--env.kwargs.map_name", "8x8", "--env.kwargs.is-slippery=false", "--env.max-steps", "9", "--env.id=X-v0"]
    assert take_env_options([*given, "--seed", "3"], "gymnasium") == (
        {"kwargs": {"map_name": "8x8", "is-slippery": False}, "max_steps": 9, "id": "X-v0"}, ["--seed", "3"],
    )  # fmt: skip


def test_the_table_of_options_shows_which_are_mappings(capsys):
    assert main(["envs", "openenv", "--env.url", "http://127.0.0.1:1"]) == 2
    assert "--env.reset.NAME " in capsys.readouterr().out


@pytest.mark.parametrize("given, said", [
    (["--env.kwargs", "x"], "--env.kwargs holds names; expected --env.kwargs.NAME VALUE."),
    (["--env.kwargs.", "x"], "holds names"),
    (["--env.kwargs.a"], "needs a value"),
    (["--env.goal.x", "3"], "the option 'goal' has no names in it; expected --env.goal VALUE."),
    (["--env.kwarg.x", "3"], "has no option 'kwarg'. Did you mean 'kwargs'?"),
])  # fmt: skip
def test_what_is_no_option_is_said(given, said):
    with pytest.raises(ConfigError) as caught:
        take_env_options(given, "gymnasium")
    assert said in str(caught.value)
