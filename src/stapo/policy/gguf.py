"""GGUF files as model folders: unpacked to float32, saved as safetensors with the tokenizer that is in the file."""

from __future__ import annotations

from contextlib import redirect_stderr
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from stapo.atomic_io import reason_of
from stapo.errors import ConfigError, ModelError
from stapo.policy.config import ModelConfig
from stapo.policy.gguf_header import read_header
from stapo.policy.model import finish_policy, quiet

_PACKAGES = {"gguf": "gguf>=0.19", "accelerate": "accelerate>=1"}
_PLAIN = ("F32", "F16", "BF16", "F64")


def require() -> None:
    """Check that the packages of the extra `gguf` are there.

    Raises:
        ConfigError: one is not.
    """
    missing = [wanted for package, wanted in _PACKAGES.items() if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"GGUF files are read by packages that are not installed. Install them with: pip install "
            f"{' '.join(repr(wanted) for wanted in missing)} (the extra 'gguf')."
        )


def convert(file: Path, folder: Path) -> dict[str, Any]:
    """Write the model in a GGUF file into an empty folder.

    Returns:
        architecture, quantization, what the weights are, and the versions that converted them.

    Raises:
        ConfigError: a package is missing.
        ModelError: no whole GGUF file, of a kind that cannot be converted, or a model that cannot be trained here.
        OSError: the folder cannot be written.
    """
    require()
    header = read_header(file)
    if header.architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise ModelError(
            f"GGUF file '{file}' has the architecture '{header.architecture}', which transformers cannot convert; "
            f"expected one such as llama, qwen2 or qwen3 ({len(GGUF_SUPPORTED_ARCHITECTURES)} are known to it)."
        )
    with TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.link.") as alone:
        # In a folder of its own: files beside it (a config.json, a tokenizer) must not be taken for its own.
        (Path(alone) / "model.gguf").symlink_to(file.resolve())
        try:
            # Its progress bar cannot be switched off; what else it has to say is in our errors.
            with quiet(), redirect_stderr(StringIO()):
                policy = _load(Path(alone), header.weights)
                policy.save(folder)
        except (ModelError, OSError):
            raise
        except Exception as err:  # transformers and safetensors raise what they like
            raise ModelError(f"GGUF file '{file}' cannot be converted: {reason_of(err)[:300].rstrip('.')}.") from err
    packed = {kind: count for kind, count in header.types.items() if kind not in _PLAIN}
    how = max(packed, key=lambda kind: packed[kind], default="")
    return {
        "architecture": header.architecture,
        "parameters": policy.parameter_count,
        "quantization": header.types,
        "weights": f"dequantized from {how}: a start for training, not the published model"
        if how
        else "as in the file",
        "converted_by": {name: version(name) for name in ("transformers", "gguf", "torch")},
    }


def _load(folder: Path, weights: int) -> Any:
    """The policy in `folder`/model.gguf, float32, on the CPU."""
    named: dict[str, Any] = {"gguf_file": "model.gguf"}
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **named)
    with torch.device("meta"):
        expected = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if expected > weights:
        raise ModelError(
            f"the file holds {weights:,} weights, and a model of its sizes has {expected:,}; some are missing."
        )
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        use_safetensors=True,  # of no effect beside a GGUF file; no other file of the folder may be read in its place
        output_loading_info=True,
        **named,
    )
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise ModelError(f"the file lacks {len(missing)} of the model's weights ({', '.join(missing[:3])}).")
    tokenizer = AutoTokenizer.from_pretrained(folder, **named)
    return finish_policy(model, tokenizer, ModelConfig(device="cpu", dtype="float32"))
