"""One data-parallel rank: run by `test_engine.py` as a process, it runs the jobs of a folder with verl's FSDP2 engine.

    RANK=r WORLD_SIZE=n MASTER_ADDR=… MASTER_PORT=… python one_rank.py FOLDER

FOLDER holds the models `policy` and `reference`, and `jobs.json`, a list of mini-batches with an algorithm each. Rank 0
writes for each job `NUMBER.safetensors` (gradients), `NUMBER.json` (metrics, and what traveled between the ranks) and,
where they are asked for, `NUMBER.scores.json`.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import verl  # noqa: F401  (loads the plugins)
from safetensors.torch import save_file
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.utils.padding import response_from_nested

from stapo.algo import AlgorithmConfig
from stapo.config.schema import from_data
from stapo.verl_plugin.engine import register_engine
from stapo.verl_plugin.fields import BLIND_IDS, BLIND_LENGTHS, STEP, TRAJECTORY, ragged_rows
from stapo.verl_plugin.loss import StapoLoss

# The reference is offloaded to pinned memory, which needs an accelerator.
_CPUOffloadPolicy = transformer_impl.CPUOffloadPolicy
transformer_impl.CPUOffloadPolicy = lambda pin_memory: _CPUOffloadPolicy(pin_memory=False)

FULL = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
SDPA = {"attn_implementation": "sdpa"}  # verl's default is flash attention, which has no CPU build
NUMBERS = (TRAJECTORY,)  # columns of one number a row; the others are ragged
PADDING = {
    "prompts": [0] * 20,
    "responses": [0],
    "response_mask": [0],
    "old_log_probs": [0.0],
    "advantages": [0.0],
    STEP: [0],
    BLIND_LENGTHS: [0],
    BLIND_IDS: [0],
    TRAJECTORY: -1,
}


def engine(folder: Path, *, forward_only: bool, lora: int = 0):
    made = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=HFModelConfig(path=str(folder), use_remove_padding=False, lora_rank=lora, override_config=SDPA),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            forward_only=forward_only,
            model_dtype="fp32",
            mixed_precision=FULL,
            use_torch_compile=False,
        ),
        optimizer_config=FSDPOptimizerConfig(lr=0.01, weight_decay=0.0, clip_grad=1e9, total_training_steps=10),
        checkpoint_config=CheckpointConfig(),
    )
    made.initialize()
    return made


def batch(rows: list[dict], tokens: int) -> TensorDict:
    whole = [torch.tensor(r["prompts"] + r["responses"]) for r in rows]
    data = {name: [torch.tensor(r[name]) for r in rows] for name in PADDING}
    data |= {"input_ids": whole, "position_ids": [torch.arange(len(ids)) for ids in whole]}
    data["loss_mask"] = data["response_mask"]
    data = TensorDict(
        {name: torch.stack(rows) if name in NUMBERS else ragged_rows(rows) for name, rows in data.items()},
        batch_size=len(rows),
    )
    tu.assign_non_tensor(
        data, temperature=1.0, use_remove_padding=False, use_dynamic_bsz=True, max_token_len_per_gpu=tokens,
        global_batch_size=len(rows) * dist.get_world_size(), use_fused_kernels=False, calculate_entropy=True,
    )  # fmt: skip
    return data


def shares(mine: torch.Tensor) -> list[list[float]]:
    """Rows of all ranks, in the order of the whole batch."""
    gathered = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, [row.tolist() for row in mine.unbind()])
    return [rank[i] for i in range(len(gathered[0])) for rank in gathered]


def infer(model, rows: list[dict], tokens: int) -> dict[str, torch.Tensor]:
    data = batch(rows, tokens)
    del data[STEP]  # steps have no numbers before the credit
    with model.eval_mode():
        output = model.infer_batch(data)["model_output"]
    return {name: response_from_nested(output[name], data["response_mask"]) for name in ("log_probs", "entropy")}


class Traffic:
    """Counts what FSDP2 gathers and reduces, in bytes of whole tensors."""

    def __init__(self) -> None:
        self.bytes = {"gathered": 0, "reduced": 0}
        gather, reduce = dist.all_gather_single, dist.reduce_scatter_single  # what FSDP2 of torch 2.13 calls

        def counted_gather(*args, **others):
            self.bytes["gathered"] += (args[0] if args else others["output_tensor"]).nbytes
            return gather(*args, **others)

        def counted_reduce(*args, **others):
            self.bytes["reduced"] += (args[1] if args else others["input"]).nbytes
            return reduce(*args, **others)

        dist.all_gather_single, dist.reduce_scatter_single = counted_gather, counted_reduce

    def since(self, before: dict[str, int]) -> dict[str, int]:
        return {name: size - before[name] for name, size in self.bytes.items()}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    register_engine("cpu")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    jobs = json.loads((folder / "jobs.json").read_text())
    traffic = Traffic()
    reference = engine(folder / "reference", forward_only=True)
    for number, job in enumerate(jobs):
        rows = job["rows"]
        # Padding of verl's kind until the ranks hold equally many; the last rank holds the most of it.
        mine = (rows + [PADDING] * (-len(rows) % ranks))[rank::ranks]
        policy = engine(folder / "policy", forward_only=False, lora=job.get("lora", 0))
        if job.get("scores"):
            found = infer(policy, mine, job["tokens"])
            scores = {name: shares(values) for name, values in found.items()}
            if rank == 0:
                (folder / f"{number}.scores.json").write_text(json.dumps(scores))
        data = batch(mine, job["tokens"])
        data["ref_log_prob"] = infer(reference, mine, job["tokens"])["log_probs"]
        loss = StapoLoss(from_data(AlgorithmConfig, job["algorithm"]))
        with policy.train_mode():
            policy.optimizer_zero_grad()
            before = dict(traffic.bytes)
            output = policy.forward_backward_batch(data, loss)
            traveled = traffic.since(before)
            tensors = {
                name: p.grad.full_tensor().contiguous()
                for name, p in policy.module.named_parameters()
                if p.grad is not None
            }
            norm = policy.optimizer_step()
        gathered = [None] * ranks
        dist.all_gather_object(gathered, output["metrics"])
        if rank == 0:
            save_file({name: t.detach().clone() for name, t in tensors.items()}, folder / f"{number}.safetensors")
            metrics = {key: type(v).aggregate_dp([g[key] for g in gathered]) for key, v in output["metrics"].items()}
            (folder / f"{number}.json").write_text(json.dumps({**metrics, **traveled, "grad_norm": float(norm)}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    assert os.environ["VERL_PLATFORM"] == "cpu"
    main()
