"""How much memory a training needs before the first token, and how much there is: told before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from stapo.errors import ModelError, first_line
from stapo.memory_model import MemoryNeed, ModelSize, lasting_need
from stapo.policy.config import LoraConfig, ModelConfig
from stapo.policy.sources import source_of

_BYTES = {"auto": 4, "float32": 4, "bfloat16": 2}


def parts_in_words(need: MemoryNeed) -> str:
    """Everything on the device of the policy that is not 0."""
    named = {
        "weights": need.weights,
        "gradients": need.gradients,
        "optimizer": need.optimizer,
        "reference": need.reference_on_device,
        "critic": need.critic,
    }
    return ", ".join(f"{name} {in_gb(size)}" for name, size in named.items() if size)


def model_size(path: str, lora: LoraConfig) -> ModelSize:
    """Count the weights of a model by its configuration alone.

    Raises:
        ModelError: transformers cannot build it.
    """
    try:
        config = AutoConfig.from_pretrained(source_of(path), trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as err:  # transformers raises what it likes
        raise ModelError(f"model '{path}' cannot be built from its config.json: {first_line(err)}.") from err
    head, adapters = model.get_output_embeddings(), 0
    for name, layer in model.named_modules():
        wanted = not lora.target_modules or any(name == t or name.endswith(f".{t}") for t in lora.target_modules)
        if lora.rank and wanted and isinstance(layer, torch.nn.Linear) and layer is not head:
            adapters += lora.rank * (layer.in_features + layer.out_features)
    untied = head is not None and head.weight is not model.get_input_embeddings().weight
    return ModelSize(sum(p.numel() for p in model.parameters()), adapters, head.weight.numel() if untied else 0)


def memory_need(
    size: ModelSize, config: ModelConfig, *, reference: bool, critic: bool, all_trained: bool
) -> MemoryNeed:
    """What a training with these settings keeps.

    Args:
        size: of the model.
        config: type, adapters, place of the reference.
        reference: the algorithm needs one.
        critic: the algorithm needs one.
        all_trained: all weights are trained at some time, adapters or not (in SFT).
    """
    return lasting_need(
        size if config.lora.rank else replace(size, adapters=0),
        _BYTES[config.dtype],
        reference=reference,
        reference_on_cpu=config.reference == "cpu",
        critic=critic,
        all_trained=all_trained,
    )


def require_memory(path: str, config: ModelConfig, *, reference: bool, critic: bool, all_trained: bool) -> None:
    """Check that a training fits before its model is loaded; see `memory_need`.

    Raises:
        ModelError: it cannot fit. The message has the parts, what there is, and which settings need less.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else None
    try:
        device = device or torch.device(config.device)
        free = available_bytes(device)
    except (RuntimeError, AssertionError):
        return  # no such device: loading says so
    size = model_size(path, config.lora)

    def need(changed: ModelConfig, size: ModelSize = size, *, reference: bool = reference) -> MemoryNeed:
        return memory_need(size, changed, reference=reference, critic=critic, all_trained=all_trained)

    found = need(config)
    on_cpu = found.reference if found.reference_on_cpu and device.type == "cuda" else 0
    if (free is None or found.on_device <= free) and on_cpu <= (available_bytes(torch.device("cpu")) or on_cpu):
        return
    others = {
        "model.dtype bfloat16": need(replace(config, dtype="bfloat16")),
        "model.reference cpu": need(replace(config, reference="cpu"))
        if device.type == "cuda" and not config.lora.rank
        else found,
        "no reference (loss.beta 0 and selective.gamma 0)": need(config, reference=False),
    }
    if not config.lora.rank:
        lora = LoraConfig(rank=32)
        others["model.lora.rank 32"] = need(replace(config, lora=lora, reference="auto"), model_size(path, lora))
    less = [f"{name} ({in_gb(n.on_device)})" for name, n in others.items() if n.on_device < found.on_device]
    if free is not None and found.on_device > free:
        said = f"{in_gb(found.on_device)} on {device} ({parts_in_words(found)}), and {in_gb(free)} are free"
    else:
        said = f"{in_gb(on_cpu)} of the CPU's memory for its reference, and less is free"
    helps = f" These need less: {', '.join(less)}." if less else ""
    raise ModelError(
        f"training model '{path}' with {size.all / 1e9:.3g} billion weights needs {said}; activations come on "
        f"top.{helps} Or take a smaller model."
    )


def available_bytes(device: torch.device) -> int | None:
    """Free memory of a device: of the GPU, or what this machine and its container still give; None if not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [n for n in (_meminfo(), _container()) if n is not None]
    return min(found, default=None)


def _meminfo() -> int | None:
    kilobytes = _entry(Path("/proc/meminfo"), "MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no such files, or "max"
        return None
    # Files that were read or written can be dropped: a model just copied here counts as used memory.
    return max(0, limit - used + (_entry(group / "memory.stat", "inactive_file ") or 0))


def _entry(file: Path, name: str) -> int | None:
    """The number behind a name in a file of the kernel; None where there is none."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def in_gb(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.2f} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"
