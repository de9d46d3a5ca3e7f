"""What a preset for models from scratch becomes where a pretrained model is given: one rule, said when it is used.

A preset that has SFT and no `model.path` was tuned for a small model that knows nothing: thousands of
supervised steps at rates that would wreck a pretrained model, limits in tokens of a tokenizer made for the environment,
float32. With `--model.path` these settings, and no others, are chosen anew, by the size of the model and by the device.
Whatever the user gives wins. Where no rule chooses, as under a file of the user's own, a learning rate of models from
scratch that was not given for the pretrained model is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from stapo.config.presets import layers_of, preset_names
from stapo.config.run_config import RunConfig
from stapo.config.schema import setting_paths, to_data
from stapo.documents import lookup
from stapo.envs.protocol import HasChatSettings
from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import ConfigError, ModelError
from stapo.estimate.shapes import find_shape
from stapo.policy.config import is_built_here
from stapo.policy.sources import folder_here

SMALL = 1_000_000_000
"""Weights below which a model needs demonstrations first, and answers with the command alone.

From 1.5 billion on the published runs begin with the instruction-tuned model itself.
"""
_NO_GPU = ("cpu",)
_SCRATCH_RATE = 5e-4
"""The lowest learning rate of the presets for models from scratch; those of pretrained models are below."""
_RATES = {"optim.learning_rate": "optim.iterations", "sft.learning_rate": "sft.steps"}
"""Learning rates, and how often they are used."""


def pretrained_settings(source: str, preset: RunConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a pretrained model asks for instead of the preset's; {} where there is none.

    Args:
        source: preset or file that the settings come from; what a file of the user says stands.
        preset: the settings of the source.
        given: the user's own settings by their dotted names, as text or as values; they are laid over these.
    """
    path = given.get("model.path")
    if path in (None, "None", "null") or preset.model.path or not preset.sft.steps or _is_file(source):
        return {}
    if is_built_here(str(path)):
        return {}
    rank, device = str(given.get("model.lora.rank") or ""), given.get("model.device")
    on_gpu = device not in _NO_GPU and _has_gpu(device)
    size = weights_of(str(path))
    small = size is not None and size < SMALL
    adapters = rank.isdecimal() and int(rank) > 0
    chosen: dict[str, Any] = {
        "agent": _agent(preset, small),
        "model": {"dtype": "auto"},
        "sft": {"steps": 0, "learning_rate": 1e-4},
        "optim": {
            "learning_rate": (1e-5 if small else 1e-6) * (10 if adapters else 1),
            "micro_tokens": 16_384 if on_gpu else 4096,
        },
        # A save of such a model takes many seconds, and gigabytes are written.
        "log": {"threads": "auto", "save_seconds": 300.0},
    }
    if small:
        chosen["sft"] |= {"steps": 200, "episodes": 400, "batch_size": 16, "curriculum": 0.0, "stop_at": 1.0}
    if not on_gpu:
        # Two thousand episodes an iteration are minutes for a small model from scratch, and days for this one.
        chosen["rollout"] = {"groups": 4}
        chosen["optim"] |= {"iterations": 20, "mini_batch": 128}
        chosen["eval"] = {"episodes": 32, "quick_episodes": 32, "greedy": False}
    return chosen


def said(chosen: Mapping[str, Any], given: Collection[str]) -> str:
    """What was chosen, without the settings that the user gave, in a line."""
    shown = ", ".join(f"{name} {value}" for name, value in setting_paths(chosen).items() if name not in given)
    return f"settings chosen for a pretrained model: {shown}. Each can be set, e.g. sft.steps to 0."


def weights_of(path: str) -> int | None:
    """Weights of a model by its shape, or by the size of its files; None where nothing is known."""
    folder = folder_here(path)
    try:
        return find_shape(str(folder or path)).parameters
    except ModelError:
        files = (folder or Path(path)).glob("*.safetensors")
        # Half precision is the usual type of released files.
        return sum(f.stat().st_size for f in files) // 2 or None


def _agent(preset: RunConfig, small: bool) -> dict[str, Any]:
    agent = preset.agent
    env: object = None if preset.envs else ENVIRONMENTS.get(preset.env.name)
    if small or not isinstance(env, HasChatSettings):
        # A general tokenizer cuts the environment's set sentences into two to three times as many pieces.
        return {
            "max_prompt_tokens": max(1024, 3 * agent.max_prompt_tokens),
            "max_response_tokens": max(32, 3 * agent.max_response_tokens),
        }
    return dict(env.chat_settings)


def _has_gpu(device: str | None) -> bool:
    import torch

    return torch.cuda.is_available() or (device or "auto").startswith(("cuda", "mps"))


def _is_file(source: str) -> bool:
    return source not in preset_names() and (source.endswith((".yaml", ".yml")) or Path(source).exists())


def _scratch_rates(config: RunConfig) -> dict[str, float]:
    """The learning rates of models from scratch with which a pretrained model would be trained."""
    path, data = config.model.path, to_data(config)
    if path is None or is_built_here(path):
        return {}
    used = {name: float(lookup(data, name)) for name, count in _RATES.items() if lookup(data, count)}
    return {name: rate for name, rate in used.items() if rate >= _SCRATCH_RATE}


def require_own_rates(source: str | Mapping[str, Any], given: Mapping[str, Any], config: RunConfig) -> None:
    """Refuse learning rates of models from scratch that nobody gave for the pretrained model.

    Args:
        source: preset, file or mapping that the settings come from.
        given: the user's own settings and those chosen for a pretrained model, by their dotted names.
        config: what came of them.

    Raises:
        ConfigError: such a rate is from below what gives `model.path`: a preset, a file, or the defaults.
    """
    rates = _scratch_rates(config)
    if not rates:
        return
    layers = [*map(setting_paths, layers_of(source)), given]
    first = max((i for i, layer in enumerate(layers) if layer.get("model.path")), default=0)
    own = [name for layer in layers[first:] for name in layer]
    for name, rate in rates.items():
        # What a file says under `per_algorithm` is its own as well.
        if not any(known == name or known.endswith(f".{name}") for known in own):
            families = ", ".join(
                sorted({f"{preset.partition('/')[0]}/…" for preset in preset_names() if "/" in preset})
            )
            raise ConfigError(
                f"model.path is '{config.model.path}', a pretrained model, and {name} {rate:g} is for a small model "
                f"from scratch. Give {name} with the model (usual: 1e-6 to 1e-5 for RL, 1e-4 for SFT), or take a "
                f"preset for pretrained models ({families})."
            )


def warning(config: RunConfig) -> str:
    """What to say of learning rates that would wreck a pretrained model, though given for it; "" for none."""
    # Adapters take rates of their own; SFT trains all weights.
    used = {
        name: rate for name, rate in _scratch_rates(config).items() if name[:3] == "sft" or not config.model.lora.rank
    }
    rates = ", ".join(f"{name} {rate:g}" for name, rate in used.items())
    return rates and (
        f"warning: {rates}: meant for a small model from scratch; model.path is a pretrained one. Usual are 1e-6 to "
        "1e-5 for RL, and some 200 steps at 1e-4 for SFT."
    )
