"""Starts `stapo verl` on CPU and reads what it says: conversations, one row per episode, STAPO with flags, corrected.

The rollout servers are `cpu_rollout`'s, one for each rank; everything else is verl's and the plugin's: command line,
`main_ppo`, Ray, agent loops, transfer queue, FSDP2 under gloo, saves.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import yaml

from marked_processes import marked, processes_of
from stapo.config.schema import to_data
from test_engine import policy_of, with_flags
from toy_world import toy_settings

SECONDS = 2400
ON_CPU = [
    "actor_rollout_ref.rollout.agent.num_workers=1",
    "actor_rollout_ref.model.use_remove_padding=False",
    "actor_rollout_ref.model.enable_gradient_checkpointing=False",
    "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile=False",
    "actor_rollout_ref.ref.fsdp_config.use_torch_compile=False",
    "reward.num_workers=1",
    "trainer.device=cpu",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    "ray_kwargs.ray_init.num_cpus=24",
    "+ray_kwargs.ray_init.include_dashboard=False",
]
SERVERS = {
    "hf": [],
    "vllm": [
        "actor_rollout_ref.rollout.enforce_eager=True",
        "+actor_rollout_ref.rollout.enable_sleep_mode=False",
        "actor_rollout_ref.rollout.free_cache_engine=False",
        "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=16",
    ],
}
RAY_ENV = {"RAY_worker_niceness": "0"}  # 15 is what Ray gives them: on a busy machine they would get nothing
VLLM_ENV = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
MODULES = "cpu_platform,cpu_rollout,toy_plugin"
COMMAND = "import sys, toy_plugin; from stapo.cli.main import main; sys.exit(main(sys.argv[1:]))"


class Started:
    """A `stapo verl` that runs.

    Args:
        folder: for the settings, the model, its log and verl's saves; one that was used already is resumed.
        ranks: GPUs that verl believes to have.
        server: "hf" or "vllm".
        stop: written by `stop_in_update`, when the run stays inside its second update.
        changes: settings of the run.
    """

    def __init__(
        self, folder: Path, ranks: int = 1, server: str = "hf", stop: Path | None = None, **changes: object
    ) -> None:
        self.folder, self.ranks, self.mark = folder, ranks, uuid.uuid4().hex
        if not (folder / "policy").exists():
            policy_of(0, hidden_size=64 if server == "vllm" else 16).save(folder / "policy")
        settings = toy_settings(
            folder / "policy", agent__prompt="conversation", model__dtype="float32", optim__mini_batch=8,
            eval__greedy=False, rollout__correction="token_mask", **changes,
        )  # fmt: skip
        settings["algorithm"] = to_data(with_flags(6, "stapo"))
        (folder / "run.yaml").write_text(yaml.safe_dump(settings))
        self.log = folder / f"{self.mark}.log"
        words = ["verl", "run.yaml", "--gpus-per-node", str(ranks), "--out", "out", *ON_CPU, *SERVERS[server]]
        words += [f"actor_rollout_ref.rollout.name={server}", f"+ray_kwargs.ray_init.num_gpus={ranks}"]
        modules = {"VERL_USE_EXTERNAL_MODULES": MODULES}
        if stop is not None:
            modules = {"VERL_USE_EXTERNAL_MODULES": f"{MODULES},stop_in_update", "STOP_MARKER": str(stop)}
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *words],
                env={**marked(self.mark), **RAY_ENV, **VLLM_ENV, **modules},
                cwd=folder,
                stdout=out,
                stderr=out,
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def finish(self) -> str:
        """Wait for its end; returns what it said."""
        try:
            code = self.process.wait(timeout=SECONDS)
        finally:
            self.process.kill()
        assert code == 0, self.said()[-6000:]
        assert not processes_of(self.mark, patience=60)
        return self.said()

    def wait_for(self, path: Path) -> None:
        end = time.monotonic() + SECONDS
        while not path.exists() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        assert path.exists(), self.said()[-6000:]


def metrics_of(log: str, step: int) -> dict[str, float]:
    (line,) = re.findall(rf"step:{step} - (.*)", log)
    pairs = (part.rsplit(":", 1) for part in line.split(" - "))
    return {key: float(re.sub(r"np\.\w+\(|\)", "", value)) for key, value in pairs}


def assert_healthy(found: dict[str, float]) -> None:
    # Two groups of four, three steps each.
    assert (found["stapo/rows"], found["stapo/sequences/count"]) == (24, 8)
    assert found["stapo/sequences/tokens"] < found["stapo/sequences/row_tokens"]
    # The one optimizer step is taken at the policy that sampled.
    assert found["actor/stapo/ratio"] == pytest.approx(1, abs=1e-5)
    assert found["actor/stapo/old_kl"] == pytest.approx(0, abs=1e-6)
    assert found["training/rollout_probs_diff_max"] < 1e-4
    # Corrected, and there is nothing to correct.
    assert found["stapo/mismatch/k3_kl"] == pytest.approx(0, abs=1e-6)
    assert (found["stapo/mismatch/truncated"], found["stapo/mismatch/ess"]) == (0, pytest.approx(1, abs=1e-6))
    assert found["actor/grad_norm"] > 0
    # Steps were flagged, and their blind prompts read.
    assert found["stapo/outlier/acted_on"] > 0
    assert found["actor/stapo/r_ta"] > 0
