"""verl's own vLLM server on vLLM's build for a CPU, for tests alone; `cpu_rollout` registers it as "vllm".

One thing is different: a CPU build packs the weights of linear layers when it has loaded them, and verl writes new
weights into layers as they were before that. Here vLLM's own `reload_weights` is handed what verl sends.
"""

from __future__ import annotations

from typing import Any

import ray
import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica


class Extension(vLLMColocateWorkerExtension):
    """In vLLM's worker."""

    def update_weights_from_ipc(
        self, peft_config: Any = None, base_sync_done: bool = False, use_shm: bool = False
    ) -> None:
        assert peft_config is None
        found: list[tuple[str, torch.Tensor]] = []

        def take(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            found.extend((name, weight.clone()) for name, weight in weights)  # the bucket is used again

        receiver = BucketedWeightReceiver(self._get_zmq_handle(), torch.device("cpu"), use_shm)
        receiver.receive_weights(on_bucket_received=take)
        self.reload_weights(weights_iterator=iter(found))
        model = self.model_runner.model
        if model.config.tie_word_embeddings:
            # It has no weights of its own to load, and would keep what it has packed of those before.
            model.lm_head.quant_method.process_weights_after_loading(model.lm_head)


class Server(vLLMHttpServer):
    def _get_worker_extension_cls(self) -> str:
        return "cpu_vllm.Extension"


class Replica(vLLMReplica):
    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self.server_class = ray.remote(Server)
