"""Whole runs, small: what they leave behind, what decides them, what must not, and that they learn.

1. A run leaves metrics, evaluations, transcripts and checkpoints that say what happened.
2. One seed, one run: nothing else differs but the clock.
3. STAPO with both weights at zero is GiGPO, bit for bit.
4. How rows are cut into batches does not change the run.
5. A number that is not finite stops the run with the iteration named; what was done so far is kept.
"""

from __future__ import annotations

import json
import math

import pytest
import torch

from slow import slow_except
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import NonFiniteError
from stapo.policy import load_policy
from stapo.run import RunDirectory
from stapo.training.callbacks import Callback, Callbacks
from stapo.training.loop import Trainer
from stapo.training.pipeline import train_run
from stapo.training.tasks import TaskStream
from toy_world import small_policy, toy_settings


def train(model, out, callbacks=(), **changes):
    """Train on the toy world; returns trainer and run directory."""
    config = from_data(RunConfig, toy_settings(model, **changes))
    run = RunDirectory.create(out, to_data(config), ["test"])
    trainer = Trainer(config, load_policy(str(model), config.model), run, Callbacks(callbacks))
    trainer.train()
    return trainer, run


def weights(trainer):
    return {k: v.clone() for k, v in trainer.policy.model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def rollout_text(run):
    """Everything that was said in the transcripts."""
    return [
        [(s["prompt"], s["response"], s["reward"]) for s in json.loads(line)["steps"]]
        for path in run.transcripts()
        for line in path.read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def done(toy_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "run"
    return train(
        toy_model, out, optim__iterations=3, eval__every=2, eval__quick_episodes=2, log__checkpoint_every=1,
        algorithm__outlier={"select": "all"}, algorithm__selective={"alpha": 0.1, "gamma": 0.1},
    )  # fmt: skip


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_a_metrics_row_per_iteration(done):
    _, run = done
    rows = run.rows("metrics")
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row["episodes"] == 8
        assert row["rows"] == 24
        assert sum(row["stop_reasons"].values()) == 8
        assert set(row["stop_reasons"]) == {"won", "failed", "step_limit", "prompt_too_long", "error"}
        assert 0 <= row["success"] <= 1
        assert row["entropy"]["mean"] > 0
        assert set(row["seconds"]) == {
            "generation", "environment", "advantages", "reference", "blind", "update", "total",
        }  # fmt: skip
        assert row["seconds"]["total"] >= row["seconds"]["generation"] > 0
        assert row["learning_rate"] == 0.01
    # Method notes, section 8.
    row = rows[-1]
    for key in ("valid_actions", "repeated_actions", "episode_length", "success_by_type", "unflagged_kl"):
        assert key in row
    outlier = {"flagged_share", "high_share", "low_share", "by_anchor_size", "singleton_share", "lower_fence", "iqr"}
    assert outlier <= set(row["outlier"])
    assert {"rows_by_size", "largest"} <= set(row["anchor"])
    selective = {"r_ta", "p_ti", "r_ta_capped", "p_ti_capped", "selective_clamped", "selective_gradient_ratio"}
    assert selective <= set(row["update"])
    assert {"ref_kl", "clip_high", "clip_low", "entropy", "grad_norm", "logprob_gap"} <= set(row["update"])
    assert row["outlier"]["acted_on"] == row["update"]["selective_rows"] == 24
    assert row["update"]["logprob_gap"] < 1e-4
    # Ratios start at 1 in each iteration: what was sampled is what is trained.
    assert sum(row["anchor"]["rows_by_size"].values()) == 24


def test_evaluations_at_start_end_and_in_between(done):
    _, run = done
    rows = run.rows("evals")
    assert [(r["iteration"], r["mode"], r["final"], r["episodes"]) for r in rows] == [
        (0, "sampled", True, 6), (0, "greedy", True, 6), (2, "sampled", False, 2), (2, "greedy", False, 2),
        (3, "sampled", True, 6), (3, "greedy", True, 6),
    ]  # fmt: skip
    assert rows[0]["protocol"] == (
        "6 episodes on 6 of the 6 tasks of split 'heldout' per seed, 1 seed (0), sampled at temperature 1"
    )
    assert set(rows[0]["by_type"]) == {"warm", "cold"}


def test_transcripts_hold_every_number_of_a_step(done):
    _, run = done
    assert [p.name for p in run.transcripts()] == [f"iteration-{i:05d}.jsonl" for i in (1, 2, 3)]
    records = [json.loads(line) for line in run.transcripts()[1].read_text().splitlines()]
    assert [(r["group"], r["member"]) for r in records] == [(0, m) for m in range(4)]
    for record in records:
        assert record["iteration"] == 2
        assert record["score"] == sum(s["reward"] for s in record["steps"])
        assert record["won"] == (record["stop_reason"] == "won")
        assert record["goal"] in record["steps"][0]["prompt"]
        for step in record["steps"]:
            assert record["goal"] not in step["blind_prompt"]
            assert step["acted_on"] is True
            for key in ("entropy", "normalized_entropy", "return", "advantage", "episode_advantage", "step_advantage"):
                assert math.isfinite(step[key])
            assert step["logprob"] < 0
            assert step["tokens"] >= 1


def test_checkpoints_can_be_loaded(done):
    trainer, run = done
    assert run.checkpoints() == ["start", "iteration-00001", "iteration-00002", "final"]
    start, final = (load_policy(str(run.checkpoint(n)), trainer.config.model) for n in ("start", "final"))
    assert same(final.model.state_dict(), trainer.policy.model.state_dict())
    assert not same(start.model.state_dict(), final.model.state_dict())


def test_somebody_may_look_on(toy_model, tmp_path):
    seen = []

    class Noting(Callback):
        def on_stage(self, event):
            seen.append((event.name, event.done, event.total))

        def on_update(self, event):
            seen.append(("iteration", event.iteration))

        def on_evaluation(self, event):
            seen.append(("evaluation", event.iteration, event.metrics["mode"]))

    _, run = train(toy_model, tmp_path / "run", [Noting()], optim__iterations=1, eval__greedy=False)
    assert [s for s in seen if s[0] in ("iteration", "evaluation")] == [
        ("evaluation", 0, "sampled"), ("iteration", 1), ("evaluation", 1, "sampled"),
    ]  # fmt: skip
    stages = {s[0]: s[1:] for s in seen if s[0] not in ("iteration", "evaluation")}
    assert stages == {"evaluation (sampled)": (6, 6), "rollout": (8, 8), "update": (2, 2)}
    assert len(run.rows("metrics")) == 1


def test_no_iterations_no_training(toy_model, tmp_path):
    trainer, run = train(toy_model, tmp_path / "run", optim__iterations=0)
    assert run.rows("metrics") == []
    assert run.checkpoints() == ["start", "final"]
    assert same(weights(trainer), small_policy().model.state_dict())
    assert [r["success"] for r in run.rows("evals")][:2] == [r["success"] for r in run.rows("evals")][2:]


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # tests/reliability/test_19_invariance.py has it of the whole command.
def test_one_seed_one_run(toy_model, tmp_path):
    (one, first), (two, second), (_, third) = (
        train(toy_model, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert same(weights(one), weights(two))
    assert without_times(first.rows("metrics")) == without_times(second.rows("metrics"))
    assert first.rows("evals") == second.rows("evals")
    assert [p.read_bytes() for p in first.transcripts()] == [p.read_bytes() for p in second.transcripts()]
    assert without_times(third.rows("metrics")) != without_times(first.rows("metrics"))


def test_torchs_own_random_numbers_play_no_part(toy_model, tmp_path):
    torch.manual_seed(1)
    one, _ = train(toy_model, tmp_path / "a")
    torch.manual_seed(2)
    two, _ = train(toy_model, tmp_path / "b")
    assert same(weights(one), weights(two))


def test_training_on_some_tasks_of_the_split(toy_model, tmp_path):
    trainer, run = start(toy_model, tmp_path / "run", rollout__tasks=1)
    trainer.iterate(1)
    trainer.iterate(2)
    assert len(trainer.environments[0].tasks.tasks) == 1
    played = {json.loads(line)["task_id"] for path in run.transcripts() for line in path.open()}
    assert played == set(trainer.environments[0].tasks.tasks)


def test_every_iteration_draws_anew(toy_model, tmp_path):
    """The same task in the same place under (all but) the same weights: what is said differs all the same."""
    trainer, run = start(toy_model, tmp_path / "run", optim__learning_rate=1e-12)
    trainer.environments[0].tasks = TaskStream(["toy/train/red"], 0)
    trainer.iterate(1)
    trainer.iterate(2)
    texts = rollout_text(run)
    assert len(texts) == 8
    assert [[said[0] for said in t][:1] for t in texts[:4]] == [[said[0] for said in t][:1] for t in texts[4:]]
    assert all(one != two for one, two in zip(texts[:4], texts[4:], strict=True))


def test_the_reference_is_a_frozen_copy_without_dropout(toy_model, tmp_path):
    config = from_data(RunConfig, toy_settings(toy_model))
    policy = load_policy(str(toy_model), config.model)
    policy.model.train()  # as SFT leaves it
    run = RunDirectory.create(tmp_path / "run", to_data(config), ["test"])
    reference = Trainer(config, policy, run).updater.scorer.reference
    assert reference is not policy.model
    assert not reference.training
    assert not any(p.requires_grad for p in reference.parameters())
    assert same(reference.state_dict(), policy.model.state_dict())
    gigpo = from_data(RunConfig, toy_settings(toy_model, algorithm={"name": "gigpo", "loss": {"beta": 0.0}}))
    run = RunDirectory.create(tmp_path / "other", to_data(gigpo), ["test"])
    assert Trainer(gigpo, policy, run).updater.scorer.reference is None


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_stapo_without_its_terms_is_gigpo_bit_for_bit(toy_model, tmp_path):
    changes = {"optim__iterations": 2, "optim__epochs": 2}
    gigpo, first = train(toy_model, tmp_path / "gigpo", algorithm__name="gigpo", **changes)
    off = {"alpha": 0.0, "gamma": 0.0}
    zero, second = train(toy_model, tmp_path / "zero", algorithm__selective=off, **changes)
    stapo, _ = train(
        toy_model, tmp_path / "stapo", algorithm__outlier={"select": "all"},
        algorithm__selective={"alpha": 0.1, "gamma": 0.1}, **changes,
    )  # fmt: skip
    assert same(weights(zero), weights(gigpo))
    states = [t.updater.optimizer.state_dict()["state"] for t in (zero, gigpo)]
    assert all(same(states[0][i], states[1][i]) for i in states[1])
    assert not same(weights(stapo), weights(gigpo))
    assert [row["update"] for row in second.rows("metrics")] == [row["update"] for row in first.rows("metrics")]
    assert rollout_text(first) == rollout_text(second)


# -- 4 -----------------------------------------------------------------------------------------------------------------


USUAL = {
    "algorithm__outlier": {"select": "all"}, "algorithm__selective": {"alpha": 0.1, "gamma": 0.1},
    "optim__learning_rate": 1e-3, "log__transcript_groups": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def usual(toy_model, tmp_path_factory):
    return train(toy_model, tmp_path_factory.mktemp("usual"), **USUAL)


CUTS = [{"optim__micro_tokens": 300}, {"rollout__batch_tokens": 300}, {"eval__batch": 2}, {"log__transcript_groups": 2}]


@pytest.mark.parametrize("changes", slow_except(CUTS, CUTS[1], CUTS[3]), ids=str)
def test_settings_that_must_not_change_the_run(toy_model, tmp_path, usual, changes):
    """Sums are added up in another order, so numbers may differ in their last digits; what is said may not."""
    one, first = usual
    two, second = train(toy_model, tmp_path / "b", **{**USUAL, **changes})
    said = rollout_text(second)
    if "log__transcript_groups" in changes:
        said = [t for i, t in enumerate(said) if i % 8 < 4]
    assert rollout_text(first) == said
    for a, b in zip(first.rows("metrics"), second.rows("metrics"), strict=True):
        for part in ("success", "entropy", "advantage", "anchor"):
            assert _close(a[part], b[part]), part
        assert a["update"]["loss"] == pytest.approx(b["update"]["loss"], abs=1e-4)
        assert a["update"]["r_ta"] == pytest.approx(b["update"]["r_ta"], rel=1e-3)
    assert [r["success"] for r in first.rows("evals")] == [r["success"] for r in second.rows("evals")]
    for name, weight in weights(one).items():
        assert torch.allclose(weight, weights(two)[name], atol=1e-4), name


def _close(one, two):
    if isinstance(one, dict):
        return all(_close(one[k], two[k]) for k in one)
    if isinstance(one, list):
        return all(_close(a, b) for a, b in zip(one, two, strict=True))
    return one == two or abs(one - two) < 1e-4


# -- 5 -----------------------------------------------------------------------------------------------------------------


def start(model, out, **changes):
    config = from_data(RunConfig, toy_settings(model, **changes))
    run = RunDirectory.create(out, to_data(config), ["test"])
    return Trainer(config, load_policy(str(model), config.model), run), run


def test_a_reward_that_is_not_finite(toy_model, tmp_path):
    trainer, run = start(toy_model, tmp_path / "run", env__options={"reward": math.nan})
    before = weights(trainer)
    with pytest.raises(NonFiniteError, match=r"iteration 1: the reward of step 3 of task 'toy/train/\w+' \(group \d"):
        trainer.train()
    assert same(weights(trainer), before)
    assert run.rows("metrics") == []


def test_an_update_that_is_not_finite_leaves_the_rows_behind(toy_model, tmp_path):
    trainer, run = start(toy_model, tmp_path / "run", log__transcript_every=0)
    trainer.iterate(1)
    before = weights(trainer)
    next(iter(trainer.policy.model.parameters())).register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(NonFiniteError, match="iteration 2: the gradient norm is nan at optimizer step 1"):
        trainer.iterate(2)
    assert same(weights(trainer), before)
    assert [row["iteration"] for row in run.rows("metrics")] == [1]
    assert [p.name for p in run.transcripts()] == ["iteration-00002.jsonl"]
    assert len(run.transcripts()[0].read_text().splitlines()) == 8


def test_weights_that_are_not_finite_stop_an_evaluation(toy_model, tmp_path):
    trainer, _ = start(toy_model, tmp_path / "run")
    with torch.no_grad():
        trainer.policy.model.model.norm.weight[0] = math.nan
    with pytest.raises(NonFiniteError, match="evaluation after 4 iterations: the policy's log-probabilities"):
        trainer.evaluate(4, final=False)


def test_a_run_that_fails_says_so_in_its_directory(toy_model, tmp_path):
    config = from_data(RunConfig, toy_settings(toy_model, env__options={"reward": math.nan}))
    with pytest.raises(NonFiniteError):
        train_run(config, tmp_path / "run", ["test"])
    info = RunDirectory.open(tmp_path / "run").info()
    assert info["status"] == "failed"
    assert info["reason"].startswith("NonFiniteError: iteration 1: the reward of step 3")


def test_a_run_that_is_interrupted_says_so_too(toy_model, tmp_path):
    class Impatient(Callback):
        def on_update(self, event):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(from_data(RunConfig, toy_settings(toy_model)), tmp_path / "run", ["test"], Callbacks([Impatient()]))
    run = RunDirectory.open(tmp_path / "run")
    assert (run.info()["status"], run.info()["reason"]) == ("stopped", "interrupted")
    assert len(run.rows("metrics")) == 1


# -- generated ALFWorld ------------------------------------------------------------------------------------------------


def test_generated_alfworld_from_nothing_to_a_finished_run(tmp_path):
    data = {
        "env": {"name": "alfworld", "options": {"scenes": "tiny", "games_per_type": 3, "max_steps": 5}},
        "agent": {"prompt": "compact", "response": "action", "max_prompt_tokens": 600, "max_response_tokens": 8},
        "model": {"architecture": "qwen3", "hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32,
                  "vocab_size": 400, "device": "cpu"},
        "sft": {"steps": 6, "episodes": 12, "batch_size": 8},
        "rollout": {"groups": 2, "group_size": 3, "anchor": "observation_and_admissible"},
        "optim": {"iterations": 2, "learning_rate": 1e-3},
        "eval": {"episodes": 6},
        "log": {"transcript_every": 1},
    }  # fmt: skip
    outcome = train_run(from_data(RunConfig, data), tmp_path / "run", ["test"])
    run = RunDirectory.open(tmp_path / "run")
    assert run.info()["status"] == "done"
    assert [row["iteration"] for row in run.rows("metrics")] == [1, 2]
    assert run.rows("sft")
    assert run.rows("evals") == outcome.evaluations
    assert [(r["iteration"], r["mode"]) for r in outcome.evaluations] == [
        (0, "sampled"), (0, "greedy"), (2, "sampled"), (2, "greedy"),
    ]  # fmt: skip
    assert set(outcome.seconds) == {"sft", "rl"}
    record = json.loads(run.transcripts()[0].read_text().splitlines()[0])
    assert record["goal"].rstrip(".") not in record["steps"][0]["blind_prompt"]
    assert record["task_id"].startswith("generated-tiny/train/")
