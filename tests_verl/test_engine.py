"""The engine inside verl: two ranks under FSDP2 and gloo do what the embedded engine does in one process.

1. Log-probabilities and entropies of the forward-only pass are those of the embedded scorer.
2. The same rows give the same loss, logged values and gradients, for every aggregation, with and without flagged rows,
   whatever the micro-batches, and with padding. Limits: 1e-5 for gradients, 1e-6 for scores and loss.
3. So do rows that hold an episode each, whose steps keep their ratios, lengths, aggregations and blind prompts.
4. The blind pass changes the gradient, and alpha = gamma = 0 gives that of GiGPO.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stapo.agent import AgentConfig
from stapo.config.schema import to_data
from stapo.config.training import OptimConfig
from stapo.policy import ModelConfig, Policy, build_policy
from stapo.rollout import Trajectory
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import HFSampler
from stapo.training.batch import build_batch
from stapo.training.update import Updater, _Call
from stapo.verl_plugin.fields import STEP
from toy_world import TEXTS, ToyEnv
from verl_rows import verl_columns, verl_rows, with_flags

RANKS = 2
SECONDS = 900
SCORE_LIMIT, GRADIENT_LIMIT = 1e-6, 1e-5


JOBS = {
    "stapo": {"algorithm": with_flags(6, "stapo"), "tokens": 4096, "scores": True},
    "micro-batches": {"algorithm": with_flags(6, "stapo"), "tokens": 100},
    "literal": {"algorithm": with_flags(6, "stapo-literal"), "tokens": 100},
    "awareness alone": {"algorithm": with_flags(6, "stapo-single-penalty"), "tokens": 4096},
    "token": {"algorithm": with_flags(6, "stapo", aggregation="token"), "tokens": 200},
    "trajectory": {"algorithm": with_flags(6, "stapo", aggregation="trajectory"), "tokens": 100},
    "sequence": {
        "algorithm": with_flags(6, "stapo", aggregation="sequence-sum-norm", constant_length=6),
        "tokens": 4096,
    },
    "entropy bonus": {"algorithm": with_flags(6, "stapo", entropy_coef=0.1), "tokens": 4096},
    "gigpo": {"algorithm": with_flags(6, "gigpo"), "tokens": 4096},
    "gspo": {"algorithm": with_flags(6, "gspo"), "tokens": 4096},
}
MERGED = ("stapo", "micro-batches", "token", "trajectory", "entropy bonus", "gigpo", "gspo")
# No sequence of verl's may be longer than a micro-batch.
JOBS |= {f"merged {name}": JOBS[name] | {"merged": True, "tokens": max(200, JOBS[name]["tokens"])} for name in MERGED}
AGENTS = {
    False: AgentConfig(
        prompt="compact", response="action", history_length=1, max_prompt_tokens=200, max_response_tokens=6
    ),
    True: AgentConfig(prompt="conversation", response="action", max_prompt_tokens=200, max_response_tokens=6),
}


def policy_of(seed: int, hidden_size: int = 16) -> Policy:
    # A Llama: AutoTokenizer, which verl uses, keeps its tokenizer as it was saved.
    sizes = ModelConfig(
        architecture="llama",
        device="cpu",
        hidden_size=hidden_size,
        layers=2,
        heads=2,
        intermediate_size=32,
        vocab_size=300,
    )
    return build_policy(sizes, TEXTS, 512, seed)


def run_ranks(folder: Path) -> list[dict[str, torch.Tensor]]:
    """Run the jobs of a folder by two processes; returns the gradients of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS)}
    paths = [folder / f"rank{r}.log" for r in range(RANKS)]
    logs = [path.open("w") for path in paths]
    command = [sys.executable, str(Path(__file__).with_name("one_rank.py")), str(folder)]
    started = [
        subprocess.Popen(command, env={**os.environ, **address, "RANK": str(r)}, stdout=log, stderr=log)
        for r, log in enumerate(logs)
    ]
    try:
        codes = [process.wait(timeout=SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
        for log in logs:
            log.close()
    said = [path.read_text()[-3000:] for path in paths]
    assert codes == [0] * RANKS, "\n".join(said)
    jobs = json.loads((folder / "jobs.json").read_text())
    return [load_file(folder / f"{number}.safetensors") for number in range(len(jobs))]


class Case:
    """Rows of a toy rollout, scored by both engines."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.folder = folder
        self.policy, self.reference = policy_of(0), policy_of(1)
        self.policy.save(folder / "policy")
        self.reference.save(folder / "reference")
        self.played = {merged: self.episodes(agent) for merged, agent in AGENTS.items()}
        jobs, self.batches, self.rows = [], [], []
        for job in JOBS.values():
            trajectories = self.played[job.get("merged", False)][0]
            batch = build_batch(trajectories, job["algorithm"])
            rows = verl_rows(trajectories)
            columns = verl_columns(rows, job["algorithm"], merge=True)
            # An odd number: one rank gets a padding row.
            places = range(len(rows) - 1 + len(rows) % 2)
            jobs.append({**job, "algorithm": to_data(job["algorithm"])})
            jobs[-1]["rows"] = [{name: column[b] for name, column in columns.items()} for b in places]
            self.batches.append(batch)
            self.rows.append([b for b in range(len(batch)) if batch.chains.chain_b[b] in places])
        (folder / "jobs.json").write_text(json.dumps(jobs))

    def episodes(self, agent: AgentConfig) -> tuple[list[Trajectory], list[list[float]]]:
        """Episodes of two groups, and the log-probabilities that their tokens were sampled with."""
        sampler = HFSampler(self.policy.model, self.policy.eos_ids, self.policy.tokenizer.pad_token_id, 6)
        collector = Collector(ToyEnv, PromptEncoder(self.policy.tokenizer), sampler, agent)
        trajectories = collector.collect(["toy/train/red", "toy/train/green"], 4, 1.0, (0, 1, 1))
        sampled = [s.logprobs for t in trajectories for s in t.steps]
        # The update starts at some distance from the policy that sampled, so that ratios are not all 1.
        rng = np.random.default_rng(0)
        for t in trajectories:
            for s in t.steps:
                s.logprobs = [float(np.float32(v + 0.3 * rng.standard_normal())) for v in s.logprobs]
        return trajectories, sampled

    def embedded(self, number: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Gradients and log of one mini-batch in the embedded engine."""
        algorithm, batch = list(JOBS.values())[number]["algorithm"], self.batches[number]
        policy = policy_of(0)
        updater = Updater(policy, self.reference.model, algorithm, OptimConfig(mini_batch=1000), 1.0)
        reference = updater.scorer.reference_logp(batch, 4096)
        updater.optimizer.zero_grad()
        log = updater._backward(_Call(batch, None, reference), self.rows[number], "here", False, None)
        return {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}, log

    def verl(self, number: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        metrics = json.loads((self.folder / f"{number}.json").read_text())
        return load_file(self.folder / f"{number}.safetensors"), metrics


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    made = Case(tmp_path_factory.mktemp("ranks"))
    run_ranks(made.folder)
    return made


@pytest.mark.parametrize("merged", [False, True])
def test_scores_are_those_of_sampling(case, merged):
    number = list(JOBS).index("merged stapo" if merged else "stapo")
    scores = json.loads((case.folder / f"{number}.scores.json").read_text())
    trajectories, sampled = case.played[merged]
    steps = [s for t in trajectories for s in t.steps]
    job = json.loads((case.folder / "jobs.json").read_text())[number]
    where = [(b, k) for b, row in enumerate(job["rows"]) for k in range(max(row[STEP]) + 1)]
    for (b, k), i in zip(where, case.rows[number], strict=True):
        own = [place for place, step in enumerate(job["rows"][b][STEP]) if step == k]
        assert np.allclose([scores["log_probs"][b][place] for place in own], sampled[i], atol=SCORE_LIMIT)
        assert np.allclose([scores["entropy"][b][place] for place in own], steps[i].entropies, atol=SCORE_LIMIT)
    pairs = [pair for b, row in enumerate(job["rows"]) for pair in zip(scores["log_probs"][b], row[STEP], strict=True)]
    assert {logp for logp, step in pairs if step < 0} == ({0.0} if merged else set())


def test_the_case_is_not_trivial(case):
    rows = case.rows[0]
    flags = case.batches[0].flag_b[rows]
    assert 2 <= flags.sum() <= len(flags) // 2
    # The two ranks hold the rows in turn, and not equally many flagged ones.
    assert flags[0::2].sum() != flags[1::2].sum()
    assert len(rows) % RANKS == 1
    # Of the merged rows each holds an episode, and some hold flagged steps beside others.
    merged = case.batches[list(JOBS).index("merged stapo")]
    assert (merged.chains.sequences, merged.chains.rows) == (8, 24)
    assert 2 <= merged.flag_b.sum() <= len(merged) // 2


@pytest.mark.parametrize("number", range(len(JOBS)), ids=list(JOBS))
def test_same_loss_and_gradient(case, number):
    wanted, log = case.embedded(number)
    found, metrics = case.verl(number)
    assert set(found) == set(wanted)
    for name in wanted:
        assert float((found[name] - wanted[name]).abs().max()) <= GRADIENT_LIMIT, name
    norm = float(torch.stack([g.norm() for g in wanted.values()]).norm())
    assert norm > 0.01
    assert metrics["grad_norm"] == pytest.approx(norm, abs=GRADIENT_LIMIT)
    for key in ("loss", "clip_high", "clip_low", "ref_kl", "entropy", "old_kl"):
        assert metrics[f"stapo/{key}"] == pytest.approx(log[key], abs=SCORE_LIMIT), key
    for key in ("selective_loss", "r_ta", "p_ti"):
        if log.get(key) is not None:
            assert metrics[f"stapo/{key}"] == pytest.approx(log[key], abs=SCORE_LIMIT), key


def test_the_blind_pass_matters(case):
    """Against the same rows without the terms, the gradient moves by much more than the limit."""
    names = list(JOBS)
    (stapo, _), (gigpo, _) = case.verl(names.index("stapo")), case.verl(names.index("gigpo"))
    assert max(float((stapo[name] - gigpo[name]).abs().max()) for name in stapo) > 100 * GRADIENT_LIMIT


def test_micro_batches_change_nothing(case):
    names = list(JOBS)
    (one, _), (many, _) = case.verl(names.index("stapo")), case.verl(names.index("micro-batches"))
    assert max(float((one[name] - many[name]).abs().max()) for name in one) <= GRADIENT_LIMIT


def test_what_travels_is_what_the_estimate_counts(case):
    """`benchmarks/cluster.py`: a micro-batch gathers the policy twice, and the reference where it has flagged rows.

    A mini-batch reduces its gradients once.
    """
    names = list(JOBS)
    weights = 4 * sum(p.numel() for p in case.policy.model.parameters())
    (_, one), (_, many), (_, plain) = (case.verl(names.index(name)) for name in ("stapo", "micro-batches", "gigpo"))
    for found in (one, many, plain):
        assert found["reduced"] == pytest.approx(weights, rel=0.01)
    assert plain["gathered"] == pytest.approx(2 * weights, rel=0.01)
    assert one["gathered"] == pytest.approx(3 * weights, rel=0.01)
    assert many["gathered"] / weights == pytest.approx(round(many["gathered"] / weights), abs=0.1)
    assert many["gathered"] >= 3 * one["gathered"]
