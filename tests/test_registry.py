"""What other packages register: whatever they do when they are looked at, it is one error, and stops nothing else."""

from __future__ import annotations

import json
import signal
import sys
import textwrap
import time

import pytest

import stapo
import stapo.registry as registry
from slow import slow_except
from stapo.algo import ALGORITHMS, presets
from stapo.cli.main import main
from stapo.envs.registry import ENVIRONMENTS, make
from stapo.errors import ConfigError, StapoError, UnknownNameError

FINE = """
    class Env:
        \"\"\"A fine one.\"\"\"
        name, max_steps, tasks, splits = "fine", 1, ["t"], ["train"]
        def tasks_of(self, split): return ["t"]
        def task_type(self, task): return "x"
        def reset(self, task): return None
        def step(self, action): return None
        def close(self): return None
"""
BROKEN = {
    "exception": ("raise RuntimeError('no license')", "RuntimeError: no license"),
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "sys_exit": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "base": ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
    "interrupt": ("raise KeyboardInterrupt('not by the user')", "KeyboardInterrupt"),
    "syntax": ("def (:", "SyntaxError"),
    "recursion": ("def f(): return f()\nf()", "RecursionError"),
    "memory": ("raise MemoryError", "MemoryError"),
    "import": ("import no_such_module_at_all", "no_such_module_at_all"),
    "no_attribute": ("", "has no attribute 'Env'"),
    "number": ("Env = 7", "is 7, not a class"),
    "function": ("def Env(**options): return None", "not a class"),
    "none": ("Env = None", "is None, not a class"),
    "instance": ("class X: pass\nEnv = X()", "not a class"),
    "lazy": ("def __getattr__(name): raise ValueError('lazily')", "ValueError: lazily"),
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages; call it to install one with the entry points of a module."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ENVIRONMENTS, "_objects", dict(ENVIRONMENTS._objects))
    monkeypatch.setattr(presets.ALGORITHM_REGISTRY, "_objects", {})

    def install(package, code, points):
        (tmp_path / f"{package.replace('-', '_')}_module.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)

    before = set(sys.modules)
    yield install
    for name in set(sys.modules) - before:
        if name.endswith("_module"):
            del sys.modules[name]


def environment(package, name=None, target=None):
    return f"[stapo.environments]\n{name or package} = {target or package.replace('-', '_') + '_module:Env'}\n"


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_one_is_one_error_and_one_row(site, capsys, monkeypatch, kind):
    code, said = BROKEN[kind]
    site("bad-one", code, environment("bad-one"))
    site("good-one", FINE, environment("good-one"))
    with pytest.raises(ConfigError, match="environment 'bad-one' of package 'bad-one' points at") as found:
        ENVIRONMENTS.get("bad-one")
    assert said in str(found.value)
    assert make("good-one").max_steps == 1
    assert main(["envs", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert said in rows["bad-one"]["error"]
    assert rows["good-one"]["summary"] == "A fine one."
    assert rows["alfworld"]["error"] is None
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["envs"]) == 0
    assert said in capsys.readouterr().out
    assert main(["train", "tiny", "--env.name", "bad-one", "--out", "/nonexistent/x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "target", ["", ":", ":Env", "a b:c", ".rel:Env", "1", "json:", "json:no.such", "json", "json:JSONDecoder.decode.x"]
)
def test_targets_that_point_nowhere(site, target):
    site("lost", "", environment("lost", target=target) if target else "[stapo.environments]\nlost =\n")
    with pytest.raises(ConfigError, match="environment 'lost' of package 'lost'"):
        ENVIRONMENTS.get("lost")


def test_what_hangs_is_given_up(site, monkeypatch):
    site("slow", "import time\ntry:\n    time.sleep(600)\nexcept Exception:\n    pass", environment("slow"))
    monkeypatch.setattr(registry, "IMPORT_SECONDS", 0.2)
    handlers = signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"slow.*not done after 0\.2 s"):
        ENVIRONMENTS.get("slow")
    assert time.monotonic() - started < 300
    assert (signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT)) == handlers
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_interrupt_of_the_user_is_none_of_the_package(site):
    site("busy", "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)", environment("busy"))
    # Jobs in the background are started with the signal ignored, and the suite may be one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            ENVIRONMENTS.get("busy")
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_it_prints_is_not_in_our_output(site, capsys):
    site("loud", "print('HELLO')\n" + textwrap.dedent(FINE), environment("loud"))
    assert main(["envs", "--json"]) == 0
    out, err = capsys.readouterr()
    assert any(row["name"] == "loud" and row["error"] is None for row in json.loads(out))
    assert "HELLO" in err


def test_two_of_one_name(site, capsys, monkeypatch):
    site("first-pkg", FINE, environment("first-pkg", "twin"))
    site("second-pkg", FINE, environment("second-pkg", "twin"))
    said = "environment 'twin' is registered by 'first-pkg' (first_pkg_module:Env) and 'second-pkg' (second_pkg_module"
    with pytest.raises(ConfigError) as found:
        make("twin")
    assert said in str(found.value) or "'second-pkg' (second_pkg_module:Env) and 'first-pkg'" in str(found.value)
    assert main(["envs", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert "first-pkg" in rows["twin"]["error"]
    assert "second-pkg" in rows["twin"]["error"]
    assert main(["train", "tiny", "--env.name", "twin"]) == 2
    assert "is registered by" in capsys.readouterr().err


def test_a_name_of_our_own_stays_ours(site, capsys):
    site("thief", "raise RuntimeError", environment("thief", "alfworld"))
    assert ENVIRONMENTS.get("alfworld").__module__ == "stapo.envs.alfworld.env"
    assert main(["envs", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert "a name of stapo's own" in rows["thief"]["error"].replace("which is ", "")


@pytest.mark.parametrize("name", ["../up", "a/b", "two words", "-x", ".hidden", "x" * 101, "a\u202eb"])
def test_a_name_that_no_command_or_file_could_hold_is_a_row(site, capsys, name):
    site("odd", "raise RuntimeError", environment("odd", name))
    with pytest.raises(UnknownNameError):
        ENVIRONMENTS.get(name)
    assert main(["envs", "--json"]) == 0
    assert "cannot be a name" in {row["name"]: row for row in json.loads(capsys.readouterr().out)}["odd"]["error"]
    with pytest.raises(ConfigError, match="cannot be the name of this environment; expected letters"):
        ENVIRONMENTS.register(name)


@pytest.mark.parametrize(
    "register, said",
    [
        (lambda: stapo.register_environment("seven", 7), "'seven' is 7, not a class"),
        (lambda: stapo.register_prompt_style("seven", 7), "'seven' is 7; expected a function"),
        (lambda: stapo.register_policy_loss("seven", 7), "'seven' is 7; expected a function"),
        (lambda: stapo.register_tracker("seven", int), "'seven' is not a tracker: it lacks rewinds"),
        (lambda: stapo.register_algorithm("gigpo"), "'gigpo', expected an AlgorithmConfig"),
    ],
)
def test_what_is_of_another_kind_is_refused_when_it_is_registered(register, said):
    with pytest.raises(ConfigError, match=said):
        register()


def test_a_decorator_without_its_name_is_told():
    with pytest.raises(ConfigError, match="<class 'int'> cannot be the name"):
        ENVIRONMENTS.register(int)


@pytest.mark.parametrize(
    "points", ["[stapo.environments]\nno equals sign\n", "[stapo.environments]\n = x:y\n", b"\xff\xfe["]
)
def test_a_package_whose_list_is_broken_stops_no_other(site, tmp_path, capsys, points):
    site("good-one", FINE, environment("good-one"))
    site("garbled", "", "")
    (tmp_path / "garbled-1.0.dist-info" / "entry_points.txt").write_bytes(
        points if isinstance(points, bytes) else points.encode()
    )
    assert make("good-one").max_steps == 1
    with pytest.raises(UnknownNameError):
        ENVIRONMENTS.get("garbled")
    assert main(["envs", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["garbled"]["error"]


@pytest.mark.parametrize(
    "code, said",
    [
        ("class Env: pass", "has no name, max_steps"),
        ("Env = int", "environment 'thin'"),
        ("class Env:\n    def __init__(self, games): pass", "needs the option games"),
        ("class Meta(type):\n    __signature__ = 3\nclass Env(metaclass=Meta): pass", "environment 'thin'"),
    ],
)
def test_a_class_that_is_no_environment(site, capsys, code, said):
    site("thin", code, environment("thin"))
    with pytest.raises(StapoError, match=said):
        make("thin")
    assert main(["envs"]) == 0
    assert main(["envs", "thin"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["exception", "exit", "base", "number", "none", "no_attribute"])
def test_a_broken_algorithm_is_a_row(site, capsys, monkeypatch, kind):
    code, said = BROKEN[kind]
    site("bad-algo", code, "[stapo.algorithms]\nbad-algo = bad_algo_module:Env\n")
    site("taken", "", "[stapo.algorithms]\nstapo = taken_module:X\n")
    with pytest.raises(ConfigError, match="bad-algo"):
        presets.get_algorithm("bad-algo")
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["algorithms"]) == 0
    out = capsys.readouterr().out
    assert said.removesuffix(", not a class") in out or "expected an AlgorithmConfig" in out
    assert all(name in out for name in ALGORITHMS)
    assert "registers 'stapo'" in out
    assert main(["train", "tiny", "--dry-run", "--algorithm", "bad-algo"]) == 2


PIECES = {
    "advantage_estimators": "--algorithm.advantage.episode",
    "step_scores": "--algorithm.outlier.metric",
    "policy_losses": "--algorithm.loss.policy",
    "prompt_styles": "--agent.prompt",
    "response_formats": "--agent.response",
}


BAD_PIECES = [("raise RuntimeError('broken')", "RuntimeError: broken"), ("Env = 7", "is 7")]


@pytest.mark.parametrize("code, said", slow_except(BAD_PIECES, BAD_PIECES[0]))
def test_a_broken_piece_of_any_kind_is_a_row_and_is_refused_before_a_run(site, capsys, tmp_path, code, said):
    kinds = [*PIECES, "algorithms", "environments", "retrievers"]
    site("bad-one", code, "".join(f"[stapo.{kind}]\nbad-one = bad_one_module:Env\n" for kind in kinds))
    assert main(["plugins", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    broken = {row["group"]: row["error"] for row in rows if row["error"]}
    assert set(broken) == {f"stapo.{kind}" for kind in kinds}
    assert all(said in error for error in broken.values())
    assert {row["package"] for row in rows if row["error"]} == {"bad-one"}
    for setting in PIECES.values():
        for way in (["--dry-run"], ["--out", str(tmp_path / "run")]):
            assert main(["train", "tiny", setting, "bad-one", *way]) == 2
            err = capsys.readouterr().err
            assert said in err
            assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
