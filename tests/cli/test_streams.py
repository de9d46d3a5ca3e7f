"""Where output goes: a reader that leaves, a full device, another encoding, no stream at all. Never a traceback."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slow import slow_except
from stapo.cli.main import main

PATIENCE = 300.0
COMMANDS = {
    "help": ["--help"],
    "version": ["--version"],
    "help of a command": ["help", "runs"],
    "algorithms": ["algorithms"],
    "envs": ["envs"],
    "runs": ["runs", "--json"],
}


def stapo(args, **given):
    env = {**os.environ, **given.pop("env", {})}
    return subprocess.run(
        [sys.executable, *given.pop("python", []), "-m", "stapo.cli.main", *args],
        capture_output="stdout" not in given, env=env, timeout=PATIENCE, **given,
    )  # fmt: skip


def closed_pipe():
    """The end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("name", slow_except(COMMANDS, "help", "help of a command", "runs"))
def test_a_reader_that_has_left(name):
    write = closed_pipe()
    done = stapo(COMMANDS[name], python=["-u"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


FULL = [("help", []), ("help", ["-u"]), ("algorithms", []), ("runs", ["-u"])]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("name, unbuffered", slow_except(FULL, FULL[0], FULL[3]))
def test_a_full_device(name, unbuffered):
    with open("/dev/full", "w") as full:
        done = stapo(COMMANDS[name], python=unbuffered, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"error: the output cannot be written: No space left on device.\n"


@pytest.mark.parametrize("buffered", [[], ["-u"]])
def test_a_reader_of_errors_that_has_left(buffered):
    write = closed_pipe()
    done = stapo(["trian"], python=buffered, stdout=subprocess.PIPE, stderr=write)
    os.close(write)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("name", slow_except(["help", "algorithms", "envs"], "help"))
def test_another_encoding(name):
    done = stapo(COMMANDS[name], env={"PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"stapo" in done.stdout or b"alfworld" in done.stdout


def test_names_that_no_encoding_holds(tmp_path):
    """A folder's name of bytes that are no text, on a terminal of ASCII and in an error."""
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    done = stapo(["runs", os.fsencode(tmp_path) + b"/caf\xe9"], env=ascii_only)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.isascii()
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    done = stapo(["runs", os.fsencode(tmp_path) + b"/caf\xe9"], env={"PYTHONIOENCODING": "utf-8"})
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_output_at_all():
    code = (
        "import os, sys; os.close(1); os.close(2); os.execv(sys.executable, [sys.executable, '-m', 'stapo.cli.main', "
    )
    done = subprocess.run([sys.executable, "-c", f"{code}'algorithms'])"], timeout=PATIENCE)
    assert done.returncode == 0


def test_a_line_of_error_is_one_line_that_no_terminal_obeys(capsys):
    assert main(["\x1b[31mtrain\u202e"]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\u202e" not in err
    assert err.count("\n") == 1
    assert main(["runs", "a\nb\x1b[2J"]) == 2
    err = capsys.readouterr().err
    assert (err.count("\n"), "\x1b" in err) == (1, False)


def test_help_of_a_command_both_ways(capsys):
    assert main(["help", "runs"]) == main(["runs", "--help"]) == 0
    out = capsys.readouterr().out
    assert out[: len(out) // 2] == out[len(out) // 2 :]
    assert main(["help", "train"]) == 0
    assert "usage: stapo train" in capsys.readouterr().out
    assert main(["help", "trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err
    assert main(["help"]) == 0


def test_json_stays_json_in_any_encoding(tmp_path):
    done = stapo(["runs", str(tmp_path), "--json"], env={"PYTHONIOENCODING": "ascii"})
    assert json.loads(done.stdout) == []


def test_names_of_folders_do_not_act_on_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    odd = "a\x1b]0;b\x07\u202e"
    Path(odd).mkdir()
    options = ["--algorithms", "grpo", "stapo", "--seeds", "0", "--out", f"{odd}/cmp", "--dry-run"]
    for argv in (["runs", odd], ["compare", "tiny", *options]):
        assert main(argv) == 0
        shown = "".join(capsys.readouterr())
        assert r"a\u{1b}]0;b\u{7}\u{202e}" in shown
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)


def test_no_command_prints_composed_text_as_it_is():
    """What is put together from values may hold text of others; `write_line` and `say` make it harmless."""
    folder = Path(sys.modules["stapo.cli.main"].__file__).parent
    plain = [
        f"{path.name}:{call.lineno}"
        for path in sorted(folder.glob("*.py"))
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"
        if any(isinstance(part, ast.JoinedStr) for argument in call.args for part in ast.walk(argument))
    ]
    assert plain == []
