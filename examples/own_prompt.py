"""Train with your own prompt: a function of what the agent knows at a step."""

from __future__ import annotations

from typing import Any

import stapo


@stapo.register_prompt_style("terse")
def terse(fields: stapo.PromptFields, config: Any, hide_goal: bool, hide_history: bool, /) -> str:
    """Write one prompt; the trajectory-blind one is written by the same function with goal and history hidden."""
    lines = [] if hide_history else [f"you did {turn.action}" for turn in fields.history]
    lines.append(fields.blind_observation if hide_goal else fields.observation)
    lines += fields.admissible or ()
    return "\n".join(lines + ([] if hide_goal else [f"goal {fields.goal}"]) + [">"])


def main(out: str = "runs/own-prompt", **overrides: Any) -> stapo.Run:
    """Train with it; `agent.prompt` names it, in Python as in a YAML file."""
    config = stapo.load_config("tiny", **{"agent.prompt": "terse", "agent.history_length": 4, **overrides})
    run = stapo.train(config, out)
    print(run, [round(row["success"], 2) for row in run.metrics])
    return run


if __name__ == "__main__":
    main()
