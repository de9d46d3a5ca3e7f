"""The probe of a dry run: the model of the run itself, timed by the code that the run will use."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch

import stapo
from stapo.cli.dry_run import overhead_of, shape_of_run, workload
from stapo.cli.expected_episodes import Episodes, expect, half_of_limits
from stapo.cli.main import main
from stapo.cli.probe import Probed, probe
from stapo.config.run_config import RunConfig
from stapo.estimate.costs import within_budget
from stapo.estimate.whole import measured_seconds, run_seconds

SMALL = {"model": {"dtype": "float32"}, "log": {"threads": 1}}


def probed(config: RunConfig, seen: Episodes | None = None) -> tuple[Episodes, Probed]:
    seen = seen or expect(config)
    return seen, probe(config, seen, within_budget(shape_of_run(config), workload(config, seen)))


def test_a_model_that_is_built_is_timed_as_it_will_be_used():
    config = stapo.load_config("tiny-conversation", **SMALL)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    seen, found = probed(config)
    speed = found.speed
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert 0 < speed.scored < speed.train
    assert min(speed.read, speed.step + speed.answered, speed.sft, found.step_seconds, found.encode_seconds) > 0
    # A step of SFT reads some 1,200 tokens, and does not take as long as a token that is read alone.
    tokens = seen.imitated * config.sft.batch_size
    assert speed.scored * tokens / 20 < speed.sft < 100 * speed.train * tokens


def test_responses_that_begin_with_what_is_forced_are_timed_from_their_first_choice():
    """In WebShop every command begins with the tokens of 'search[' or 'click[', for which the model is not asked."""
    given = {
        "env.name": "webshop", "env.options": {"size": "tiny", "catalog_products": 120, "page_size": 4, "max_steps": 6},
        "agent.response": "action", "agent.decode": "constrained", "sft.episodes": 8, "sft.steps": 1,
        "eval.split": "test", "agent.hidden_commands": ["click[search]"], "model.tokenizer": "words",
    }  # fmt: skip
    config = stapo.load_config("tiny-conversation", **SMALL, **given)
    seen, found = probed(config)
    speed = found.speed
    assert seen.demos
    assert 0 < speed.read < 10 * speed.scored
    assert speed.step + speed.answered > 0


def test_a_model_without_demonstrations_is_timed_on_prompts_of_the_expected_length(toy_model):
    config = stapo.load_config("tiny", **SMALL, **{"model.path": str(toy_model), "sft.steps": 0})
    _, found = probed(config, half_of_limits(config))
    assert 0 < found.speed.scored < found.speed.train
    assert (found.step_seconds, found.encode_seconds, found.speed.sft) == (0.0, 0.0, 0.0)


def test_what_cannot_be_loaded_is_measured_by_its_shape_and_said(tmp_path, capsys):
    sizes = {"model_type": "llama", "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    (tmp_path / "config.json").write_text(json.dumps({**sizes, "num_hidden_layers": 1, "vocab_size": 400}))
    given = ["train", "tiny", "--model.path", str(tmp_path), "--sft.steps", "0", "--dry-run"]
    assert main(given) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "speed: measured here with a layer of the model's shape, not with the model: " in err
    assert main([*given, "--no-probe"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "speed: assumed, from a data sheet" in err
    assert "estimate for cpu, " in err
    assert err.index("estimate for cpu") < err.index("h100: fits")


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "tiny-conversation"])
def test_runs_take_as_long_as_was_said(preset, tmp_path, monkeypatch):
    """By the time that the thread computes, so that other processes do not matter; caches may differ."""
    given = {
        "optim.iterations": 3, "rollout.groups": 8, "sft.steps": 100, "sft.episodes": 100, "eval.episodes": 16,
        "eval.greedy": False, "eval.at_start": False,
    }  # fmt: skip
    config = stapo.load_config(preset, **SMALL, **given)
    seen, found = probed(config)
    shape = shape_of_run(config)
    work = replace(within_budget(shape, workload(config, seen)), step_seconds=found.step_seconds)
    said = measured_seconds(work, found.speed)
    stages = run_seconds(shape, work, overhead_of(config, seen), found.speed)
    monkeypatch.setattr(time, "perf_counter", time.thread_time)
    run = stapo.train(config, tmp_path / "run")
    # The first iteration builds its environments; of the others, the one that other processes have disturbed least.
    took = min((row["seconds"] for row in run.metrics[1:]), key=lambda seconds: seconds["total"])
    assert 0.5 < said["iteration"] / took["total"] < 2
    assert 0.5 < said["generation"] / took["generation"] < 2
    encoded = found.encode_seconds * seen.demonstrated
    assert 0.5 < (stages["SFT"] + stages["demonstrations"] + encoded) / run.directory.info()["seconds"]["sft"] < 2
