"""The loss function that verl's workers call once per micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from stapo.algo import AlgorithmConfig, Correction
from stapo.errors import EngineError, NonFiniteError
from stapo.verl_plugin.fields import SCORES, TOTALS
from stapo.verl_plugin.objective import Totals, rows_objective, shares_of_none


@dataclass(frozen=True)
class StapoLoss:
    """The objective of `stapo.algo` in the shape that verl asks for; handed to the workers by `set_loss_fn`.

    Attributes:
        algorithm: which terms, resolved.
        correction: weights for how the rollout server differs from the training engine; None for none.
    """

    algorithm: AlgorithmConfig
    correction: Correction | None = None

    def __call__(self, model_output: dict[str, Any], data: Any, dp_group: Any = None) -> tuple[Tensor, dict[str, Any]]:
        """Loss and metrics of one micro-batch, times the number of ranks, since verl averages gradients over them.

        Raises:
            EngineError: the pass was not run by our engine.
            NonFiniteError: the loss is not finite.
        """
        totals = tu.get_non_tensor_data(data, TOTALS, None)
        if not isinstance(totals, Totals) or SCORES not in model_output:
            raise EngineError(
                "verl ran this pass with an engine that is not stapo's, so blind prompts would have been left out "
                "silently. Set VERL_ENGINE_VENDOR=stapo, and strategy=fsdp2 for actor and reference, as 'stapo verl' "
                "does."
            )
        entropy = model_output.get("entropy")
        share = rows_objective(
            self.algorithm,
            totals,
            data,
            no_padding_2_padding(model_output["log_probs"], data),
            None if entropy is None else no_padding_2_padding(entropy, data),
            model_output[SCORES],
            self.correction,
        )
        if not torch.isfinite(share.loss):
            raise NonFiniteError(
                f"the loss of a micro-batch is {float(share.loss.detach())}; this step was not taken. Lower "
                "optim.learning_rate, or look for log-probabilities that differ between rollout and training."
            )
        ranks = int(data["dp_size"])
        logged = shares_of_none(self.algorithm, totals) | share.logged
        metrics = {f"stapo/{name}": Metric(AggregationType.SUM, value * ranks) for name, value in logged.items()}
        return share.loss * ranks, metrics
