"""GGUF files as model folders: unpacked to float32, saved as safetensors with the tokenizer that is in the file.

The header is read with an eye on the size of the file, before a library that trusts it sees it.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from stapo.atomic_io import reason_of
from stapo.documents import shown
from stapo.errors import ConfigError, ModelError
from stapo.policy.config import ModelConfig
from stapo.policy.model import finish_policy, quiet

_PACKAGES = {"gguf": "gguf>=0.19", "accelerate": "accelerate>=1"}
_PLAIN = ("F32", "F16", "BF16", "F64")

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the scalar types of values, by their numbers."""
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8


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


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        architecture: its `general.architecture`.
        types: tensors by their type, the most frequent first.
        weights: of all tensors.
    """

    architecture: str
    types: dict[str, int]
    weights: int


class _Reader:
    """Numbers and texts of an open file; past its end is an error."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def take(self, count: int) -> bytes:
        found = self.file.read(count) if count <= self.left() else b""
        if len(found) != count:
            raise EOFError
        return found

    def left(self) -> int:
        return self.size - self.file.tell()

    def skip(self, count: int) -> None:
        if count > self.left():
            raise EOFError
        self.file.seek(count, 1)

    def number(self, form: str) -> int:
        return int(struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0])

    def text(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int, depth: int = 0) -> None:
        """Skip a value."""
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _STRING:
            self.skip(self.number("Q"))
        elif kind == _ARRAY and depth < 4:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SIZES:
                self.skip(count * _SIZES[inner])
            else:
                for _ in range(count):
                    self.value(inner, depth + 1)
        else:
            raise ValueError(f"value type {kind}")


def read_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file, and check that all tensors are within the file.

    Raises:
        ModelError: it is not a GGUF file, of another version, damaged or truncated, or has tensors of an unknown type.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(path, _Reader(file, size))
    except ModelError:
        raise
    except EOFError:
        raise ModelError(
            f"GGUF file '{path}' is truncated: it ends after {size:,} bytes, within what it says it holds. Download it "
            "again."
        ) from None
    except OSError as err:
        raise ModelError(f"GGUF file '{path}' cannot be read: {err.strerror or err}.") from err
    except (ValueError, struct.error) as err:
        raise ModelError(f"GGUF file '{path}' is damaged: {err}.") from err


def _read(path: Path, reader: _Reader) -> GgufHeader:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if reader.left() < 4 or reader.take(4) != b"GGUF":
        raise ModelError(f"'{path}' is not a GGUF file: it does not begin with the letters GGUF.")
    if (version := reader.number("I")) not in (2, 3):
        raise ModelError(f"GGUF file '{path}' has version {version}, expected 2 or 3. Convert it anew.")
    tensors, values = reader.number("Q"), reader.number("Q")
    architecture, alignment, layers = "", 32, 0
    for _ in range(values):
        key, kind = reader.text(), reader.number("I")
        if key == "general.architecture" and kind == _STRING:
            architecture = reader.text()
        elif key == "general.alignment" and kind == 4:
            alignment = reader.number("I")
        elif key.endswith(".block_count") and kind == 4:
            layers = reader.number("I")
        else:
            reader.value(kind)
    if layers > tensors:
        raise ValueError(f"{layers:,} layers and {tensors:,} tensors")
    if not 0 < alignment <= 1 << 20:
        raise ValueError(f"an alignment of {alignment}")
    types, weights, end = Counter[str](), 0, 0
    for _ in range(tensors):
        name, dimensions = reader.text(), reader.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"tensor {shown(name)} has {dimensions} dimensions")
        count = math.prod(reader.number("Q") for _ in range(dimensions))
        number, offset = reader.number("I"), reader.number("Q")
        try:
            kind_of = GGMLQuantizationType(number)
        except ValueError:
            raise ModelError(
                f"GGUF file '{path}' has tensors of type {number}, a quantization that this version of the package "
                "'gguf' does not know. Update it, or take a file quantized as Q4_K, Q8_0 or F16."
            ) from None
        block, block_bytes = GGML_QUANT_SIZES[kind_of]
        types[kind_of.name] += 1
        weights += count
        end = max(end, offset + count // block * block_bytes)
    reader.skip(-reader.file.tell() % alignment)
    reader.skip(end)
    return GgufHeader(architecture, dict(types.most_common()), weights)
