"""Plausible rows with every key that training writes."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "seed": 3,
    "env": {"name": "maze", "split": "train", "options": {}},
    "model": {"path": None, "dtype": "float32"},
    "sft": {"steps": 20},
    "rollout": {"groups": 2, "group_size": 2},
    "algorithm": {"name": "stapo", "outlier": {"select": "iqr"}, "selective": {"alpha": 0.01}},
    "optim": {"iterations": 3, "grad_clip": 1.0},
    "eval": {"split": "heldout"},
}


def metrics_row(iteration: int) -> dict[str, Any]:
    bins = {"1": 4, "2-3": 6, "4-7": 0, "8-15": 10, "16-31": 0, "32+": 0}
    return {
        "iteration": iteration,
        "success": 0.1 * iteration,
        "success_by_type": {"corridor": 0.2, "tower": 0.0},
        "score": 0.1,
        "episodes": 4,
        "rows": 20,
        "episode_length": 5.0,
        "prompt_tokens": 80.0,
        "response_tokens": 4.0,
        "valid_actions": 0.8,
        "repeated_actions": 0.1,
        "ineffective_actions": 0.2,
        "truncated_responses": 0.0,
        "stop_reasons": {"won": 1, "failed": 0, "step_limit": 3, "prompt_too_long": 0},
        "equal_reward_groups": 0.5,
        "entropy": {
            "mean": 0.9,
            "quantiles": [0.1, 0.4, 0.8, 1.2, 2.0],
            "histogram": {"low": 0.0, "high": 3.0, "counts": [5, 10, 5, 0]},
        },
        "normalized_entropy": {"histogram": {"low": -4.0, "high": 4.0, "counts": [0, 12, 7, 1]}},
        "advantage": {"mean": 0.0, "std": 1.0, "zero": 0.25},
        "anchor": {"groups": 6, "mean_size": 3.3, "largest": 10, "rows_by_size": bins},
        "outlier": {
            "flagged": 1,
            "flagged_share": 0.05,
            "high_share": 0.05,
            "low_share": 0.0,
            "acted_on": 1,
            "by_anchor_size": {**dict.fromkeys(bins, 0), "8-15": 1},
            "q1": -0.6,
            "q3": 0.7,
            "iqr": 1.3,
            "lower_fence": -2.55,
            "upper_fence": 2.65,
            "singleton_share": 0.2,
            "none_because": None,
        },
        "update": {
            "optimizer_steps": 1,
            "loss": 0.06,
            "tokens": 80.0,
            "clip_high": 0.01,
            "clip_low": 0.02,
            "dual_clip": 0.0,
            "ratio": 1.0,
            "old_kl": 0.02,
            "grad_norm": 0.3,
            "selective_rows": 1,
            "r_ta": 1.5,
            "p_ti": 0.1,
            "selective_gradient_ratio": 0.2,
            "logprob_gap": 4e-6,
        },
        "unflagged_kl": 0.5,
        "learning_rate": 1e-3,
        "seconds": {"generation": 3.0, "environment": 0.5, "advantages": 0.1, "reference": 0.0, "blind": 0.2,
                    "update": 4.0, "total": 8.0},
    }  # fmt: skip


def eval_row(iteration: int, mode: str, success: float, *, final: bool = True, episodes: int = 100) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "mode": mode,
        "final": final,
        "protocol": f"{episodes} episodes of split 'heldout', {mode}",
        "episodes": episodes,
        "success": success,
        "success_standard_error": (success * (1 - success) / episodes) ** 0.5,
        "by_type": {
            "corridor": {"episodes": episodes // 2, "success": success},
            "tower": {"episodes": episodes // 2, "success": success},
        },
    }


def step(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "step": number,
        "observation": f"You stand in cell {number}.",
        "prompt": f"goal reach the exit\nsaw cell {number - 1}\nnow cell {number}\n>",
        "blind_prompt": f"now cell {number}\n>",
        "response": "go north",
        "action": "go north",
        "valid": True,
        "problem": "",
        "repeated": False,
        "effect": True,
        "reward": 0.0,
        "return": 0.9,
        "advantage": 0.35,
        "episode_advantage": 0.25,
        "step_advantage": 0.1,
        "entropy": 0.8,
        "normalized_entropy": 0.3,
        "outlier": None,
        "acted_on": False,
        "anchor_group": number,
        "anchor_size": 2,
        "tokens": 3,
        "logprob": -1.2,
        **changes,
    }


def trajectory(iteration: int, group: int = 0, member: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "task_id": "maze/0001",
        "task_type": "corridor",
        "goal": "reach the exit",
        "group": group,
        "member": member,
        "won": member == 0,
        "score": float(member == 0),
        "stop_reason": "won" if member == 0 else "step_limit",
        "fences": {"q1": -0.6, "q3": 0.7, "lower": -2.55, "upper": 2.65},
        "steps": [step(0), step(1, outlier="high", acted_on=True, normalized_entropy=3.1), step(2, valid=False)],
        **changes,
    }


EVALS = [
    eval_row(0, "sampled", 0.10),
    eval_row(0, "greedy", 0.20),
    eval_row(2, "sampled", 0.30, final=False, episodes=20),
    eval_row(3, "sampled", 0.50),
    eval_row(3, "greedy", 0.22),
]
