"""`stapo train --rollout.engine vllm` with vLLM itself: to its end, killed and resumed, and refused in one line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from stapo.run import RunDirectory

WAIT = 600


RUN = [
    "tiny", "--quiet", "--rollout.engine", "vllm", "--agent.prompt", "conversation", "--agent.max_prompt_tokens", "800",
    "--sft.steps", "20", "--sft.episodes", "16", "--sft.batch_size", "8", "--rollout.groups", "2",
    "--rollout.group_size", "4", "--optim.iterations", "2", "--optim.mini_batch", "64", "--eval.episodes", "4",
    "--eval.every", "0", "--eval.no-greedy", "--log.transcript_every", "0", "--algorithm.outlier.select", "all",
]  # fmt: skip


def stapo(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stapo", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)


def processes_with(marker: object) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(marker) in words:
            found.append(words)
    return found


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_a_training_ends_and_agrees_with_the_trainer(tmp_path, rank):
    out = tmp_path / "run"
    done = stapo("train", *RUN, "--out", out, "--model.lora.rank", rank)
    assert done.returncode == 0, done.stderr
    rows = RunDirectory.open(out).rows("metrics")
    assert len(rows) == 2
    for row in rows:
        assert row["update"]["logprob_gap_mean"] < 1e-4
        assert row["entropy"]["mean"] > 0
        assert row["seconds"]["entropies"] > 0
        assert not any(text.startswith("sampler-gap") for text in row["warnings"])
        assert row["prefill"]["reused"] > 0
    assert not processes_with(out)


def test_a_killed_run_resumes_and_leaves_no_process(tmp_path):
    out = tmp_path / "run"
    more = ["--optim.iterations", "40", "--log.save_every", "1", "--log.save_seconds", "0.01"]
    command = [sys.executable, "-m", "stapo", "train", *RUN, *more, "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        end = time.monotonic() + WAIT
        while time.monotonic() < end and running.poll() is None and not list((out / "saves").glob("*/state.json")):
            time.sleep(0.2)
        assert running.poll() is None
        running.kill()
    assert not processes_with(out)
    reached = len(RunDirectory.open(out).rows("metrics"))
    done = stapo("resume", out, "--quiet", "--iterations", reached + 1)
    assert done.returncode == 0, done.stderr
    rows = RunDirectory.open(out).rows("metrics")
    assert [row["iteration"] for row in rows] == list(range(1, reached + 2))
    assert all(row["update"]["logprob_gap_mean"] < 1e-4 for row in rows)
    assert not processes_with(out)


@pytest.mark.parametrize(
    ("setting", "said"),
    [("--rollout.vllm.sleep", "vLLM runs on a CPU here"), ("--rollout.temperature=2.5", "vLLM samples at 2 at most")],
)
def test_what_cannot_be_is_one_line(tmp_path, setting, said):
    done = stapo("train", *RUN, "--out", tmp_path / "run", setting)
    assert done.returncode not in (0, 1)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
