"""Low-rank adapters: put into a model, switched off for the reference, saved alone or merged.

The adapters are put into the layers of the model in place. It stays the class that it was, so that generation, scoring
and the head need to know nothing of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from stapo.errors import ConfigError, ModelError, first_line
from stapo.policy.config import LoraConfig

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_NAME = "default"


def require_peft() -> Any:
    """The module `peft`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module("peft")
    except ImportError as err:
        raise ConfigError(
            f"model.lora.rank is above 0, which needs the package 'peft' ({err}). Install it with: "
            "pip install '.[lora]' in a clone of the repository. Or train all weights with model.lora.rank 0."
        ) from err


class Adapter:
    """The adapters of one model.

    Args:
        model: a causal language model; its other weights are frozen.
        config: rank above 0.
        seed: of the initial weights. The product of the two factors starts at 0, so the policy at its start is the
            model.

    Raises:
        ConfigError: `peft` is not installed.
        ModelError: no layer has one of the names in `target_modules`, or the head or the embeddings are among them.
    """

    def __init__(self, model: Any, config: LoraConfig, seed: int) -> None:
        peft = require_peft()
        settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=2 * config.rank if config.alpha is None else config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(config.target_modules) or "all-linear",
            task_type="CAUSAL_LM",
        )
        try:
            device = next(model.parameters()).device
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                self._peft = peft.get_peft_model(model, settings)
        except ValueError as err:
            reason = first_line(err)
            raise ModelError(
                f"the adapters cannot be put into {type(model).__name__}: {reason}. Expected names of linear layers in "
                "model.lora.target_modules, such as q_proj; empty is all of them."
            ) from err
        self._layers = {
            name: layer for name, layer in model.named_modules() if isinstance(layer, peft.tuners.lora.LoraLayer)
        }
        ends = (model.get_output_embeddings(), model.get_input_embeddings())
        if any(layer is end for layer in self._layers.values() for end in ends):
            raise ModelError(
                "model.lora.target_modules names the head or the embeddings of the model. Log-probabilities are "
                "computed from the head's own weights, so adapters on it are not supported; leave them out."
            )
        self._device = device
        self.reference_tensors: dict[str, torch.Tensor] = {}
        self._dropouts = [
            module
            for layer in self._layers.values()
            for module in layer.lora_dropout.modules()
            if isinstance(module, torch.nn.Dropout)
        ]
        self._draw(seed)

    @torch.no_grad()
    def _draw(self, seed: int) -> None:
        """Draw the first factors anew on the CPU: the same ones on every device, and apart from shared generators."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self._layers.values():
            first = layer.lora_A[_NAME].weight
            drawn = torch.empty(first.shape, dtype=torch.float32)
            torch.nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            first.copy_(drawn)

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Inside, the model is the one that the adapters were put into."""
        with self._peft.disable_adapter():
            yield

    def refresh_reference(self, tensors: dict[str, torch.Tensor] | None = None) -> None:
        """Make the adapters of this moment the reference, or those that `reference_tensors` gave.

        Raises:
            ModelError: the tensors are those of other adapters.
        """
        now = self._trained()
        given = {name: weight.detach() for name, weight in now.items()} if tensors is None else tensors
        if now.keys() != given.keys() or any(given[name].shape != weight.shape for name, weight in now.items()):
            raise ModelError("the saved reference adapters do not fit this model; the save belongs to another run.")
        self.reference_tensors = {name: given[name].to(now[name], copy=True) for name in now}

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {
            f"{name}.{part}": getattr(layer, part)[_NAME].weight
            for name, layer in self._layers.items()
            for part in ("lora_A", "lora_B")
        }

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """Inside, the model is the reference: without adapters, or with those of the last `refresh_reference`.

        Passes backward do not belong inside. Those of passes before and after are not disturbed: the weights are
        exchanged under their names, and are back before anybody asks for a gradient.
        """
        if not self.reference_tensors:
            with self.switched_off():
                yield
            return
        trained = self._trained()
        held = {name: weight.data for name, weight in trained.items()}
        noisy = [module for module in self._dropouts if module.training]
        try:
            for name, weight in trained.items():
                weight.data = self.reference_tensors[name]
            for module in noisy:
                module.eval()
            yield
        finally:
            for name, weight in trained.items():
                weight.data = held[name]
            for module in noisy:
                module.train()

    @property
    def drops_out(self) -> bool:
        """Whether `dropping_out` does anything."""
        return bool(self._dropouts)

    @contextmanager
    def dropping_out(self, stream: Sequence[int]) -> Iterator[None]:
        """Inside, adapters leave out inputs at random, the rest of the model does not; passes backward belong inside.

        Args:
            stream: names the draws, so that they depend on nothing that was drawn before.
        """
        if not self._dropouts:
            yield
            return
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence(list(stream)).generate_state(1)[0]))
            for module in self._dropouts:
                module.train()
            try:
                yield
            finally:
                for module in self._dropouts:
                    module.eval()

    def save(self, folder: Path, base: str) -> None:
        """Write the adapters in the format of peft.

        Args:
            folder: made where it is missing.
            base: name or folder of the model that they belong to, as peft will look for it.
        """
        folder.mkdir(exist_ok=True)
        peft = require_peft()
        tensors = peft.get_peft_model_state_dict(self._peft, adapter_name=_NAME)
        plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
        settings = self._peft.peft_config[_NAME].to_dict()
        settings |= {"base_model_name_or_path": base, "inference_mode": True, "revision": None}
        text = json.dumps(settings, indent=1, sort_keys=True, default=lambda v: sorted(v) if isinstance(v, set) else v)
        (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read the weights that `save` wrote.

        Raises:
            ModelError: the file cannot be read, or holds other adapters.
        """
        file = folder / WEIGHTS
        try:
            tensors = load_file(file)
        except Exception as err:  # the reader's own error class has no base but Exception
            raise ModelError(f"the adapters in '{file}' cannot be read: {err}.") from err
        peft = require_peft()
        expected = peft.get_peft_model_state_dict(self._peft, adapter_name=_NAME)
        wrong = sorted(
            name
            for name in expected.keys() | tensors.keys()
            if name not in expected or name not in tensors or expected[name].shape != tensors[name].shape
        )
        if wrong:
            raise ModelError(f"the adapters in '{file}' do not fit this model: {', '.join(wrong[:3])}.")
        peft.set_peft_model_state_dict(self._peft, tensors, adapter_name=_NAME)

    @torch.no_grad()
    def merged_state(self, model: Any) -> dict[str, torch.Tensor]:
        """The weights of the plain model that computes what model and adapters compute, up to rounding to its dtype."""
        return dict(self.merged_weights(model))

    def merged_weights(self, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """`merged_state`, one weight after the other, so that only one merged weight needs memory at a time."""
        for name, tensor in model.state_dict().items():
            if ".lora_" in name:
                continue
            layer = self._layers.get(name.removesuffix(".base_layer.weight"))
            yield name.replace(".base_layer.", "."), tensor if layer is None else self._merged(layer)

    @torch.no_grad()
    def _merged(self, layer: Any) -> torch.Tensor:
        weight: torch.Tensor = layer.get_base_layer().weight
        change = layer.get_delta_weight(_NAME).float()
        # Adding 0 would turn -0 into 0, and a run continued from this model into another one.
        return (weight.float() + change).to(weight.dtype) if change.any() else weight
