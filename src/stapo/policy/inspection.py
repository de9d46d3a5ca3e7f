"""Looking at the files of a model folder before transformers does: plain JSON and headers, no weights, no code.

Whatever they say about sizes is held against the weights that are really there, so that nothing is built or allocated
on the word of a configuration.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stapo.documents import parse_json, shown
from stapo.errors import ModelError
from stapo.policy.trial import try_out
from stapo.texts import replace_surrogates

MOST_ADDED_TOKENS = 50_000
_MOST_JSON = 200_000_000
_MOST_HEADER = 100_000_000
_LARGEST = 2**53
_DEEPEST = 40

_DIMENSIONS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "n_embd", "n_inner", "n_head", "d_model", "ffn_dim", "moe_intermediate_size",
)  # fmt: skip
_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "num_experts", "num_local_experts", "n_routed_experts")
_TABLES = ("num_labels", "max_position_embeddings", "n_positions", "n_ctx", "max_window_layers")
_MOST_TABLE = {"num_labels": 100_000}
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32,
    "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def read_object(path: str, file: Path) -> dict[str, Any]:
    """One of the folder's JSON files, which has to hold an object of finite numbers.

    Raises:
        ModelError: it cannot be read, is not a plain file, leads out of the folder, or holds something else.
    """
    require_inside(path, file)
    try:
        if file.stat().st_size > _MOST_JSON:
            raise ValueError(f"larger than {_MOST_JSON:,} bytes")
        found = parse_json(file.read_bytes())
    except (OSError, ValueError) as err:
        raise ModelError(f"'{file}' cannot be read: {err}.") from err
    if not isinstance(found, dict):
        raise ModelError(f"'{file}' cannot be used: {file.name} holds {type(found).__name__}, expected an object.")
    _check_plain(file, found)
    return found


def require_inside(path: str, file: Path) -> None:
    """Check that a file of a model folder is a plain file of that folder.

    Raises:
        ModelError: it is a folder, a pipe or a device, or a link that leads out of the folder. The folders of the hub's
            cache, whose files are links into its store beside them, are as they should be.
    """
    folder = Path(os.path.realpath(file.parent))
    real = Path(os.path.realpath(file))
    stores = [folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else []
    if not any(real.is_relative_to(place) for place in (folder, *stores)):
        raise ModelError(
            f"'{file}' is a link that leads out of the model folder '{path}', to '{real}'. Put the file itself there, "
            "or give the folder that holds it."
        )
    if not real.is_file():
        raise ModelError(f"'{file}' is missing or no plain file.")


def check_sizes(path: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Hold the sizes of a config.json against the tensors in the safetensors files.

    Raises:
        ModelError: a size that is not a whole number in range, or larger than anything in the weights; weights files
            that cannot be read, lie about their contents, or are not of this folder.
    """
    shapes = [shape for file in _weight_files(path, folder) for shape in _shapes(file)]
    widest = max((max(shape) for shape in shapes if shape), default=0)
    bounds = dict.fromkeys(_DIMENSIONS, widest) | dict.fromkeys(_COUNTS, len(shapes))
    bounds |= {name: _MOST_TABLE.get(name, 2**31 - 1) for name in _TABLES}
    file = folder / "config.json"
    for part in (config, *(v for v in config.values() if isinstance(v, dict))):
        for name, most in bounds.items():
            size = part.get(name)
            if size is None or (isinstance(size, list) and all(type(n) is int and 0 <= n <= most for n in size)):
                continue
            if type(size) is not int or size < 0:
                raise ModelError(f"'{file}' cannot be used: {name} is {shown(size)}, expected a whole number.")
            if size > most:
                there = (
                    "the weights beside it hold nothing of that size" if name not in _TABLES else "no model has that"
                )
                raise ModelError(f"'{file}' cannot be used: {name} is {size:,}, at most {most:,} is possible: {there}.")


def check_generation(path: str, folder: Path) -> None:
    """Check what decides about the end of a response.

    Raises:
        ModelError: generation_config.json or config.json names end tokens that are not token ids.
    """
    for name in ("generation_config.json", "config.json"):
        if os.path.lexists(folder / name):
            ends = read_object(path, folder / name).get("eos_token_id")
            ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
            if len(ids) > 1000 or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
                raise ModelError(
                    f"'{folder / name}' cannot be used: eos_token_id is {shown(ends)}, expected token ids."
                )


def check_tokenizer(path: str, folder: Path) -> None:
    """Check the tokenizer's files and try them out.

    Raises:
        ModelError: one of them cannot be used, is far larger than any tokenizer's, or does not end in time.
    """
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    described = read_object(path, file) if os.path.lexists(file) else {}
    said = read_object(path, settings) if os.path.lexists(settings) else {}
    for name, tokens in (
        (file.name, described.get("added_tokens")),
        (settings.name, said.get("added_tokens_decoder")),
        (settings.name, said.get("additional_special_tokens")),
        (settings.name, said.get("extra_special_tokens")),
    ):
        if isinstance(tokens, list | dict) and len(tokens) > MOST_ADDED_TOKENS:
            raise ModelError(
                f"'{folder / name}' adds {len(tokens):,} tokens, expected at most {MOST_ADDED_TOKENS:,}: transformers "
                "would need minutes to load them."
            )
    given = {name: token for name in _TOKENS if isinstance(token := _token(said.get(name)), str)}
    templates = dict(_templates(path, folder, said))
    try_out(path, file if described else None, described, templates, given)


def _token(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value


def _templates(path: str, folder: Path, said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    template = said.get("chat_template")
    if isinstance(template, str):
        yield "tokenizer_config.json", replace_surrogates(template)
    elif isinstance(template, list):
        for number, entry in enumerate(template[:20]):
            if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                yield f"tokenizer_config.json, number {number + 1}", replace_surrogates(entry["template"])
    elif template is not None:
        raise ModelError(f"'{folder / 'tokenizer_config.json'}' cannot be used: chat_template is {shown(template)}.")
    for file in [folder / "chat_template.jinja", *sorted((folder / "additional_chat_templates").glob("*.jinja"))[:20]]:
        if os.path.lexists(file):
            require_inside(path if file.parent == folder else str(file.parent), file)
            try:
                yield file.name, file.read_bytes()[: 2**21].decode("utf-8")
            except (OSError, UnicodeDecodeError) as err:
                raise ModelError(f"'{file}' cannot be read: {err}.") from err


def _weight_files(path: str, folder: Path) -> list[Path]:
    """The safetensors files that make up the weights."""
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if os.path.lexists(index) and not (folder / "model.safetensors").exists():
        named = read_object(path, index).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            raise ModelError(f"'{index}' cannot be used: weight_map is {shown(named)}, expected names of files.")
        names = sorted(set(named.values()))
        for name in names:
            if name != Path(name).name or name in ("", ".", "..") or "\\" in name or not name.isprintable():
                raise ModelError(f"'{index}' names the weights file {shown(name)}, which is not a file of its folder.")
            if not os.path.lexists(folder / name):
                raise ModelError(f"'{index}' names the weights file {shown(name)}, which is missing.")
        files = [folder / name for name in names]
    for file in files:
        require_inside(path, file)
    return files


def _shapes(file: Path) -> list[list[int]]:
    """Shapes of the tensors that the header of a safetensors file describes.

    Raises:
        ModelError: the file is shorter than its header says, or the header cannot be read.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8).ljust(8, b"\xff"))
            if length > min(size - 8, _MOST_HEADER):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            header = parse_json(opened.read(length))
        if not isinstance(header, dict):
            raise ValueError(f"its header is {type(header).__name__}, expected an object")
        return [_shape(name, entry, size - 8 - length) for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, struct.error) as err:
        raise ModelError(
            f"weights file '{file}' cannot be loaded: {err}. It is damaged or no safetensors file."
        ) from err


def _shape(name: str, entry: Any, room: int) -> list[int]:
    shape, kind, place = (entry.get(k) if isinstance(entry, dict) else None for k in ("shape", "dtype", "data_offsets"))
    if (
        not isinstance(shape, list)
        or not all(type(n) is int and 0 <= n < 2**48 for n in shape)
        or not (isinstance(place, list) and len(place) == 2 and all(type(n) is int for n in place))
    ):
        raise ValueError(f"tensor {shown(name)} is described by {shown(entry)}")
    begin, end = place
    bits = _BITS.get(kind) if isinstance(kind, str) else None
    if not 0 <= begin <= end <= room or (bits is not None and (end - begin) * 8 != math.prod(shape) * bits):
        raise ValueError(f"tensor {shown(name)} of shape {shown(shape)} is said to lie at {begin:,} to {end:,}")
    return shape


def _check_plain(file: Path, value: Any) -> None:
    """Numbers that are finite and small enough, nesting that ends."""
    pending = [("", value, 0)]
    while pending:
        name, part, depth = pending.pop()
        if depth > _DEEPEST:
            raise ModelError(f"'{file}' cannot be used: nested more than {_DEEPEST} deep.")
        if isinstance(part, dict):
            pending += [(key, inner, depth + 1) for key, inner in part.items()]
        elif isinstance(part, list):
            pending += [(name, inner, depth + 1) for inner in part]
        elif isinstance(part, float) and not math.isfinite(part):
            raise ModelError(f"'{file}' cannot be used: {shown(name)} is {part}, expected a finite number.")
        # Transformers writes 1e30 for a tokenizer without a limit.
        elif isinstance(part, int) and abs(part) > _LARGEST and name != "model_max_length":
            raise ModelError(f"'{file}' cannot be used: {shown(name)} is {shown(part)}, expected at most {_LARGEST:,}.")
