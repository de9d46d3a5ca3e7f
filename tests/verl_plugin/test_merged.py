"""Rows of several steps, from the credit to the gradient, by the plugin's own head and loss; nothing here needs verl.

1. Merged and unmerged rows give the log-probabilities, the loss and the gradient of the embedded engine, for every
   aggregation and for ratios of sequences; with padding, in any order, cut into micro-batches.
2. What is planted is found: the advantage, the blind prompt or the reference of another step, numbers of steps off by
   one.
3. A correction for the rollout server weighs steps as the embedded engine does, whatever shares their row.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from random_episodes import batch_of_episodes
from slow import slow_except
from stapo.algo import Correction
from stapo.config.training import OptimConfig
from stapo.errors import EngineError
from stapo.training.batch import build_batch, rows_of
from stapo.training.update import Updater, _Call
from stapo.verl_plugin.fields import BLIND_IDS, BLIND_LENGTHS, SAMPLED, STEP, TRAJECTORY, TRAJECTORY_STEPS, ragged_rows
from stapo.verl_plugin.head import CapturingHead, FlaggedSteps, ScoringHead, standing_in
from stapo.verl_plugin.objective import Totals, own_counts, rows_objective, steps_per_trajectory
from stapo.verl_plugin.steps import Micro, Sequences, Steps
from toy_world import small_policy
from verl_rows import padded, shuffled, verl_columns, verl_rows, with_flags

ALGORITHMS = {
    "grpo": with_flags(5, "grpo"),
    "gigpo": with_flags(5, "gigpo"),
    "stapo": with_flags(5, "stapo"),
    "stapo-all-steps": with_flags(5, "stapo-all-steps"),
    "gspo": with_flags(5, "gspo"),
    "token": with_flags(5, "stapo", aggregation="token"),
    "step": with_flags(5, "stapo", aggregation="step"),
    "trajectory": with_flags(5, "stapo", aggregation="trajectory"),
    "sequence": with_flags(5, "stapo", aggregation="sequence-sum-norm", constant_length=6),
    "entropy": with_flags(5, "gigpo", entropy_coef=0.1),
}
ALGORITHMS["positive"] = replace(ALGORITHMS["stapo"], selective=replace(ALGORITHMS["stapo"].selective, gate="positive"))


class Case:
    def __init__(self) -> None:
        self.policy = small_policy(2, architecture="qwen3", initializer_range=0.2)
        self.reference = small_policy(3, architecture="qwen3", initializer_range=0.2).model
        self.trajectories = batch_of_episodes(self.policy, 7)

    def embedded(self, algorithm, correction=None):
        """Loss and gradient of the embedded engine, every row by itself."""
        self.policy.model.zero_grad(set_to_none=True)
        batch = build_batch(self.trajectories, algorithm, chains=rows_of(self.trajectories, merge=False)[1])
        if correction is not None:
            steps = [replace(s, logprobs=drawn_with(s.logprobs), old_logprobs=s.logprobs) for s in batch.steps]
            batch = replace(batch, steps=steps)
        optim = OptimConfig(micro_tokens=200)
        updater = Updater(self.policy, self.reference, algorithm, optim, 1.0, correction=correction)
        reference = updater.scorer.reference_logp(batch, 200)
        log = updater._backward(_Call(batch, None, reference), list(range(len(batch))), "here", False, None)
        return log["loss"] + (log.get("selective_loss") or 0.0), gradient(self.policy.model)


@pytest.fixture(scope="module")
def case():
    return Case()


def drawn_with(logprobs):
    """Log-probabilities under a rollout server that is off by more where the policy is less sure."""
    return [0.6 * logp - 0.1 for logp in logprobs]


def gradient(model):
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return found


def taken(batch, places):
    """Some rows of a batch as verl has them: ragged, but for one number a row."""
    data = {}
    for name, rows in batch.items():
        chosen = [torch.as_tensor(rows[b]) for b in places]
        data[name] = ragged_rows(chosen) if chosen[0].ndim else torch.stack(chosen)
    data["input_ids"] = ragged_rows([torch.tensor(batch["prompts"][b] + batch["responses"][b]) for b in places])
    return data


def forward(model, head, rows):
    """One padded pass, as verl prepares it."""
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])
    mask = torch.arange(width)[None, :] < torch.tensor([len(row) for row in rows])[:, None]
    head.width = width
    with standing_in(model, head):
        return model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits


def responses(whole, data):
    """(B, L) as verl cuts responses out of values over whole sequences: one token to the left."""
    rows = [
        row[len(prompt) - 1 : len(prompt) + len(response) - 1]
        for row, prompt, response in zip(
            whole.unbind(), data["prompts"].unbind(), data["responses"].unbind(), strict=True
        )
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def scored(model, rows):
    """Log-probabilities of a pass without credit, row by row."""
    names = {"prompts": "prompt_ids", "responses": "response_ids", "response_mask": "mask"}
    data = taken({name: [getattr(row, own) for row in rows] for name, own in names.items()}, range(len(rows)))
    micro = Micro.of(data, selective=False)
    head = ScoringHead(micro)
    with torch.no_grad():
        logp_n = head.read(forward(model, head, micro.rows)).logp_n
    found = responses(micro.sequences.whole(logp_n), data)
    return [found[b, : len(row.response_ids)].tolist() for b, row in enumerate(rows)]


def through_verl(case, algorithm, *, merge, plant=lambda columns: columns, correction=None):
    """Loss and gradient of the rows as verl has them, in two micro-batches."""
    model = case.policy.model
    rows, _ = shuffled(padded(verl_rows(case.trajectories, merge=merge)), seed=4)
    batch = verl_columns(rows, algorithm, merge=merge)
    batch["ref_log_prob"] = scored(case.reference, rows)
    if correction is not None:
        batch[SAMPLED] = [drawn_with(row) for row in batch["old_log_probs"]]
    batch = plant(batch)
    whole = taken(batch, range(len(rows)))
    counts, used_b = own_counts(whole, selective=algorithm.selective_on)
    traj_b = torch.tensor(batch[TRAJECTORY])
    everywhere = traj_b.repeat_interleave(used_b).tolist()
    steps_b, trajectories = steps_per_trajectory(traj_b, used_b, [everywhere])
    if algorithm.loss.aggregation == "trajectory":
        batch[TRAJECTORY_STEPS] = steps_b
    totals, loss = Totals(*counts.tolist(), trajectories), 0.0
    for places in (range(0, len(rows), 2), range(1, len(rows), 2)):
        data = taken(batch, places)
        micro, reference = Micro.of(data, selective=algorithm.selective_on), None
        if micro.flagged and algorithm.selective.gamma > 0:
            capture = CapturingHead(micro.blind, None, copy_weights=True)
            with torch.no_grad():
                forward(case.reference, capture, micro.blind_rows)
            reference = capture.captured
        head = ScoringHead(
            micro,
            selective=algorithm.selective if algorithm.selective_on else None,
            reference=reference,
            entropy_grad=algorithm.loss.entropy_coef > 0,
        )
        scores = head.read(forward(model, head, micro.rows + micro.blind_rows))
        share = rows_objective(
            algorithm,
            totals,
            data,
            responses(micro.sequences.whole(scores.logp_n), data),
            responses(micro.sequences.whole(scores.entropy_n), data),
            None if scores.flagged is None else FlaggedSteps(micro.mask_kl, scores.flagged),
            correction,
        )
        share.loss.backward()
        loss += float(share.loss.detach())
    return loss, gradient(model)


def close(one, other, tolerance=1e-5):
    return float((one - other).norm()) <= tolerance * float(other.norm())


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_the_case_is_not_trivial(case):
    batch = build_batch(case.trajectories, ALGORITHMS["stapo"])
    assert batch.chains.sequences < 0.7 * batch.chains.rows
    chain_b, flagged = np.array(batch.chains.chain_b), batch.flag_b
    assert 0 < (batch.advantages.total_b[flagged] > 0).sum() < flagged.sum()
    # Some chain has several flagged steps, some has one beside others that are not.
    sizes = {chain: (flagged[chain_b == chain].sum(), (chain_b == chain).sum()) for chain in set(chain_b[flagged])}
    assert any(hits > 1 for hits, _ in sizes.values())
    assert any(0 < hits < size for hits, size in sizes.values())


def test_the_same_scores(case):
    expected = [logp for t in case.trajectories for s in t.steps for logp in s.logprobs]
    found = []
    for merge in (True, False):
        rows = verl_rows(case.trajectories, merge=merge)
        tokens = [pair for row, logp in zip(rows, scored(case.policy.model, rows), strict=True)
                  for pair in zip(logp, row.mask, strict=True)]  # fmt: skip
        found.append([logp for logp, sampled in tokens if sampled])
        between = {logp for logp, sampled in tokens if not sampled}
        assert between == ({0.0} if merge else set())
    assert len(found[0]) == len(expected)
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", slow_except(ALGORITHMS, "stapo", "gspo", "positive"))
def test_the_same_loss_and_gradient(case, name):
    algorithm = ALGORITHMS[name]
    wanted, expected = case.embedded(algorithm)
    for merge in (True, False):
        loss, found = through_verl(case, algorithm, merge=merge)
        assert loss == pytest.approx(wanted, rel=1e-5, abs=1e-7)
        assert close(found, expected)
    assert float(expected.norm()) > 0.01


def test_packed_and_padded_sequences():
    sequences = Sequences([5, 3], [(0, 1, 2), (0, 3, 5), (1, 2, 3)])
    assert sequences.index(None, torch.device("cpu")).tolist() == [0, 2, 3, 6]
    assert sequences.index(7, torch.device("cpu")).tolist() == [0, 2, 3, 8]
    both = sequences.followed_by(Sequences([4], [(0, 1, 4)]))
    assert both.index(None, torch.device("cpu")).tolist() == [0, 2, 3, 6, 8, 9, 10]
    assert sequences.whole(torch.tensor([1.0, 2.0, 3.0, 4.0])).values().tolist() == [1, 0, 2, 3, 0, 0, 4, 0]


def test_steps_are_cut_out_of_rows():
    numbers = ragged_rows([torch.tensor(row) for row in ([0, 0, -1, 1, 2, 2], [0], [0, -1, 1])])
    steps = Steps.of({STEP: numbers})
    assert steps.spans == [(0, 0, 2), (0, 3, 4), (0, 4, 6), (1, 0, 1), (2, 0, 1), (2, 2, 3)]
    values = torch.arange(18.0).reshape(3, 6)
    assert steps.cut(values).tolist() == [[0, 1], [3, 0], [4, 5], [6, 0], [12, 0], [14, 0]]
    # Before the steps are numbered, the mask says what was sampled; padding has nothing, and is scored all the same.
    masks = ragged_rows([torch.tensor(row) for row in ([1, 1, 0, 1, 1, 1], [0], [1, 0, 1])])
    assert Steps.of({"response_mask": masks}).spans == [(0, 0, 2), (0, 3, 6), (1, 0, 1), (2, 0, 1), (2, 2, 3)]


# -- 2 -----------------------------------------------------------------------------------------------------------------


def other_advantages(batch):
    """All of a row's tokens get what its last step has: what SkyRL#1492 was about."""
    return batch | {"advantages": [[row[-1]] * len(row) for row in batch["advantages"]]}


def steps_off_by_one(batch):
    """Each step but a row's first one gives its first token away and takes the one behind it."""
    return batch | {STEP: [row[:1] + row[:-1] for row in batch[STEP]]}


def other_flags(batch):
    """The blind prompts go to other steps of the same rows."""
    return batch | {BLIND_LENGTHS: [row[1:] + row[:1] for row in batch[BLIND_LENGTHS]]}


def other_prompts(batch):
    return batch | {BLIND_IDS: [row[1:] + row[:1] for row in batch[BLIND_IDS]]}


def other_reference(batch):
    return batch | {"ref_log_prob": [row[1:] + row[:1] for row in batch["ref_log_prob"]]}


@pytest.mark.parametrize(
    "name, plant",
    [
        ("gigpo", other_advantages),
        ("gspo", steps_off_by_one),
        ("gigpo", other_reference),
        ("stapo", other_flags),
        ("stapo", other_prompts),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_what_is_planted_is_found(case, name, plant):
    algorithm = ALGORITHMS[name]
    _, expected = through_verl(case, algorithm, merge=True)
    _, again = through_verl(case, algorithm, merge=True, plant=copy.copy)
    _, found = through_verl(case, algorithm, merge=True, plant=plant)
    assert close(again, expected)
    assert not close(found, expected, 1e-3)


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beyond", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_correction_weighs_steps(case, level, beyond):
    correction = Correction(level, beyond, 0.9)
    wanted, expected = case.embedded(ALGORITHMS["stapo"], correction)
    for merge in (True, False):
        loss, found = through_verl(case, ALGORITHMS["stapo"], merge=merge, correction=correction)
        assert loss == pytest.approx(wanted, rel=1e-5, abs=1e-7)
        assert close(found, expected)
    assert not close(case.embedded(ALGORITHMS["stapo"])[1], expected, 1e-2)


def test_a_correction_needs_the_servers_log_probabilities(case):
    with pytest.raises(EngineError, match=r"has no rollout_log_probs\. Set .*calculate_log_probs=True"):
        through_verl(
            case,
            ALGORITHMS["gigpo"],
            merge=True,
            correction=Correction("token", "mask", 2.0),
            plant=lambda batch: {name: rows for name, rows in batch.items() if name != SAMPLED},
        )
