"""Episodes with random tokens, whose prompts grow as those of a conversation do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stapo.algo import get_algorithm
from stapo.config.training import OptimConfig
from stapo.policy import Policy
from stapo.rollout.types import Step, Trajectory
from stapo.training.batch import rows_of
from stapo.training.update import Updater

VOCABULARY = 300


def tokens(rng: np.random.Generator, low: int, high: int) -> list[int]:
    return rng.integers(2, VOCABULARY, int(rng.integers(low, high + 1))).tolist()


def conversation(
    rng: np.random.Generator, group: int, member: int, turns: int, broken: Any = (), cut: float = 0.0
) -> Trajectory:
    """Growing prompts; at the turns `broken` a fresh one begins, a share `cut` lacks its last token."""
    prompt, steps = tokens(rng, 2, 9), []
    for turn in range(turns):
        if turn in broken:
            prompt = tokens(rng, 2, 9)
        response = tokens(rng, 1, 5)
        steps.append(
            Step(
                prompt_ids=prompt,
                blind_ids=tokens(rng, 2, 6),
                response_ids=response,
                logprobs=(-rng.random(len(response))).tolist(),
                entropies=(2 * rng.random(len(response))).tolist(),
                prompt="", blind_prompt="", response="", action=str(turn), valid=bool(rng.random() < 0.8), problem="",
                anchor=str(rng.integers(3)), observation="", reward=float(turn == turns - 1) * float(rng.random()),
            )
        )  # fmt: skip
        said = response[:-1] if cut and rng.random() < cut else response
        prompt = [*prompt, *said, *tokens(rng, 1, 6)]
    return Trajectory(f"task {group}", "", "", group, member, steps)


def batch_of_episodes(policy: Policy, seed: int = 0, episodes: int = 6, cut: float = 0.0) -> list[Trajectory]:
    """Episodes of two groups that sampled nearly as the policy does."""
    rng = np.random.default_rng(seed)
    trajectories = [
        conversation(rng, j // 3, j % 3, int(rng.integers(1, 7)), set(rng.integers(1, 12, 2).tolist()), cut)
        for j in range(episodes)
    ]
    steps, (rows, _) = [s for t in trajectories for s in t.steps], rows_of(trajectories, merge=False)
    with torch.no_grad():
        scorer = Updater(policy, None, get_algorithm("gigpo"), OptimConfig(), 1.0).scorer
        scored = scorer.score(policy.model, rows)
    for step, logp_l in zip(steps, scored.logp_bl.tolist(), strict=True):
        step.logprobs = [p + 0.1 * float(rng.normal()) for p in logp_l[: len(step.response_ids)]]
    return trajectories
