"""`rollout.correction` in a training whose sampler holds other weights than the trainer.

1. Without it nothing is read again, and the ratio is taken to what the sampler recorded.
2. With it old log-probabilities, entropies and flags are those of the trainer's own pass, so the ratio begins at 1, and
   the weights do to the loss what the mode says.
3. A sampler with the trainer's weights is left as it is.
"""

from __future__ import annotations

import math

import pytest
import torch

from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.errors import ConfigError
from stapo.policy import load_policy
from stapo.rollout.config import RolloutConfig
from stapo.rollout.sampler import HFSampler
from stapo.run import RunDirectory
from stapo.training.loop import Trainer
from stapo.training.metrics import correction_of
from toy_world import toy_settings

MODES = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


def one_iteration(tmp_path, toy_model, mode, *, perturbed=True, threshold=1.05):
    """The metrics row of an iteration, its steps, and the gradient's direction in the weights."""
    settings = toy_settings(
        toy_model, rollout__correction=mode, rollout__correction_threshold=threshold, optim__mini_batch=1000
    )
    config = from_data(RunConfig, settings)
    run = RunDirectory.create(tmp_path / f"{mode}-{threshold}", {}, [])
    trainer = Trainer(config, load_policy(str(toy_model), config.model), run)
    if perturbed:
        # The trainer's weights and some noise; what it draws it also records.
        other = load_policy(str(toy_model), config.model)
        with torch.no_grad():
            torch.manual_seed(3)
            for weight in other.model.parameters():
                weight += 0.05 * torch.randn_like(weight)
        trainer.collector.sampler = HFSampler(other.model, other.eos_ids, other.tokenizer.pad_token_id, 6)
    seen = []
    trainer.callbacks.batch = lambda iteration, batch: seen.append(batch)
    before = [p.detach().clone() for p in trainer.policy.model.parameters()]
    try:
        row = trainer.iterate(1)
    finally:
        trainer.close()
    moved = [(p.detach() - b).flatten() for p, b in zip(trainer.policy.model.parameters(), before, strict=True)]
    return row, seen[0], torch.cat(moved)


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_without_a_correction(tmp_path, toy_model):
    row, batch, _ = one_iteration(tmp_path, toy_model, "none")
    assert "mismatch" not in row
    assert "entropies" not in row["seconds"]
    assert all(step.old_logprobs == [] for step in batch.steps)
    assert abs(row["update"]["ratio"] - 1) > 1e-3
    assert row["update"]["old_kl"] > 1e-3


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_old_policy_is_the_trainers(tmp_path, toy_model, mode):
    row, batch, _ = one_iteration(tmp_path, toy_model, mode)
    plain, drawn, _ = one_iteration(tmp_path, toy_model, "none")
    assert row["update"]["ratio"] == pytest.approx(1, abs=1e-5)
    assert row["update"]["old_kl"] == pytest.approx(0, abs=1e-6)
    assert row["update"]["logprob_gap_mean"] == plain["update"]["logprob_gap_mean"] > 1e-2
    # The same episodes; their entropies are another policy's.
    assert [s.response_ids for s in batch.steps] == [s.response_ids for s in drawn.steps]
    assert batch.entropy_b.tolist() != drawn.entropy_b.tolist()
    policy = load_policy(str(toy_model), from_data(RunConfig, toy_settings(toy_model)).model)
    for step in batch.steps[::4]:
        with torch.no_grad():
            logits = policy.model(torch.tensor([step.prompt_ids + step.response_ids])).logits[0]
        logp = torch.log_softmax(logits[len(step.prompt_ids) - 1 : -1].float(), -1)
        own = logp[torch.arange(len(logp)), torch.tensor(step.response_ids)]
        assert step.old_logprobs == pytest.approx(own.tolist(), abs=1e-4)
        assert step.entropies == pytest.approx((-(logp.exp() * logp).sum(-1)).tolist(), abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_measured(tmp_path, toy_model, mode):
    row, batch, _ = one_iteration(tmp_path, toy_model, mode)
    found = row["mismatch"]
    rows = [
        [old - drawn for old, drawn in zip(s.old_logprobs, s.logprobs, strict=True)] for s in batch.steps
    ]  # log ratios
    tokens = [value for one in rows for value in one]
    assert found["kl"] == pytest.approx(-sum(tokens) / len(tokens), abs=1e-5)
    assert found["log_ppl_abs_diff"] == pytest.approx(sum(abs(sum(r) / len(r)) for r in rows) / len(rows), abs=1e-5)
    assert found["chi2_seq"] == pytest.approx(sum(math.exp(2 * sum(r)) for r in rows) / len(rows) - 1, rel=1e-3)
    sizes = tokens if mode.startswith("token") else [sum(r) for r in rows]
    assert found["truncated"] == pytest.approx(sum(v > math.log(1.05) for v in sizes) / len(sizes), abs=1e-6)
    assert 0 < found["truncated"] < 1
    assert 0 < found["ess"] < 1
    assert found["weight_mean"] < (1.05 if mode.endswith("truncate") else 1)


def test_modes_train_differently(tmp_path, toy_model):
    moved = {mode: one_iteration(tmp_path, toy_model, mode)[2] for mode in [*MODES, "none"]}
    for one in moved:
        for other in moved:
            assert torch.equal(moved[one], moved[other]) == (one == other)
    everything = one_iteration(tmp_path, toy_model, "sequence_mask", threshold=1e-9)
    assert everything[0]["mismatch"]["truncated"] == 1
    assert everything[0]["mismatch"]["weight_mean"] == 0


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask"])
def test_the_trainers_own_weights(tmp_path, toy_model, mode):
    plain, _, _ = one_iteration(tmp_path, toy_model, "none", perturbed=False)
    row, _, _ = one_iteration(tmp_path, toy_model, mode, perturbed=False)
    assert row["mismatch"]["truncated"] == 0
    assert row["mismatch"]["ess"] == pytest.approx(1, abs=1e-6)
    assert row["update"]["loss"] == pytest.approx(plain["update"]["loss"], abs=1e-5)
    assert row["outlier"]["flagged"] == plain["outlier"]["flagged"]


def test_settings():
    assert correction_of(RolloutConfig()) is None
    found = correction_of(RolloutConfig(correction="sequence_mask", correction_threshold=3.0))
    assert (found.level, found.beyond, found.threshold) == ("sequence", "mask", 3.0)
    with pytest.raises(ConfigError, match=r"expected one of none, .*Did you mean 'token_mask'"):
        RolloutConfig(correction="token_mas")
    with pytest.raises(ConfigError, match=r"correction_threshold is 0\.0, expected a number above 0"):
        RolloutConfig(correction_threshold=0.0)
