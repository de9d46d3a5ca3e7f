"""`stapo verl` from start to end on CPU, with conversations: one row per episode, STAPO with flagged steps, corrected.

The rollout servers are `cpu_rollout`'s, one for each rank; everything else is verl's and the plugin's: command line,
`main_ppo`, Ray, agent loops, transfer queue, FSDP2 under gloo, saves.

1. Two iterations and validations, by one rank and by two.
2. Killed inside an update, it leaves no process, and the same command resumes behind the last save.
"""

from __future__ import annotations

import re

import pytest

from marked_processes import processes_of
from started import Started, assert_healthy, metrics_of

# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Started, str]:
    run = Started(tmp_path_factory.mktemp("fit"), request.param)
    return run, run.finish()


def test_iterations_with_one_row_per_episode(started):
    for step in (1, 2):
        assert_healthy(metrics_of(started[1], step))


def test_weights_reach_the_servers(started):
    run, log = started
    moved = re.findall(r"server (\d): weights of step (\d) moved by ([\d.e-]+)", log)
    for step in ("1", "2"):
        found = {server: float(size) for server, at, size in moved if at == step}
        assert set(found) == set("01"[: run.ranks])
        assert len(set(found.values())) == 1
        assert min(found.values()) > 0


def test_validations(started):
    assert len(re.findall(r"val-aux/toy/won/mean@1:", started[1])) >= 2


def test_every_rank_saves_its_share(started):
    run, _ = started
    saved = {path.name for path in (run.folder / "out" / "global_step_2" / "actor").glob("*.pt")}
    for part in ("model", "optim", "extra_state"):
        assert {f"{part}_world_size_{run.ranks}_rank_{rank}.pt" for rank in range(run.ranks)} <= saved


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_inside_an_update_it_resumes(tmp_path):
    marker = tmp_path / "inside"
    changes = {"optim__iterations": 2, "log__checkpoint_every": 1}
    run = Started(tmp_path, stop=marker, **changes)
    run.wait_for(marker)
    run.process.kill()
    run.process.wait(timeout=60)
    assert not processes_of(run.mark, patience=120)
    assert (tmp_path / "out" / "latest_checkpointed_iteration.txt").read_text() == "1"
    log = Started(tmp_path, **changes).finish()
    # The second iteration is played again, from what was saved behind the first.
    assert re.findall(r"(?<!_)step:(\d+) - .*actor/grad_norm", log) == ["2"]
    assert_healthy(metrics_of(log, 2))
    # What the server was given first is not the start, but what was saved.
    (first, *_) = re.findall(r"server 0: weights of step 1 moved by ([\d.e-]+)", log)
    assert float(first) > 0
