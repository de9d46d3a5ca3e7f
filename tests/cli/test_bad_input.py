"""What a user can get wrong at `stapo train`: one clear error, exit code 2, and nothing lost.

"Nothing lost" is checked for every case: the folder that the command ran in holds what it held before.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM, PreTrainedTokenizerFast

from stapo.cli.main import main
from stapo.envs.alfworld.generator import GeneratedGames
from stapo.policy import memory
from stapo.policy.tokenizer import train_tokenizer
from toy_world import register_toy, toy_settings


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to run commands in."""
    monkeypatch.chdir(tmp_path)
    register_toy()
    return tmp_path


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(capsys, argv, place):
    """Run a command that has to fail; returns what it said, once it said so in one line and touched nothing."""
    before = contents(place)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert contents(place) == before
    return err


def refused_late(capsys, argv, place):
    """As `refused`, for what only reading the weights can show: the run directory says that it failed."""
    assert main([*argv, "--out", "run"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2, err
    info = json.loads((place / "run" / "run.json").read_text())
    assert info["status"] == "failed"
    assert err[1].removeprefix("error: ") in info["reason"]
    return err[1]


YAML = {
    "unknown key": ("optim: {iteratons: 3}", "unknown key 'optim.iteratons'. Did you mean 'iterations'?"),
    "unknown group": ("optm: {iterations: 3}", "unknown key 'optm'. Did you mean 'optim'?"),
    "key that is a number": ("1: 2", "unknown key '1'"),
    "algorithm": ("algorithm: gigppo", "unknown algorithm 'gigppo'. Did you mean 'gigpo'?"),
    "setting": ("algorithm: {outlier: {lamb: 2}}", "unknown key 'algorithm.outlier.lamb'. Did you mean 'lam'?"),
    "environment": ("env: {name: alfword}", "unknown environment 'alfword'. Did you mean 'alfworld'?"),
    "environment option": ("env: {options: {scens: small}}", "no option 'scens'. Did you mean 'scenes'?"),
    "split": ("env: {name: toy, split: trian}", "unknown split 'trian'. Did you mean 'train'?"),
    "wrong type": ("optim: {iterations: 1.5}", "optim.iterations is 1.5, expected int."),
    "not a number": ("optim: {learning_rate: fast}", "optim.learning_rate is 'fast', expected float."),
    "NaN": ("eval: {temperature: .nan}", "eval.temperature is nan"),
    "out of range": ("rollout: {groups: 0}", "rollout.groups is 0, expected a whole number of 1 or more."),
    "choice": ("agent: {prompt: compakt}", "Did you mean 'compact'?"),
    "nothing for a group": ("optim:", "optim is None, expected a mapping"),
    "two settings that do not fit": (
        "{agent: {response: action}, algorithm: {outlier: {tokens: think}}}", "which has no such part",
    ),
    "list": ("- seed\n- 1", "holds list, expected a mapping"),
    "broken YAML": ("seed: [1\n x: {", "not YAML: expected"),
    "code": ("seed: !!python/object/apply:os.system [touch PWNED]", "at line 1"),
}  # fmt: skip


@pytest.mark.parametrize("text, said", YAML.values(), ids=YAML)
def test_yaml(place, capsys, text, said):
    (place / "mine.yaml").write_text(text)
    assert said in refused(capsys, ["train", "mine.yaml"], place)


def test_yaml_that_is_not_text(place, capsys):
    (place / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused(capsys, ["train", "mine.yaml"], place)


@pytest.mark.parametrize(
    "argv, said",
    [
        (["tinyy"], "unknown preset or file 'tinyy'. Did you mean 'tiny'?"),
        (["nowhere.yaml"], "cannot be read: No such file"),
        (["--algorithm", "stapoo"], "Did you mean 'stapo'?"),
        (["--seed", "x"], "--seed is 'x', expected a whole number."),
        (["--optim.learning-rate", "abc"], "--optim.learning-rate is 'abc', expected a number."),
        (["--iterations", "3"], "Did you mean '--optim.iterations'?"),
        (["--agent.response", "actoin"], "Did you mean 'action'?"),
        (["--algorithm.name", "stapoo"], "Did you mean 'stapo'?"),
        (["--algorithm"], "needs a name"),
        (["--env.name", "alfword"], "Did you mean 'alfworld'?"),
        (["--env.gams", "x"], "Did you mean 'games'?"),
        (["--env.games", "nowhere"], "games path 'nowhere' does not exist"),
        (["--env.max_steps", "none"], "max_steps is 'none', expected a whole number of 1 or more"),
        (["--env.split", "trian"], "unknown split 'trian'. Did you mean 'train'?"),
        (["--eval.split", "holdout"], "Did you mean 'heldout'?"),
        (["--out"], "needs a folder"),
    ],
)
def test_command_line(place, capsys, argv, said):
    assert said in refused(capsys, ["train", *argv], place)


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--optim.iteratons", "3"], "--optim.iterations"),
        (["--optim.iterations", "x"], "is 'x', expected a whole number"),
        (["--optim.iterations", "-1"], "expected a whole number of 0 or more"),
        (["--algorithm.outlier.select", "foo"], "expected one of iqr, random, all, none"),
        (["tiny", "extra"], "'stapo train' takes at most 1 argument, found 'tiny' 'extra'"),
        (["--quite"], "'stapo train' has no option '--quite'. Did you mean '--quiet'?"),
    ],
)
def test_overrides_are_refused_in_one_line(place, capsys, argv, said):
    said_all = refused(capsys, ["train", *argv], place)
    assert said_all.startswith("error: ")
    assert said_all.count("\n") == 1
    assert said in said_all


def test_unknown_task(place, capsys):
    assert "unknown task" in refused(capsys, ["play", "alfworld", "--task", "nope"], place)


@pytest.mark.parametrize("taken", ["run", "run/config.yaml"])
def test_existing_run_directory(place, capsys, taken):
    (place / "run").mkdir()
    (place / "run" / "config.yaml").write_text("seed: 1")
    assert "Nothing was touched" in refused(capsys, ["train", "--out", taken], place)


def test_a_folder_that_cannot_be_made(place, capsys):
    (place / "file").write_text("")
    assert main(["train", "--out", "file/run"]) == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("empty, key", [("train", "env.split"), ("heldout", "eval.split")])
def test_empty_split(place, capsys, toy_model, empty, key):
    (place / "mine.yaml").write_text(yaml.safe_dump(toy_settings(toy_model, env__options={"empty": empty})))
    said = refused(capsys, ["train", "mine.yaml"], place)
    assert f"split '{empty}' of environment 'toy' holds no task" in said
    assert key in said


# -- games -------------------------------------------------------------------------------------------------------------


def _games(count=3):
    source = GeneratedGames("tiny", count)
    return [source.load(i) for split in source.splits() for i in source.ids(split)]


def _write(path, games):
    rows = [{k: getattr(g, k) for k in ("id", "split", "task_type", "goal", "pddl_problem")} for g in games]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_corrupt_game_file_is_named_with_its_line(place, capsys):
    path = _write(place / "games.jsonl", _games())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2][:200] + "\n", *lines[3:]]))
    said = refused(capsys, ["train", "--env.games", "games.jsonl"], place)
    assert "games.jsonl, line 3: not valid JSON" in said


def test_games_that_cannot_be_won_or_played(place, capsys):
    games = _games()
    for number, game in enumerate(games):
        if game.task_type == "pick_clean_then_place_in_recep":
            # If nothing can be cleaned, the goal is out of reach.
            problem = " ".join(w for w in game.pddl_problem.split("\n") if "(cleanable" not in w)
            games[number] = replace(game, pddl_problem=problem)
        elif game.task_type == "pick_heat_then_place_in_recep":
            games[number] = replace(game, pddl_problem=game.pddl_problem[:-40])
    _write(place / "games.jsonl", games)
    every_family = ["--env.task_types", "1,2,3,4,5,6"]
    said = refused(capsys, ["train", "--env.games", "games.jsonl", *every_family], place)
    assert "games that this run would play cannot be used" in said
    assert "in the wanted condition" in said
    assert "and 9 more" in said


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(place, toy_model):
    """A copy of a good model in the folder `model`, to break."""
    shutil.copytree(toy_model, place / "model")
    return place / "model"


def train_with(place, model, **changes):
    changes = {"model__path": str(model), "optim__learning_rate": 1e-4, **changes}
    (place / "mine.yaml").write_text(yaml.safe_dump(toy_settings(Path("model"), **changes)))
    return ["train", "mine.yaml"]


@pytest.mark.parametrize("name", ["/nope/model", "./nope", "../nope", "~/nope-nope", "a/b/c", "nope/", "here/nope"])
def test_a_model_folder_that_is_missing(place, capsys, name):
    (place / "here").mkdir()
    said = refused(capsys, train_with(place, name), place)
    assert f"model folder '{name}' does not exist" in said


@pytest.mark.parametrize("name", ["nope", "some-owner/nope"])
def test_a_hub_name_that_cannot_be_found(place, capsys, name):
    said = refused(capsys, train_with(place, name), place)
    assert f"there is no folder '{name}' here, and as a hub name:" in said


def test_a_file_and_a_folder_that_is_no_model(place, capsys):
    (place / "folder").mkdir()
    assert "holds no config.json" in refused(capsys, train_with(place, "folder"), place)
    assert "is a file" in refused(capsys, train_with(place, "mine.yaml"), place)


def test_pickled_weights_are_refused_and_never_opened(broken, place, capsys):
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch PWNED'\ntR.")
    said = refused(capsys, train_with(place, "model"), place)
    assert "no safetensors weights, only pytorch_model.bin" in said
    assert not (place / "PWNED").exists()


def test_remote_code_is_refused_and_never_run(broken, place, capsys):
    config = json.loads((broken / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (broken / "config.json").write_text(json.dumps(config))
    (broken / "evil.py").write_text("open('PWNED', 'w')")
    assert "custom code" in refused(capsys, train_with(place, "model"), place)
    assert not (place / "PWNED").exists()


def test_remote_code_of_a_known_kind_of_model_is_never_run(broken, place):
    for file, classes in (
        ("config.json", {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.T", "evil.T"]}),
    ):
        described = json.loads((broken / file).read_text())
        (broken / file).write_text(json.dumps(described | {"auto_map": classes}))
    (broken / "evil.py").write_text("open('PWNED', 'w')")
    assert main([*train_with(place, "model", optim__iterations=1, eval__episodes=1), "--quiet", "--out", "run"]) == 0
    assert not (place / "PWNED").exists()


def test_adapters_alone_are_no_model(broken, place, capsys):
    (broken / "config.json").rename(broken / "adapter_config.json")
    said = refused(capsys, train_with(place, "model"), place)
    assert "holds adapters (adapter_config.json) and not the model" in said
    assert "give the folder above" in said


@pytest.mark.parametrize(
    "file, text, said",
    [
        ("config.json", "{", "cannot be read"),
        ("config.json", "[]", "holds list"),
        ("config.json", "{}", "names no model_type"),
        ("config.json", '{"model_type": "qwon"}', "model type `qwon`"),
        ("model.safetensors", None, "holds no weights"),
        ("tokenizer", None, "holds no tokenizer"),
    ],
)
def test_a_broken_model_folder(broken, place, capsys, file, text, said):
    for path in broken.glob(file + "*"):
        path.unlink() if text is None else path.write_text(text)
    assert said in refused(capsys, train_with(place, "model"), place)


@pytest.mark.parametrize(
    "file, change, said",
    [
        ("tokenizer.json", lambda b: b"{", "tokenizer.json' cannot be read"),
        ("tokenizer_config.json", lambda b: b"[]", "tokenizer_config.json holds list"),
    ],
)
def test_damaged_files(broken, place, capsys, file, change, said):
    (broken / file).write_bytes(change((broken / file).read_bytes()))
    assert said in refused_late(capsys, train_with(place, "model"), place)


@pytest.mark.parametrize("change", [lambda b: b[:-100], lambda b: b"hello"])
def test_damaged_weights(broken, place, capsys, change):
    (broken / "model.safetensors").write_bytes(change((broken / "model.safetensors").read_bytes()))
    assert "model.safetensors' cannot be loaded" in refused(capsys, train_with(place, "model"), place)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda w: w.pop("model.norm.weight"), "lacks 1 of the model's weights (model.norm.weight)"),
        (lambda w: w.update({"model.norm.weight": torch.ones(7)}), "has the wrong shape for 1 of the model's weights"),
    ],
)
def test_weights_that_would_be_random(broken, place, capsys, change, said):
    weights = load_file(broken / "model.safetensors")
    change(weights)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert said in refused_late(capsys, train_with(place, "model"), place)


def test_a_vocabulary_that_does_not_fit(broken, place, capsys):
    train_tokenizer([f" word{i} thing{7 * i}" for i in range(400)], 900).save_pretrained(broken)
    said = refused_late(capsys, train_with(place, "model"), place)
    assert "token ids up to 899, but the model has embeddings for 300 tokens only" in said


def test_a_tokenizer_without_an_end_token(broken, place, capsys):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(broken)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(broken)
    assert "no end token" in refused_late(capsys, train_with(place, "model"), place)


def test_a_tokenizer_of_another_model(broken, place, capsys):
    """Its ids are all in the vocabulary, but it does not know the token that ends the model's responses."""
    config = json.loads((broken / "generation_config.json").read_text())
    (broken / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [1, 299]}))
    tokenizer = json.loads((broken / "tokenizer.json").read_text())
    last = max(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    tokenizer["model"]["merges"] = [m for m in tokenizer["model"]["merges"] if "".join(m) != last]
    del tokenizer["model"]["vocab"][last]
    (broken / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = refused_late(capsys, train_with(place, "model"), place)
    assert "ends its responses with token 299, but the tokenizer's ids go up to 298" in said


def test_a_model_without_a_chat_template(place, capsys, toy_model):
    argv = train_with(place, toy_model, agent__prompt="standard")
    said = refused(capsys, argv, place)
    assert "has no chat template" in said
    assert "set model.chat_template to 'none'" in said
    fits = {"agent__max_prompt_tokens": 400, "optim__iterations": 1, "eval__episodes": 1}
    argv = train_with(place, toy_model, agent__prompt="standard", model__chat_template="none", **fits)
    assert main([*argv, "--quiet", "--out", "run"]) == 0


def test_a_template_that_is_not_wanted_is_left_out(broken, place):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(broken)
    tokenizer.chat_template = "{{ raise_exception('asked') }}"
    tokenizer.save_pretrained(broken)
    fits = {"optim__iterations": 1, "eval__episodes": 1}
    argv = train_with(place, "model", model__chat_template="none", **fits)
    assert main([*argv, "--quiet", "--out", "run"]) == 0


def test_adapters_without_the_extra(place, capsys, toy_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    said = refused(capsys, train_with(place, toy_model, model__lora={"rank": 4}), place)
    assert "needs the package 'peft'" in said
    assert "pip install '.[lora]'" in said


def test_adapters_on_layers_that_are_not_there(place, capsys, toy_model):
    lora = {"rank": 4, "target_modules": ["qproj"]}
    said = refused_late(capsys, train_with(place, toy_model, model__lora=lora), place)
    assert "the adapters cannot be put into Qwen2ForCausalLM" in said


@pytest.mark.parametrize("free", [0, 100_000])
def test_too_little_memory(place, capsys, toy_model, monkeypatch, free):
    monkeypatch.setattr(memory, "available_bytes", lambda device: free)
    said = refused(capsys, train_with(place, toy_model), place)
    assert "needs 0.00 GB on cpu (weights 0.00 GB, gradients 0.00 GB, optimizer 0.00 GB, reference 0.00 GB)" in said
    assert "These need less: model.dtype bfloat16" in said
    assert "no reference (loss.beta 0 and selective.gamma 0)" in said


def test_a_reference_that_is_promised_not_to_be_there(place, capsys, toy_model):
    said = refused(capsys, train_with(place, toy_model, model__reference="none"), place)
    assert "algorithm.loss.beta is 0.01 and algorithm.selective.gamma is 0.01" in said


def test_a_model_that_scales_its_logits(broken, place, capsys):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = GraniteConfig(vocab_size=300, intermediate_size=32, logits_scaling=4.0, initializer_range=0.5, **sizes)
    GraniteForCausalLM(config).save_pretrained(broken)
    assert "changes its logits after the language-model head" in refused_late(capsys, train_with(place, "model"), place)


def test_a_model_that_cannot_read_so_far(broken, place, capsys):
    GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=128, bos_token_id=1, eos_token_id=1)
    ).save_pretrained(broken)
    said = refused_late(capsys, train_with(place, "model"), place)
    assert "is 206, but the model reads 128 tokens at most" in said


@pytest.mark.parametrize("device", ["nonsense", "cuda:77"])
def test_a_device_that_is_not_there(place, capsys, toy_model, device):
    said = refused_late(capsys, train_with(place, toy_model, model__device=device), place)
    assert f"cannot be moved to model.device '{device}'" in said


def test_prompts_that_never_fit(place, capsys, toy_model):
    argv = train_with(place, toy_model, agent__max_prompt_tokens=8, eval__episodes=1)
    assert main([*argv, "--quiet", "--out", "run"]) == 2
    assert "no first prompt fits into agent.max_prompt_tokens (8)" in capsys.readouterr().err.splitlines()[-1]
