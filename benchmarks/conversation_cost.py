"""What one pass per episode saves: an iteration with the preset's prompts beside one with conversations.

Both are played by the same policy with random weights, on the same tasks, with constrained decoding where the
environment offers commands, so that episodes are of the same length and nothing has to be learned first. A line shows
one setting: tokens that the update reads, tokens that the rollout reads (prefill), and the seconds of each part of an
iteration. The two ways alternate; shown are the medians over the repeats, and the ratios of the two.

    python benchmarks/conversation_cost.py [--presets tiny alfworld-tiny webshop-tiny search-tiny] [--repeats 3]
    python benchmarks/conversation_cost.py --large [--tokenizer FOLDER] [--dtype bfloat16]     # 135M parameters
    python benchmarks/conversation_cost.py --steps 5 10 20 40 80 [--svg FILE]             # how cost grows

`--large` plays full-size ALFWorld with a random Llama of the shape of SmolLM2-135M. Its tokenizer is trained on the
environment's text unless a folder is given.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from stapo.config import load_config
from stapo.config.run_config import RunConfig
from stapo.config.schema import to_data
from stapo.policy import ModelConfig, Policy, build_policy
from stapo.policy.config import DType
from stapo.policy.model import finish_policy
from stapo.policy.tokenizer import train_tokenizer
from stapo.run import RunDirectory
from stapo.training.demonstrations import demonstrate, tokenizer_texts
from stapo.training.factories import RunEnv
from stapo.training.loop import Trainer

PRESETS = ("tiny", "alfworld-tiny", "webshop-tiny", "search-tiny")
PARTS = ("generation", "environment", "reference", "update", "blind")
LONGEST = 8000


def conversing(config: RunConfig) -> RunConfig:
    """The same settings with conversations."""
    agent = replace(config.agent, prompt="conversation", mark_goal_words=False)
    return replace(config, agent=agent)


def prepared(config: RunConfig, groups: int, size: int, steps: int | None, algorithm: str) -> RunConfig:
    """The settings of one side, before its prompts are chosen."""
    free = config.env.name == "search"
    response = "search_answer" if free else "action"
    decode = "free" if free else "constrained"
    env = config.env if steps is None else replace(config.env, options={**config.env.options, "max_steps": steps})
    return replace(
        config,
        env=env,
        agent=replace(config.agent, response=response, decode=decode, max_prompt_tokens=LONGEST),
        sft=replace(config.sft, steps=0, episodes=24),
        rollout=replace(config.rollout, groups=groups, group_size=size),
        algorithm=algorithm_of(config, algorithm),
        log=replace(config.log, transcript_every=0),
    )


def algorithm_of(config: RunConfig, name: str) -> Any:
    """A named algorithm with the loss of the preset."""
    from stapo.algo import get_algorithm

    chosen = get_algorithm(name)
    return replace(chosen, advantage=replace(chosen.advantage, invalid_penalty=0.1), loss=config.algorithm.loss)


def texts(config: RunConfig) -> list[str]:
    """What a tokenizer for the prompts of these settings is trained on."""
    env = RunEnv(config)
    try:
        demos = demonstrate(env.pool, config.agent, config.sft, config.env.split, "goal_history", 0)
    finally:
        env.close()
    return list(tokenizer_texts(demos))


def small(configs: list[RunConfig]) -> Policy:
    """A policy of the preset's size with random weights."""
    said = [text for config in configs for text in texts(config)]
    return build_policy(configs[0].model, said, LONGEST + 64, 0)


def large(configs: list[RunConfig], tokenizer: str | None, dtype: DType) -> Policy:
    """Random weights of SmolLM2-135M's shape."""
    if tokenizer:
        spoken = AutoTokenizer.from_pretrained(tokenizer)
    else:
        spoken = train_tokenizer([text for config in configs for text in texts(config)], 4096)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=8192,
            eos_token_id=spoken.eos_token_id, pad_token_id=spoken.pad_token_id, bos_token_id=None,
        )
    )  # fmt: skip
    return finish_policy(model, spoken, ModelConfig(device="cpu", dtype=dtype))


def iterate(config: RunConfig, policy: Policy, number: int) -> dict[str, Any]:
    """The metrics row of one iteration of a fresh copy of the policy."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", to_data(config), ["benchmark"])
        trainer = Trainer(config, replace(policy, model=copy.deepcopy(policy.model)), run)
        try:
            return trainer.iterate(number)
        finally:
            trainer.collector.close()


def figures(row: dict[str, Any]) -> dict[str, float]:
    """What is compared of a metrics row."""
    seconds, prefill = row["seconds"], row["prefill"]
    return {
        "rows": row["rows"],
        "sequences": row["sequences"]["count"],
        "update tokens": row["sequences"]["tokens"],
        "prefilled": prefill["tokens"],
        "flagged": row["outlier"]["acted_on"],
        **{part: seconds.get(part, 0.0) for part in PARTS},
        "total": seconds["total"],
    }


def side_by_side(pairs: dict[str, RunConfig], policy: Policy, repeats: int) -> dict[str, dict[str, float]]:
    """Medians over iterations that take turns, after one small one each that nobody counts."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pairs}
    for config in pairs.values():
        iterate(replace(config, rollout=replace(config.rollout, groups=1, group_size=2)), policy, 1)
    for number in range(1, repeats + 1):
        for name, config in pairs.items():
            found[name].append(figures(iterate(config, policy, number)))
    return {name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()}


def table(title: str, found: dict[str, dict[str, float]]) -> None:
    """Print figures, and the ratio of the two ways for each algorithm."""
    print(f"\n{title}")
    keys = list(next(iter(found.values())))
    print(f"{'':34s}" + "".join(f"{key:>14s}" for key in keys))
    for name, row in found.items():
        print(f"{name:34s}" + "".join(f"{row[key]:14,.0f}" if row[key] >= 100 else f"{row[key]:14.2f}" for key in keys))
    names = list(found)
    for old in names:
        new = old.replace("a prompt per step", "conversation")
        if new != old and new in found:
            ratios = [found[old][key] / found[new][key] if found[new][key] else float("nan") for key in keys]
            print(f"{'  ratio, ' + old.split(',')[0]:34s}" + "".join(f"{ratio:14.2f}" for ratio in ratios))


def compare(preset: str, options: argparse.Namespace, steps: int | None = None) -> dict[str, dict[str, float]]:
    """Both ways, for each algorithm."""
    base = load_config("alfworld-tiny" if preset == "large" else preset)
    pairs = {}
    for algorithm in options.algorithms:
        today = prepared(base, options.groups, options.size, steps, algorithm)
        pairs[f"{algorithm}, a prompt per step"] = today
        pairs[f"{algorithm}, conversation"] = conversing(today)
    sides = [pairs[name] for name in list(pairs)[:2]]
    policy = large(sides, options.tokenizer, options.dtype) if preset == "large" else small(sides)
    return side_by_side(pairs, policy, options.repeats)


def growth(options: argparse.Namespace) -> None:
    """Both ways for each length of episodes, as tables and as a figure."""
    found = {steps: compare("large" if options.large else "tiny", options, steps) for steps in options.steps}
    for steps, rows in found.items():
        table(f"episodes of {steps} steps", rows)
    if options.svg:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
        for axis, key, label in (
            (axes[0], "update tokens", "tokens read by a pass over the batch"),
            (axes[1], "total", "seconds of an iteration"),
        ):
            for name in next(iter(found.values())):
                axis.plot(list(found), [rows[name][key] for rows in found.values()], marker="o", label=name)
            axis.set_xlabel("steps of an episode")
            axis.set_ylabel(label)
            axis.set_ylim(bottom=0)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].legend(frameon=False)
        figure.tight_layout()
        figure.savefig(options.svg, metadata={"Date": None})


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--algorithms", nargs="+", default=["grpo", "stapo"])
    parser.add_argument("--large", action="store_true", help="30 layers of width 576 on full-size ALFWorld")
    parser.add_argument("--tokenizer", help="folder of a tokenizer for --large")
    parser.add_argument("--steps", nargs="+", type=int, help="step limits of episodes: how cost grows")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the large model")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--json", type=Path, help="also write all figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.steps:
        growth(options)
        return
    every = {}
    for preset in ["large"] if options.large else options.presets:
        every[preset] = compare(preset, options, 20 if options.large else None)
        table(preset, every[preset])
    if options.json:
        options.json.write_text(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
