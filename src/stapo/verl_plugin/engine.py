"""verl's FSDP2 engine with the blind pass.

The blind prompts of flagged steps are appended to the micro-batch as further sequences. So every micro-batch is one
forward pass of the policy on every rank, whatever is flagged where, and no rank can wait for another. The reference
needs a pass of its own; it is run by all ranks as soon as one of them has a flagged step in the micro-batch, on a dummy
sequence where a rank has none.
"""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine.utils import detach_tree

from stapo.errors import ConfigError, EngineError, ModelError
from stapo.texts import counted
from stapo.verl_plugin.fields import SCORES, TOTALS, TRAJECTORY, TRAJECTORY_STEPS, flat, ragged_rows
from stapo.verl_plugin.head import CapturingHead, FlaggedSteps, Reference, ScoringHead, standing_in
from stapo.verl_plugin.loss import StapoLoss
from stapo.verl_plugin.objective import Totals, own_counts, steps_per_trajectory
from stapo.verl_plugin.steps import Micro, Sequences

VENDOR = "stapo"
"""Name under which the engine is registered; `VERL_ENGINE_VENDOR` picks it."""

_references: weakref.WeakSet[Any] = weakref.WeakSet()  # the frozen engines of this process: verl puts both into one


class StapoFSDPEngine(FSDPEngineWithLMHead):
    """FSDP2 engine whose head scores in chunks, and which also runs flagged steps under their blind prompts."""

    def initialize(self) -> None:
        """Build the model; see verl.

        Raises:
            ConfigError: a setting of verl's that this engine does not know how to honor.
            ModelError: the model changes its logits behind the head.
        """
        parts = self.engine_config.ulysses_sequence_parallel_size
        if parts > 1:
            raise ConfigError(
                f"ulysses_sequence_parallel_size is {parts}; stapo's engine scores whole sequences on one rank. Set 1, "
                "and lower optim.micro_tokens where memory is short."
            )
        if self.model_config.use_fused_kernels:
            raise ConfigError(
                "use_fused_kernels is on; stapo's engine brings a chunked head of its own. Set it to False."
            )
        hf_config = self.model_config.hf_config
        for name, neutral in (("final_logit_softcapping", None), ("logit_scale", 1), ("logits_scaling", 1)):
            if getattr(hf_config, name, None) not in (None, neutral):
                raise ModelError(
                    f"the model's {name} is {getattr(hf_config, name)}: it changes its logits after the head, which is "
                    "not supported. Qwen and Llama models do not."
                )
        super().initialize()
        if self.engine_config.forward_only:
            _references.add(self)

    def forward_backward_batch(self, data: Any, loss_function: Any, forward_only: bool = False) -> Any:
        """Count the mini-batch over all ranks, then run its micro-batches; see verl."""
        if isinstance(loss_function, StapoLoss) and not forward_only:
            self._count(data, loss_function)
        return super().forward_backward_batch(data, loss_function, forward_only=forward_only)

    def forward_step(self, micro_batch: Any, loss_function: Any, forward_only: bool) -> tuple[Tensor, dict[str, Any]]:
        """One micro-batch: scores of every sampled token, and of flagged steps under both prompts."""
        data = micro_batch.to(get_device_id())
        training = isinstance(loss_function, StapoLoss) and not forward_only
        algorithm = loss_function.algorithm if training else None
        selective = None if algorithm is None or not algorithm.selective_on else algorithm.selective
        micro = Micro.of(data, selective=selective is not None)
        temperature = _temperature(data)
        with self._precision():
            reference = None
            if selective is not None and selective.gamma > 0:
                reference = self._reference_scores(micro, data)
            inputs, width = self._inputs(micro.rows + micro.blind_rows, data)
            head = ScoringHead(
                micro, width, temperature, selective, reference,
                entropy=bool(tu.get_non_tensor_data(data, "calculate_entropy", False)) or training,
                entropy_grad=algorithm is not None and algorithm.loss.entropy_coef > 0,
            )  # fmt: skip
            with standing_in(self.module, head):
                output = self.module(**inputs, use_cache=False)
            scores = head.read(output.logits)
            model_output: dict[str, Any] = {"log_probs": micro.sequences.whole(scores.logp_n)}
            if scores.entropy_n is not None:
                model_output["entropy"] = micro.sequences.whole(scores.entropy_n)
            if loss_function is None:
                loss, metrics = torch.tensor(1.0, device=get_device_name()), {}
            else:
                given = dict(model_output)
                if training:
                    given[SCORES] = None if scores.flagged is None else FlaggedSteps(micro.mask_kl, scores.flagged)
                loss, metrics = loss_function(model_output=given, data=data, dp_group=self.get_data_parallel_group())
        return loss, {"model_output": detach_tree(model_output), "loss": loss.detach().item(), "metrics": metrics}

    def _count(self, data: Any, loss_function: StapoLoss) -> None:
        group, algorithm = self.get_data_parallel_group(), loss_function.algorithm
        counts, used_b = own_counts(data, selective=algorithm.selective_on)
        counts = counts.to(get_device_id())
        dist.all_reduce(counts, group=group)
        tokens, steps, flags = counts.tolist()
        trajectories = 0
        if algorithm.loss.aggregation == "trajectory":
            traj_b = flat(data[TRAJECTORY])
            everywhere: list[list[int]] = [[] for _ in range(dist.get_world_size(group))]
            dist.all_gather_object(everywhere, traj_b.repeat_interleave(used_b.to(traj_b.device)).tolist(), group)
            data[TRAJECTORY_STEPS], trajectories = steps_per_trajectory(traj_b, used_b, everywhere)
        tu.assign_non_tensor_data(data, TOTALS, Totals(tokens, steps, flags, trajectories))

    def _reference_scores(self, micro: Micro, data: Any) -> Reference | None:
        """The reference on this rank's blind prompts; None if no rank has any, or only others do."""
        wanted = torch.tensor(float(bool(micro.flagged)), device=get_device_id())
        dist.all_reduce(wanted, op=dist.ReduceOp.MAX, group=self.get_data_parallel_group())
        if not wanted:
            return None
        rows, sequences = micro.blind_rows, micro.blind
        if not micro.flagged:
            rows, sequences = [micro.rows[0][:2]], Sequences([2], [(0, 1, 2)])
        engine, mode = (self, self.disable_adapter()) if self._is_lora else (_reference(), nullcontext())
        with torch.no_grad(), mode, nullcontext() if engine is self else engine.eval_mode():
            inputs, width = engine._inputs(rows, data)
            head = CapturingHead(sequences, width, copy_weights=engine is not self)
            with standing_in(engine.module, head):
                engine.module(**inputs, use_cache=False)
        return head.captured if micro.flagged else None

    def _inputs(self, rows: list[Tensor], like: Any) -> tuple[dict[str, Any], int | None]:
        """The model's inputs for these token sequences, by verl's own preparation, and the width of padded ones."""
        batch = TensorDict(
            {
                "input_ids": ragged_rows(rows),
                "position_ids": ragged_rows([torch.arange(len(row), device=row.device) for row in rows]),
            },
            batch_size=len(rows),
        )
        for key in ("use_remove_padding", "pad_mode", "pad_token_id"):
            if key in like:
                tu.assign_non_tensor_data(batch, key, tu.get_non_tensor_data(like, key, None))
        tu.assign_non_tensor_data(batch, "use_fused_kernels", False)
        tu.assign_non_tensor_data(batch, "temperature", 1.0)
        inputs, _ = self.prepare_model_inputs(micro_batch=batch)
        packed = tu.get_non_tensor_data(batch, "use_remove_padding", True)
        return inputs, None if packed else int(inputs["input_ids"].shape[1])

    def _precision(self) -> Any:
        dtype = getattr(self, "_autocast_dtype", torch.bfloat16)
        return nullcontext() if dtype == torch.float32 else torch.autocast(get_device_name(), dtype=dtype)


def _reference() -> StapoFSDPEngine:
    found = list(_references)
    if len(found) != 1:
        raise EngineError(
            f"this process holds {counted(len(found), 'reference model')}, expected 1 beside the policy: the "
            "penalty P_TI needs "
            "it. Set actor_rollout_ref.actor.use_kl_loss=True and keep verl's hybrid engine, as 'stapo verl' does."
        )
    engine: StapoFSDPEngine = found[0]
    return engine


def _temperature(data: Any) -> float:
    given = data["temperature"]
    if isinstance(given, Tensor):
        values = flat(given).unique().tolist()
        if len(values) != 1:
            raise EngineError(f"rows of one micro-batch have temperatures {values}; expected one for all.")
        return float(values[0])
    return float(given)


def register_engine(device: str = "cuda") -> None:
    """Register the engine for language models under FSDP2 on a device type; twice is fine."""
    if (device, VENDOR) not in EngineRegistry._engines.get("language_model", {}).get("fsdp2", {}):
        EngineRegistry.register(model_type="language_model", backend="fsdp2", device=device, vendor=VENDOR)(
            StapoFSDPEngine
        )
