"""Data-parallel equality: the objective of an update on one process, and sharded over two, moves weights alike.

The scorer and the losses of the trainer run inside one module, which torch's FSDP2 shards over two processes on gloo:
the head's weight is taken inside `forward`, where the root has gathered it. Each rank has half the rows. Divisors are
counted over both, and both run the same number of blind passes, also where one of them has no flagged row.
"""

from __future__ import annotations

import copy
import os
import time
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from stapo.agent import AgentConfig
from stapo.algo import LossDenominators, base_loss, get_algorithm, head, selective_divisor, selective_loss
from stapo.rollout.collect import Collector
from stapo.rollout.encoding import PromptEncoder
from stapo.rollout.sampler import HFSampler
from stapo.training.batch import build_batch
from stapo.training.scoring import Scorer, length_mask, pad_rows
from toy_world import ToyEnv, small_policy

PATIENCE = 600.0
"""Seconds for both processes to end, imports included."""

FLAGGED = ([0, 2, 4, 1], [0, 2], [])
"""Rows with selective terms in each of the three steps: both ranks have some, one has none, nobody has any."""

BASE = get_algorithm("stapo")
STAPO = replace(BASE, selective=replace(BASE.selective, alpha=0.3, gamma=0.3), loss=replace(BASE.loss, beta=0.1))
LEARNING_RATE = 1e-3


def policy_and_batch():
    """The same in every process: weights and rollouts depend on seeds alone."""
    policy = small_policy(3, architecture="qwen3", hidden_size=32, layers=2, initializer_range=0.2)
    agent = AgentConfig(
        prompt="compact", response="action", history_length=1, max_prompt_tokens=300, max_response_tokens=6
    )
    sampler = HFSampler(policy.model, policy.eos_ids, policy.tokenizer.pad_token_id, 6)
    tasks = ["toy/train/red", "toy/train/teal"]
    played = Collector(ToyEnv, PromptEncoder(policy.tokenizer), sampler, agent).collect(tasks, 3, 1.0, (0, 1))
    policy.model.eval()
    return policy, build_batch(played, STAPO)


class Objective(torch.nn.Module):
    """Base loss and selective terms of one micro-batch, with both contexts and the head inside."""

    def __init__(self, policy, reference, batch):
        super().__init__()
        self.model = policy.model
        self.scorer = Scorer(policy, reference, STAPO, 1.0)
        self.batch = batch

    def forward(self, part, totals, ref_logp, z, *, flagged, weight=1.0):
        batch = self.batch
        scored = self.scorer.score(self.model, [batch.full(b) for b in part])
        loss = base_loss(
            scored.logp_bl,
            pad_rows([batch.steps[b].logprobs for b in part], scored.logp_bl),
            torch.as_tensor(batch.advantages.total_b[part]),
            scored.mask_bl,
            STAPO.loss,
            totals,
            ref_logp_bl=pad_rows([ref_logp[b] for b in part], scored.logp_bl),
        ).loss
        if flagged:
            terms = self.scorer.selective(batch, part, (scored.hidden_nh, scored.targets_n))
            loss = loss + selective_loss(terms.r_ta_k, terms.p_ti_k, STAPO.selective, z)
        return weight * loss


def train(rank, world, shard):
    """Weights after three optimizer steps."""
    torch.set_num_threads(1)
    head._NO_RECOMPUTE_BYTES = 0  # the head's chunks are computed again in backward, as with a large vocabulary
    policy, batch = policy_and_batch()
    reference = copy.deepcopy(policy.model)
    with torch.no_grad():  # a reference that is not the policy, so that its terms have a gradient
        for weight in reference.parameters():
            weight.mul_(0.9)
    objective = Objective(policy, reference, batch)
    ref_logp = objective.scorer.reference_logp(batch, 4096)
    if shard is not None:
        shard(objective)
    parameters = [p for p in objective.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    mine, everyone = list(range(rank, len(batch), world)), list(range(len(batch)))
    mask_bl = length_mask([len(s.response_ids) for s in batch.steps], torch.device("cpu"))
    totals = LossDenominators.of(mask_bl)
    for flags in FLAGGED:
        z = selective_divisor(STAPO.selective, flagged=len(flags), rows=len(everyone))
        optimizer.zero_grad()
        parts = [([b for b in mine if b not in flags], False)]
        if flags:
            parts.append(([b for b in mine if b in flags], True))
        for part, flagged in parts:
            # Who has no row runs one of weight 0: every pass gathers weights from both.
            loss = objective(
                part or mine[:1], totals, ref_logp, z, flagged=flagged, weight=float(world) if part else 0.0
            )
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return objective.model, objective


def worker(rank, world, folder):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world, timeout=timedelta(seconds=600)
    )
    mesh = init_device_mesh("cpu", (world,))

    def shard(objective):
        for layer in objective.model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(objective, mesh=mesh)

    model, _ = train(rank, world, shard)
    weights = {name: p.full_tensor().detach().contiguous() for name, p in model.named_parameters()}
    if rank == 0:
        save_file(weights, f"{folder}/weights.safetensors")
    dist.barrier()  # nobody leaves while the other still needs it
    # gloo's threads may abort the process while Python takes it down, now and then; what is tested has happened by now.
    os._exit(0)


@pytest.mark.slow
def test_one_process_and_two_end_with_the_same_weights(tmp_path):
    context = torch.multiprocessing.spawn(worker, (2, str(tmp_path)), nprocs=2, join=False)
    try:
        single = dict(train(0, 1, None)[0].named_parameters())
        end = time.monotonic() + PATIENCE
        while not context.join(timeout=1.0):
            assert time.monotonic() < end, f"the two processes did not end within {PATIENCE:.0f} s"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
                process.join(10.0)
    double = load_file(tmp_path / "weights.safetensors")
    start = dict(policy_and_batch()[0].model.named_parameters())
    assert single.keys() == double.keys() == start.keys()
    differences = [float((single[name].detach() - double[name]).abs().max()) for name in single]
    assert max(differences) < 1e-5, max(differences)
    # The agreement is not trivial: weights have moved by several learning rates.
    assert np.median([float((single[n] - start[n]).detach().abs().max()) for n in single]) > 2 * LEARNING_RATE
