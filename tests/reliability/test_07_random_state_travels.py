"""7. Random states, environment states, task position and group numbers travel; without one nothing is continued.

The environment here draws from the shared generators of Python, NumPy and torch, and from one of its own that lives
from episode to episode: none of this package does, other people's environments may.
"""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import torch
from reliable import assert_same, contents, copying, run, write_settings

from stapo.envs.registry import ENVIRONMENTS
from stapo.errors import SaveError
from stapo.run import RunDirectory
from stapo.run.saves import MANIFEST, MARKER, _seal
from stapo.training.checkpoint import random_state, restore_random_state, seed_all
from toy_world import ToyEnv, toy_settings


class MoodyEnv(ToyEnv):
    """Its observations depend on every kind of random number that there is."""

    def __init__(self, **options):
        super().__init__(**options)
        self.own = random.Random(5)

    def reset(self, task_id):
        first = super().reset(task_id)
        moods = (random.random(), np.random.rand(), float(torch.rand(())), self.own.random())
        text = " ".join(f"{mood:.6f}" for mood in moods)
        return type(first)(f"{first.text} {text}", first.goal, None, text)

    def state_dict(self):
        version, internal, gauss = self.own.getstate()
        return [version, list(internal), gauss]

    def load_state_dict(self, state):
        version, internal, gauss = state
        self.own.setstate((version, tuple(internal), gauss))


@pytest.fixture(scope="module", autouse=True)
def registered():
    ENVIRONMENTS.register("moody", MoodyEnv)


@pytest.fixture
def moody(tmp_path, toy_model):
    settings = toy_settings(toy_model, optim__iterations=3, env__name="moody", eval__every=1, eval__quick_episodes=2)
    source = write_settings(tmp_path, settings)
    return ["train", str(source), "--quiet", "--out", str(tmp_path / "run")]


def test_everything_travels(tmp_path, moody):
    (tmp_path / "copies").mkdir()
    log = tmp_path / "log"
    assert run(moody, log, lambda: copying(tmp_path)) == 0, log.read_text()
    expected = contents(RunDirectory(tmp_path / "run"))
    texts = [
        s["observation"] for line in expected["iteration-00003.jsonl"].splitlines() for s in json.loads(line)["steps"]
    ]
    assert len({text for text in texts if "0." in text}) == 4
    copies = sorted((tmp_path / "copies").iterdir())
    for copy in copies[:-1:3]:
        assert run(["resume", str(copy), "--quiet"], log) == 0, log.read_text()
        assert_same(expected, contents(RunDirectory(copy)))


@pytest.mark.parametrize(
    "lost, said",
    [
        (("random", "python"), "random states are missing or damaged"),
        pytest.param(("random", "numpy"), "random states are missing or damaged", marks=pytest.mark.slow),
        (("environments",), "state.json' lacks environments"),
        pytest.param(("task_position",), "state.json' lacks task_position", marks=pytest.mark.slow),
    ],
)
def test_without_one_nothing_is_continued(tmp_path, moody, lost, said):
    """Missing from a save that is whole otherwise, as an older program could have written it."""
    (tmp_path / "copies").mkdir()
    log = tmp_path / "log"
    assert run(moody, log, lambda: copying(tmp_path)) == 0, log.read_text()
    copy = RunDirectory(sorted((tmp_path / "copies").iterdir())[-3])
    for save in copy.saves.complete():
        data = json.loads((save / "state.json").read_text())
        place = data
        for key in lost[:-1]:
            place = place[key]
        del place[lost[-1]]
        (save / "state.json").write_text(json.dumps(data))
        for name in (MARKER, MANIFEST):
            (save / name).unlink()
        _seal(save)
    before = contents_of(copy.path)
    log.write_text("")
    assert run(["resume", str(copy.path), "--quiet"], log) == 1
    assert said in log.read_text()
    assert "Traceback" not in log.read_text()
    assert contents_of(copy.path).items() >= before.items()


def contents_of(path):
    return {p: p.read_bytes() for p in path.rglob("*.safetensors")}


def test_the_shared_generators_come_back():
    seed_all(1)
    plain, tensors = random_state()
    plain = json.loads(json.dumps(plain))
    first = (random.random(), np.random.rand(), float(torch.rand(())), random.gauss(0, 1), np.random.randn())
    seed_all(2)
    restore_random_state(plain, tensors)
    assert (random.random(), np.random.rand(), float(torch.rand(())), random.gauss(0, 1), np.random.randn()) == first


@pytest.mark.parametrize("lost", ["python", "numpy", "cpu"])
def test_a_missing_or_unreadable_state_is_an_error(lost):
    plain, tensors = random_state()
    with pytest.raises(SaveError, match="cannot be continued as the same run"):
        restore_random_state(
            {k: v for k, v in plain.items() if k != lost}, {k: v for k, v in tensors.items() if k != lost}
        )
    plain, tensors = random_state()
    broken = {**plain, lost: [1, 2]} if lost in plain else plain
    with pytest.raises(SaveError, match="cannot be continued as the same run"):
        restore_random_state(broken, {"cpu": torch.zeros(3, dtype=torch.uint8)} if lost == "cpu" else tensors)


def test_task_position_and_group_numbers(tmp_path, moody):
    """A continued run goes on with the next tasks, not with the first ones again."""
    log = tmp_path / "log"
    assert run(moody, log) == 0, log.read_text()
    made = RunDirectory(tmp_path / "run")
    tasks = [
        {(r["group"], r["task_id"]) for r in map(json.loads, path.read_text().splitlines())}
        for path in made.transcripts()
    ]
    assert len({frozenset(t) for t in tasks}) == len(tasks)
    shutil.rmtree(made.path)
