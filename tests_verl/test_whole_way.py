"""From the agent loop to the update: what each part hands to the next one is what that one needs.

1. Played by verl's agent loop worker, an episode is one row per step in the transfer queue, as a conversation one row
   alone, with the ids that were sampled, their mask, and our payload; step rewards survive, though verl overwrites its
   own.
2. The trainer's method gives the tokens of each step the advantage and blind prompt that the embedded engine computes
   from the same episodes, and padding nothing.
3. What verl's filter would replace under dynamic sampling are the groups that `training.sampling` would.
4. Two ranks under FSDP2 and gloo, fed with those rows, have the embedded engine's gradient, blind passes included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.config.training import OptimConfig
from stapo.rollout import Trajectory
from stapo.training.batch import build_batch
from stapo.training.sampling import differing_groups
from stapo.training.update import Updater, _Call
from stapo.verl_plugin.fields import BLIND_IDS, BLIND_LENGTHS, STEP, TRAJECTORY
from stapo.verl_plugin.rows import VerlRow, trajectories_of
from test_engine import GRADIENT_LIMIT, policy_of, run_ranks, with_flags
from toy_world import toy_settings

SECONDS = 300


@dataclass
class Whole:
    """One rollout: the run, and what lies in the queue behind it."""

    folder: Path
    run: RunConfig
    merged: bool

    def __post_init__(self) -> None:
        found = json.loads((self.folder / f"{NAMES[self.merged]}.rows.json").read_text())
        self.columns, self.metrics, self.dropped = found["columns"], found["metrics"], found["dropped"]
        self.rows = [
            dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True)
        ]
        self.real = [row for row in self.rows if not row["padding"]]

    def trajectories(self) -> tuple[list[Trajectory], list[tuple[int, int]]]:
        names = ("prompts", "responses", "response_mask", "old_log_probs", "entropy", "payload")
        return trajectories_of(
            [
                VerlRow(row["key"].rsplit("_", 2)[0], int(row["key"].rsplit("_", 2)[1]), *(row[name] for name in names))
                for row in self.real
            ]
        )


NAMES = {False: "rows", True: "chains"}


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Whole]:
    folder = tmp_path_factory.mktemp("whole")
    policy_of(0).save(folder / "policy")
    policy_of(1).save(folder / "reference")
    settings = toy_settings(folder / "policy", rollout__groups=3, optim__micro_tokens=4096)
    rows = replace(from_data(RunConfig, settings), algorithm=with_flags(6, "stapo"))
    chains = replace(rows, agent=replace(rows.agent, prompt="conversation"))
    runs = {False: rows, True: chains}
    for merged, run in runs.items():
        (folder / f"{NAMES[merged]}.json").write_text(json.dumps(to_data(run)))
    command = [sys.executable, str(Path(__file__).with_name("one_rollout.py")), str(folder), *NAMES.values()]
    log = folder / "rollout.log"
    with log.open("w") as out:
        code = subprocess.run(command, stdout=out, stderr=out, timeout=SECONDS, check=False, env=os.environ).returncode
    assert code == 0, log.read_text()[-4000:]
    return {merged: Whole(folder, run, merged) for merged, run in runs.items()}


@pytest.fixture(params=[False, True], ids=["rows", "chains"])
def whole(request: pytest.FixtureRequest, rollouts: dict[bool, Whole]) -> Whole:
    return rollouts[request.param]


def test_one_row_per_chain(whole):
    # 3 tasks, 4 attempts, 3 steps each, which are a chain in a conversation; then padding up to a multiple of 16.
    assert (len(whole.real), len(whole.rows)) == ((12, 16) if whole.merged else (36, 48))
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
        columns = (row[name] for name in ("response_mask", "rollout_log_probs", "old_log_probs"))
        for sampled, before, after in zip(*columns, strict=True):
            assert before == (pytest.approx(after, abs=1e-5) if sampled else 0.0)
        assert (0 in row["response_mask"]) == whole.merged


def test_a_growing_prompt_stays_with_one_server(whole):
    """verl sends what has one id to one server, whose cache knows the beginning of the next prompt."""
    asked = (whole.folder / f"{NAMES[whole.merged]}.asked").read_text().split()
    assert (len(asked), len(set(asked))) == (36, 12 if whole.merged else 36)


def test_step_rewards_survive(whole):
    trajectories, _ = whole.trajectories()
    assert any(t.won for t in trajectories)
    for t in trajectories:
        assert [s.reward for s in t.steps] == [0.0, 0.0, float(t.won)]
    # verl's own column has the episode's reward on every row.
    assert {row["reward"] for row in whole.real if row["payload"]["won"]} == {1.0}


def test_equal_groups_are_those_of_dynamic_sampling(whole):
    trajectories, places = whole.trajectories()
    of_group = {t.group: whole.real[places[row][0]]["key"].split("_")[0] for t, row in _with_first_row(trajectories)}
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
    blind = [[] for _ in whole.real]
    for b, (place, part) in enumerate(places):
        row = whole.real[place]
        tokens = [k for k, step in enumerate(row[STEP]) if step == part]
        assert [row["responses"][k] for k in tokens] == batch.steps[b].response_ids
        wanted = torch.tensor(batch.advantages.total_b[b], dtype=torch.float32).item()
        assert [row["advantages"][k] for k in tokens] == [wanted] * len(tokens)
        assert row[BLIND_LENGTHS][part] == (len(batch.steps[b].blind_ids) if batch.flag_b[b] else 0)
        assert row[TRAJECTORY] == batch.traj_b[b]
        blind[place] += batch.steps[b].blind_ids if batch.flag_b[b] else []
    for row, ids in zip(whole.real, blind, strict=True):
        assert row[BLIND_IDS] == (ids or [0])
        assert [int(step >= 0) for step in row[STEP]] == row["response_mask"]
        assert {a for a, sampled in zip(row["advantages"], row["response_mask"], strict=True) if not sampled} <= {0.0}
    assert 0 < batch.flag_b.sum() < len(batch)
    assert whole.metrics["stapo/outlier/acted_on"] == batch.flag_b.sum()
    assert (whole.metrics["stapo/rows"], whole.metrics["stapo/sequences/count"]) == (36, len(whole.real))


def test_padding_gets_nothing(whole):
    for row in whole.rows:
        if row["padding"]:
            assert (row["advantages"], row[STEP], row[BLIND_LENGTHS], row[TRAJECTORY]) == ([0.0], [0], [0], -1)
            assert row["response_mask"] == [0]


def test_update_by_two_ranks(whole):
    folder = whole.folder / NAMES[whole.merged]
    folder.mkdir()
    for name in ("policy", "reference"):
        (folder / name).symlink_to(whole.folder / name)
    job = {"algorithm": to_data(whole.run.algorithm), "tokens": 600, "rows": whole.rows}
    (folder / "jobs.json").write_text(json.dumps([job]))
    found = run_ranks(folder)[0]
    trajectories, _ = whole.trajectories()
    batch = build_batch(trajectories, whole.run.algorithm)
    policy = policy_of(0)
    updater = Updater(policy, policy_of(1).model, whole.run.algorithm, OptimConfig(mini_batch=1000), 1.0)
    reference = updater.scorer.reference_logp(batch, 4096)
    updater.optimizer.zero_grad()
    updater._backward(_Call(batch, None, reference), list(range(len(batch))), "here", False, None)
    wanted = {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) <= GRADIENT_LIMIT
    assert max(float(g.abs().max()) for g in wanted.values()) > 100 * GRADIENT_LIMIT
