"""Train with TRL's GRPOTrainer on our ALFWorld, on a CPU.

    python examples/train_with_trl.py Qwen/Qwen3-0.6B runs/with-trl

It needs trl; requirements-ecosystem.txt has the version that was tried.
"""

from __future__ import annotations

import sys
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from stapo.adapters.trl import environment, rows

ENVIRONMENT = {"scenes": "tiny", "games_per_type": 40}
"""Small generated scenes; leave it empty for large ones, or give `games` for the released games."""


def main(
    model: str,
    out: str = "runs/with-trl",
    *,
    options: dict[str, Any] = ENVIRONMENT,
    tokenizer: Any = None,
    reward_funcs: Any = None,
    **settings: Any,
) -> GRPOTrainer:
    """Train, and return the trainer.

    Args:
        model: name or folder of a model whose chat template has tools.
        out: folder of TRL's run.
        options: of the environment.
        tokenizer: None for that of the model.
        reward_funcs: rewards beside that of the environment, as TRL takes them.
        settings: of TRL's GRPOConfig, instead of those below.
    """
    base = {
        "max_steps": 20,
        "per_device_train_batch_size": 8,
        "num_generations": 8,  # episodes of a group: they play the task of their row
        "max_completion_length": 2048,  # all turns of an episode
        "learning_rate": 1e-5,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "logging_steps": 1,
    }
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(output_dir=out, **{**base, **settings}),
        train_dataset=Dataset.from_list(rows("alfworld", split="train", **options)),
        reward_funcs=reward_funcs,
        processing_class=tokenizer,
        environment_factory=environment("alfworld", split="train", **options),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/train_with_trl.py MODEL [FOLDER]")
    trained = main(*sys.argv[1:3])
    print(f"{trained.state.global_step} updates, in {trained.args.output_dir}")
