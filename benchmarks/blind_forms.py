"""Which form of a blind prompt tells what the trajectory does, in a run with conversations.

A blind prompt hides goal and history. Written in another style than the full prompt, it also differs in style, and the
divergence of full and blind answers holds both. At the first step of an episode there is no history; what is found
there with the history hidden is style alone. The script plays a trained policy and prints, for each form and each mask,
the mean divergence R_TA (nats per token, exact over the vocabulary) at the first step and at later ones, with a
bootstrap interval over episodes.

    python benchmarks/blind_forms.py runs/a [--episodes 64] [--forms conversation compact standard]
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

import stapo
from stapo.diagnosis.scoring import attribute
from stapo.rollout import Step
from stapo.training.loop import build_collector


def interval(values: np.ndarray, episodes: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean, and the 95 % interval of a bootstrap over episodes."""
    kept = np.isfinite(values)
    values, episodes = values[kept], episodes[kept]
    names = np.unique(episodes)
    groups = [values[episodes == name] for name in names]
    means = [
        float(np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]).mean()) for _ in range(500)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def main() -> None:
    """Play once per form and mask, with the same random numbers, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--forms", nargs="+", default=["conversation", "compact", "standard"])
    options = parser.parse_args()
    run = stapo.Run(options.run)
    config, policy = run.config, run.policy("final")
    print(f"{'form':14s}{'hidden':14s}{'first step':>28s}{'later steps':>28s}")
    for form in options.forms:
        for mask in ("history", "goal", "goal_history"):
            agent = replace(config.agent, blind_prompt=None if form == config.agent.prompt else form)
            collector = build_collector(replace(config, agent=agent), policy)
            collector.blind_mask, collector.masks = mask, ("goal", "history")
            tasks = collector.tasks_of(config.eval.split)[: options.episodes]
            try:
                trajectories = collector.collect(tasks, 1, 1.0, (config.seed, 40))
            finally:
                collector.close()
            steps: list[Step] = [step for t in trajectories for step in t.steps]
            episode = np.array([j for j, t in enumerate(trajectories) for _ in t.steps])
            first = np.array([k == 0 for t in trajectories for k in range(len(t.steps))])
            kl = attribute(policy, steps, 1.0, 8192).kl_b
            line = f"{form:14s}{mask:14s}"
            for where in (first, ~first):
                if np.isfinite(kl[where]).any():
                    mean, low, high = interval(kl[where], episode[where], np.random.default_rng(0))
                    line += f"{mean:12.3f} [{low:.3f}, {high:.3f}]".rjust(28)
                else:
                    line += "the same prompt".rjust(28)
            print(line, flush=True)


if __name__ == "__main__":
    main()
