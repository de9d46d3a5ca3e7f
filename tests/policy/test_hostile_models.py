"""Model folders of strangers: whatever their files say, it is one clear error within seconds, and no code runs."""

# ruff: noqa: E501 (tables)

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from contextlib import suppress

import pytest
from safetensors.torch import load_file, save_file

from slow import slow_except
from stapo.errors import ModelError
from stapo.policy import ModelConfig, check_chat_template, check_model, load_policy, load_tokenizer
from toy_world import small_policy

CPU = ModelConfig(device="cpu")
GOOD_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_policy().save(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    shutil.copytree(good, tmp_path / "model")
    return tmp_path / "model"


def change(folder, name, **values):
    data = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({k: v for k, v in (data | values).items() if v != "DROP"}))


def deep(levels):
    return "[" * levels + "]" * levels


def header(folder, edit):
    data = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8 : 8 + size])
    text = json.dumps(edit(head)).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def first(head, **values):
    name = next(n for n in head if n != "__metadata__")
    return head | {name: head[name] | values}


def sharded(folder, weight_map):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def linked(folder, name, target):
    shutil.move(folder / name, target)
    (folder / name).symlink_to(target)


def pipe(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)


CONFIG = {
    **{f"{name} {value!r}"[:40]: (name, value)
       for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
       for value in (2**40, 10**9, 10**30, -1, "64", 1.5, True, [10**9], {})},
    "labels": ("num_labels", 10**9),
    "positions": ("max_position_embeddings", 2**60),
    "epsilon": ("rms_norm_eps", float("nan")),
    "base": ("rope_parameters", {"rope_type": "default", "rope_theta": float("inf")}),
    "nested": ("text_config", {"vocab_size": 2**40}),
    "end": ("eos_token_id", "x"),
    "ends": ("eos_token_id", [1, None]),
    "kind": ("model_type", ["qwen2"]),
    "no kind": ("model_type", "DROP"),
    "unknown kind": ("model_type", "../../etc"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIG)
def test_configurations_that_no_weights_fit(folder, case):
    name, value = CONFIG[case]
    change(folder, "config.json", **{name: value})
    started = time.monotonic()
    with pytest.raises(ModelError) as found:
        check_model(str(folder))
    assert "config.json" in str(found.value) or "model" in str(found.value)
    assert name.split("_")[0] in str(found.value) or case == "nested"
    assert len(str(found.value)) < 800
    assert time.monotonic() - started < 200


@pytest.mark.parametrize(
    "name, value",
    [("hidden_act", "nope"), ("layer_types", 3), ("rope_parameters", []), ("dtype", "nope"), ("hidden_act", None)],
)
def test_other_odd_configurations_end_in_one_error(folder, name, value):
    change(folder, "config.json", **{name: value})
    with suppress(ModelError):
        assert load_policy(str(folder), CPU).parameter_count > 0


FILES = {
    "config.json, deep": (lambda f: (f / "config.json").write_text('{"model_type": "qwen2", "a": ' + deep(300) + "}"), "40 deep"),
    "config.json, deeper": (lambda f: (f / "config.json").write_text(deep(100_000)), "nested too deep"),
    "config.json, binary": (lambda f: (f / "config.json").write_bytes(bytes(range(256))), "cannot be read"),
    "config.json, a number of 10,000 digits": (lambda f: (f / "config.json").write_text('{"a": ' + "9" * 10_000 + "}"), "cannot be read"),
    "config.json, UTF-16": (lambda f: (f / "config.json").write_bytes('"abc'.encode("utf-16")), "cannot be read"),
    "config.json, a number": (lambda f: (f / "config.json").write_text("3"), "holds int"),
    "config.json, a pipe": (lambda f: pipe(f, "config.json"), "holds no config.json|plain file"),
    "config.json, a link out": (lambda f: linked(f, "config.json", f.parent / "c.json"), "leads out of the model folder"),
    "weights, a link out": (lambda f: linked(f, "model.safetensors", f.parent / "w"), "leads out of the model folder"),
    "weights, a folder": (lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()), "plain file"),
    "weights, a pipe": (lambda f: pipe(f, "model.safetensors"), "plain file"),
    "weights, empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged"),
    "weights, cut": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "said to lie"),
    "weights, a pickle": (lambda f: (f / "model.safetensors").write_bytes(b"cos\nsystem\n(S'touch PWNED'\ntR."), "header"),
    "weights, a header of 2**63": (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}"), "header"),
    "weights, a list as header": (lambda f: header(f, lambda h: [1]), "its header is list"),
    "weights, beyond the end": (lambda f: header(f, lambda h: first(h, data_offsets=[0, 2**40])), "said to lie"),
    "weights, before the start": (lambda f: header(f, lambda h: first(h, data_offsets=[-8, 8])), "said to lie"),
    "weights, backwards": (lambda f: header(f, lambda h: first(h, data_offsets=[8, 0])), "said to lie"),
    "weights, another shape": (lambda f: header(f, lambda h: first(h, shape=[2**40, 2**40])), "said to lie"),
    "weights, a shape of text": (lambda f: header(f, lambda h: first(h, shape="12")), "is described by"),
    "weights, negative": (lambda f: header(f, lambda h: first(h, shape=[-1, -9])), "is described by"),
    "weights, a type of its own": (lambda f: header(f, lambda h: first(h, dtype="PICKLE")), "cannot be loaded"),
    "weights, deep": (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 20_000) + deep(10_000).encode()), "nested"),
    "index, out": (lambda f: sharded(f, {"x": "../a.safetensors"}), "not a file of its folder"),
    "index, absolute": (lambda f: sharded(f, {"x": "/etc/passwd"}), "not a file of its folder"),
    "index, a folder below": (lambda f: sharded(f, {"x": "sub/a.safetensors"}), "not a file of its folder"),
    "index, NUL": (lambda f: sharded(f, {"x": "a\0"}), "not a file of its folder"),
    "index, missing": (lambda f: sharded(f, {"x": "b.safetensors"}), "missing"),
    "index, a list": (lambda f: sharded(f, ["a.safetensors"]), "weight_map"),
    "index, of numbers": (lambda f: sharded(f, {"x": 3}), "weight_map"),
    "index, a link out": (lambda f: (sharded(f, {"x": "a.safetensors"}), linked(f, "a.safetensors", f.parent / "w")), "leads out"),
    "generation, an end of text": (lambda f: change(f, "generation_config.json", eos_token_id="x"), "eos_token_id"),
    "generation, ends of null": (lambda f: change(f, "generation_config.json", eos_token_id=[None]), "eos_token_id"),
    "generation, nested ends": (lambda f: change(f, "generation_config.json", eos_token_id=[[1]]), "eos_token_id"),
    "generation, huge": (lambda f: change(f, "generation_config.json", eos_token_id=10**40), "eos_token_id"),
    "generation, a list": (lambda f: (f / "generation_config.json").write_text("[]"), "holds list"),
    "generation, deep": (lambda f: (f / "generation_config.json").write_text(deep(5000)), "nested"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
    "a tokenizer without a vocabulary": (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer"),
    "generation, UTF-16": (lambda f: (f / "generation_config.json").write_bytes("{}".encode("utf-16")), "not UTF-8"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "holds no tokenizer"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_not_what_they_should_be(folder, case, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    damage, said = FILES[case]
    damage(folder)
    with pytest.raises(ModelError, match=said) as found:
        load_policy(str(folder), CPU)  # which checks it first
    assert len(str(found.value)) < 800
    assert not (tmp_path / "PWNED").exists()


def test_the_store_of_the_hub_is_no_way_out(good, tmp_path):
    """Its snapshots are links into a folder of blobs beside them."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(good.iterdir()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert load_policy(str(snapshot), CPU).parameter_count > 0


def test_shards_of_the_folder_are_loaded(folder):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    for file, part in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        save_file({n: weights[n] for n in part}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    where = {n: ("a", "b")[i % 2] + ".safetensors" for i, n in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert load_policy(str(folder), CPU).parameter_count > 0


# -- tokenizers --------------------------------------------------------------------------------------------------------


def tokenizer(folder, edit):
    data = json.loads((folder / "tokenizer.json").read_text())
    edit(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))


def cut_by(pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return lambda t: t["pre_tokenizer"]["pretokenizers"].insert(0, split)


def replace_by(pattern):
    return lambda t: t.update(normalizer={"type": "Replace", "pattern": {"Regex": pattern}, "content": "x"})


def added(count):
    return [
        {"id": 300 + i, "content": f"<x{i}>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for i in range(count)
    ]  # fmt: skip


TOKENIZERS = {
    "backtracking": cut_by(r"(a+)+$"),
    "backtracking of words": cut_by(r"^(([a-z])+.)+[A-Z]([a-z])+$"),
    "backtracking of a word": cut_by(r"((?:foo|foofoo)+)+$"),
    "backtracking of digits": cut_by(r"(\d+)+$"),
    "backtracking of blanks": cut_by(r"(\s+)+$"),
    "backtracking in a normalizer": replace_by(r"(x+x+)+y"),
    "not a regular expression": cut_by(r"(((("),
    "many added tokens": lambda t: t["added_tokens"].extend(added(200_000)),
    "an unknown part": lambda t: t["pre_tokenizer"].update(type="Evil"),
    "a model of nothing": lambda t: t.update(model={}),
    "a vocabulary of text": lambda t: t["model"].update(vocab="abc"),
    "deep": lambda t: t.update(a=json.loads(deep(300))),
    "NaN": lambda t: t.update(a=float("nan")),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers_that_do_not_work(folder, case, capfd):
    tokenizer(folder, TOKENIZERS[case])
    with pytest.raises(ModelError, match="tokenizer") as found:
        load_tokenizer(str(folder))
    assert len(str(found.value)) < 800
    assert "panicked" not in capfd.readouterr().err


PUBLISHED = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?:\r?\n)+(?!\r?\n)",
    r"[一-龥぀-ゟ゠-ヿ]+",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_expressions_of_published_models_pass(folder, pattern):
    tokenizer(folder, cut_by(pattern))
    change(folder, "tokenizer_config.json", chat_template=GOOD_TEMPLATE)
    assert len(load_tokenizer(str(folder))) == 300
    check_chat_template(str(folder))


@pytest.mark.parametrize(
    "values",
    [
        {"added_tokens_decoder": {str(i): {"content": f"<x{i}>"} for i in range(60_000)}},
        {"additional_special_tokens": [f"<x{i}>" for i in range(60_000)]},
        {"chat_template": 3},
        {"chat_template": {"a": 1}},
        {"eos_token": 3},
        {"eos_token": {"content": ["x"]}},
        {"tokenizer_class": 3, "added_tokens_decoder": 3},
        {"added_tokens_decoder": [1]},
        {"a": float("inf")},
        {"a": 10**30},
    ],
    ids=lambda v: json.dumps(v)[:40],
)
def test_settings_of_tokenizers_that_do_not_work(folder, values):
    change(folder, "tokenizer_config.json", **values)
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(str(folder))


# -- chat templates ----------------------------------------------------------------------------------------------------

NESTED = "{% for a in range(99999) %}" * 4 + "{% endfor %}" * 4
TEMPLATES = {
    "loops in loops": NESTED,
    "loops in loops that write": "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
    "a long text": "{{ 'a' * 300000 }}",
    "a huge text": "{{ 'a' * 10 ** 12 }}",
    "a huge list": "{{ [0] * 10 ** 11 }}",
    "a huge power": "{{ 7 ** 7 ** 7 ** 7 ** 7 }}",
    "doubling": "{% set n = namespace(t='aaaaaaaaaa') %}{% for i in range(60) %}{% set n.t = n.t + n.t %}{% endfor %}{{ n.t }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "padding": "{{ '%999999999999d' % 3 }}",
    "center": "{{ 'a'.center(999999999999) }}",
    "no template": "{% for %}",
    "unclosed": "{{ messages",
    "unknown filter": "{{ messages | nope }}",
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['__builtins__']['open']('PWNED', 'w') }}",
    "format": "{{ '{0.__class__}'.format(messages) }}",
    "imports": "{% import 'os' as os %}{{ os.system('touch PWNED') }}",
    "includes": "{% include '/etc/passwd' %}",
    "refuses": "{{ raise_exception('no users here') }}",
    "deaf": "hello",
    "half deaf": "{{ messages[0].content[:5] }}",
    "empty": " ",
    "deep": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "many branches": "{% if 1 %}" * 500 + "{% endif %}" * 500,
}


@pytest.mark.parametrize(
    "case, place",
    slow_except(
        [
            *((case, "tokenizer_config.json") for case in TEMPLATES),
            *((case, "chat_template.jinja") for case in ("a huge text", "deaf", "globals")),
        ],
        *((case, "tokenizer_config.json") for case in list(TEMPLATES)[::2]),
        ("deaf", "chat_template.jinja"),
    ),
)
def test_templates_that_do_not_work(folder, tmp_path, monkeypatch, case, place):
    monkeypatch.chdir(tmp_path)
    if place == "chat_template.jinja":
        (folder / place).write_text(TEMPLATES[case])
    else:
        change(folder, place, chat_template=TEMPLATES[case])
    with pytest.raises(ModelError, match="chat template") as found:
        check_chat_template(str(folder))
    assert len(str(found.value)) < 800
    assert not (tmp_path / "PWNED").exists()
    with pytest.raises(ModelError, match="chat template"):
        load_policy(str(folder), CPU)


def test_a_template_that_is_switched_off_need_not_work(folder):
    change(folder, "tokenizer_config.json", chat_template="{{ raise_exception('no users here') }}")
    assert load_policy(str(folder), ModelConfig(device="cpu", chat_template="none")).tokenizer.chat_template is None


@pytest.mark.parametrize(
    "template",
    [
        GOOD_TEMPLATE,
        GOOD_TEMPLATE.replace("{{ m.content | trim }}", "{% generation %}{{ m.content }}{% endgeneration %}"),
        "{{ bos_token }}" + GOOD_TEMPLATE + "{{ strftime_now('%d') }}{{ messages | tojson(indent=2) | length }}",
        "{%- for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}{{ m['content'] }}{% endfor %}",
    ],
)
def test_good_templates_pass(folder, template):
    change(folder, "tokenizer_config.json", chat_template=template)
    check_chat_template(str(folder))
    assert "2 mugs" in load_tokenizer(str(folder)).apply_chat_template(
        [{"role": "user", "content": "take the 2 mugs"}], tokenize=False
    )
