"""18. The tokens that are trained are the tokens that were sampled.

1. Every row of an update holds the ids that the sampler drew for its prompt, end token included and never tokenized
   again; the mask is one on them and nowhere else.
2. Log-probabilities of the update are those of sampling: within 2e-5 in float32 on a CPU (other shapes of batch, other
   order of sums; measured: 3e-6), and those of a plain forward pass of one row. Equal batches give equal bits.
3. Step entropies and normalized entropies do not depend on how rows are ordered, padded, or put together: within 2e-5
   and 2e-4 (a z-score divides by a spread that may be small; measured: 2e-6 and 2e-5), with the same steps flagged.
4. The entropy that is logged is the mean over tokens, however rows are cut into micro-batches.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from stapo.agent import AgentConfig
from stapo.algo import OutlierConfig, get_algorithm
from stapo.config.training import OptimConfig
from stapo.policy import RowTokens
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import HFSampler
from stapo.training import update as update_module
from stapo.training.batch import build_batch
from stapo.training.scoring import Scorer
from stapo.training.update import Updater
from toy_world import ToyEnv, small_policy

LOGPROB, ENTROPY, SCORE = 2e-5, 2e-5, 2e-4
TASKS = ["toy/train/red", "toy/train/blue", "toy/train/teal", "toy/train/grey"]
AGENT = AgentConfig(prompt="compact", response="action", history_length=2, max_prompt_tokens=300, max_response_tokens=6)
STAPO = get_algorithm("stapo")
ALL_ROWS = replace(STAPO, outlier=OutlierConfig(select="all"))


class Recording:
    """Notes every answer of a sampler under the name of its stream."""

    def __init__(self, sampler):
        self.sampler, self.answers = sampler, {}

    def sample(self, prompts, streams, temperature):
        samples = self.sampler.sample(prompts, streams, temperature)
        for prompt, stream, sample in zip(prompts, streams, samples, strict=True):
            self.answers[stream] = (list(prompt), copy.deepcopy(sample))
        return samples


def play(policy, batch_tokens=100_000, tasks=TASKS, size=12):
    recording = Recording(
        HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, AGENT.max_response_tokens, batch_tokens)
    )
    collector = Collector(ToyEnv, PromptEncoder(policy.tokenizer), recording, AGENT)
    return collector.collect(tasks, size, 1.0, (0, 1, 1)), recording.answers


@pytest.fixture(scope="module")
def policy():
    made = small_policy(3, architecture="qwen3", initializer_range=0.3)
    made.model.eval()
    return made


@pytest.fixture(scope="module")
def played(policy):
    return play(policy)


@pytest.fixture(scope="module")
def trained(policy, played):
    """The rows of one optimizer step as the loss was given them: row -> ids, mask, log-probabilities, old ones."""
    batch = build_batch(played[0], ALL_ROWS)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        score, loss, asked = Scorer.score, update_module.base_loss, []

        def noting_score(self, model, rows, **options):
            asked.append((rows, model))
            return score(self, model, rows, **options)

        def noting_loss(logp_bl, old_bl, advantage_b, mask_bl, *rest, **options):
            rows, _ = asked[-1]
            for i, row in enumerate(rows):
                key = (tuple(row.prompt_ids), tuple(row.response_ids), float(advantage_b[i]))
                values = (mask_bl[i].clone(), logp_bl[i].detach().clone(), old_bl[i].clone())
                found.setdefault(key, []).append(values)
            return loss(logp_bl, old_bl, advantage_b, mask_bl, *rest, **options)

        patch.setattr(Scorer, "score", noting_score)
        patch.setattr(update_module, "base_loss", noting_loss)
        copied = replace(policy, model=copy.deepcopy(policy.model))
        optim = OptimConfig(learning_rate=1e-3, mini_batch=10_000, micro_tokens=700)
        updater = Updater(copied, copy.deepcopy(policy.model), ALL_ROWS, optim, 1.0)
        metrics, _ = updater.update(batch, 1e-3, seed=(0, 2, 1))
    return batch, found, metrics["update"]


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_rows_hold_what_was_sampled(policy, played):
    trajectories, answers = played
    assert sum(len(t.steps) for t in trajectories) == len(answers) == len(TASKS) * 12 * 3
    cut = again = 0
    for t in trajectories:
        for k, step in enumerate(t.steps):
            prompt, sample = answers[(0, 1, 1, t.group, t.member, k)]
            assert step.prompt_ids == prompt
            assert step.response_ids == sample.ids
            assert step.logprobs == sample.logprobs
            assert step.entropies == sample.entropies
            assert step.truncated == (sample.ids[-1] not in policy.eos_ids)
            assert not set(sample.ids[:-1]) & set(policy.eos_ids)
            cut += step.truncated
            again += policy.tokenizer.encode(step.response, add_special_tokens=False) != sample.ids
    # The test would say little if all responses ended, or if their text were tokenized to the same ids anyway.
    assert 0 < cut < len(answers)
    assert again > len(answers) / 2


def test_the_update_trains_these_tokens_and_no_others(trained):
    batch, found, metrics = trained
    expected = {}
    for b, step in enumerate(batch.steps):
        key = (tuple(step.prompt_ids), tuple(step.response_ids), float(batch.advantages.total_b[b]))
        expected[key] = expected.get(key, 0) + 1
    assert {key: len(values) for key, values in found.items()} == expected
    for (_, ids, _), rows in found.items():
        for mask_l, _, _ in rows:
            assert mask_l.tolist() == [True] * len(ids) + [False] * (len(mask_l) - len(ids))
    assert metrics["tokens"] == sum(len(s.response_ids) for s in batch.steps)
    # Rows of several lengths shared a micro-batch, so that padding was there to be masked.
    assert any(not mask_l.all() for rows in found.values() for mask_l, _, _ in rows)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def plain(policy, step):
    """Log-probabilities and entropies of a response by one forward pass of one row, without padding or cache."""
    with torch.no_grad():
        logits_lv = policy.model(torch.tensor([step.prompt_ids + step.response_ids])).logits[0].double()
    first = len(step.prompt_ids) - 1
    logp_lv = logits_lv[first : first + len(step.response_ids)].log_softmax(-1)
    chosen_l = logp_lv.gather(1, torch.tensor(step.response_ids)[:, None])[:, 0]
    return chosen_l.numpy(), -(logp_lv.exp() * logp_lv).sum(-1).numpy()


def test_log_probabilities_of_the_update_are_those_of_sampling(policy, trained):
    batch, found, metrics = trained
    worst = 0.0
    for (_, ids, _), rows in found.items():
        for _, logp_l, old_l in rows:
            worst = max(worst, float((logp_l - old_l)[: len(ids)].abs().max()))
    assert 0 < worst < LOGPROB
    assert metrics["logprob_gap"] == pytest.approx(worst, rel=1e-6)
    assert metrics["ratio"] == pytest.approx(1.0, abs=LOGPROB)
    for (prompt, ids, _), rows in found.items():
        old_l = rows[0][2][: len(ids)].tolist()
        same = [s for s in batch.steps if (tuple(s.prompt_ids), tuple(s.response_ids)) == (prompt, ids)]
        assert any(old_l == pytest.approx(s.logprobs, abs=1e-7) for s in same)


def test_both_are_those_of_a_plain_forward_pass(policy, played):
    steps = [s for t in played[0] for s in t.steps][::7]
    for step in steps:
        logp_l, entropy_l = plain(policy, step)
        assert np.abs(logp_l - step.logprobs).max() < LOGPROB
        assert np.abs(entropy_l - step.entropies).max() < ENTROPY
    assert len({round(h, 2) for s in steps for h in s.entropies}) > 20


def test_equal_batches_give_equal_bits(policy, played):
    again, answers = play(policy)
    assert answers == played[1]
    rows = [RowTokens(s.prompt_ids, s.response_ids) for t in again for s in t.steps][:40]
    one, two = (scored(policy, rows) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


# -- 3 -----------------------------------------------------------------------------------------------------------------


def scored(policy, rows):
    scorer = Scorer(policy, None, STAPO, 1.0)
    with torch.no_grad():
        out = scorer.score(policy.model, rows)
    return out.logp_bl, out.entropy_bl


def by_row(policy, rows, parts):
    """Log-probabilities and entropies of every row, scored in the given parts."""
    found = [None] * len(rows)
    for part in parts:
        logp_bl, entropy_bl = scored(policy, [rows[b] for b in part])
        for i, b in enumerate(part):
            n = len(rows[b].response_ids)
            found[b] = logp_bl[i, :n].tolist(), entropy_bl[i, :n].tolist()
    return found


def cuts(count):
    """Ways to put rows together."""
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(count).tolist()
    return {
        "together": [list(range(count))],
        "backwards": [list(range(count))[::-1]],
        "alone": [[b] for b in range(count)],
        "threes": [list(range(count))[i : i + 3] for i in range(0, count, 3)],
        "shuffled": [shuffled[i : i + 17] for i in range(0, count, 17)],
    }


def with_entropies(trajectories, values):
    """The same trajectories with other recorded numbers."""
    copied, values = copy.deepcopy(trajectories), iter(values)
    for t in copied:
        for step in t.steps:
            step.logprobs, step.entropies = next(values)
    return copied


@pytest.mark.parametrize("cut", ["backwards", "alone", "threes", "shuffled"])
def test_entropies_do_not_depend_on_the_batch(policy, played, cut):
    trajectories = played[0]
    rows = [RowTokens(s.prompt_ids, s.response_ids) for t in trajectories for s in t.steps]
    assert len({row.length for row in rows}) > 5
    ways = cuts(len(rows))
    one, two = (by_row(policy, rows, ways[name]) for name in ("together", cut))
    for a, b in zip(one, two, strict=True):
        assert a[0] == pytest.approx(b[0], abs=LOGPROB)
        assert a[1] == pytest.approx(b[1], abs=ENTROPY)
    first, second = (build_batch(with_entropies(trajectories, values), STAPO) for values in (one, two))
    assert_same_scores(first, second)


@pytest.mark.parametrize("batch_tokens", [1, 150, 1000])
def test_nor_do_those_of_sampling(policy, played, batch_tokens):
    trajectories, _ = play(policy, batch_tokens)
    first, second = build_batch(played[0], STAPO), build_batch(trajectories, STAPO)
    assert [s.response_ids for s in first.steps] == [s.response_ids for s in second.steps]
    for a, b in zip(first.steps, second.steps, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=LOGPROB)
        assert a.entropies == pytest.approx(b.entropies, abs=ENTROPY)
    assert_same_scores(first, second)


def assert_same_scores(first, second):
    assert np.abs(first.entropy_b - second.entropy_b).max() < ENTROPY
    assert np.abs(first.outliers.normalized_b - second.outliers.normalized_b).max() < SCORE
    assert first.outliers.iqr > 0.1
    assert np.array_equal(first.outliers.mask_b, second.outliers.mask_b)
    assert np.array_equal(first.anchor_b, second.anchor_b)


def test_the_order_of_trajectories_does_not_matter(played):
    """Normalized entropy by hand: eq. 2 with the sample spread, plain entropy where a state was seen once."""
    trajectories = played[0]
    order = np.random.default_rng(1).permutation(len(trajectories)).tolist()
    first, second = build_batch(trajectories, STAPO), build_batch([trajectories[i] for i in order], STAPO)
    place = {id(step): b for b, step in enumerate(second.steps)}
    moved = [place[id(step)] for step in first.steps]
    assert np.allclose(first.outliers.normalized_b, second.outliers.normalized_b[moved], atol=1e-5)
    assert np.array_equal(first.outliers.mask_b, second.outliers.mask_b[moved])
    sizes = []
    for b, step in enumerate(first.steps):
        group = [
            float(np.mean(s.entropies))
            for s, t in ((s, t) for t in trajectories for s in t.steps)
            if (s.anchor, t.group) == (step.anchor, first.trajectories[first.traj_b[b]].group)
        ]
        own = float(np.mean(step.entropies))
        z = (own - np.mean(group)) / (np.std(group, ddof=1) + 1e-6) if len(group) > 1 else own
        assert first.outliers.normalized_b[b] == pytest.approx(z, abs=1e-4)
        sizes.append(len(group))
    assert max(sizes) >= 12


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_tokens", [100_000, 400, 1])
def test_the_logged_entropy_is_the_mean_over_tokens(policy, played, micro_tokens):
    """Not the mean of the means of micro-batches, which changes with their number."""
    batch = build_batch(played[0], STAPO)
    copied = replace(policy, model=copy.deepcopy(policy.model))
    optim = OptimConfig(learning_rate=1e-3, mini_batch=10_000, micro_tokens=micro_tokens)
    updater = Updater(copied, copy.deepcopy(policy.model), STAPO, optim, 1.0)
    metrics, _ = updater.update(batch, 1e-3, seed=(0, 2, 1))
    every = [h for step in batch.steps for h in step.entropies]
    of_rows = np.mean([np.mean(step.entropies) for step in batch.steps])
    assert metrics["update"]["entropy"] == pytest.approx(float(np.mean(every)), abs=1e-5)
    assert abs(of_rows - np.mean(every)) > 1e-4
