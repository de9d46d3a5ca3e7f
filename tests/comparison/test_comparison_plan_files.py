"""A comparison from elsewhere: what names folders is checked before anything is written."""

from __future__ import annotations

import json
import os

import pytest

from stapo.cli.main import main
from stapo.comparison.plan import Variant, plan_of, read_plan, require_place, write_plan
from stapo.config.presets import load_config
from stapo.config.schema import to_data
from stapo.errors import ConfigError, RunDirectoryError

BASE = to_data(load_config("tiny", "grpo"))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "a" / "b" / "comparison"
    place.mkdir(parents=True)
    write_plan(place, plan_of(BASE, [Variant("grpo", "grpo", {}, BASE)], (0,), 1, "stapo compare"))
    assert read_plan(place).seeds == [0]
    return place


def changed(folder, **values):
    path = folder / "compare.json"
    data = json.loads(path.read_text())
    for key, value in values.items():
        if key == "label":
            data["variants"][0]["label"] = value
            data["cells"][0]["label"] = value
        else:
            data["cells"][0][key] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "label", ["../../x", "/abs/x", "x\0y", "x" * 300, "..", ".", "", "a/b", "a\\b", "-x", "x\n", "gigpo", 7, None]
)
def test_labels(folder, tmp_path, capsys, label):
    changed(folder, label=label)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    assert main(["compare", "--out", str(folder), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "compare.json" in said
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("baseline", ["stapo", 7, ["grpo"], ""])
def test_a_baseline_that_is_none_of_the_variants(folder, baseline):
    data = json.loads((folder / "compare.json").read_text())
    for value in (None, "grpo"):
        (folder / "compare.json").write_text(json.dumps({**data, "baseline": value}))
        assert read_plan(folder).baseline == value
    (folder / "compare.json").write_text(json.dumps({**data, "baseline": baseline}))
    with pytest.raises(RunDirectoryError, match="baseline"):
        read_plan(folder)


@pytest.mark.parametrize("seed", ["../../x", "/abs/x", -1, True, 1.5, None, 10**19, [0]])
@pytest.mark.parametrize("key", ["seed", "start"])
def test_seeds_and_starts(folder, key, seed):
    changed(folder, **{key: seed})
    with pytest.raises(RunDirectoryError, match=r"compare\.json"):
        read_plan(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "7", '"x"', "{}", "[" * 100_000, "\x00", '{"format": 1, "base": 7}']
)
def test_odd_files(folder, text):
    (folder / "compare.json").write_text(text)
    with pytest.raises((RunDirectoryError, ConfigError), match=r"."):
        read_plan(folder)


NAMED = ["compare.json", "settings", "logs", "runs", "starts", "warm", "results.json", ".lock"]


@pytest.mark.parametrize("name", NAMED)
def test_links_and_pipes(folder, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    for look in (read_plan, require_place):
        with pytest.raises(RunDirectoryError, match="symbolic link"):
            look(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(RunDirectoryError, match="pipe"):
        require_place(folder)


def test_a_label_too_long_for_a_folder():
    variants = [Variant("grpo," + "x" * 300, "grpo", {}, BASE)]
    with pytest.raises(ConfigError, match="cannot name a folder"):
        plan_of(BASE, variants, (0,), 1, "stapo compare")


def other_plans():
    """What makes a plan one that no command line could have given."""

    def variant(**values):
        return lambda data: data["variants"][0].update(values)

    def setting(group, key, value):
        return lambda data: data["variants"][0]["settings"][group].update({key: value})

    yield "algorithm of other settings", setting("algorithm", "name", "stapo")
    yield (
        "change of other settings",
        lambda data: (
            data["variants"][0].update(label="grpo,seed=7", changes={"seed": 7}),
            data["cells"][0].update(label="grpo,seed=7"),
        ),
    )
    yield "changes as a list", variant(changes=["x"])
    yield "no run", lambda data: data.update(cells=[])
    yield "two starts of a seed", lambda data: data["cells"].append({**data["cells"][0], "start": 1})
    yield "a seed as text", lambda data: data["cells"][0].update(seed="0")
    yield "commands as a text", lambda data: data.update(commands="stapo compare")
    yield "commands as a number", lambda data: data.update(commands=7)


@pytest.mark.parametrize("change", [pytest.param(c, id=name) for name, c in other_plans()])
def test_a_plan_that_contradicts_itself(folder, tmp_path, capsys, change):
    path = folder / "compare.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    before = sorted(tmp_path.rglob("*"))
    assert main(["compare", "--out", str(folder), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "compare.json" in said
    assert said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
