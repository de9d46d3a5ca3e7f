"""Train from Python: watch the run, stop it when it is good enough, evaluate it, and use the policy."""

from __future__ import annotations

from typing import Any

import stapo


class Watch(stapo.Callback):
    """Prints a line per iteration, and ends the run once it wins often enough."""

    def on_update(self, event: stapo.UpdateEvent) -> None:
        """Look at the metrics of an iteration."""
        success = event.metrics["success"]
        print(f"iteration {event.iteration}: success {success:.2f}")
        if success >= 0.95:
            raise stapo.StopTraining(f"success is {success:.2f}")

    def on_end(self, event: stapo.EndEvent) -> None:
        """Say how the run ended."""
        print(event.status, event.reason)


def main(out: str = "runs/from-python", **overrides: Any) -> stapo.Run:
    """Train, evaluate, and ask the policy."""
    config = stapo.load_config("tiny", algorithm="gigpo", seed=1, **overrides)
    run = stapo.train(config, out, callbacks=[Watch()])
    result = stapo.evaluate(run, checkpoint=run.checkpoints[-1], episodes=20, seeds=[0])
    print(f"{result.title}: success {result.success:.2f} ± {result.standard_error:.2f} ({result.protocol})")
    policy = run.policy(run.checkpoints[-1])
    print(f"{policy.model.num_parameters():,} weights, report {run.report}")
    return run


if __name__ == "__main__":
    main()
