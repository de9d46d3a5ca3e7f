"""Conversations that cannot go well: each is one message, or a step that is counted.

1. Prompts that become too long lose turns, and both are counted; a first prompt that never fits stops the run.
2. A page that does not fit ends its episode; what was played before is trained on.
3. Demonstrations that are longer than the limits are named, and so is a policy that nobody told the commands.
4. Settings that exclude each other are refused before anything is played.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from stapo.cli.main import main
from stapo.config.presets import load_config
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import StapoError
from stapo.policy import load_policy
from stapo.run import RunDirectory
from stapo.training.callbacks import Callback, Callbacks
from stapo.training.loop import Trainer
from stapo.training.preparation import prepare_policy
from toy_world import LongEnv, ToyEnv, toy_settings


class EndlessPage(ToyEnv):
    """The toy world; what follows the second saying is a page that no prompt holds."""

    name = "toy-page"

    def step(self, action):
        out = super().step(action)
        return replace(out, text="page " * 400) if len(self.said) == 2 else out


class Notices(Callback):
    """Keeps what a person was told."""

    def __init__(self):
        self.said = []

    def on_notice(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True)
def registered():
    ENVIRONMENTS.register("toy-page", EndlessPage)
    ENVIRONMENTS.register("toy-long", LongEnv)


def trained(model, folder, **changes):
    settings = toy_settings(model, agent__prompt="conversation", eval__at_start=False, **changes)
    config = from_data(RunConfig, settings)
    run = RunDirectory.create(folder / "run", to_data(config), ["test"])
    Trainer(config, load_policy(str(model), config.model), run, Callbacks([])).train()
    return list(run.rows("metrics"))


def prepared(folder, config):
    run = RunDirectory.create(folder / "run", to_data(config), ["test"])
    notices = Notices()
    prepare_policy(config, run, Callbacks([notices]))
    return notices.said


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_a_short_context_loses_turns_and_counts_them(toy_model, tmp_path):
    for row in trained(toy_model, tmp_path, env__name="toy-long", agent__max_prompt_tokens=180):
        assert row["stop_reasons"]["prompt_too_long"] == 0
        assert row["sequences"]["forgotten_turns"] >= row["sequences"]["breaks"]["prompt"] > 0
        assert row["sequences"]["count"] == row["episodes"] + row["sequences"]["breaks"]["prompt"]


def test_a_first_prompt_that_never_fits_stops_the_run(toy_model, tmp_path):
    with pytest.raises(StapoError, match=r"agent\.max_prompt_tokens \(40\)"):
        trained(toy_model, tmp_path, agent__max_prompt_tokens=40)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_a_page_that_does_not_fit_ends_its_episode(toy_model, tmp_path):
    rows = trained(toy_model, tmp_path, env__name="toy-page", agent__max_prompt_tokens=400)
    for row in rows:
        assert row["stop_reasons"]["prompt_too_long"] == row["episodes"] == 8
        assert (row["rows"], row["episode_length"]) == (16, 2)


def test_a_page_that_is_cut_is_counted(toy_model, tmp_path):
    rows = trained(
        toy_model, tmp_path, env__name="toy-page", agent__max_prompt_tokens=400, agent__max_observation_characters=40
    )
    for row in rows:
        assert row["stop_reasons"]["prompt_too_long"] == 0
        assert row["cut_texts"] >= row["episodes"]


# -- 3 -----------------------------------------------------------------------------------------------------------------


def tiny(agent, **sft):
    values = {"agent": agent, "sft": {"steps": 1, "episodes": 6, "stop_at": 1.0, **sft}, "model": {"dtype": "float32"}}
    return load_config("tiny", None, values)


def test_demonstrations_beyond_the_limits_are_named(tmp_path):
    (prompts,) = prepared(tmp_path, tiny({"prompt": "conversation", "max_prompt_tokens": 128}))
    assert "agent.max_prompt_tokens (128)" in prompts
    (responses,) = prepared(tmp_path / "b", tiny({"response": "think_action", "max_response_tokens": 4}))
    assert "agent.max_response_tokens (4)" in responses
    assert prepared(tmp_path / "c", tiny({})) == []


def test_a_policy_that_nobody_told_the_commands_is_named(toy_model, tmp_path):
    config = from_data(RunConfig, toy_settings(toy_model, agent__prompt="conversation", agent__list_commands="never"))
    (said,) = prepared(tmp_path, config)
    assert "agent.list_commands is never" in said
    told = replace(config, agent=replace(config.agent, list_commands="auto"))
    assert prepared(tmp_path / "b", told) == []


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["--agent.decode", "constrained", "--agent.response", "think_action"], "agent.decode"),
        (["--agent.response", "choice", "--agent.list-commands", "never"], "agent.list_commands"),
        (["--agent.list-commands", "sometimes"], "every_turn"),
        (["--agent.mark-goal-words"], "agent.mark_goal_words"),
    ],
)
def test_settings_that_exclude_each_other_are_one_line(settings, named, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "tiny", "--agent.prompt", "conversation", *settings, "--out", str(run)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: ")
    assert named in said[0]
    assert not run.exists()
