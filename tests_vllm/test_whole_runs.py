"""Whole commands with vLLM itself: `stapo train --rollout.engine vllm`, `eval` and `diagnose` with `--engine vllm`.

1. A training ends, agrees with its trainer, and leaves no process.
2. Evaluations and diagnoses of it are those of transformers, as far as nothing is drawn.
3. Killed between two saves, while weights are copied, and while vLLM generates, it leaves no process, and resumes.
4. What cannot be is one line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from marked_processes import marked, processes_of
from stapo.run import RunDirectory

WAIT = 600

RUN = [
    "tiny", "--quiet", "--rollout.engine", "vllm", "--agent.prompt", "conversation", "--agent.max_prompt_tokens", "800",
    "--sft.steps", "20", "--sft.episodes", "16", "--sft.batch_size", "8", "--rollout.groups", "2",
    "--rollout.group_size", "4", "--optim.iterations", "2", "--optim.mini_batch", "64", "--eval.episodes", "4",
    "--eval.every", "0", "--eval.no-greedy", "--log.transcript_every", "0", "--algorithm.outlier.select", "all",
]  # fmt: skip
KILLED = ["--optim.iterations", "40", "--log.save_every", "1", "--log.save_seconds", "0.01"]


def stapo(*words: object, mark: str = "none") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stapo", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False, env=marked(mark))


def assert_healthy(rows):
    for row in rows:
        assert row["update"]["logprob_gap_mean"] < 1e-4
        assert row["mismatch"]["k3_kl"] < 1e-6
        assert row["entropy"]["mean"] > 0
        assert row["seconds"]["entropies"] > 0
        assert not any(text.startswith("sampler-gap") for text in row["warnings"])
        assert row["prefill"]["reused"] > 0


# -- 1 -----------------------------------------------------------------------------------------------------------------


ADAPTERS = ["--model.lora.rank", "4", "--rollout.vllm.continuous"]


@pytest.fixture(scope="module", params=[[], ADAPTERS], ids=["full", "lora, without turns"])
def trained(request, tmp_path_factory):
    out, mark = tmp_path_factory.mktemp("trained") / "run", uuid.uuid4().hex
    done = stapo("train", *RUN, "--out", out, *request.param, mark=mark)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "vllm" not in done.stdout.lower()
    assert not processes_of(mark)
    return out


def test_a_training_ends_and_agrees_with_the_trainer(trained):
    rows = RunDirectory.open(trained).rows("metrics")
    assert len(rows) == 2
    assert_healthy(rows)


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_a_greedy_evaluation_is_that_of_transformers(trained):
    mark = uuid.uuid4().hex
    found = []
    for more in (["--engine", "vllm"], []):
        done = stapo("eval", trained, "--greedy", "--episodes", 6, "--json", *more, mark=mark)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0].pop("engine") == "vllm"
    assert found[0] == found[1]
    assert not processes_of(mark)


def test_a_diagnosis(trained, tmp_path):
    out = tmp_path / "diagnosis"
    done = stapo("diagnose", trained, "--tasks", 2, "--group-size", 3, "--engine", "vllm", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    (document,) = json.loads(done.stdout)["diagnoses"]
    assert document["protocol"]["engine"] == "vllm"
    rows = [json.loads(line) for line in (out / "final" / "steps.jsonl").read_text().splitlines()]
    assert len(rows) > 6
    assert all(row["entropy"] > 0 for row in rows)


# -- 3 -----------------------------------------------------------------------------------------------------------------


def wait_for(there, running):
    end = time.monotonic() + WAIT
    while time.monotonic() < end and running.poll() is None and not there():
        time.sleep(0.05)
    assert running.poll() is None, "it ended before"
    assert there()


def resumes(out):
    """A run that was killed: one more iteration than it had rows of, without a gap, and healthy."""
    reached = len(RunDirectory.open(out).rows("metrics"))
    mark = uuid.uuid4().hex
    done = stapo("resume", out, "--quiet", "--iterations", reached + 1, mark=mark)
    assert done.returncode == 0, done.stderr
    rows = RunDirectory.open(out).rows("metrics")
    assert [row["iteration"] for row in rows] == list(range(1, reached + 2))
    assert_healthy(rows)
    assert not processes_of(mark)
    return reached


def test_killed_between_saves(tmp_path):
    out, mark = tmp_path / "run", uuid.uuid4().hex
    command = [sys.executable, "-m", "stapo", "train", *RUN, *KILLED, "--out", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": marked(mark)}
    with subprocess.Popen(command, **quiet) as running:
        wait_for(lambda: list((out / "saves").glob("*/state.json")), running)
        running.kill()
    assert not processes_of(mark)
    resumes(out)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["push", "generate"])
def test_killed_in_the_middle(tmp_path, place):
    out, mark, marker = tmp_path / "run", uuid.uuid4().hex, tmp_path / "there"
    script = str(Path(__file__).with_name("stop_at.py"))
    command = [sys.executable, script, place, str(marker), "train", *RUN, *KILLED, "--out", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": marked(mark)}
    with subprocess.Popen(command, **quiet) as running:
        wait_for(marker.exists, running)
        running.kill()
    assert not processes_of(mark)
    # Iteration 1 was done and saved; the second had begun, and nothing of it is left.
    assert resumes(out) == 1


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "said"),
    [("--rollout.vllm.sleep", "vLLM runs on a CPU here"), ("--rollout.temperature=2.5", "vLLM samples at 2 at most")],
)
def test_what_cannot_be_is_one_line(tmp_path, setting, said):
    done = stapo("train", *RUN, "--out", tmp_path / "run", setting)
    assert done.returncode not in (0, 1)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
