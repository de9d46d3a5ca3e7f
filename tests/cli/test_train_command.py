"""`stapo train`: settings on the way in, a whole run on the way out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from slow import slow_except
from stapo.agent import part_spans
from stapo.algo import get_algorithm
from stapo.cli.arguments import resolve
from stapo.cli.command import read
from stapo.cli.main import main
from stapo.cli.train_command import Train
from stapo.config.run_config import RunConfig
from stapo.config.schema import from_data, to_data
from stapo.errors import ConfigError
from stapo.policy.tokenizer import train_tokenizer
from stapo.run import RunDirectory
from toy_world import small_policy, toy_settings


def resolved(capsys, *argv):
    """The configuration that a command would run with."""
    assert main(["train", *map(str, argv), "--dry-run", "--no-probe"]) == 0
    out, _ = capsys.readouterr()
    return yaml.safe_load(out)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_settings_that_can_be_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = resolved(capsys, "tiny", "--seed", 7, "--optim.iterations", 3, "--env.max_steps", 9)
    assert (first["seed"], first["optim"]["iterations"], first["env"]["options"]["max_steps"]) == (7, 3, 9)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(first))
    assert resolved(capsys, "mine.yaml") == first
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


def test_without_a_name_the_tiny_preset_runs(capsys):
    assert resolved(capsys) == resolved(capsys, "tiny")


WAYS = [["--algorithm", "gigpo"], ["--algorithm=gigpo"], ["--algorithm.name", "gigpo"]]


@pytest.mark.parametrize("flags", slow_except(WAYS, WAYS[-1]))
@pytest.mark.parametrize("written_out", [False, True])
def test_another_algorithm_is_another_algorithm(capsys, tmp_path, flags, written_out):
    """Not only its name changes, not even in a file where every setting is written out."""
    source, gigpo = tmp_path / "mine.yaml", to_data(get_algorithm("gigpo"))
    settings = {"advantage": {"invalid_penalty_on": "advantage", "omega": 1.0}, "loss": {"beta": 0.5}}
    source.write_text(yaml.safe_dump({"algorithm": {"name": "stapo", **settings}}))
    if written_out:
        source.write_text(yaml.safe_dump(resolved(capsys, source)))
    found = resolved(capsys, source, *flags)["algorithm"]
    # What the file sets otherwise than its own preset stays; all the rest is the new algorithm's.
    expected = {**gigpo, "advantage": {**gigpo["advantage"], "invalid_penalty_on": "advantage"}}
    assert found == {**expected, "loss": {**gigpo["loss"], "beta": 0.5}}


def test_single_settings(capsys):
    found = resolved(capsys, "tiny", "--algorithm", "grpo", "--algorithm.loss.beta", 0.5, "--model.path", "x")
    assert (found["algorithm"]["name"], found["algorithm"]["loss"]["beta"], found["model"]["path"]) == (
        "grpo",
        0.5,
        "x",
    )


def test_options_of_the_environment(capsys):
    found = resolved(capsys, "--gpu", "h100", "--env.games", "some/where", "--env.max-steps=4", "--env.grammar", "put")
    options = found["env"]["options"]
    assert (options["games"], options["max_steps"], options["grammar"]) == ("some/where", 4, "put")
    assert resolved(capsys, "--env.max_steps", 3, "--env.max_steps", 4)["env"]["options"]["max_steps"] == 4
    assert resolved(capsys, "--gpu", "h100", "--env.games", "[a: *")["env"]["options"]["games"] == "[a: *"


def test_a_folder_may_be_called_like_a_preset(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert resolved(capsys, "tiny")["env"]["name"] == "alfworld"


def test_help_teaches(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for shown in ("usage: stapo train", "examples:", "--optim.learning-rate", "--algorithm.selective.alpha"):
        assert shown in out


# -- runs --------------------------------------------------------------------------------------------------------------


def run_toy(folder, model, *argv, **changes):
    (folder / "toy.yaml").write_text(yaml.safe_dump(toy_settings(model, **changes)))
    code = main(["train", str(folder / "toy.yaml"), "--quiet", "--out", str(folder / "run"), *argv])
    return code, RunDirectory.open(folder / "run")


def test_a_run_ends_with_its_numbers_and_where_they_are(tmp_path, toy_model, capsys):
    code, run = run_toy(tmp_path, toy_model, "--optim.iterations", "1")
    out, err = capsys.readouterr()
    assert code == 0
    for shown in ("success before and after RL", "standard error", "protocol: 6 episodes", "report.html", "stapo eval"):
        assert shown in out
    assert "iteration    1/1" in err
    info = run.info()
    assert info["status"] == "done"
    assert info["command"][:2] == ["stapo", "train"]
    assert from_data(RunConfig, run.config()).optim.iterations == 1
    assert (run.path / "report.html").is_file()


def test_a_failed_run_exits_with_1_and_one_line(tmp_path, toy_model, capsys):
    code, run = run_toy(tmp_path, toy_model, env__options={"reward": float("nan")})
    err = capsys.readouterr().err.splitlines()
    assert code == 1
    assert err[-1].startswith("error: iteration 1: the reward of step 3 of task 'toy/train/")
    assert run.info()["status"] == "failed"


def test_an_interrupted_run_exits_with_130(tmp_path, toy_model, capsys, monkeypatch):
    from stapo.cli.progress import ProgressDisplay

    def stop(self, event):
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressDisplay, "on_update", stop)
    code, run = run_toy(tmp_path, toy_model)
    assert code == 130
    assert run.info()["status"] == "stopped"


TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
ANSWER = "<think>I do the next step of my plan.</think><action>go to desk 1</action>"


@pytest.mark.parametrize("architecture", slow_except(["llama", "qwen2", "qwen3"], "qwen3"))
@pytest.mark.parametrize("tokens", slow_except(["action", "think"], "think"))
def test_thinking_chat_models(tmp_path, capsys, architecture, tokens):
    """A pretrained model with a chat template answers in <think> and <action>; entropies of one of them count.

    A short SFT on demonstrations of that form is what makes this toy model answer so.
    """
    folder = tmp_path / "model"
    policy = small_policy(architecture=architecture, hidden_size=32, vocab_size=420)
    policy.tokenizer = train_tokenizer([ANSWER] * 50 + ["go to cabinet 1\nopen fridge 1\nstep 3\n"] * 5, 420)
    policy.tokenizer.chat_template = TEMPLATE
    policy.save(folder)
    settings = {
        "env": {"name": "alfworld", "options": {"scenes": "tiny", "games_per_type": 2, "max_steps": 3}},
        "agent": {"prompt": "compact", "response": "think_action", "history_length": 1, "max_prompt_tokens": 470,
                  "max_response_tokens": 40},
        "model": {"path": str(folder), "device": "cpu"},
        "sft": {"steps": 40, "episodes": 6, "batch_size": 8, "learning_rate": 0.01, "curriculum": 0.5},
        "rollout": {"groups": 2, "group_size": 3},
        "algorithm": {"name": "stapo", "outlier": {"tokens": tokens}},
        "optim": {"iterations": 1, "learning_rate": 1e-4},
        "eval": {"episodes": 2},
        "log": {"transcript_every": 1, "transcript_groups": 2},
    }  # fmt: skip
    (tmp_path / "chat.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", str(tmp_path / "chat.yaml"), "--quiet", "--out", str(tmp_path / "run")]) == 0
    run = RunDirectory.open(tmp_path / "run")
    row = run.rows("metrics")[0]
    assert row["update"]["logprob_gap"] < 1e-4
    steps = [s for line in run.transcripts()[0].read_text().splitlines() for s in json.loads(line)["steps"]]
    spans = [part_spans(s["response"]).get(tokens, (0, 0)) for s in steps]
    assert any(start < end for start, end in spans)
    assert [s["entropy"] is not None for s in steps] == [start < end for start, end in spans]
    assert "answer <think>" in steps[0]["prompt"]
    # The saved checkpoint keeps its chat template.
    assert main(["eval", str(tmp_path / "run"), "--episodes", "1", "--seeds", "0", "--json"]) == 0
    capsys.readouterr()
    final = run.checkpoint("final")
    saved = json.loads((final / "tokenizer_config.json").read_text()).get("chat_template")
    assert TEMPLATE in (saved or (final / "chat_template.jinja").read_text())


@pytest.mark.slow
def test_as_a_process_of_its_own(tmp_path):
    """The command as users call it, where no test has imported or registered anything."""
    small = {
        "sft.steps": 2, "sft.episodes": 6, "sft.batch_size": 4, "rollout.groups": 1,
        "rollout.group_size": 2, "optim.iterations": 1, "eval.episodes": 2, "env.max_steps": 2, "env.games_per_type": 2,
        "model.hidden_size": 16, "model.heads": 2,
    }  # fmt: skip
    small = [word for key, value in small.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "stapo.cli.main"]
    out = tmp_path / "run"
    done = subprocess.run([*command, "train", "--quiet", "--out", out, *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found = subprocess.run(
        [*command, "eval", out, "--json", "--episodes", "2", "--seeds", "0"], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["episodes"] == 2
    again = subprocess.run([*command, "train", "--quiet", "--out", out, *small], capture_output=True, text=True)
    assert again.returncode == 0
    assert "finished already; nothing was trained" in again.stderr
    shutil.rmtree(out)


SMALLEST = [("alfworld", "tiny"), ("search", "search-tiny"), ("sokoban", "sokoban-tiny"), ("webshop", "webshop-tiny")]


@pytest.mark.parametrize("name, preset", slow_except(SMALLEST, SMALLEST[0], SMALLEST[2]))
def test_an_environment_stands_for_its_smallest_preset(name, preset, capsys):
    found = resolved(capsys, name)
    assert found == resolved(capsys, preset)
    assert found["env"]["name"] == name


def test_named_rewards_are_set_by_their_names():
    """Mappings of names: `--rewards.weights.NAME VALUE`, and a mapping without a name is one error."""
    words = ["--rewards.weights.tidy", "0.3", "--rewards.weights.my-own=2", "--rewards.functions.my-own", "mine.py:f"]
    _, settings = read(Train, "train", ["tiny", *words, "--rewards.per-step", "my-own"])
    config, _ = resolve("tiny", None, settings, "train")
    assert config.rewards.weights == {"env": 1.0, "tidy": 0.3, "my-own": 2.0}
    assert (config.rewards.functions, config.rewards.per_step) == ({"my-own": "mine.py:f"}, ("my-own",))
    for wrong, said in (
        (["--rewards.weights", "tidy"], "--rewards.weights holds names"),
        (["--rewards.weights.tidy"], "--rewards.weights.tidy needs a value"),
        (["--rewards.weights.tidy", "x"], r"rewards\.weights\.tidy is 'x', expected float"),
    ):
        with pytest.raises(ConfigError, match=said):
            resolve("tiny", None, wrong, "train")


def test_values_of_a_chat_template_are_set_by_their_names():
    words = ["--model.chat-template-kwargs.enable_thinking=false", "--model.chat_template_kwargs.effort", "low"]
    _, settings = read(Train, "train", ["tiny", "--model.path", "smollm2-135m", *words])
    config, _ = resolve("tiny", None, settings, "train")
    assert config.model.chat_template_kwargs == {"enable_thinking": False, "effort": "low"}
    for wrong, said in (
        (["--model.chat-template-kwargs", "x"], "--model.chat-template-kwargs holds names"),
        (["--model.chat_template_kwargs.messages", "x"], "has the name 'messages'; expected one"),
    ):
        with pytest.raises(ConfigError, match=said):
            resolve("tiny", None, wrong, "train")
    with pytest.raises(ConfigError, match=r"chat_template\.x"):
        read(Train, "train", ["tiny", "--model.chat_template.x", "1"])
