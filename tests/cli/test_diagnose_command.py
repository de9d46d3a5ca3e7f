"""`stapo diagnose` on runs that `stapo train` has made.

1. Every policy gets a folder with all numbers, a row per step and a page; nothing else of a run is touched.
2. The same command gives the same bytes.
3. Several checkpoints and runs are played on the same tasks, and compared.
4. Every algorithm can be diagnosed, and is measured with the same settings.
5. Wrong input is one line, and costs nothing.
6. The page shows foreign text as text.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import yaml

import stapo
from slow import slow_except
from stapo.algo import ALGORITHMS, OutlierConfig, get_algorithm
from stapo.cli.main import main
from stapo.config.run_config import read_run_config
from stapo.diagnosis import make_spec
from stapo.diagnosis.measure import measure
from stapo.diagnosis.numbers import summarize
from stapo.diagnosis.protocol import measuring, stateless_metrics
from stapo.diagnosis.records import step_records, worst_cases
from stapo.envs.registry import ENVIRONMENTS
from stapo.html import drawing
from stapo.policy import load_policy
from stapo.run import RunDirectory
from stapo.run.rows import read_jsonl
from toy_world import ToyEnv, toy_settings

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e \ud800"


class JudgedEnv(ToyEnv):
    """The toy world with a judge, with effects, and with a goal that would like to be markup."""

    name = "judged"

    def reset(self, task_id):
        seen = super().reset(task_id)
        return replace(seen, goal=f"{seen.goal} {HOSTILE}")

    def step(self, action):
        out = super().step(action)
        return replace(out, info={**out.info, "effect": len(action) % 3 > 0})

    def judge(self):
        return Mood()


class Mood:
    def __init__(self):
        self.faults = {"odd": "an odd number of characters"}

    def before(self, action):
        self.action = action

    def after(self, result):
        return {"odd"} if len(self.action) % 2 else set()


ENVIRONMENTS.register("judged", JudgedEnv)


def train(folder, model, name, **changes):
    settings = toy_settings(model, log__checkpoint_every=1, **changes)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", str(folder / f"{name}.yaml"), "--quiet", "--out", str(folder / name)]) == 0
    return folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory, toy_model, toy_run):
    folder = tmp_path_factory.mktemp("diagnose")
    return {
        "toy": toy_run,
        "judged": train(folder, toy_model, "judged", env__name="judged"),
        "grpo": train(folder, toy_model, "grpo", env__name="judged", algorithm__name="grpo", seed=1),
    }


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def diagnosed(capsys, *argv):
    """Run with --json; returns the documents, once they are all there is on stdout."""
    assert main(["diagnose", *map(str, argv), "--json"]) == 0
    out, _ = capsys.readouterr()
    return json.loads(out)["diagnoses"]


# -- 1, 2 --------------------------------------------------------------------------------------------------------------


@contextmanager
def drawn(draw):
    """Plots are drawn here, unlike elsewhere in the suite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "render", draw)
        yield


@pytest.fixture(scope="module")
def judged(runs, tmp_path_factory, empty_plots):
    out = tmp_path_factory.mktemp("out") / "judged"
    with drawn(empty_plots):
        assert main(["diagnose", str(runs["judged"]), "--out", str(out)]) == 0
    return out / "final"


def test_the_folder(judged):
    assert sorted(p.name for p in judged.iterdir()) == ["diagnosis.html", "diagnosis.json", "steps.jsonl"]
    document = json.loads((judged / "diagnosis.json").read_text())
    rows = list(read_jsonl(judged / "steps.jsonl"))
    assert document["format"] == "stapo-diagnosis-1"
    assert (document["checkpoint"], document["algorithm"]) == ("final", "stapo")
    assert document["environment"] == {"name": "judged"}
    assert document["protocol"]["sentence"] == (
        "6 of the 6 tasks of split 'heldout', 4 trajectories each, sampled at temperature 1, seed 0"
    )
    assert document["protocol"]["own_judge"] is True
    assert len(rows) == document["steps"] == document["judged_steps"] == 6 * 4 * 3
    assert "torch" in document["versions"]
    assert {(r["group"], r["member"], r["step"]) for r in rows} == {
        (g, m, s) for g in range(6) for m in range(4) for s in range(3)
    }


def test_the_numbers_are_those_of_the_rows(judged):
    document = json.loads((judged / "diagnosis.json").read_text())
    rows = list(read_jsonl(judged / "steps.jsonl"))
    flagged = np.array([r["outlier"] is not None for r in rows])
    odd = np.array(["odd" in r["faults"] for r in rows])
    assert odd.tolist() == [len(r["action"]) % 2 == 1 for r in rows]
    assert document["faults"]["odd"]["steps"] == odd.sum()
    assert document["faults"]["odd"]["share"][0] == pytest.approx(odd.mean())
    assert document["outlier_share"][0] == pytest.approx(flagged.mean())
    assert document["kl"]["all"][0] == pytest.approx(np.mean([r["kl"] for r in rows]))
    assert document["kl"]["unflagged"][0] == pytest.approx(np.mean([r["kl"] for r in np.array(rows)[~flagged]]))
    for mask in ("goal", "history", "goal_history"):
        known = [r["attribution"][mask] for r in rows if r["attribution"][mask] is not None]
        assert document["attribution"][mask]["all"][0] == pytest.approx(np.mean(known))
    assert {r["step"] for r in rows if r["attribution"]["history"] is None} == {0}
    assert document["success"][0] == pytest.approx(np.mean([r["won"] for r in rows if r["step"] == 2]))
    # Bad steps of one kind stand against steps without any fault.
    good = np.array([not r["faults"] for r in rows])
    table = document["ranking"]["odd"]
    assert (table["bad"], table["good"]) == (odd.sum(), good.sum())
    entropy = np.array([r["entropy"] for r in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in entropy[odd] for b in entropy[good]]
    assert table["auc"]["shannon"][0] == pytest.approx(np.mean(pairs))
    group = np.array([r["anchor_group"] for r in rows])
    own = [
        (entropy[i] > entropy[j]) + 0.5 * (entropy[i] == entropy[j])
        for i in np.flatnonzero(odd) for j in np.flatnonzero(good) if group[i] == group[j]
    ]  # fmt: skip
    assert table["auc_inside_groups"][0] == (pytest.approx(np.mean(own)) if own else None)
    low, high = table["auc"]["shannon"][1:]
    assert low < table["auc"]["shannon"][0] < high
    difference = table["differences"]["normalized - shannon"]
    assert difference[0] == pytest.approx(table["auc"]["normalized"][0] - table["auc"]["shannon"][0])


def test_again_is_the_same_and_touches_nothing_else(runs, judged, capsys, empty_plots):
    before = contents(runs["judged"])
    with drawn(empty_plots):
        diagnosed(capsys, runs["judged"])
    folder = runs["judged"] / "diagnosis"
    assert contents(folder / "final") == contents(judged)
    (folder / "notes.txt").write_text("mine")
    (folder / "final" / "notes.txt").write_text("mine, too")
    diagnosed(capsys, runs["judged"])
    assert contents(folder / "final").keys() == {
        *contents(judged),
        (folder / "final/notes.txt").relative_to(folder / "final"),
    }
    assert (folder / "final" / "notes.txt").read_text() == "mine, too"
    shutil.rmtree(folder)
    assert contents(runs["judged"]) == before


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_side_by_side(runs, tmp_path, capsys):
    before = {name: contents(path) for name, path in runs.items()}
    found = diagnosed(
        capsys, runs["judged"], "--checkpoints", "start", "final", "--against", runs["grpo"], "--out", tmp_path / "o",
        "--tasks", 3,
    )  # fmt: skip
    assert [d["label"] for d in found] == [
        "judged start (stapo)", "judged final (stapo)", "grpo start (grpo)", "grpo final (grpo)",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["final", "grpo--final", "grpo--start", "start"]
    assert len({json.dumps(d["protocol"]["task_ids"]) for d in found}) == 1
    assert len({json.dumps(d["protocol"]["outlier"]) for d in found}) == 1
    # Both runs start from the same model, and the same seed plays the same episodes.
    assert found[2]["minus_first"]["success"] == [0.0, 0.0, 0.0]
    assert found[2]["kl"] == found[0]["kl"]
    assert "minus_first" not in found[0]
    for d in found[1:]:
        assert d["minus_first"]["kl"][0] == pytest.approx(d["kl"]["all"][0] - found[0]["kl"]["all"][0])
    page = (tmp_path / "o" / "grpo--final" / "diagnosis.html").read_text()
    assert "Side by side" in page
    assert "judged start (stapo)" in page
    assert {name: contents(path) for name, path in runs.items()} == before


def test_the_tables_for_people(runs, tmp_path, capsys):
    assert main(["diagnose", str(runs["judged"]), "--tasks", "2", "--out", str(tmp_path / "a")]) == 0
    out, err = capsys.readouterr()
    for shown in (
        "Outliers against the other steps",
        "Outliers by side",
        "Bad steps",
        "area under the ROC curve",
        "diagnosis.html",
        "odd",
    ):
        assert shown in out
    assert err == ""
    argv = ["diagnose", str(runs["toy"]), "--checkpoints", "start", "final", "--out", str(tmp_path / "b")]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "Side by side" in out
    assert "The environment has no judge" in out


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["--split", "train", "--tasks", "2"], {"split": "train", "tasks": 2}),
        (["--group-size", "2"], {"group_size": 2, "tasks": 6}),
        (["--seed", "5", "--tasks", "1"], {"seed": 5, "tasks": 1}),
    ],
)
def test_options(runs, tmp_path, capsys, argv, expected):
    (found,) = diagnosed(capsys, runs["judged"], *argv, "--out", tmp_path)
    assert {key: found["protocol"][key] for key in expected} == expected


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slow_except(ALGORITHMS, "stapo", "gigpo", "grpo", "ppo"))
def test_every_algorithm(runs, name):
    run = RunDirectory.open(runs["judged"])
    config = replace(read_run_config(run), algorithm=get_algorithm(name))
    tasks = [f"toy/heldout/{c}" for c in ("blue", "red")]
    protocol = make_spec(config, tasks, "heldout", group_size=3)
    measured = measure(load_policy(str(run.checkpoint("final")), config.model), config, protocol)
    document = summarize(measured, 0, 50).document
    assert document["steps"] == 18
    assert np.isfinite(document["kl"]["all"].value)
    assert set(stateless_metrics()) <= set(document["ranking"]["any"]["auc"])
    assert measured.batch.outliers.reason is None or "none" not in measured.batch.outliers.reason
    assert np.abs(measured.batch.advantages.step_b).max() > 0


@pytest.mark.parametrize(
    "trained, expected, said",
    [
        (get_algorithm("gigpo"), OutlierConfig(), "flags no steps"),
        (get_algorithm("stapo-all-steps"), OutlierConfig(), "selects steps by 'all'"),
        (get_algorithm("stapo-shannon"), OutlierConfig(metric="shannon"), None),
        (replace(get_algorithm("stapo"), outlier=OutlierConfig(lam=3.0)), OutlierConfig(lam=3.0), None),
        (get_algorithm("stapo-goal-only"), OutlierConfig(), "a blind prompt without goal"),
    ],
)
def test_settings_of_measuring(trained, expected, said):
    algorithm, remarks = measuring(trained)
    assert algorithm.outlier == expected
    assert algorithm.selective.blind_mask == "goal_history"
    assert algorithm.advantage.step_advantage
    assert (said in remarks[0]) if said else remarks == []


@pytest.mark.parametrize("dtype, min_std", [("bfloat16", 0.002), ("float32", None)])
@pytest.mark.parametrize("algorithm", ["stapo", "gigpo"])
def test_groups_within_the_rounding_of_the_dtype_are_left_out_as_in_training(algorithm, dtype, min_std):
    config = stapo.load_config("tiny", algorithm=algorithm, **{"model.dtype": dtype})
    assert make_spec(config, ["a", "b"], "heldout").algorithm.outlier.min_std == min_std


# -- 5 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "needs a run directory"),
        (["nowhere"], "run directory 'nowhere' does not exist"),
        (["RUN", "b"], "takes at most 1 argument"),
        (["RUN", "--split", "heldot"], "unknown split 'heldot'. Did you mean 'heldout'?"),
        (["RUN", "--env.empty", "heldout"], "split 'heldout' holds no task; choose another with --split"),
        (["RUN", "--tasks", "0"], "--tasks is '0', expected a whole number of 1 or more"),
        (["RUN", "--tasks", "-3"], "--tasks is '-3', expected a whole number"),
        (["RUN", "--group-size", "0"], "--group-size is '0', expected a whole number of 1 or more"),
        (["RUN", "--seed", "x"], "--seed is 'x', expected a whole number"),
        (["RUN", "--checkpoint", "finl"], "no checkpoint 'finl'. Did you mean 'final'?"),
        (["RUN", "--checkpoints", "start", "iteration-1"], "Checkpoints: start, iteration-00001, final; choose with"),
        (["RUN", "--checkpoints"], "--checkpoints needs names"),
        (["RUN", "--against"], "--against needs run directories"),
        (["RUN", "--against", "OTHER"], "expected 'judged': only policies that can play the same tasks"),
        (["RUN", "--against", "gone"], "run directory 'gone' does not exist"),
        (["RUN", "--agianst", "x"], "has no option '--agianst'. Did you mean '--against'?"),
        (["RUN", "--env.fatl", "x"], "has no option 'fatl'. Did you mean 'fatal'?"),
        (["RUN", "--env.name", "alfworld"], "has no option '--env.name'"),
        (["RUN", "--out", "RUN/config.yaml"], "config.yaml' is not a folder; choose another place with --out"),
        (["RUN", "--out", "RUN/checkpoints"], "holds other files"),
    ],
)
def test_wrong_input_is_one_line(runs, capsys, argv, said):
    before = contents(runs["judged"])
    names = {"RUN": str(runs["judged"]), "OTHER": str(runs["toy"])}
    given = [names.get(a, a.replace("RUN/", names["RUN"] + "/")) for a in argv]
    assert main(["diagnose", *given]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert (out, err.count("\n")) == ("", 1)
    assert contents(runs["judged"]) == before


def test_runs_that_cannot_be_diagnosed(runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs["judged"], run)
    shutil.rmtree(run / "checkpoints" / "final")
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "status": "stopped"}))
    assert main(["diagnose", str(run)]) == 2
    assert "The run is not finished (status stopped). Checkpoints: start, iteration-00001" in capsys.readouterr().err
    weights = run / "checkpoints" / "start" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert main(["diagnose", str(run), "--checkpoint", "start"]) == 2
    assert "model.safetensors" in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints")
    assert main(["diagnose", str(run)]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err
    assert not (run / "diagnosis").exists()


def test_help_teaches(capsys):
    assert main(["diagnose", "--help"]) == 0
    out = capsys.readouterr().out
    for shown in ("usage: stapo diagnose RUN", "--against", "examples:", "diagnosis.html"):
        assert shown in out


def test_the_page_shows_the_scores_of_its_steps(judged):
    """Every H_n and A_S that steps.jsonl has is on the page as a number; what it lacks is a dash."""
    rows = list(read_jsonl(judged / "steps.jsonl"))
    by_place = {(r["task_id"], r["member"], r["step"]): r for r in rows}
    page = html.unescape((judged / "diagnosis.html").read_text(encoding="utf-8"))
    shown = re.findall(r"· (\S+) · member (\d+), step (\d+) · .*? H_n (\S+) · .* A_S (\S+?)</p>", page)
    assert shown
    numbers = 0
    for task, member, step, h_n, a_s in shown:
        row = by_place[task, int(member), int(step)]
        for text, value in ((h_n, row["normalized_entropy"]), (a_s, row["step_advantage"])):
            assert text == ("–" if value is None else f"{value:+.2f}")
            numbers += value is not None
    assert numbers > len(shown)


def test_an_interval_of_the_page_breaks_nowhere(judged):
    page = html.unescape((judged / "diagnosis.html").read_text(encoding="utf-8"))
    numbers = page.partition('id="numbers"')[2].partition("</section>")[0]
    cells = re.findall(r"<td>([^<]*\[[^<]*)</td>", numbers)
    assert len(cells) > 20
    assert all(" " not in cell[cell.index("[") :] and cell.count(" ") == 1 for cell in cells)
    assert ".wide { overflow-x: auto" in page


# -- 6 -----------------------------------------------------------------------------------------------------------------


def test_foreign_text_is_text(judged):
    page = (judged / "diagnosis.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    for forbidden in ("\x1b", "\u202e"):
        assert forbidden not in page
    assert "default-src 'none'" in page
    assert page.count("<svg") == 8
    assert "full prompt (marked: what the blind prompt lacks)" in page


def test_worst_cases(runs):
    run = RunDirectory.open(runs["judged"])
    config = read_run_config(run)
    protocol = make_spec(config, [f"toy/heldout/{c}" for c in ("blue", "red", "teal")], "heldout")
    measured = measure(load_policy(str(run.checkpoint("final")), config.model), config, protocol)
    records = step_records(measured)
    cases = worst_cases(measured, records, most=5)
    assert all(case.row["faults"] for case in cases)
    tasks = [case.row["task_id"] for case in cases]
    assert len(cases) == 5
    assert max(map(tasks.count, tasks)) == 2
    keys = [(c.row["outlier"] is None, -len(c.row["faults"]), c.row["kl"]) for c in cases]
    assert keys == sorted(keys)
    for case in cases:
        same = [r for r in records if r["anchor_group"] == case.row["anchor_group"] and r is not case.row]
        assert len(case.siblings) + case.left_out == len(same)
        advantages = [r["step_advantage"] for r in case.siblings]
        assert advantages == sorted(advantages, reverse=True)
        assert case.goal in case.prompt
        assert case.goal not in case.blind_prompt
