"""Environments behind servers of the OpenEnv protocol: the same episodes as here, and servers that are unwell."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import stapo
from stapo.cli.main import main
from stapo.envs.guard import EnvFailure, advance
from stapo.envs.guard import start as begin
from stapo.envs.openenv.env import OpenEnvEnv
from stapo.envs.registry import make
from stapo.errors import ConfigError, EnvError, EnvServerError, UnknownNameError
from stapo.progress import listen_to_notes

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "adapters"))
from test_openenv_server import Bad, Running, start  # noqa: F401
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from toy_world import toy_settings


def around(server, **options):
    return OpenEnvEnv(f"http://127.0.0.1:{server.port}", **{"tasks": 20, "heldout": 2, "max_steps": 15, **options})


# -- the same episodes -------------------------------------------------------------------------------------------------


def test_it_follows_the_protocol(start):  # noqa: F811
    server = start()
    passed = stapo.check_env(around(server, heldout_reset={"split": "heldout"}))
    assert {"same actions, same episode", "any text is tolerated", "episodes end", "the goal is hidden"} <= set(passed)


def test_episodes_are_those_of_the_environment_behind_the_server(start):  # noqa: F811
    env, own = around(start(), heldout_reset={"split": "heldout"}), make("sokoban", levels=20)
    for task in (*own.tasks_of("train")[::5], *own.tasks_of("heldout")):
        seen, expected = env.reset(task), own.reset(task)
        assert seen == expected
        rng, done = random.Random(task), False
        while not done:
            move = rng.choice(["up", "down", "left", "right", "nonsense"])
            got, out = env.step(move), own.step(move)
            assert (got.text, got.admissible, got.reward, got.done, got.won) == (
                out.text, out.admissible, out.reward, out.done, out.won,
            )  # fmt: skip
            assert got.info["truncated"] == out.info["truncated"]
            done = out.done
    with pytest.raises(EnvError, match="after the episode ended"):
        env.step("up")
    with pytest.raises(UnknownNameError):
        env.reset("train/000020")
    env.close()
    env.close()


def test_our_limit_ends_an_episode_before_the_servers(start):  # noqa: F811
    env = around(start(), max_steps=2)
    env.reset("train/000000")
    assert not env.step("nothing").done
    last = env.step("nothing")
    assert (last.done, last.won, last.info["truncated"]) == (True, False, True)


def test_what_it_cannot_promise_is_said(start):  # noqa: F811
    said = []
    listen_to_notes(said.append)
    try:
        env = around(start())
    finally:
        listen_to_notes(lambda text: None)
    assert said == list(env.notes)
    assert "Only if it honors seeds" in said[0]


def test_the_address_of_the_sessions_is_one_as_well(start):  # noqa: F811
    server = start()
    for address in (f"ws://127.0.0.1:{server.port}/ws", f"http://127.0.0.1:{server.port}/"):
        env = OpenEnvEnv(address, tasks=20, heldout=2)
        assert env.reset("train/000000").goal
        env.close()


# -- servers that are unwell -------------------------------------------------------------------------------------------

GOOD = {"type": "observation", "data": {"observation": {"text": "a room"}, "reward": None, "done": False}}


@contextmanager
def scripted(answer):
    """A server that answers each message with the text that `answer` gives."""

    def handle(connection):
        try:
            for raw in connection:
                connection.send(answer(json.loads(raw)))
        except ConnectionClosed:
            pass

    with serve(handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join(60)


def failure_of(port, message=None, **options):
    """How an episode on the server fails: at its start, or after it."""
    env = OpenEnvEnv(f"http://127.0.0.1:{port}", **options)
    out = begin(env, "train/000000")
    out = out if isinstance(out, EnvFailure) else advance(env, "look")
    env.close()
    assert isinstance(out, EnvFailure), out
    return out


def observed(**data):
    return json.dumps({"type": "observation", "data": {"observation": {"text": "x"}, **data}})


def refused(code, message):
    return json.dumps({"type": "error", "data": {"code": code, "message": message}})


@pytest.mark.parametrize("answer, said", [
    ("{", "answered with a message that is not JSON"),
    ("[]", "answered with []; expected"),
    ('{"type": "observation"}', "expected {"),
    (observed(observation="a room"), "expected {"),
    (observed(reward="much"), "the reward 'much', expected"),
    (observed(reward=float("inf")), "the reward inf, expected"),
    (observed(reward=10**400), "the reward 1000"),
    (observed(done=1), "done 1, expected true or false"),
    (refused("EXECUTION_ERROR", "no\x1b[2J"), "answered with EXECUTION_ERROR"),
    (refused("CAPACITY_REACHED", "full"), "full. A run needs as many sessions"),
])  # fmt: skip
def test_answers_of_another_kind(answer, said):
    with scripted(lambda message: answer) as port:
        failure = failure_of(port)
    assert failure.boundary == "server"
    assert said in failure.error
    assert "\x1b" not in failure.error


def test_observations_with_other_fields():
    seen = {"screen": "a room", "task": "find it", "moves": ["b", "a", "a"], "score": 3}
    answer = json.dumps({"type": "observation", "data": {"observation": seen, "reward": True, "done": True}})
    asked, closed = [], threading.Event()

    def answered(message):
        asked.append(message)
        if message["type"] == "close":
            closed.set()
        return answer

    with scripted(answered) as port:
        url = f"ws://127.0.0.1:{port}"
        names = {"text_field": "screen", "goal_field": "task", "admissible_field": "moves", "action_field": "move"}
        env = OpenEnvEnv(url, **names, reset={"level": 2}, heldout_reset={"level": 9})
        first = env.reset("train/000004")
        assert (first.text, first.goal, first.admissible) == ("a room", "find it", ["a", "b"])
        out = env.step("go")
        assert (out.reward, out.done, out.won) == (1.0, True, True)
        env.reset("heldout/000001")
        env.close()
        assert closed.wait(60)
        assert asked == [
            {"type": "reset", "data": {"seed": 4, "level": 2}},
            {"type": "step", "data": {"move": "go"}},
            {"type": "reset", "data": {"seed": 1_000_000_001, "level": 9}},
            {"type": "close"},
        ]
        plain = OpenEnvEnv(url)
        assert json.loads(plain.reset("train/000000").text) == seen
        plain.close()
        failure = failure_of(port, text_field="txt")
    assert "no text in the field 'txt' of its observation; its fields are screen, task, moves, score" in failure.error


def test_a_server_that_is_slow():
    release = threading.Event()
    with scripted(lambda message: release.wait(60) or json.dumps(GOOD)) as port:
        failure = failure_of(port, seconds=0.2)
        release.set()
    assert failure.boundary == "server"
    assert "did not answer 'reset' within 0.2 s" in failure.error


def test_a_message_over_the_limit():
    large = json.dumps({**GOOD, "more": "x" * 5_000})
    with scripted(lambda message: large) as port:
        failure = failure_of(port, max_message=1_000)
    assert (failure.boundary, "sent a message of more than 1,000 bytes" in failure.error) == ("server", True)


def test_a_server_that_is_gone_in_the_middle_and_comes_back():
    """The episode fails, and the next one has a session of its own."""
    alive = threading.Event()
    alive.set()

    def answer(message):
        if not alive.is_set():
            raise ConnectionClosed(None, None)
        return json.dumps(GOOD)

    with scripted(answer) as port:
        env = OpenEnvEnv(f"http://127.0.0.1:{port}")
        env.reset("train/000000")
        alive.clear()
        with pytest.raises(EnvServerError, match="closed the session") as caught:
            env.step("look")
        assert caught.value.kind == "closed"
        alive.set()
        assert env.reset("train/000000").text == "a room"
        env.close()


def test_nobody_there_and_the_wrong_token(start, monkeypatch):  # noqa: F811
    server = start(token="s3cret-token")
    failure = failure_of(server.port)
    assert failure.boundary == "server"
    assert "status 401; the token goes into $STAPO_OPENENV_TOKEN" in failure.error
    monkeypatch.setenv("STAPO_OPENENV_TOKEN", "s3cret-token")
    env = around(server)
    env.reset("train/000001")
    env.close()
    for host, sent in ((f"127.0.0.1:{server.port}", True), ("other.example", False)):
        monkeypatch.setenv("STAPO_OPENENV_HOST", host)
        env = around(server)
        assert isinstance(begin(env, "train/000001"), EnvFailure) != sent, host
        env.close()
    with scripted(lambda message: json.dumps(GOOD)) as port:
        pass
    assert "cannot be reached" in failure_of(port).error
    for url, said in (
        ("nowhere", "is not an address"),
        ("http://me:pw123456@host", "holds"),
        ("http://h:99999", "address"),
    ):
        with pytest.raises(ConfigError, match=said):
            OpenEnvEnv(url)


def test_too_few_sessions(start):  # noqa: F811
    server = start(max_sessions=1)
    first = around(server)
    first.reset("train/000000")
    failure = failure_of(server.port)
    assert "answered with CAPACITY_REACHED: all 1 sessions are in use" in failure.error
    assert ".." not in failure.error
    first.close()


@pytest.mark.parametrize("option, value, said", [
    ("seconds", 0, "seconds is 0, expected a number above 0"), ("reset", 3, "reset is 3, expected a mapping of fields"),
    ("heldout", -1, "heldout is -1, expected a whole number from 0 to"),
    ("max_message", True, "max_message is True"),
    ("seconds", 10**30, "expected a number above 0, at most 86,400"), ("text_field", 3, "text_field is 3"),
    ("action_field", None, "action_field is None, expected the name of a field"), ("goal_field", " ", "goal_field is"),
    ("won_field", [], "won_field is"), ("admissible_field", {}, "admissible_field is"),
])  # fmt: skip
def test_options_are_checked(option, value, said):
    with pytest.raises(ConfigError, match=said):
        OpenEnvEnv("http://127.0.0.1:1", **{option: value})


@pytest.mark.parametrize("url", [None, 3, ""])
def test_an_address_that_is_no_text_is_said(url):
    with pytest.raises(ConfigError, match=r"^url is .*, expected the address of a server"):
        OpenEnvEnv(url)


# -- runs --------------------------------------------------------------------------------------------------------------


def settings(toy_model, env):
    changes = {"agent__history_length": 0, "optim__iterations": 1, "eval__episodes": 2, "rollout__group_size": 3}
    return {**toy_settings(toy_model, **changes), "env": env}


def rows_of(folder):
    lines = (folder / "transcripts" / "iteration-00001.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "task_type"} for line in lines]


def test_a_run_over_a_server_is_that_of_the_environment(start, toy_model, tmp_path):  # noqa: F811
    server = start(partial(make, "sokoban", levels=40, max_steps=5), max_sessions=16)
    options = {"url": f"http://127.0.0.1:{server.port}", "tasks": 40, "heldout": 4, "max_steps": 5,
               "heldout_reset": {"split": "heldout"}}  # fmt: skip
    stapo.train(settings(toy_model, {"name": "openenv", "options": options}), tmp_path / "there")
    stapo.train(settings(toy_model, {"name": "sokoban", "options": {"levels": 40, "max_steps": 5}}), tmp_path / "here")
    assert rows_of(tmp_path / "there") == rows_of(tmp_path / "here")


def test_a_run_goes_on_when_an_episode_fails_and_stops_when_the_server_is_gone(start, toy_model, tmp_path, capsys):  # noqa: F811
    failing = threading.Semaphore(2)

    class Failing(Bad):
        def step(self, action):
            return super().step("raise" if failing.acquire(blocking=False) else "up")

    server = start(Failing, max_sessions=16)
    env = {"name": "openenv", "options": {"url": f"http://127.0.0.1:{server.port}", "tasks": 20, "max_steps": 5}}
    data = settings(toy_model, env)
    stapo.train(data, tmp_path / "run")
    failures = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert [failure["boundary"] for failure in failures] == ["server"] * 2
    assert "answered with EXECUTION_ERROR: the environment failed; the server's log says why" in failures[0]["error"]

    server.stop()
    source = tmp_path / "gone.yaml"
    source.write_text(json.dumps(data))
    started = time.monotonic()
    assert main(["train", str(source), "--quiet", "--out", str(tmp_path / "gone")]) != 0
    err = " ".join(capsys.readouterr().err.split())
    assert "cannot be reached" in err
    assert "Traceback" not in err
    assert time.monotonic() - started < 300
