"""Which tasks verl hands out, and in which order: those of the embedded engine."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from stapo.config.run_config import RunConfig
from stapo.errors import ConfigError
from stapo.rollout.evaluate import pick_tasks
from stapo.training.factories import tasks_of_split
from stapo.training.tasks import training_stream
from stapo.verl_plugin.settings import AGENT, EVALUATION, TRAIN, run_config_of


class TaskDataset(Dataset[dict[str, Any]]):
    """Task ids in order: for training as `TaskStream` gives them, for evaluation each as often as the protocol says.

    Args:
        data_files: `TRAIN` or `EVALUATION`, alone or in a list.
        config: verl's `data` section, with our configuration in it.
        tokenizer, processor, max_samples, others: what verl gives to every data set; the agent loop makes the prompts.

    Raises:
        ConfigError: neither of the two, or a split without tasks.
    """

    def __init__(
        self,
        data_files: Any,
        tokenizer: Any = None,
        config: Any = None,
        processor: Any = None,
        max_samples: int = -1,
        **others: Any,
    ) -> None:
        names = [data_files] if isinstance(data_files, str) else list(data_files)
        if names not in ([TRAIN], [EVALUATION]):
            raise ConfigError(
                f"the data files are {names}; expected '{TRAIN}' or '{EVALUATION}': tasks come from data.stapo."
            )
        run = run_config_of(config)
        self.source = run.env.name
        self.tasks = training_tasks(run) if names == [TRAIN] else evaluation_tasks(run)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """One task group: what the agent loop is called with."""
        task = self.tasks[position]
        return {
            "raw_prompt": [{"role": "user", "content": task}],
            "task_id": task,
            "position": position,
            "index": position,
            "agent_name": AGENT,
            "data_source": self.source,
        }


def training_tasks(run: RunConfig) -> list[str]:
    """Tasks of all iterations, one per group, in the order of the embedded engine.

    Raises:
        ConfigError: the split holds no task.
    """
    return training_stream(tasks_of_split(run, run.env.split), run).take(run.optim.iterations * run.rollout.groups)


def evaluation_tasks(run: RunConfig) -> list[str]:
    """Tasks of one evaluation: sorted, each as often as `eval.episodes` needs.

    Raises:
        ConfigError: the split holds no task.
    """
    tasks = sorted(tasks_of_split(run, run.eval.split))
    if not tasks:
        raise ConfigError(f"evaluation split '{run.eval.split}' holds no task; choose another with eval.split.")
    return pick_tasks(tasks, run.eval.episodes)
