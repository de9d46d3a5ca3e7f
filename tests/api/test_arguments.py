"""Wrong arguments of the public functions: one error of ours, which names the argument, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import stapo
from stapo.api.settings import checked
from stapo.cli.main import main


class Idle(stapo.Callback):
    pass


LONG = "x" * 400
WRONG = [
    (lambda: stapo.train(None), "config is None, expected a stapo.RunConfig, a text, a path or a mapping."),
    (lambda: stapo.train("tiny", 3), "out is 3, expected a text or a path."),
    (lambda: stapo.train("tiny", b"runs"), "out is b'runs'"),
    (lambda: stapo.train("tiny", "a\0b"), "out is 'a\\x00b'"),
    (lambda: stapo.train("tiny", LONG), "File name too long"),
    (lambda: stapo.train("tiny", resume="no"), "resume is 'no', expected True or False."),
    (lambda: stapo.train("tiny", fork=3), "fork is 3"),
    (lambda: stapo.train("tiny", callbacks=Idle()), "expected a list of instances of stapo.Callback"),
    (lambda: stapo.train("tiny", callbacks=None), "callbacks is None, expected a list"),
    (lambda: stapo.Run(None), "path is None"),
    (lambda: stapo.Run(LONG), "File name too long"),
    (lambda: stapo.evaluate(3), "target is 3, expected a stapo.Run, a stapo.Endpoint, a text or a path."),
    (lambda: stapo.evaluate("run", episodes="3"), "episodes is '3', expected a whole number of 0 or more."),
    (lambda: stapo.evaluate("run", episodes=2.0), "episodes is 2.0"),
    (lambda: stapo.evaluate("run", episodes=True), "episodes is True"),
    (lambda: stapo.evaluate("run", seeds=3), "seeds is 3, expected a list, each item a whole number of 0 or more."),
    (lambda: stapo.evaluate("run", seeds="01"), "seeds is '01'"),
    (lambda: stapo.evaluate("run", seeds=[0, -1]), "seeds is [0, -1]"),
    (lambda: stapo.evaluate("run", temperature=float("nan")), "temperature is nan, expected a number of 0 or more."),
    (lambda: stapo.evaluate("run", temperature=-1), "temperature is -1"),
    (lambda: stapo.evaluate("run", k=0), "k is 0, expected a whole number of 1 or more."),
    (lambda: stapo.evaluate("run", agent=stapo.load_config().agent), "expected a mapping."),
    (lambda: stapo.evaluate("run", split=3), "split is 3, expected a text."),
    (lambda: stapo.Endpoint(url=None, model="m"), "url is None, expected a text."),
    (lambda: stapo.Endpoint(url="http://127.0.0.1:9", model="m", attempts="4"), "attempts is '4'"),
    (lambda: stapo.diagnose("run", against=3), "expected a stapo.Run, a text, a path or a list, each item"),
    (lambda: stapo.diagnose("run", checkpoints="final"), "checkpoints is 'final', expected a list"),
    (lambda: stapo.diagnose("run", tasks=0), "tasks is 0, expected a whole number of 1 or more."),
    (lambda: stapo.diagnose("run", seed=-1), "seed is -1"),
    (lambda: stapo.compare(["grpo"], seeds=[1, 1]), "seeds [1, 1], expected at least one of each, none twice"),
    (lambda: stapo.compare(["grpo"], seeds=()), "none twice"),
    (lambda: stapo.compare(["grpo"], starts=0), "starts is 0"),
    (lambda: stapo.compare(["grpo"], jobs=0), "jobs is 0"),
    (lambda: stapo.export("tiny", 3), "out is 3"),
    (lambda: stapo.load_config(""), "unknown preset or file ''"),
    (lambda: stapo.check_env("alfworld"), "expected an environment: stapo.make"),
    (lambda: stapo.make(None), "unknown environment None"),
]  # fmt: skip


@pytest.mark.parametrize("call, said", WRONG, ids=range(len(WRONG)))
def test_a_wrong_argument_is_one_error_that_names_it(call, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(stapo.StapoError) as found:
        call()
    assert said in str(found.value)
    assert not any(tmp_path.iterdir())


def test_numbers_of_numpy_and_paths_are_taken():
    config = stapo.load_config(
        {"extends": "tiny", "seed": np.int64(3)},
        **{"optim.learning_rate": np.float64(0.5), "env.options.games_per_type": np.int32(4), "sft.data": Path("a/b")},
    )
    plain = stapo.load_config("tiny", seed=3, optim={"learning_rate": 0.5}, sft={"data": "a/b"})
    assert (config.seed, config.optim, config.sft) == (3, plain.optim, plain.sft)
    assert type(config.optim.learning_rate) is float
    assert type(config.env.options["games_per_type"]) is int

    @checked(n=1)
    def taken(n: int, x: float | None = None) -> tuple[object, object]:
        return n, x

    assert list(map(type, taken(np.int64(2), np.float32(0.5)))) == [int, float]
    with pytest.raises(TypeError, match=r"taken\(\)"):
        taken()


def test_a_file_name_that_the_system_refuses_is_one_line_for_every_command(capsys):
    for command in ("eval", "report", "resume", "diagnose", "track"):
        words = [command, LONG] + ["--to", "tensorboard"] * (command == "track")
        assert main(words) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
