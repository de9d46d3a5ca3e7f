"""What a program that builds on this package uses: nothing here but public names of `stapo`."""

from __future__ import annotations

import inspect
import random
import threading
from importlib import import_module

import pytest

import stapo

SIGNATURES = {
    "load_config": "(source='tiny', *, algorithm=None, **overrides)",
    "train": "(config, out=None, *, callbacks=(), resume=True, fork=None)",
    "evaluate": "(target, *, config=None, split=None, episodes=0, k=1, seeds=None, temperature=None, "
    "checkpoint=None, environment=None, engine='transformers', env=None, agent=None, callbacks=(), "
    "save=False, record=None, won=False)",
    "export": "(source, out, *, won=False, chat=False, demonstrations=False)",
    "compare": "(variants, *, config='tiny', seeds=(0, 1, 2), starts=None, out=None, jobs=None, baseline=None, "
    "callbacks=(), **overrides)",
    "diagnose": "(run, against=None, *, checkpoints=('final',), environment=None, engine='transformers', split=None, "
    "tasks=None, group_size=None, seed=0, out=None, env=None, callbacks=())",
    "make": "(name, **options)",
    "check_env": "(env)",
    "Run": "(path)",
    "register_environment": "(name, obj=None)",
    "register_algorithm": "(algorithm)",
    "register_advantage_estimator": "(name, obj=None)",
    "register_step_credit": "(name, obj=None)",
    "register_step_score": "(name, obj=None)",
    "register_policy_loss": "(name, obj=None)",
    "register_prompt_style": "(name, obj=None)",
    "register_response_format": "(name, obj=None)",
    "register_retriever": "(name, obj=None)",
    "register_tracker": "(name, obj=None)",
}
ENV = {"scenes": "tiny", "games_per_type": 4, "max_steps": 3}
FAST = {
    "env.options": ENV,
    "model": {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "vocab_size": 400},
    "sft": {"steps": 4, "episodes": 12, "batch_size": 4},
    "rollout": {"groups": 2, "group_size": 3},
    "optim": {"iterations": 2, "mini_batch": 16},
    "eval": {"episodes": 4, "every": 0, "greedy": False},
}
NUMBERS = ("success", "loss", "grad_norm", "entropy", "learning_rate")


def bare(function):
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def numbers(run):
    return [{key: row.get(key) for key in NUMBERS} for row in run.metrics]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return stapo.train(
        stapo.load_config("tiny", seed=1, algorithm="gigpo", **FAST), tmp_path_factory.mktemp("api") / "a"
    )


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    assert bare(getattr(stapo, name)) == SIGNATURES[name]


def test_functions_stay_functions_whatever_is_imported():
    for module in ("training.loop", "comparison.plan", "diagnosis", "cli.main", "api.comparing"):
        import_module(f"stapo.{module}")
    assert all(callable(getattr(stapo, n)) for n in ("train", "compare", "diagnose", "evaluate", "load_config"))


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [{"optim.iterations": 3}, {"optim": {"iterations": 3}}, {"optim": {"learning_rate": 0.1}, "optim.iterations": 3}],
)
def test_overrides_are_dotted_or_nested(overrides):
    config = stapo.load_config("tiny", seed=1, **overrides)
    assert (config.seed, config.optim.iterations, config.optim.schedule) == (1, 3, "cosine")


def test_settings_are_made_from_presets_files_mappings_and_settings(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: tiny\nseed: 7\nrollout: {groups: 3}\n")
    file = stapo.load_config(tmp_path / "mine.yaml")
    assert file == stapo.load_config({"extends": "tiny", "seed": 7, "rollout": {"groups": 3}})
    assert file == stapo.load_config(stapo.load_config("tiny"), seed=7, rollout={"groups": 3})
    gigpo = stapo.load_config(file, algorithm="gigpo")
    assert (gigpo.algorithm.name, gigpo.seed, gigpo.algorithm.loss.beta) == ("gigpo", 7, file.algorithm.loss.beta)


def test_an_algorithm_may_be_changed_beside_its_name():
    config = stapo.load_config("tiny", algorithm={"name": "gigpo", "loss": {"beta": 0.5}})
    assert config == stapo.load_config("tiny", algorithm="gigpo", **{"algorithm.loss.beta": 0.5})
    assert (config.algorithm.name, config.algorithm.loss.beta) == ("gigpo", 0.5)


@pytest.mark.parametrize(
    "call, guess",
    [
        ({"optim.iteratons": 3}, "'iterations'"),
        ({"optim": {"iteratons": 3}}, "'iterations'"),
        ({"sed": 3}, "'seed'"),
        ({"algorithm": "gipgo"}, "'gigpo'"),
        ({"source": "tinny"}, "'tiny'"),
    ],
)
def test_misses_get_a_guess(call, guess):
    with pytest.raises(stapo.StapoError, match="Did you mean") as said:
        stapo.load_config(**call)
    assert guess in str(said.value)


@pytest.mark.parametrize("call", [{"optim..iterations": 3}, {"source": 3}, {"source": {"seed": -1}}, {"seed": "x"}])
def test_what_cannot_be_settings_is_an_error_of_ours(call):
    with pytest.raises(stapo.StapoError):
        stapo.load_config(**call)


def test_another_environment_takes_no_options_of_the_preset():
    config = stapo.load_config("tiny", env={"name": "search"})
    assert (config.env.name, config.env.options) == ("search", {})
    assert stapo.load_config("tiny", **{"env.options.max_steps": 4}).env.options["scenes"] == "tiny"


# -- train -------------------------------------------------------------------------------------------------------------


def test_a_run_is_trained_silently_and_read(run, capfd):
    assert (run.status, run.reason) == ("done", "")
    assert [row["iteration"] for row in run.metrics] == [1, 2]
    assert [(row["iteration"], row["mode"]) for row in run.evals] == [(0, "sampled"), (2, "sampled")]
    assert run.checkpoints == ["start", "final"]
    assert run.report.is_file()
    assert stapo.Run.open(run.path).config == run.config
    assert stapo.Run(run).path == run.path
    policy = run.policy()
    assert policy.model.num_parameters() > 0
    assert policy.tokenizer.decode(policy.tokenizer.encode("go to desk 1")).strip() == "go to desk 1"
    assert capfd.readouterr().out == ""


def test_training_in_a_thread_prints_nothing_and_leaves_the_process_as_it_was(run, tmp_path, capfd, monkeypatch):
    import torch
    from transformers.utils import logging

    found = {}
    monkeypatch.setattr(logging, "_tqdm_active", True)  # as in a program of one's own

    def work():
        found["run"] = stapo.train(stapo.load_config("tiny", seed=1, algorithm="gigpo", **FAST), tmp_path / "run")

    random.seed(5)
    threads, state, generator = torch.get_num_threads(), torch.get_rng_state(), random.getstate()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert numbers(found["run"]) == numbers(run)
    assert capfd.readouterr() == ("", "")
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == generator


class Enough(stapo.Callback):
    def on_update(self, event):
        raise stapo.StopTraining("seen enough")


def test_a_stopped_run_is_returned_and_the_same_call_resumes_it(run, tmp_path):
    config = stapo.load_config("tiny", seed=1, algorithm="gigpo", **FAST)
    stopped = stapo.train(config, tmp_path / "run", callbacks=[Enough()])
    assert (stopped.status, len(stopped.metrics)) == ("stopped", 1)
    assert "seen enough" in stopped.reason
    with pytest.raises(stapo.StapoError, match="exists already"):
        stapo.train(config, tmp_path / "run", resume=False)
    assert numbers(stapo.train(config, tmp_path / "run")) == numbers(run)


def test_an_interrupted_run_raises_what_ctrl_c_raises(tmp_path):
    class Interrupting(stapo.Callback):
        def on_update(self, event):
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        stapo.train(stapo.load_config("tiny", **FAST), tmp_path / "run", callbacks=[Interrupting()])
    stopped = stapo.Run(tmp_path / "run")
    assert (stopped.status, len(stopped.metrics)) == ("stopped", 1)


def test_without_a_folder_runs_go_where_those_of_the_command_line_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = stapo.load_config("tiny", **FAST, **{"eval.at_start": False})
    first = stapo.train(config, callbacks=[Enough()])
    assert str(first.path).startswith("runs/alfworld-stapo-")
    assert stapo.train(config).path == first.path


# -- evaluate, diagnose, compare ---------------------------------------------------------------------------------------


def test_a_run_its_folder_and_its_checkpoint_are_evaluated_alike(run):
    one, two, three = (
        stapo.evaluate(target, split="heldout", episodes=4, seeds=[0])
        for target in (run, str(run.path), run.path / "checkpoints" / "final")
    )
    assert one.document == two.document == three.document
    assert 0 <= one.success <= 1
    assert one.success_by_seed == {0: one.success}
    with pytest.raises(stapo.ConfigError, match="each once"):
        stapo.evaluate(run, episodes=1, seeds=[0, 0])
    assert (one.document["episodes"], one.task_score, one.error) == (4, None, None)


def test_a_model_is_evaluated_with_settings(run):
    model = run.path / "checkpoints" / "start"
    result = stapo.evaluate(model, episodes=3, seeds=[4], temperature=0, env={"max_steps": 2})
    assert result.document["mode"] == "greedy"
    assert result.document["environment"]["max_steps"] == 2
    with pytest.raises(stapo.ConfigError, match="give config"):
        stapo.evaluate(run.path.parent)
    with pytest.raises(stapo.ConfigError, match="Endpoint"):
        stapo.evaluate("http://127.0.0.1:9/v1", config="tiny")


@pytest.mark.parametrize(
    "options", [{"split": "heldot"}, {"checkpoint": "finl"}, {"env": {"max_step": 1}}, {"agent": {"promt": "compact"}}]
)
def test_misses_of_an_evaluation_get_a_guess(run, options):
    with pytest.raises(stapo.StapoError, match="Did you mean"):
        stapo.evaluate(run, episodes=1, **options)


def test_pass_at_k_of_a_run(run):
    result = stapo.evaluate(run, episodes=3, k=2)
    assert (result.document["episodes"], result.document["seeds"]) == (6, [0])
    assert list(result.pass_at) == [1, 2]
    assert result.pass_at[1] == (pytest.approx(result.success), *result.success_interval)
    assert result.pass_at[2][0] >= result.success
    with pytest.raises(stapo.ConfigError, match="k is 0"):
        stapo.evaluate(run, k=0)


def test_a_saved_evaluation_is_in_the_run(run):
    result = stapo.evaluate(run, episodes=2, seeds=[0], save=True)
    assert str(result.document["success"]) in (run.path / "extra-evals.jsonl").read_text()


def test_a_policy_is_diagnosed_and_another_beside_it(run, tmp_path):
    class Stages(stapo.Callback):
        names: list = []  # noqa: RUF012

        def on_stage(self, event):
            self.names.append(event.name)

    first, second = stapo.diagnose(
        run, checkpoints=["start", "final"], tasks=2, group_size=2, out=tmp_path / "d", callbacks=[Stages()]
    )
    assert first.path == tmp_path / "d" / "start"
    assert (second.path / "diagnosis.html").is_file()
    assert "minus_first" in second.document
    assert "scoring" in Stages.names
    with pytest.raises(stapo.StapoError, match="Did you mean"):
        stapo.diagnose(run, checkpoints=["finl"])


@pytest.mark.slow
def test_algorithms_and_settings_are_compared(tmp_path):
    fast = {**FAST, "optim.iterations": 1}
    found = stapo.compare(["grpo", "gigpo"], seeds=[0], out=tmp_path / "c", jobs=2, **fast)
    assert found.complete
    assert list(found.variants) == ["grpo", "gigpo"]
    assert found.report.is_file()
    again = stapo.compare(["grpo", "gigpo"], seeds=[0], out=tmp_path / "c", **fast)
    assert again.document["variants"] == found.document["variants"]


@pytest.mark.parametrize(
    "variants, said",
    [
        ([], "at least one of each"),
        ("grpo", "expected a list"),
        (["grp"], "Did you mean 'grpo'"),
        (["grpo", "grpo"], "grpo"),
    ],
)
def test_what_cannot_be_compared(variants, said, tmp_path):
    with pytest.raises(stapo.StapoError, match=said):
        stapo.compare(variants, seeds=[0], out=tmp_path / "c")


def test_variants_that_share_too_little_are_refused(tmp_path):
    one, other = (stapo.load_config("tiny", **{**FAST, "sft.steps": steps}) for steps in (4, 5))
    with pytest.raises(stapo.ConfigError, match=r"sft\.steps"):
        stapo.compare([one, other], out=tmp_path / "c")
    assert not (tmp_path / "c").exists()
