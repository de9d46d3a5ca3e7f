"""From the agent loop to the update: what each part hands to the next one is what that one needs.

1. Played by verl's agent loop worker, an episode is one row per step in the transfer queue, with its own prompt, the
   ids that were sampled, and our payload; step rewards survive, though verl overwrites its own.
2. The trainer's method gives each row the advantage and flag that the embedded engine computes from the same episodes,
   and padding nothing.
3. What verl's filter would replace under dynamic sampling are the groups that `training.sampling` would.
4. Two ranks under FSDP2 and gloo, fed with those rows, have the embedded engine's gradient, blind passes included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.config.training import OptimConfig
from stapo.rollout import Trajectory
from stapo.training.batch import build_batch
from stapo.training.sampling import differing_groups
from stapo.training.update import Updater, _Clock
from stapo.verl_plugin.rows import VerlRow, trajectories_of
from test_engine import GRADIENT_LIMIT, policy_of, run_ranks, with_flags
from toy_world import toy_settings

SECONDS = 300


class Whole:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policy, self.reference = policy_of(0), policy_of(1)
        self.policy.save(folder / "policy")
        self.reference.save(folder / "reference")
        settings = toy_settings(folder / "policy", rollout__groups=3, optim__micro_tokens=4096)
        self.run = replace(from_data(RunConfig, settings), algorithm=with_flags("stapo"))
        (folder / "run.json").write_text(json.dumps(to_data(self.run)))
        command = [sys.executable, str(Path(__file__).with_name("one_rollout.py")), str(folder)]
        log = folder / "rollout.log"
        with log.open("w") as out:
            code = subprocess.run(
                command, stdout=out, stderr=out, timeout=SECONDS, check=False, env=os.environ
            ).returncode
        assert code == 0, log.read_text()[-4000:]
        found = json.loads((folder / "rows.json").read_text())
        self.columns, self.metrics, self.dropped = found["columns"], found["metrics"], found["dropped"]
        self.rows = [
            dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True)
        ]
        self.real = [row for row in self.rows if not row["padding"]]

    def trajectories(self) -> tuple[list[Trajectory], list[int]]:
        return trajectories_of(
            [
                VerlRow(
                    row["key"].rsplit("_", 2)[0],
                    int(row["key"].rsplit("_", 2)[1]),
                    row["prompts"],
                    row["responses"],
                    row["old_log_probs"],
                    row["entropy"],
                    row["payload"],
                )
                for row in self.real
            ]
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


def test_one_row_per_step(whole):
    # 3 tasks, 4 attempts, 3 steps each; then padding up to a multiple of 16.
    assert (len(whole.real), len(whole.rows)) == (36, 48)
    trajectories, _ = whole.trajectories()
    assert [len(t.steps) for t in trajectories] == [3] * 12
    assert len({t.task_id for t in trajectories}) == 3
    prompts = [tuple(s.prompt_ids) for s in trajectories[0].steps]
    assert len(set(prompts)) == 3
    decode = policy_of(0).tokenizer.decode
    for t in trajectories:
        for s in t.steps:
            # The ids that are trained are the ids that were played.
            assert decode(s.response_ids, skip_special_tokens=True).strip() == s.action.strip()
            assert s.prompt_ids != s.blind_ids


def test_sampled_log_probabilities_are_those_of_the_row(whole):
    for row in whole.real:
        assert row["response_mask"] == [1] * len(row["responses"])
        assert row["rollout_log_probs"] == pytest.approx(row["old_log_probs"], abs=1e-5)


def test_step_rewards_survive(whole):
    trajectories, _ = whole.trajectories()
    assert any(t.won for t in trajectories)
    for t in trajectories:
        assert [s.reward for s in t.steps] == [0.0, 0.0, float(t.won)]
    # verl's own column has the episode's reward on every row.
    assert {row["reward"] for row in whole.real if row["payload"]["won"]} == {1.0}


def test_equal_groups_are_those_of_dynamic_sampling(whole):
    trajectories, places = whole.trajectories()
    of_group = {t.group: whole.real[places[row]]["key"].split("_")[0] for t, row in _with_first_row(trajectories)}
    kept = {of_group[group[0].group] for group in differing_groups(trajectories)}
    assert whole.dropped == sorted(set(of_group.values()) - kept)


def _with_first_row(trajectories):
    row = 0
    for t in trajectories:
        yield t, row
        row += len(t.steps)


def test_advantages_and_flags(whole):
    trajectories, places = whole.trajectories()
    batch = build_batch(trajectories, whole.run.algorithm)
    for b, place in enumerate(places):
        row = whole.real[place]
        wanted = torch.tensor(batch.advantages.total_b[b], dtype=torch.float32).item()
        assert row["advantages"] == [wanted] * len(row["responses"])
        assert row["stapo_flag"] == batch.flag_b[b]
        assert row["stapo_trajectory"] == batch.traj_b[b]
        assert row["stapo_blind_ids"] == (batch.steps[b].blind_ids if batch.flag_b[b] else [0])
    assert 0 < batch.flag_b.sum() < len(batch)
    assert whole.metrics["stapo/outlier/acted_on"] == batch.flag_b.sum()
    assert whole.metrics["stapo/rows"] == 36


def test_padding_gets_nothing(whole):
    for row in whole.rows:
        if row["padding"]:
            assert (row["advantages"], row["stapo_flag"], row["stapo_trajectory"]) == ([0.0], 0, -1)
            assert row["response_mask"] == [0]


def test_update_by_two_ranks(whole):
    rows = [
        {
            "prompt": row["prompts"],
            "response": row["responses"],
            "logprobs": row["old_log_probs"],
            "blind": row["stapo_blind_ids"],
            "advantage": row["advantages"][0],
            "flag": row["stapo_flag"],
            "traj": row["stapo_trajectory"],
        }
        for row in whole.rows
    ]
    job = {"algorithm": to_data(whole.run.algorithm), "tokens": 600, "rows": rows}
    (whole.folder / "jobs.json").write_text(json.dumps([job]))
    found = run_ranks(whole.folder)[0]
    trajectories, _ = whole.trajectories()
    batch = build_batch(trajectories, whole.run.algorithm)
    policy = policy_of(0)
    updater = Updater(policy, whole.reference.model, whole.run.algorithm, OptimConfig(mini_batch=1000), 1.0)
    reference = updater.scorer.reference_logp(batch, 4096)
    updater.optimizer.zero_grad()
    updater._backward(batch, list(range(len(batch))), reference, _Clock(), "here", False)
    wanted = {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) <= GRADIENT_LIMIT
    assert max(float(g.abs().max()) for g in wanted.values()) > 100 * GRADIENT_LIMIT
