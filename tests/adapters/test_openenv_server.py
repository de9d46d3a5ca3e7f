"""The server of environments: whole episodes, many sessions, and clients of every kind of badness."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from stapo.adapters.openenv.server import EnvServerOptions, create_app
from stapo.cli.main import main
from stapo.envs import StepResult
from stapo.envs.registry import make
from stapo.envs.sokoban.env import SokobanEnv
from stapo.errors import ConfigError
from stapo.serving.server import listen, server_of

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
websockets = pytest.importorskip("websockets")
from websockets.sync.client import connect  # noqa: E402

PATIENCE = 300.0
SMALL = partial(make, "sokoban", levels=20)


class Running:
    """A server in a thread, as `serve` runs it but for the signals, which need the main thread."""

    def __init__(self, build=SMALL, **limits):
        self.options = EnvServerOptions(**limits)
        self.listening = listen("127.0.0.1", 0, token=self.options.token)
        self.port = self.listening.getsockname()[1]
        self.server = server_of(create_app(build, "sokoban", "Boxes.", self.options), self.options.limits)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]}, daemon=True)
        self.thread.start()

    def socket(self, **options):
        userinfo = options.pop("userinfo", "")
        return Socket(connect(f"ws://{userinfo}127.0.0.1:{self.port}/ws", open_timeout=PATIENCE, **options))

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = {"Content-Type": "application/json"} if body is not None else {}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, data, {**sent, **(headers or {})})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, json.loads(answer)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


class Socket:
    def __init__(self, connection):
        # What is entered is the connection: since version 17 it is not what `connect` returns.
        self.entered = connection
        self.raw = connection.__enter__()

    def send(self, kind, **data):
        self.raw.send(json.dumps({"type": kind, "data": data}))
        return self.receive()

    def receive(self):
        return json.loads(self.raw.recv(PATIENCE))

    def result(self, kind, **data):
        message = self.send(kind, **data)
        assert message["type"] == "observation", message
        return message["data"]

    def error(self, kind, **data):
        message = self.send(kind, **data)
        assert message["type"] == "error", message
        return message["data"]["code"], message["data"]["message"]

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.entered.__exit__(*raised)


@pytest.fixture
def start():
    servers = []

    def build(*args, **limits):
        servers.append(Running(*args, **limits))
        return servers[-1]

    yield build
    for server in servers:
        server.stop()


def until(done):
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


# -- episodes ----------------------------------------------------------------------------------------------------------


def test_an_episode_is_that_of_the_environment(start):
    """The expert's plan, played over the socket and in this process."""
    own = SokobanEnv(levels=20)
    first = own.reset("heldout/000001")
    plan = own.expert_plan()
    with start().socket() as socket:
        begun = socket.result("reset", task_id="heldout/000001", episode_id="mine")
        assert (begun["reward"], begun["done"]) == (None, False)
        assert begun["observation"] == {
            "text": first.text, "goal": first.goal, "admissible": first.admissible, "task_id": "heldout/000001",
            "won": False, "truncated": False, "info": {},
        }  # fmt: skip
        for number, move in enumerate(plan, start=1):
            expected, got = own.step(move), socket.result("step", command=f"<think>hm</think><action>{move}</action>")
            assert (got["reward"], got["done"]) == (pytest.approx(expected.reward), expected.done)
            assert (got["observation"]["text"], got["observation"]["won"]) == (expected.text, expected.won)
            assert got["observation"]["info"] == {"effect": True}
            state = socket.send("state")["data"]
            assert state == {
                "episode_id": "mine", "step_count": number, "task_id": "heldout/000001", "environment": "sokoban",
                "done": expected.done,
            }  # fmt: skip
        assert got["observation"]["won"]
        code, said = socket.error("step", command="up")
        assert (code, said) == ("EXECUTION_ERROR", "the episode is over; send 'reset' first.")
        assert socket.result("reset", seed=0)["observation"]["task_id"] == "train/000000"


def test_seeds_name_tasks_and_the_server_draws_the_rest(start):
    with start(seed=1).socket() as socket, start(seed=1, split="heldout").socket() as other:
        for seed, task in ((0, "train/000000"), (19, "train/000019"), (23, "train/000003")):
            assert socket.result("reset", seed=seed)["observation"]["task_id"] == task
        assert socket.result("reset", seed=3, split="heldout")["observation"]["task_id"] == "heldout/000001"
        drawn = [socket.result("reset")["observation"]["task_id"] for _ in range(12)]
        assert len(set(drawn)) > 4
        assert other.result("reset")["observation"]["task_id"].startswith("heldout/")
        for wrong, said in (
            ({"split": "heldot"}, "there is no split 'heldot'. Did you mean 'heldout'?"),
            ({"task_id": "train/99"}, "there is no task 'train/99'"),
            ({"task_id": "train/000001", "split": "heldout"}, "no task 'train/000001' in split 'heldout'"),
        ):
            code, message = socket.error("reset", **wrong)
            assert code == "VALIDATION_ERROR"
            assert said in message
        assert socket.error("step", command="up")[1] == "no episode has begun; send 'reset' first."


def test_many_sessions_at_once_do_not_touch_each_other(start):
    """Every session plays its own task as if it were alone."""
    server = start(max_sessions=32)

    def play(reset, step, seed):
        """What is seen of an episode, and whether it is over."""
        seen = [reset(seed)]
        for turn in range(8):
            seen.append(step(("up", "nothing", "down", "nothing", "left")[(turn + seed) % 5]))
            if seen[-1][1]:
                break
        return seen

    def alone(seed):
        env = SokobanEnv(levels=20)

        def step(command):
            out = env.step(command)
            return out.text, out.done

        return play(lambda seed: (env.reset(f"train/{seed:06d}").text, False), step, seed)

    def remote(seed):
        with server.socket() as socket:

            def seen(result):
                return result["observation"]["text"], result["done"]

            def reset(seed):
                first = seen(socket.result("reset", seed=seed))
                barrier.wait(PATIENCE)
                return first

            return play(reset, lambda command: seen(socket.result("step", command=command)), seed)

    barrier = threading.Barrier(20)
    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(remote, range(20))) == [alone(seed) for seed in range(20)]


# -- plain requests ----------------------------------------------------------------------------------------------------


def test_plain_requests(start):
    server = start()
    assert server.ask("GET", "/health") == (200, {"status": "healthy"})
    status, found = server.ask("GET", "/schema")
    assert (status, set(found)) == (200, {"action", "observation", "state"})
    _, about = server.ask("GET", "/metadata")
    assert (about["name"], about["description"]) == ("sokoban", "Boxes.")
    assert server.ask("GET", "/state") == (200, {"episode_id": None, "step_count": 0})

    status, begun = server.ask("POST", "/reset", {"task_id": "train/000003"})
    assert status == 200
    session = begun["observation"].pop("session")
    status, out = server.ask("POST", "/step", {"action": {"command": "up"}, "session": session, "timeout_s": 3})
    assert (status, out["reward"]) == (200, -0.1)
    assert server.ask("GET", f"/state?session={session}")[1]["step_count"] == 1
    status, again = server.ask("POST", "/reset", {"task_id": "train/000003", "session": session})
    assert again["observation"].pop("session") == session
    assert again == begun
    assert server.ask("POST", "/reset", b"")[0] == 200

    for path, body, status, said in (
        ("/step", {"action": {"command": "up"}}, 422, "has to name its 'session'"),
        ("/step", {"action": {"command": "up"}, "session": "other"}, 404, "no such session"),
        ("/step", {"action": {"comand": "up"}, "session": session}, 422, "Did you mean 'command'?"),
        ("/reset", {"task_id": "train/000099"}, 422, "there is no task"),
        ("/reset", b"{", 422, "not JSON"),
        ("/nowhere", {}, 404, "this server knows"),
    ):
        assert server.ask("POST", path, body)[0] == status
        assert said in server.ask("POST", path, body)[1]["error"]
    assert server.ask("GET", "/state?session=other")[0] == 404


def test_plain_sessions_end_after_a_while_without_a_request(start):
    server = start(idle_s=0.2)
    session = server.ask("POST", "/reset", {})[1]["observation"]["session"]
    until(lambda: server.ask("GET", f"/state?session={session}")[0] == 404)


# -- what may not be ---------------------------------------------------------------------------------------------------


def test_capacity(start):
    server = start(max_sessions=2)
    with server.socket() as first, server.socket() as second:
        first.result("reset")
        second.result("reset")
        with server.socket() as third:
            message = third.receive()
            assert message["data"]["code"] == "CAPACITY_REACHED"
            assert "all 2 sessions are in use" in message["data"]["message"]
            # A client that sends before it reads sees the close alone.
            with pytest.raises(websockets.ConnectionClosed) as caught:
                third.receive()
            assert (caught.value.rcvd.code, "all 2 sessions are in use" in caught.value.rcvd.reason) == (1013, True)
        status, told = server.ask("POST", "/reset", {})
        assert (status, told["code"]) == (503, "CAPACITY_REACHED")
        second.send("state")
    # Sessions that were left make room.
    until(lambda: server.ask("POST", "/reset", {})[0] == 200)


def test_a_session_without_messages_ends(start):
    with start(idle_s=0.2).socket() as socket:
        message = socket.receive()
        assert message["data"] == {
            "message": "no message came within 0.2 s; the session has ended.", "code": "SESSION_ERROR",
        }  # fmt: skip
        with pytest.raises(websockets.ConnectionClosed):
            socket.receive()


def test_messages_that_are_none_do_not_end_a_session(start):
    with start().socket() as socket:
        for sent, code in (("{", "INVALID_JSON"), (b"\x00", "INVALID_JSON"), ('{"type": "x"}', "UNKNOWN_TYPE")):
            socket.raw.send(sent)
            assert socket.receive()["data"]["code"] == code
        assert socket.error("step", command=None)[0] == "VALIDATION_ERROR"
        socket.result("reset")
        socket.raw.send(json.dumps({"type": "close"}))
        with pytest.raises(websockets.ConnectionClosedOK):
            socket.receive()


def test_a_message_that_is_too_large_ends_its_session_and_no_other(start):
    server = start(max_message=2_000)
    with server.socket() as socket, server.socket() as other:
        other.result("reset")
        with pytest.raises(websockets.ConnectionClosed) as caught:
            socket.send("step", command="x" * 3_000)
        assert caught.value.rcvd.code == 1009
        other.result("step", command="up")
    status, told = server.ask("POST", "/step", {"action": {"command": "x" * 3_000}, "session": "s"})
    assert (status, told) == (413, {"error": "the body has more than 2000 bytes"})


def test_who_may_ask(start):
    server = start(token="s3cret")
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic %%%"}):
        with pytest.raises(websockets.InvalidStatus) as caught:
            server.socket(additional_headers=headers)
        assert caught.value.response.status_code == 401
        assert server.ask("GET", "/schema", headers=headers)[0] == 401
        assert server.ask("POST", "/reset", {}, headers)[0] == 401
    assert server.ask("GET", "/health")[0] == 200
    with server.socket(additional_headers={"Authorization": "Bearer s3cret"}) as socket:
        socket.result("reset")
    # Clients that take nothing but an address: the token is the password in it.
    with server.socket(userinfo="any:s3cret@") as socket:
        socket.result("reset")
    basic = {"Authorization": "Basic " + base64.b64encode(b":s3cret").decode()}
    assert server.ask("GET", "/schema", headers=basic)[0] == 200


def test_web_pages_get_no_session(start):
    server = start()
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        with pytest.raises(websockets.InvalidStatus) as caught:
            server.socket(additional_headers=headers)
        assert caught.value.response.status_code == 403
        assert server.ask("GET", "/schema", headers=headers)[0] == 403
    assert server.ask("GET", "/schema", headers={"Host": "evil.example"})[0] == 400


class Bad(SokobanEnv):
    """Does what it is told."""

    built = 0

    def __init__(self):
        super().__init__(levels=20)
        Bad.built += 1

    def step(self, action):
        if action == "raise":
            raise ValueError("the world broke")
        if action == "nan":
            return StepResult("", None, float("nan"), False, False)
        if action == "text":
            return "no result"
        if action == "hang":
            released.wait(PATIENCE)
        return super().step("up")


released = threading.Event()


def test_an_environment_that_fails_is_replaced(start):
    Bad.built = 0
    with start(Bad).socket() as socket:
        for command, said in (
            ("raise", "the environment failed; the server's log says why. Send 'reset'."),
            ("nan", "the reward failed; the server's log says why."),
            ("text", "the environment failed; the server's log says why."),
        ):
            socket.result("reset", seed=1)
            code, message = socket.error("step", command=command)
            assert code == "EXECUTION_ERROR"
            assert said in message
            assert "world broke" not in message
            assert socket.error("step", command="up")[1] == "no episode has begun; send 'reset' first."
        socket.result("reset", seed=1)
        assert socket.result("step", command="up")["reward"] == -0.1
        assert Bad.built == 4


def test_an_environment_that_hangs_costs_its_session_alone(start):
    released.clear()
    server = start(Bad, call_s=0.3)
    try:
        with server.socket() as socket, server.socket() as other:
            socket.result("reset")
            code, message = socket.error("step", command="hang")
            assert (code, "took more than 0.3 s" in message) == ("SESSION_ERROR", True)
            with pytest.raises(websockets.ConnectionClosed):
                socket.receive()
            until(lambda: other.send("reset", seed=1)["type"] == "observation")
            other.result("step", command="up")
    finally:
        released.set()


def test_an_environment_that_cannot_be_built(start):
    def build():
        raise RuntimeError("no data in /home/me")

    server = start(build)
    with server.socket() as socket:
        told = socket.receive()["data"]
        assert told == {
            "message": "the environment could not be built; the server's log says why.", "code": "FACTORY_ERROR",
        }  # fmt: skip
    assert server.ask("POST", "/reset", {})[0] == 500


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_told_to_stop():
    command = [sys.executable, "-m", "stapo", "serve-env", "sokoban", "--env.levels", "20", "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "STAPO_ENV_TOKEN": "t0"}
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("sokoban plays on ws://127.0.0.1:"), process.stderr.read()
        address = line.split("on ws://")[1].split()[0]
        with Socket(connect(f"ws://me:t0@{address}", open_timeout=PATIENCE)) as socket:
            assert socket.result("reset", seed=2)["observation"]["task_id"] == "train/000002"
            process.send_signal(signal.SIGTERM)
            with pytest.raises(websockets.ConnectionClosed):
                socket.receive()
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
        assert process.stderr.read() == "stopped\n"
    finally:
        process.kill()


BROKEN = """
from stapo.cli.main import main
from stapo.envs.registry import ENVIRONMENTS
from stapo.envs.sokoban.env import SokobanEnv

class Broken(SokobanEnv):
    def step(self, action):
        raise ValueError("the world\\nbroke\\x1b[2J")

ENVIRONMENTS.register("broken", Broken)
raise SystemExit(main(["serve-env", "broken", "--env.levels", "20", "--port", "0"]))
"""


def test_the_terminal_gets_a_line_and_the_log_file_everything(tmp_path):
    log = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-c", BROKEN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "STAPO_LOG_FILE": str(log)},
    )  # fmt: skip
    try:
        address = process.stdout.readline().split("on ws://")[1].split()[0]
        with Socket(connect(f"ws://{address}", open_timeout=PATIENCE)) as socket:
            socket.result("reset", seed=2)
            assert socket.error("step", command="up")[0] == "EXECUTION_ERROR"
        process.send_signal(signal.SIGTERM)
        _, wrote = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    line, last = wrote.splitlines()
    said = "ERROR stapo.serve_env: the environment failed in task 'train/000002': step('up') raised ValueError:"
    assert line == f"{said} the world broke\\u{{1b}}[2J"
    assert last == "stopped"
    assert "Traceback (most recent call last)" in log.read_text()
    assert 'raise ValueError("the world' in log.read_text() or "in step" in log.read_text()


def test_a_log_file_that_cannot_be_written_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STAPO_LOG_FILE", str(tmp_path / "nowhere" / "log"))
    assert main(["serve-env", "sokoban", "--env.levels", "20", "--port", "0"]) == 2
    assert "$STAPO_LOG_FILE names" in capsys.readouterr().err


@pytest.mark.parametrize("argv, said", [
    (["nowhere"], "unknown environment 'nowhere'"),
    (["sokoban", "--env.boxs", "1"], "Did you mean"),
    (["sokoban", "--env.boxes", "9"], "boxes is 9, expected a whole number from 1 to 3"),
    (["sokoban", "--host", "0.0.0.0"], "can be reached from other machines; that needs a token"),
    (["sokoban", "--split", "trian", "--port", "0"], "Did you mean 'train'?"),
    (["sokoban", "--token", " ", "--port", "0"], "--token is blank, expected the token that clients send"),
    (["sokoban", "--max-sessions", "0"], "--max-sessions is '0', expected a whole number of 1 or more"),
    (["sokoban", "--idle-seconds", "-1"], "--idle-seconds is '-1', expected a number of 0.001 or more"),
    (["sokoban", "--max-message", "10"], "--max-message is '10', expected a whole number of 1000 or more"),
    ([], "needs an environment"),
])  # fmt: skip
def test_what_the_command_refuses(argv, said, capsys):
    assert main(["serve-env", *argv]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_limits_are_checked():
    with pytest.raises(ConfigError, match="idle_s is 0, expected a number above 0"):
        EnvServerOptions(idle_s=0)
    with pytest.raises(ConfigError, match="call_s is nan, expected a number above 0"):
        EnvServerOptions(call_s=float("nan"))
    with pytest.raises(ConfigError, match="the token is blank"):
        EnvServerOptions(token=" ")
