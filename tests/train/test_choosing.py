"""Evaluation sets, the best policy, and ending early.

1. Each set is played in its own way, and no set but `keep_best`'s takes part in the choice.
2. The checkpoint `best` has the weights of the best evaluation; `keep_saves` never removes it.
3. A run that was cut short between evaluation and save chooses as it would have chosen undisturbed.
4. Saved first, then ended: by `stop_at` and by `patience`; a run that ended early can be made longer.
5. A number that cannot be had fails before anything is trained, and the error lists those that can.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from safetensors.torch import load_file

from slow import slow_except
from stapo.cli.arguments import resolve
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.config.training import EvalConfig
from stapo.envs import check_env
from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import ConfigError, EnvError
from stapo.run import RunDirectory
from stapo.training.callbacks import Callback, Callbacks
from stapo.training.evaluations import Choice, choose, early_end
from stapo.training.pipeline import train_run
from toy_world import ToyEnv, toy_settings

SETS = {
    "unseen": {"split": "heldout", "episodes": 12},
    "seen": {"split": "train", "tasks": 4, "episodes": 8, "temperature": 0.7, "top_p": 0.9, "top_k": 40},
}


def settings(model, **changes):
    given = {"optim__iterations": 4, "eval__every": 1, "log__keep_saves": 1}
    given |= {"eval__sets": SETS, "eval__keep_best": "seen.success"} | changes
    return from_data(RunConfig, toy_settings(model, **given))


def train(model, out, callbacks=(), **changes):
    return train_run(settings(model, **changes), out, ["test"], Callbacks(callbacks)).run


def weights(run, name):
    return (run.checkpoint(name) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def done(toy_model, tmp_path_factory):
    return train(toy_model, tmp_path_factory.mktemp("done") / "run", log__checkpoint_every=1)


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_every_set_is_played_in_its_own_way(done):
    rows = done.rows("evals")
    assert [(r["iteration"], r["mode"], r["final"]) for r in rows] == [
        (i, mode, i in (0, 4)) for i in range(5) for mode in ("unseen", "seen")
    ]
    assert rows[0]["protocol"] == (
        "12 episodes on 6 of the 6 tasks of split 'heldout' per seed, 1 seed (0), sampled at temperature 1"
    )
    assert rows[1]["protocol"] == (
        "8 episodes on 4 of the 6 tasks of split 'train' per seed, 1 seed (0), sampled at temperature 0.7, top_p 0.9, "
        "top_k 40"
    )


def test_tasks_that_are_played_twice_have_pass_at_k(done):
    for row in done.rows("evals"):
        assert list(row["pass_at"]) == ["1", "2"]
        assert row["pass_at"]["1"][0] == pytest.approx(row["success"])
        assert row["pass_at"]["2"][0] >= row["success"]


def rows_of(*values):
    """Rows of the sets `a` and `b`; each value is (a, b)."""
    at = enumerate(values)
    return [
        {"iteration": i, "mode": m, "episodes": 100, "success": v, "success_standard_error": 0.05}
        for i, both in at
        for m, v in zip("ab", both, strict=True)
    ]


AB = {"sets": from_data(EvalConfig, {"sets": {"a": {}, "b": {}}}).sets, "keep_best": "a.success"}


def test_the_largest_is_chosen_and_the_other_set_only_reported():
    rows = rows_of((0.5, 0.9), (0.6, 0.4), (0.6, 0.8), (0.2, 1.0))
    found = choose(rows, EvalConfig(**AB))
    assert (found.iteration, found.value, found.evaluations, found.since) == (1, 0.6, 4, 2)
    assert found.reported == {"b": (0.4, 0.05)}
    # 1.0294 is the mean of the largest of four standard normal numbers (Harter, Biometrika 48, 1961).
    assert found.optimism == pytest.approx(1.0294 * (0.6 * 0.4 / 100) ** 0.5, rel=1e-3)
    assert "of 4 evaluations" in found.said("a.success")
    assert choose([], EvalConfig(**AB)) is None


def test_patience_and_the_goal():
    def why(choice, **given):
        return early_end(choice, EvalConfig(**AB, **given))

    found = choose(rows_of((0.5, 0), (0.6, 0), (0.5, 0), (0.5, 0)), EvalConfig(**AB))
    assert why(found) == why(None, patience=1) == why(found, patience=3) == why(found, stop_at=0.7) == ""
    assert "no new best in 2 evaluations" in why(found, patience=2)
    assert "a.success reached 0.600" in why(found, stop_at=0.6)
    assert isinstance(found, Choice)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_best_has_the_weights_of_the_best_evaluation(done):
    seen = [r["success"] for r in done.rows("evals") if r["mode"] == "seen"]
    best = seen.index(max(seen))
    info = done.info()
    assert (info["best"]["iteration"], info["best"]["value"]) == (best, seen[best])
    assert list(info["best"]["reported"]) == ["unseen"]
    assert best > 0, "the toy policy did not learn; nothing is shown"
    assert weights(done, "best") == weights(done, f"iteration-{best:05d}" if best < 4 else "final")
    assert len(done.saves.complete()) == 1
    assert "best" in done.checkpoints()


# -- 3 -----------------------------------------------------------------------------------------------------------------


class CutShort(Callback):
    """Ends the process's run where a kill would: within an evaluation, or before the save behind it."""

    def __init__(self, iteration, mode):
        self.at = (iteration, mode)

    def on_evaluation(self, event):
        if (event.iteration, event.metrics["mode"]) == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("mode", slow_except(["unseen", "seen"], "unseen"))
def test_cut_short_it_chooses_the_same(done, toy_model, tmp_path, mode):
    best = done.info()["best"]["iteration"]
    with pytest.raises(KeyboardInterrupt):
        train(toy_model, tmp_path / "run", [CutShort(best, mode)], log__checkpoint_every=1)
    run = train(toy_model, tmp_path / "run", log__checkpoint_every=1)
    assert run.rows("evals") == done.rows("evals")
    assert run.info()["best"] == done.info()["best"]
    assert weights(run, "best") == weights(done, "best")


def test_the_best_policy_is_written_again_where_a_kill_came_before_it(done, toy_model, tmp_path):
    """Behind the save and before the checkpoint: the save has the best policy's weights."""
    best = done.info()["best"]["iteration"]

    class Killed(Callback):
        def on_save(self, event):
            rows = RunDirectory(tmp_path / "run").rows("evals")
            if rows and rows[-1]["iteration"] == best and event.iteration == best:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(toy_model, tmp_path / "run", [Killed()], log__checkpoint_every=1)
    run = train(toy_model, tmp_path / "run", log__checkpoint_every=1)
    assert weights(run, "best") == weights(done, "best")


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_it_ends_early_with_everything_saved_and_can_be_made_longer(done, toy_model, tmp_path):
    seen = [r["success"] for r in done.rows("evals") if r["mode"] == "seen"]
    goal = seen[done.info()["best"]["iteration"]]
    first = next(i for i, value in enumerate(seen) if value >= goal)
    assert first < 4, "the goal was met by the last evaluation; nothing is shown"
    run = train(toy_model, tmp_path / "run", eval__stop_at=goal, log__checkpoint_every=1)
    info = run.info()
    assert (info["status"], info["ended_at"]) == ("done", first)
    assert "eval.stop_at" in info["ended_early"]
    assert [r["final"] for r in run.rows("evals")][-2:] == [True, True]
    assert len(run.rows("metrics")) == first
    assert weights(run, "final") == weights(run, "best") == weights(done, "best")
    assert load_file(run.saves.complete()[0] / "policy" / "model.safetensors")
    again = train_run(settings(toy_model, eval__stop_at=goal, log__checkpoint_every=1), run.path, ["test"])
    assert again.was_finished
    longer = train(toy_model, run.path, log__checkpoint_every=1)
    assert longer.info()["best"]["iteration"] == done.info()["best"]["iteration"]
    assert weights(longer, "final") == weights(done, "final")


# -- 5 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, said",
    [
        (
            {"keep_best": "seen.sucess"},
            "expected one of unseen.success, unseen.task_score, unseen.pass@K, seen.success",
        ),
        ({"keep_best": "heldout.success"}, "expected one of unseen.success"),
        ({"keep_best": "seen.success", "sets": {}}, "eval.sets names no set"),
        ({"keep_best": "", "patience": 2}, "eval.patience is 2, and eval.keep_best names no number"),
        ({"stop_at": 1.5}, "eval.stop_at is 1.5, expected a number from 0 to 1"),
        ({"sets": {"a b": {}}}, "eval.sets names a set 'a b'"),
        ({"sets": {"seen": {"top_p": 0.0}}}, "eval.sets.seen.top_p is 0.0, expected a number above 0, at most 1"),
        ({"sets": {"seen": {"min_p": 2}}}, "eval.sets.seen.min_p is 2.0, expected a number from 0 to 1"),
        ({"sets": {"seen": {"slit": "train"}}}, "unknown key 'eval.sets.seen.slit'. Did you mean 'split'?"),
        ({"sets": {"seen": 3}}, "eval.sets.seen is 3, expected a mapping"),
    ],
)
def test_settings_that_fit_nothing_are_refused(toy_model, given, said):
    with pytest.raises(ConfigError) as err:
        settings(toy_model, **{f"eval__{name}": value for name, value in given.items()})
    assert said in str(err.value)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"keep_best": "seen.pass@4"}, "plays each of 4 tasks 2 times"),
        ({"keep_best": "seen.pass@4"}, "unseen.success, unseen.pass@2, seen.success"),
        (
            {"keep_best": "seen.task_score"},
            "do not measure; expected one of unseen.success, unseen.pass@2, seen.success, seen.pass@2.",
        ),
        ({"keep_best": "seen.task_score", "stop_at": 0.5}, "eval.keep_best is 'seen.task_score'"),
        ({"sets": {"seen": {"split": "sen"}}}, "split 'sen'"),
    ],
)
def test_what_the_environment_cannot_give_fails_before_training(toy_model, tmp_path, given, said):
    with pytest.raises((ConfigError, KeyError)) as err:
        train(toy_model, tmp_path / "run", **{f"eval__{name}": value for name, value in given.items()})
    assert said in str(err.value)
    assert not (tmp_path / "run").exists()


class GradedEnv(ToyEnv):
    """Judges by degrees: the share of the sayings that were even."""

    has_task_score = True

    def step(self, action):
        out = super().step(action)
        if not out.done:
            return out
        return replace(out, info=out.info | {"task_score": sum(len(s) % 2 == 0 for s in self.said) / 3})


def test_an_environment_that_judges_by_degrees_is_chosen_by_its_score(toy_model, tmp_path, monkeypatch):
    config = settings(toy_model, eval__keep_best="seen.task_score", optim__iterations=1)
    monkeypatch.setattr(ENVIRONMENTS, "_objects", {**ENVIRONMENTS._objects, "toy": GradedEnv})
    run = train_run(config, tmp_path / "run", ["test"]).run
    scores = {r["iteration"]: r["task_score"] for r in run.rows("evals") if r["mode"] == "seen"}
    assert run.info()["best"]["value"] == max(scores.values())
    assert all(0 < score < 1 for score in scores.values())


def test_several_environments_have_no_score_in_common(toy_model, tmp_path, monkeypatch):
    given = to_data(settings(toy_model, eval__keep_best="seen.task_score"))
    monkeypatch.setattr(ENVIRONMENTS, "_objects", {**ENVIRONMENTS._objects, "toy": GradedEnv})
    del given["env"]
    config = from_data(RunConfig, {**given, "envs": {"one": {"name": "toy"}, "two": {"name": "toy"}}})
    with pytest.raises(ConfigError, match=r"do not measure; expected one of unseen\.success"):
        train_run(config, tmp_path / "run", ["test"])


def test_the_check_of_environments_wants_both_or_neither():
    class Unsaid(GradedEnv):
        has_task_score = False

    class Ungiven(ToyEnv):
        has_task_score = True

    with pytest.raises(EnvError) as other:  # the toy world breaks other rules
        check_env(GradedEnv())
    assert "task_score" not in str(other.value)
    with pytest.raises(EnvError, match="expected has_task_score = True in the class"):
        check_env(Unsaid())
    with pytest.raises(EnvError, match=r"found an end without info\['task_score'\]"):
        check_env(Ungiven())


def test_settings_survive_being_written_down(toy_model):
    config = settings(toy_model)
    assert from_data(RunConfig, to_data(config)) == config


def test_sets_are_given_on_the_command_line():
    words = "--eval.sets.seen.split train --eval.sets.seen.top-p 0.9 --eval.keep-best seen.success --eval.patience 2"
    config = resolve("tiny", None, words.split(), "train")[0]
    assert (config.eval.sets["seen"].split, config.eval.sets["seen"].top_p) == ("train", 0.9)
    assert config.eval.chosen == ("seen", "success")
    with pytest.raises(ConfigError, match=r"--eval\.sets\.seen\.slit"):
        resolve("tiny", None, ["--eval.sets.seen.slit", "train"], "train")
