"""verl's synchronous trainer with our credit: advantages, flags and blind prompts of whole episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import transfer_queue as tq
from omegaconf import OmegaConf, open_dict
from tensordict import TensorDict
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer

from stapo.algo import AlgorithmConfig
from stapo.errors import ConfigError
from stapo.training.metrics import correction_of, mismatch_of, rollout_metrics
from stapo.verl_plugin.credit import assign_credit, columns
from stapo.verl_plugin.fields import SAMPLED, lengths, objects
from stapo.verl_plugin.loss import StapoLoss
from stapo.verl_plugin.overrides import mini_batch_prompts
from stapo.verl_plugin.rows import PAYLOAD, VerlRow
from stapo.verl_plugin.settings import run_config_of

MODE = "stapo"
"""`trainer.v1.trainer_mode` that picks this trainer."""

_READ = ("prompts", "responses", "response_mask", "old_log_probs", "entropy", "extra_fields")
_PLAYED = "actor_rollout_ref.rollout.calculate_log_probs"


@register_trainer(MODE)
class StapoTrainer(PPOTrainerSync):
    """`PPOTrainerSync`, except for where advantages and the loss come from.

    Args:
        config: verl's, with our run configuration in `data.stapo`.

    Raises:
        ConfigError: verl shall correct for the rollout, by weights or masks that our credit and loss do not take.
    """

    def __init__(self, config: Any) -> None:
        self.stapo = run_config_of(config.data)
        self.stapo_states: Mapping[str, Sequence[float]] = {}
        correction = config.algorithm.rollout_correction
        asked = [name for name in ("rollout_is", "rollout_rs", "bypass_mode") if correction.get(name)]
        if asked:
            raise ConfigError(
                f"algorithm.rollout_correction.{asked[0]} is {correction[asked[0]]}; verl corrects whole rows, which "
                "may hold several steps, and stapo's loss takes neither its weights nor its masks. Leave it "
                "out; rollout.correction corrects steps, in either engine."
            )
        # verl compares the mode with "sync" to choose its replay buffer; under another name it would be the
        # asynchronous one.
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)

    @property
    def algorithm(self) -> AlgorithmConfig:
        """Which math; 'stapo verl' has decided what the dtype decides of it."""
        return self.stapo.algorithm.resolved(self.stapo.agent.max_response_tokens)

    def on_init_end(self) -> None:
        """Give the workers our loss; see verl."""
        super().on_init_end()
        self.actor_rollout_wg.set_loss_fn(StapoLoss(self.algorithm, correction_of(self.stapo.rollout)))

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        with self._mini_batch_in_rows():
            return int(super()._get_required_batch_multiple(dp_size))

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        with self._mini_batch_in_rows():
            return super()._update_actor(batch, metrics)

    @contextmanager
    def _mini_batch_in_rows(self) -> Iterator[None]:
        """Let verl count `optim.mini_batch` rows, multiple of the group or not, unless the user told verl otherwise.

        verl multiplies prompts by attempts, in this process alone, each time it needs the number of rows; workers are
        told the product.
        """
        actor, rollout = self.config.actor_rollout_ref.actor, self.config.actor_rollout_ref.rollout
        said = actor.ppo_mini_batch_size, rollout.n
        if said == (mini_batch_prompts(self.stapo), self.stapo.rollout.group_size):
            actor.ppo_mini_batch_size, rollout.n = self.stapo.optim.mini_batch, 1
        try:
            yield
        finally:
            actor.ppo_mini_batch_size, rollout.n = said

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        known = bool(OmegaConf.select(self.config, _PLAYED))
        fields = [*_READ, *([SAMPLED] if known else [])]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        credit = assign_credit(
            verl_rows(batch.keys, batch.tags, data),
            self.algorithm,
            merge=self.stapo.optim.merge,
            seed=(self.stapo.seed, 3, self.global_steps),
            states=self.stapo_states,
        )
        self.stapo_states = credit.batch.outliers.states or {}
        metrics.update(flat_metrics(rollout_metrics(credit.batch), "stapo"))
        if known:
            measured = mismatch_of(credit.batch.steps, correction_of(self.stapo.rollout))
            metrics.update(flat_metrics(measured, "stapo/mismatch"))
        found = TensorDict(columns(credit, lengths(data["responses"])), batch_size=len(batch.keys))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=found)


def verl_rows(keys: Sequence[str], tags: Sequence[Mapping[str, Any]], data: Any) -> list[VerlRow]:
    """Read verl's batch as plain rows.

    Args:
        keys: `PROMPT_ATTEMPT_NUMBER` of each row.
        tags: of each row; padding is marked here.
        data: the columns `_READ`, and `SAMPLED` where the rollout server gives log-probabilities.
    """
    ragged = [[row.tolist() for row in data[name].unbind()] for name in _READ[:-1]]
    extra = objects(data["extra_fields"])
    sampled = [row.tolist() for row in data[SAMPLED].unbind()] if SAMPLED in data else [None] * len(keys)
    rows = []
    for key, tag, prompt, response, mask, old, entropies, fields, drawn in zip(
        keys, tags, *ragged, extra, sampled, strict=True
    ):
        uid, member, _ = key.rsplit("_", 2)
        payload = fields.get(PAYLOAD) if isinstance(fields, Mapping) else None
        padding = bool(tag.get("is_padding", False))
        rows.append(VerlRow(uid, int(member), prompt, response, mask, old, entropies, payload, padding, drawn))
    return rows


def flat_metrics(values: Mapping[str, Any], name: str) -> dict[str, float]:
    """Numbers of a nested mapping under paths, as verl's loggers take them; lists are left out."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat_metrics(value, f"{name}/{key}")
        elif isinstance(value, bool | int | float):
            found[f"{name}/{key}"] = float(value)
    return found
