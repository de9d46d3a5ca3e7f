"""One rollout inside verl, without GPUs and servers: run by `test_whole_way.py` as a process.

    python one_rollout.py FOLDER NAME …

FOLDER holds the model `policy` and, for each NAME, `NAME.json` (a run configuration). verl's agent loop worker plays
the tasks of our data set into the transfer queue, verl pads the batch, and the trainer's own method writes advantages,
flags and blind prompts back. `NAME.rows.json` is what lies in the queue then, in the order of the batch.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import ray
import torch
import transfer_queue as tq
import verl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.utils import create_rl_dataset
from verl.trainer.ppo.v1 import AgentLoopWorkerTQ
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn
from verl.workers.rollout.replica import TokenOutput

from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data
from stapo.policy import ModelConfig, RowTokens, load_policy
from stapo.rollout.sampler import HFSampler
from stapo.training.scoring import Scorer
from stapo.verl_plugin.fields import BLIND_IDS, BLIND_LENGTHS, STEP, TRAJECTORY, flat, objects, ragged_rows
from stapo.verl_plugin.overrides import Machines, verl_overrides
from stapo.verl_plugin.rows import PAYLOAD
from stapo.verl_plugin.trainer import StapoTrainer

MULTIPLE = 16
SECONDS = 90


class Server:
    """Stands in for verl's rollout servers: answers by transformers, in the worker's process, and notes who asked."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.log, self.sampler, self.asked = str(folder / "policy"), folder / f"{name}.asked", None, 0

    async def generate(self, request_id, *, prompt_ids, sampling_params, **others):
        if self.sampler is None:
            policy = load_policy(self.folder, ModelConfig(device="cpu"))
            self.sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 6)
        self.asked += 1
        with self.log.open("a") as log:
            print(request_id, file=log)
        (sample,) = self.sampler.sample([prompt_ids], [(7, self.asked)], sampling_params["temperature"])
        await asyncio.sleep(0)
        steps = {"global_steps": 1, "min_global_steps": 1, "max_global_steps": 1}
        return TokenOutput(
            token_ids=sample.ids, log_probs=sample.logprobs, stop_reason="completed", extra_fields=steps
        )  # fmt: skip


def play(config, server: Server) -> KVBatchMeta:
    dataset = create_rl_dataset(config.data.train_files, config.data, None, None)
    rows = collate_fn([dataset[i] for i in range(config.data.train_batch_size)])
    rows["uid"] = np.array([str(uuid.uuid4()) for _ in rows["raw_prompt"]], dtype=object)
    prompts = tu.get_tensordict(rows)
    tu.assign_non_tensor_data(prompts, "global_steps", 1)
    tags = [{"is_prompt": True, "status": "pending", "global_steps": 1} for _ in rows["uid"]]
    tq.kv_batch_put(keys=list(rows["uid"]), partition_id="train", tags=tags)
    worker = AgentLoopWorkerTQ.remote(config=config, llm_client=server)
    ray.get(worker.generate_sequences.remote(prompts), timeout=SECONDS)
    deadline = time.monotonic() + SECONDS
    while True:
        found = tq.kv_list(partition_id="train")["train"]
        states = [found[uid]["status"] for uid in rows["uid"]]
        if all(state in ("finished", "failure") for state in states):
            break
        assert time.monotonic() < deadline, f"the agent loops did not end: {states}"
        time.sleep(0.2)
    assert set(states) == {"finished"}, states
    keys = [key for key, tag in found.items() if not tag.get("is_prompt")]
    return KVBatchMeta(keys=keys, tags=[found[key] for key in keys], partition_id="train")


def equal_groups() -> list[str]:
    """The groups that verl's filter would replace, were dynamic sampling on."""
    buffer = ReplayBuffer("sync", {}, None, "drop", {}, refill_fn=lambda n: n, filter_groups_metric="reward")
    buffer._sync_metadata_from_transfer_queue()
    return sorted(buffer._dapo_filtered_keys("train")[0])


def score(batch: KVBatchMeta, run: RunConfig, folder: Path) -> None:
    """Old log-probabilities and entropies, which verl's engine computes (`test_engine.py` has that)."""
    policy = load_policy(str(folder / "policy"), ModelConfig(device="cpu"))
    scorer = Scorer(policy, None, run.algorithm, run.rollout.temperature)
    data = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["prompts", "responses"])
    logprobs, entropies = [], []
    for prompt, response in zip(data["prompts"].unbind(), data["responses"].unbind(), strict=True):
        with torch.no_grad():
            scored = scorer.score(policy.model, [RowTokens(prompt.tolist(), response.tolist())])
        logprobs.append(scored.logp_bl[0])
        entropies.append(scored.entropy_bl[0])
    fields = {"old_log_probs": ragged_rows(logprobs), "entropy": ragged_rows(entropies)}
    tq.kv_batch_put(keys=batch.keys, partition_id="train", fields=tu.get_tensordict(fields))


def one_run(folder: Path, name: str) -> None:
    run = from_data(RunConfig, json.loads((folder / f"{name}.json").read_text()))
    config = settings_of(run, folder)
    batch = play(config, Server(folder, name))
    dropped = equal_groups()
    batch = upsample_batch_to_divisible_size(batch, MULTIPLE, 1)
    score(batch, run, folder)

    trainer = StapoTrainer.__new__(StapoTrainer)  # without workers and servers, which need GPUs
    trainer.stapo, trainer.stapo_states, trainer.global_steps = run, {}, 1
    trainer.config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"calculate_log_probs": True}}})
    metrics: dict = {}
    trainer._compute_advantage(batch, metrics)

    data = tq.kv_batch_get(keys=batch.keys, partition_id="train")
    names = ("prompts", "responses", "response_mask", "old_log_probs", "rollout_log_probs", "entropy", "advantages")
    ragged = (*names, STEP, BLIND_LENGTHS, BLIND_IDS)
    columns = {name: [row.reshape(-1).tolist() for row in data[name].unbind()] for name in ragged}
    columns[TRAJECTORY] = flat(data[TRAJECTORY]).tolist()
    columns["payload"] = [fields.get(PAYLOAD) for fields in objects(data["extra_fields"])]
    columns["reward"] = [row.sum().item() for row in data["rm_scores"].unbind()]
    columns["key"] = list(batch.keys)
    columns["padding"] = [bool(tag.get("is_padding")) for tag in batch.tags]
    (folder / f"{name}.rows.json").write_text(json.dumps({"columns": columns, "metrics": metrics, "dropped": dropped}))
    tq.kv_clear(keys=list(tq.kv_list(partition_id="train")["train"]), partition_id="train")


def settings_of(run: RunConfig, folder: Path):
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        config = compose("ppo_trainer", verl_overrides(run, Machines(1, 2), "test", str(folder / "out")))
    OmegaConf.resolve(config)
    queue = config.transfer_queue
    queue.enable, queue.backend.SimpleStorage.num_data_storage_units = True, 1
    return config


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    # Many logical CPUs and one storage: the queue waits for ever where there are fewer than its actors want.
    ray.init(num_cpus=16, include_dashboard=False, log_to_driver=True)
    first = from_data(RunConfig, json.loads((folder / f"{names[0]}.json").read_text()))
    tq.init(settings_of(first, folder).transfer_queue)
    for name in names:
        one_run(folder, name)
    tq.close()
    ray.shutdown()


if __name__ == "__main__":
    main()
