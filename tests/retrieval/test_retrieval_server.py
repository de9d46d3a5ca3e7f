"""The server answers both shapes, refuses what is too much, and stops when told."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from small_corpus import PASSAGES, Echo, write_corpus

from slow import slow_except
from stapo.cli.main import main
from stapo.errors import ConfigError
from stapo.hosts import is_loopback
from stapo.retrieval import open_retriever
from stapo.retrieval.server import ServerOptions, create_app, read_request
from stapo.serving.gate import Refusal
from stapo.serving.server import listen, server_of

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Nothing that a client does may leave a trace in the log, unless a test expects one."""
    yield
    traces = [r for r in caplog.get_records("call") if r.exc_info and "a search failed" not in r.getMessage()]
    assert traces == []


class Running:
    """A server in a thread, as `serve` runs it but for the signals, which need the main thread."""

    def __init__(self, **limits):
        self.listening = listen("127.0.0.1", 0, token=limits.get("token"))
        self.port = self.listening.getsockname()[1]
        app = create_app(limits.pop("retriever", None) or Echo(), options := ServerOptions(**limits))
        self.server = server_of(app, options.limits)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]}, daemon=True)
        self.thread.start()

    def ask(self, body, method="POST", path="/retrieve", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body), headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        try:
            return response.status, json.loads(data)
        except ValueError:
            return response.status, data.decode()

    def stop(self):
        self.server.should_exit = True
        self.thread.join(300)
        self.listening.close()


@pytest.fixture
def start():
    running = []

    def begin(**limits):
        running.append(Running(**limits))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


def test_both_shapes(start):
    server = start()
    hit = {"document": {"id": "0", "contents": '"About q"\ntext 0'}, "score": 1.0}
    assert server.ask({"query": "q", "topk": 1, "return_scores": True}) == (200, {"result": [[hit]]})
    assert server.ask({"query": "q", "topk": 1}) == (200, {"result": [[hit["document"]]]})
    status, body = server.ask({"queries": ["a", "b"], "topk": 2, "return_scores": True})
    assert status == 200
    assert [[h["document"]["contents"] for h in one] for one in body["result"]] == [
        ['"About a"\ntext 0', '"About a"\ntext 1'],
        ['"About b"\ntext 0', '"About b"\ntext 1'],
    ]
    assert len(server.ask({"query": "q"})[1]["result"][0]) == 3


@pytest.mark.parametrize("shape", ["batch", "single"])
def test_our_client_and_our_server(start, tmp_path, shape):
    with open_retriever("bm25", corpus=write_corpus(tmp_path / "c.jsonl")) as local:
        server = start(retriever=local)
        with open_retriever(f"http://127.0.0.1:{server.port}", shape=shape) as remote:
            queries = ["largest cities of Denmark", "Zürich", "unheard"]
            assert remote.search(queries, 2) == local.search(queries, 2)
            assert remote.search(["Zürich"], 1)[0][0].title == PASSAGES[4][1]


def test_health(start):
    server = start()
    assert server.ask(b"", "GET", "/health") == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "body, status, reason",
    [
        (b"{", 400, "not JSON"),
        (b"[" * 50_000, 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        ([], 400, "not a JSON object"),
        ({}, 400, "either 'queries'"),
        ({"query": "a", "queries": ["a"]}, 400, "either 'queries'"),
        ({"queries": []}, 400, "0 queries, expected 1 to 4"),
        ({"queries": ["a"] * 5}, 400, "5 queries, expected 1 to 4"),
        ({"queries": "abc"}, 400, "a list of texts"),
        ({"query": 5}, 400, "a text"),
        ({"query": "x" * 101}, 400, "101 characters, expected at most 100"),
        ({"query": "a", "topk": 8}, 400, "from 1 to 7"),
        ({"query": "a", "topk": 0}, 400, "from 1 to 7"),
        ({"query": "a", "topk": True}, 400, "from 1 to 7"),
        ({"query": "a", "topk": "3"}, 400, "from 1 to 7"),
        ({"query": "a", "return_scores": 1}, 400, "true or false"),
        (b" " * 60_001, 413, "more than 60000 bytes"),
    ],
)
def test_refusals(start, body, status, reason):
    server = start(max_queries=4, max_query=100, max_topk=7, max_body=60_000)
    found, answer = server.ask(body)
    assert found == status
    assert list(answer) == ["error"]
    assert reason in answer["error"]


def test_other_paths_and_methods(start):
    server = start()
    assert server.ask(b"", "GET", "/")[0] == 404
    status, answer = server.ask(b"", "GET", "/retrieve")
    assert status == 405
    assert "POST /retrieve" in answer["error"]


def test_failed_search_tells_no_detail(start, caplog):
    server = start()
    status, answer = server.ask({"query": "boom"})
    assert (status, answer) == (500, {"error": "the search failed; the server's log says why"})
    assert "secret detail" in caplog.text
    assert server.ask({"query": "fine"})[0] == 200


def test_token(start):
    server = start(token="secret")
    assert server.ask({"query": "a"})[0] == 401
    assert server.ask({"query": "a"}, Authorization="Bearer wrong")[0] == 401
    assert server.ask({"query": "a"}, Authorization="Bearer secret")[0] == 200
    assert server.ask(b"", "GET", "/health")[0] == 200
    with open_retriever(f"http://127.0.0.1:{server.port}", token="secret") as client:
        assert client.search(["a"], 1)[0][0].title == "About a"


def test_a_web_page_that_points_its_name_here_is_refused(start):
    server = start()
    assert server.ask({"query": "a"}, Host="evil.example")[0] == 400
    assert server.ask({"query": "a"}, Host=f"localhost:{server.port}")[0] == 200
    assert start(token="t").ask({"query": "a"}, Host="cluster.example", Authorization="Bearer t")[0] == 200


def test_a_body_that_does_not_come(start):
    server = start(body_s=0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=300) as raw:
        raw.sendall(b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert raw.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_client_that_leaves_does_no_harm(start):
    server = start()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port), timeout=300) as raw:
            raw.sendall(b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    assert server.ask({"query": "a"})[0] == 200


class Gate(Echo):
    """Searches wait until the gate opens."""

    def __init__(self):
        self.open = threading.Event()

    def search(self, queries, k):
        assert self.open.wait(300)
        return super().search(queries, k)


def test_too_many_at_once_are_told_to_come_again(start):
    """One is searched for, one waits, and the other two hear of it while they do."""
    gate = Gate()
    server = start(retriever=gate, threads=1, waiting=1)
    found = []
    asking = [threading.Thread(target=lambda: found.append(server.ask({"query": "a"})[0])) for _ in range(4)]
    try:
        for thread in asking:
            thread.start()
        deadline = time.monotonic() + 300
        while len(found) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found == [503, 503]
    finally:
        gate.open.set()
    for thread in asking:
        thread.join(300)
    assert found == [503, 503, 200, 200]


def test_body_is_read_with_defaults():
    asked = read_request(b'{"query": "a", "topk": null}', ServerOptions())
    assert (asked.queries, asked.k, asked.scores) == (["a"], 3, False)
    with pytest.raises(Refusal) as caught:
        read_request(b"", ServerOptions())
    assert caught.value.status == 400


@pytest.mark.parametrize("bad", [{"threads": 0}, {"max_body": 0}, {"token": " "}, {"token": "é"}])
def test_options_are_checked(bad):
    with pytest.raises(ConfigError):
        ServerOptions(**bad)


@pytest.mark.parametrize(
    "host, own", [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.com", False)]
)
def test_loopback(host, own):
    assert is_loopback(host) == own
    if not own:
        with pytest.raises(ConfigError, match="can be reached from other machines; that needs a token"):
            listen(host, 0, token=None)


# The command.


def command(corpus, *more, **env):
    return subprocess.Popen(
        [sys.executable, "-m", "stapo.cli.main", "serve-retriever", str(corpus), "--port", "0", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **env},
    )  # fmt: skip


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize("number, code", slow_except(SIGNALS, SIGNALS[1]))
def test_command_serves_until_a_signal(tmp_path, number, code):
    server = command(write_corpus(tmp_path / "c.jsonl"))
    try:
        line = server.stdout.readline()
        assert "bm25 over" in line, server.stderr.read()
        with open_retriever(line.split()[-1]) as client:
            assert client.search(["otters"], 1)[0][0].id == "a4"
        server.send_signal(number)
        out, err = server.communicate(timeout=300)
        assert (server.returncode, out, err) == (code, "", "stopped\n")
    finally:
        server.kill()


def test_command_takes_the_token_from_the_environment(tmp_path):
    server = command(write_corpus(tmp_path / "c.jsonl"), STAPO_RETRIEVER_TOKEN="secret")
    try:
        url = server.stdout.readline().split()[-1]
        from stapo.errors import RetrieverError

        with open_retriever(url, token="wrong") as client, pytest.raises(RetrieverError, match="status 401"):
            client.search(["otters"], 1)
        with open_retriever(url, token="secret") as client:
            assert client.search(["otters"], 1)[0][0].id == "a4"
    finally:
        server.kill()
        server.communicate()


def test_command_says_what_is_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("STAPO_RETRIEVER_TOKEN", raising=False)
    corpus = str(write_corpus(tmp_path / "c.jsonl"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = [
            (["--port", str(port), corpus], f"cannot listen on 127.0.0.1, port {port}: Address already in use"),
            (["--host", "0.0.0.0", corpus], "needs a token"),
            (["--retriever", "bm52", corpus], "Did you mean 'bm25'"),
            (["--prot", "1", corpus], "Did you mean '--port'"),
            (["--port", "x", corpus], "--port is 'x'"),
            (["--port", "70000", corpus], "port is 70000"),
            (["--threads", "0", corpus], "--threads is '0', expected a whole number of 1 or more"),
            ([], "needs a corpus"),
            (["--port", "0", str(tmp_path / "none.jsonl")], "No such file"),
            (["--port", "0", "--embed", "x", corpus], "'bm25' has no option 'embed'"),
        ]
        for args, message in cases:
            assert main(["serve-retriever", *args]) == 2
            err = capsys.readouterr().err
            assert message in err
            assert err.startswith("error: ")
            assert err.count("\n") == 1


def test_command_without_its_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    assert main(["serve-retriever", str(write_corpus(tmp_path / "c.jsonl")), "--port", "0"]) == 2
    assert "pip install '.[server]'" in capsys.readouterr().err
