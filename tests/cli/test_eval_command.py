"""`stapo eval` on a run that `stapo train` has made."""

from __future__ import annotations

import json
import shutil
from statistics import fmean, stdev

import pytest

from stapo.cli.main import main
from stapo.run import RunDirectory


@pytest.fixture
def trained(toy_run):
    return toy_run


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def evaluated(capsys, *argv):
    """Run with --json; returns the document, once it is all there is on stdout."""
    assert main(["eval", *map(str, argv), "--json"]) == 0
    out, _ = capsys.readouterr()
    return json.loads(out)


def test_json_says_what_was_done_and_what_came_out(trained, capsys):
    before = contents(trained)
    found = evaluated(capsys, trained)
    assert (found["run"], found["checkpoint"], found["algorithm"]) == (str(trained), "final", "stapo")
    assert found["environment"] == {"name": "toy"}
    assert (found["split"], found["mode"], found["temperature"]) == ("heldout", "sampled", 1.0)
    assert (found["tasks"], found["episodes_per_seed"], found["seeds"]) == (6, 6, [0, 1, 2])
    assert found["protocol"] == (
        "6 episodes on 6 of the 6 tasks of split 'heldout' per seed, 3 seeds (0, 1, 2), sampled at temperature 1"
    )
    assert found["episodes"] == 18
    assert found["success"] == pytest.approx(fmean(found["success_by_seed"]))
    assert found["success_std_over_seeds"] == pytest.approx(stdev(found["success_by_seed"]))
    assert set(found["by_type"]) == {"warm", "cold"}
    assert sum(part["episodes"] for part in found["by_type"].values()) == 18
    assert contents(trained) == before


def test_it_repeats_what_training_found(trained, capsys):
    """Same checkpoint, same protocol, same seed: same numbers, also in another process of another day."""
    rows = {(r["iteration"], r["mode"]): r for r in RunDirectory.open(trained).rows("evals")}
    for checkpoint, iteration in (("start", 0), ("final", 2)):
        for mode in ("sampled", "greedy"):
            argv = [trained, "--checkpoint", checkpoint, "--episodes", 6, "--seeds", 0]
            found = evaluated(capsys, *argv, *(["--greedy"] if mode == "greedy" else []))
            row = rows[iteration, mode]
            for key in ("protocol", "success", "by_type", "episode_length", "valid_actions", "repeated_actions"):
                assert found[key] == row[key], key


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["--split", "train"], {"split": "train"}),
        (["--episodes", "4"], {"episodes_per_seed": 4, "episodes": 12}),
        (["--episodes", "8", "--seeds", "5"], {"episodes": 8, "seeds": [5], "success_std_over_seeds": None}),
        (["--seeds=3,4"], {"seeds": [3, 4], "episodes": 12}),
        (["--seeds", "3", "4"], {"seeds": [3, 4]}),
        (["--temperature", "0.5"], {"temperature": 0.5, "mode": "sampled"}),
        (["--k", "4", "--episodes", "3"], {"episodes": 12, "episodes_per_seed": 12, "seeds": [0]}),
        (["--k", "2", "--seeds", "1", "2"], {"episodes": 24, "episodes_per_seed": 12, "seeds": [1, 2]}),
        (["--greedy"], {"temperature": 0.0, "mode": "greedy", "seeds": [0], "episodes": 6}),
        (["--temperature", "0", "--seeds", "7", "8"], {"mode": "greedy", "seeds": [7]}),
        (["--checkpoint", "iteration-00001"], {"checkpoint": "iteration-00001"}),
        (["--env.fatal", "zzz"], {"environment": {"name": "toy", "fatal": "zzz"}}),
    ],
)
def test_every_option(trained, capsys, argv, expected):
    found = evaluated(capsys, trained, *argv)
    assert {key: found[key] for key in expected} == expected


def test_options_may_come_first(trained, capsys):
    assert evaluated(capsys, "--seeds", 1, 2, "--episodes", 2, trained)["seeds"] == [1, 2]


def test_environment_options_reach_the_world(trained, capsys):
    assert main(["eval", str(trained), "--env.empty", "heldout"]) == 2
    assert "split 'heldout' holds no task; choose another with --split" in capsys.readouterr().err
    assert evaluated(capsys, trained, "--env.empty", "heldout", "--split", "train")["tasks"] == 6


def test_the_table_for_people(trained, capsys):
    assert main(["eval", str(trained), "--seeds", "0", "1", "--episodes", "3"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"{trained}, checkpoint final (stapo)"
    assert lines[1].startswith("protocol: 3 episodes on 3 of the 6 tasks of split 'heldout' per seed, 2 seeds (0, 1)")
    for shown in ("warm", "cold", "all", "± over seeds", "success by seed 0: ", "binomial standard error", "steps per"):
        assert shown in out
    assert err == ""


def test_attempts_at_each_task_are_shown_as_pass_at_k(trained, capsys):
    found = evaluated(capsys, trained, "--k", 6)
    assert list(found["pass_at"]) == ["1", "2", "4", "6"]
    assert found["pass_at"]["1"] == pytest.approx([found["success"], *found["success_interval"]])
    values = [value for value, _, _ in found["pass_at"].values()]
    assert values == sorted(values)
    assert all(0 <= low <= value <= high <= 1 for value, low, high in found["pass_at"].values())
    assert "36 episodes on 6 of the 6 tasks of split 'heldout', 6 of each, per seed, 1 seed (0)" in found["protocol"]
    assert main(["eval", str(trained), "--k", "6"]) == 0
    out = capsys.readouterr().out
    value, low, high = found["pass_at"]["6"]
    assert f"{value:.3f}" in next(line for line in out.splitlines() if f"{low:.3f} to {high:.3f}" in line)


@pytest.mark.parametrize("more", [["--greedy"], ["--temperature", "0"]])
def test_greedy_attempts_would_be_alike(trained, capsys, more):
    assert main(["eval", str(trained), "--k", "4", *more]) == 2
    assert "k is 4 at temperature 0" in capsys.readouterr().err


def test_saving_adds_a_row_beside_the_curves(trained, capsys):
    before = contents(trained)
    one = evaluated(capsys, trained, "--save", "--seeds", 0)
    two = evaluated(capsys, trained, "--save", "--greedy")
    run = RunDirectory.open(trained)
    assert run.rows("extra-evals") == [one, two]
    assert {p: b for p, b in contents(trained).items() if p.name != "extra-evals.jsonl"} == before
    (trained / "extra-evals.jsonl").unlink()


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "needs a run directory"),
        (["nowhere"], "run directory 'nowhere' does not exist"),
        (["smollm2-135m"], "is a model, expected a run directory"),
        (["mine.gguf"], "stapo eval PRESET --model mine.gguf"),
        (["RUN", "b"], "takes at most 1 argument"),
        (["RUN", "--split", "heldot"], "unknown split 'heldot'. Did you mean 'heldout'?"),
        (["RUN", "--checkpoint", "finl"], "has no checkpoint 'finl'. Did you mean 'final'?"),
        (["RUN", "--checkpoint", "../checkpoints/final"], "has no checkpoint"),
        (["RUN", "--episodes", "-1"], "--episodes is '-1', expected a whole number"),
        (["RUN", "--episodes", "many"], "--episodes is 'many', expected a whole number"),
        (["RUN", "--episodes", "1.5"], "--episodes is '1.5', expected a whole number"),
        (["RUN", "--episodes"], "--episodes needs a number"),
        (["RUN", "--seeds"], "--seeds needs whole numbers"),
        (["RUN", "--seeds", "-3"], "--seeds is '-3', expected a whole number"),
        (["RUN", "--seeds=a"], "--seeds is 'a', expected a whole number"),
        (["RUN", "--seeds", "1", "1"], "names a seed twice"),
        (["RUN", "--temperature", "nan"], "--temperature is 'nan', expected a number"),
        (["RUN", "--temperature", "-1"], "--temperature is '-1', expected a number"),
        (["RUN", "--temperature", "hot"], "--temperature is 'hot', expected a number"),
        (["RUN", "--greedy", "--temperature", "1"], "exclude each other"),
        (["RUN", "--gredy"], "has no option '--gredy'. Did you mean '--greedy'?"),
        (["RUN", "--env.fatl", "x"], "has no option 'fatl'. Did you mean 'fatal'?"),
        (["RUN", "--env.name", "alfworld"], "has no option '--env.name'"),
    ],
)
def test_wrong_input_is_one_line(trained, capsys, argv, said):
    assert main(["eval", *(str(trained) if a == "RUN" else a for a in argv)]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert (out, err.count("\n")) == ("", 1)


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run, to damage."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def _truncate(run):
    weights = run / "checkpoints" / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def _truncate_unsealed(run):
    """A checkpoint without hashes, as earlier versions wrote it."""
    _truncate(run)
    for name in ("manifest.json", "COMPLETE"):
        (run / "checkpoints" / "final" / name).unlink()


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda run: shutil.rmtree(run / "checkpoints"), "has no checkpoint yet"),
        (lambda run: (run / "config.yaml").write_text("seed: ["), "config.yaml' cannot be read"),
        (lambda run: (run / "config.yaml").write_text("sede: 1"), "unknown key 'sede'. Did you mean 'seed'?"),
        (lambda run: (run / "config.yaml").write_text("env: {name: gone}"), "unknown environment 'gone'"),
        (lambda run: (run / "run.json").write_text("{"), "run.json' cannot be read"),
        (_truncate, "model.safetensors' has"),
        (_truncate_unsealed, "is said to lie at"),
    ],
)
def test_a_damaged_run_is_one_line(copied, capsys, damage, said):
    damage(copied)
    assert main(["eval", str(copied), "--json"]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert (out, err.count("\n")) == ("", 1)


def test_help_teaches(capsys):
    assert main(["eval", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for shown in ("usage: stapo eval RUN", "--seeds", "examples:"):
        assert shown in out
    assert main(["eval", "--help-all"]) == 0
    assert "standard deviation over seeds" in " ".join(capsys.readouterr().out.split())
