"""The loss function that verl's workers call once per micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from stapo.algo import AlgorithmConfig, SelectiveTerms, selective_terms, unflatten_tokens
from stapo.errors import EngineError, NonFiniteError
from stapo.verl_plugin.fields import SCORES, TOTALS, TRAJECTORY_ROWS, flat, padded
from stapo.verl_plugin.head import FlaggedRows
from stapo.verl_plugin.objective import Totals, objective

_SELECTIVE = ("selective_loss", "r_ta", "p_ti")


@dataclass(frozen=True)
class StapoLoss:
    """The objective of `stapo.algo` in the shape that verl asks for; handed to the workers by `set_loss_fn`.

    Attributes:
        algorithm: which terms, resolved.
    """

    algorithm: AlgorithmConfig

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
        loss = self.algorithm.loss
        mask_bl = padded(data["response_mask"])
        entropy = model_output.get("entropy")
        rows = TRAJECTORY_ROWS in data
        share = objective(
            self.algorithm,
            totals,
            logp_bl=_responses(model_output["log_probs"], data),
            old_logp_bl=padded(data["old_log_probs"]),
            advantage_b=padded(data["advantages"])[:, 0],
            mask_bl=mask_bl,
            ref_logp_bl=padded(data["ref_log_prob"]) if loss.beta > 0 else None,
            entropy_bl=None if entropy is None else _responses(entropy, data),
            traj_steps_b=flat(data[TRAJECTORY_ROWS]) if rows else None,
            terms=self._terms(model_output[SCORES]),
        )
        if not torch.isfinite(share.loss):
            raise NonFiniteError(
                f"the loss of a micro-batch is {float(share.loss.detach())}; this step was not taken. Lower "
                "optim.learning_rate, or look for log-probabilities that differ between rollout and training."
            )
        ranks = int(data["dp_size"])
        logged = dict.fromkeys(_SELECTIVE, 0.0) if self.algorithm.selective_on else {}
        logged |= share.logged
        metrics = {f"stapo/{name}": Metric(AggregationType.SUM, value * ranks) for name, value in logged.items()}
        return share.loss * ranks, metrics

    def _terms(self, flagged: FlaggedRows | None) -> SelectiveTerms | None:
        if flagged is None:
            return None
        mask_kl, scores = flagged.mask_kl, flagged.scores

        def rows(values_n: Tensor) -> Tensor:
            return unflatten_tokens(values_n, mask_kl)

        return selective_terms(
            mask_kl,
            self.algorithm.selective,
            logp_kl=rows(scores.logp_n),
            logq_kl=rows(scores.logq_n),
            logr_kl=None if scores.logr_n is None else rows(scores.logr_n),
            kl_pq_kl=rows(scores.kl_pq_n),
            kl_qr_kl=None if scores.kl_qr_n is None else rows(scores.kl_qr_n),
        )


def _responses(output: Tensor, data: Any) -> Tensor:
    """(B, L) values at response tokens, out of verl's ragged output over whole sequences."""
    values: Tensor = no_padding_2_padding(output, data)
    return values
