"""What is played and with which settings: one protocol for all policies of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from stapo.algo import AlgorithmConfig, OutlierConfig, get_algorithm
from stapo.algo.registries import STEP_SCORES
from stapo.config.run_config import RunConfig
from stapo.diagnosis.scoring import BOTH
from stapo.errors import ConfigError
from stapo.registry import trait
from stapo.rollout.evaluate import pick_tasks
from stapo.texts import counted

STREAM = 31
"""Responses of a diagnosis are drawn from the streams (seed, STREAM, group, member, step)."""

DEFAULT_TASKS = 32


@dataclass(frozen=True)
class DiagnosisSpec:
    """How policies are diagnosed.

    Attributes:
        config: the run whose environment, group size, temperature and settings are used.
        split: where the tasks are from.
        tasks: their ids, one group each.
        offered: how many tasks the split holds.
        group_size: trajectories of each task, N.
        seed: of sampling and of the resamples.
        algorithm: what rows are measured with: anchors, step advantage, outlier settings.
        remarks: where this is not what the run trains with, and why.
    """

    config: RunConfig
    split: str
    tasks: tuple[str, ...]
    offered: int
    group_size: int
    seed: int
    algorithm: AlgorithmConfig
    remarks: list[str] = field(default_factory=list)

    @property
    def temperature(self) -> float:
        """Of the rollouts, as in training."""
        return self.config.rollout.temperature

    def describe(self) -> str:
        """One line that a reader needs to compare the numbers."""
        return (
            f"{len(self.tasks)} of the {counted(self.offered, 'task')} of split '{self.split}', "
            f"{counted(self.group_size, 'trajectory', 'trajectories')} each, "
            f"sampled at temperature {self.temperature:g}, seed {self.seed}"
        )


def make_spec(
    config: RunConfig,
    offered: Sequence[str],
    split: str,
    *,
    tasks: int | None = None,
    group_size: int | None = None,
    seed: int = 0,
) -> DiagnosisSpec:
    """The protocol that suits a run.

    Args:
        config: of the run.
        offered: sorted task ids of the split.
        split: its name.
        tasks: how many of them to play, evenly thinned; None for `DEFAULT_TASKS`, or all where there are fewer.
        group_size: trajectories of each; None for the run's.
        seed: of sampling and of the resamples.

    Raises:
        ConfigError: no task, or a number that cannot be used.
    """
    if not offered:
        raise ConfigError(f"split '{split}' holds no task; choose another with --split.")
    algorithm, remarks = measuring(config.algorithm)
    algorithm = algorithm.resolved(config.agent.max_response_tokens, config.model.dtype)
    if tasks is not None and tasks > len(offered):
        remarks.append(f"The split holds {counted(len(offered), 'task')} only, so {tasks} could not be played.")
    chosen = pick_tasks(offered, min(tasks or DEFAULT_TASKS, len(offered)))
    return DiagnosisSpec(
        config, split, tuple(chosen), len(offered), group_size or config.rollout.group_size, seed,
        algorithm, remarks,
    )  # fmt: skip


def measuring(trained: AlgorithmConfig) -> tuple[AlgorithmConfig, list[str]]:
    """The settings to measure with, and in words where they are not those of training.

    Every algorithm is measured like STAPO: with a step advantage, with flags where entropies are outliers, and against
    a prompt that lacks both goal and history.
    """
    stapo, remarks = get_algorithm("stapo"), []
    outlier: OutlierConfig = trained.outlier
    if outlier.select == "none":
        outlier = stapo.outlier
        remarks.append(f"'{trained.name}' flags no steps; outliers are those that 'stapo' would flag.")
    elif outlier.select != "iqr":
        remarks.append(f"'{trained.name}' selects steps by '{outlier.select}'; outliers are those beyond the fences.")
        outlier = replace(outlier, select="iqr")
    if trained.needs_states:
        remarks.append(f"Metric '{outlier.metric}' needs earlier batches; outliers are found by 'normalized'.")
        outlier = replace(outlier, metric="normalized")
    if trained.selective_on and trained.selective.blind_mask != BOTH:
        remarks.append(
            f"'{trained.name}' trains with a blind prompt without {trained.selective.blind_mask}; divergences here are "
            "against one without goal and history, so that algorithms can be compared."
        )
    own = trained.advantage
    advantage = replace(
        stapo.advantage,
        discount=own.discount,
        advantage_norm=own.advantage_norm,
        invalid_penalty=own.invalid_penalty,
        invalid_penalty_on=own.invalid_penalty_on,
        std_floor=own.std_floor,
        eps=own.eps,
        ddof=own.ddof,
        anchor=own.anchor,
        similarity_fit=own.similarity_fit,
        similarity_threshold=own.similarity_threshold,
    )
    selective = replace(stapo.selective, blind_mask=BOTH)
    return replace(stapo, advantage=advantage, outlier=outlier, selective=selective), remarks


def stateless_metrics() -> list[str]:
    """Outlier metrics of this package that one batch suffices for, in the order in which it lists them."""
    return [name for name in STEP_SCORES.own_names() if not trait(STEP_SCORES.get(name), "needs_states", False)]
