"""What the server waits for has an end, whom it listens to is checked, and no client can hold it or fill its log."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from small_corpus import Echo, write_corpus
from test_retrieval_server import Running, quiet, start  # noqa: F401

from stapo.retrieval import open_retriever
from stapo.retrieval.server import ServerOptions, read_request
from stapo.serving import connections
from stapo.serving.gate import Refusal, check_head

HEAD = b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def connect(server, holds=None):
    """A connection; `holds` bounds the bytes that the system takes in for it while nobody reads."""
    raw = socket.socket()
    raw.settimeout(300)
    if holds:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, holds)
    raw.connect(("127.0.0.1", server.port))
    return raw


def answer_on(raw):
    """All that comes until the server closes."""
    data = b""
    with suppress(ConnectionResetError):
        while block := raw.recv(1 << 16):
            data += block
    return data


def request(body, *more):
    data = json.dumps(body).encode()
    return HEAD + b"".join(more) + b"Content-Length: %d\r\n\r\n" % len(data) + data


# Deadlines of connections.


def test_headers_that_do_not_end(start):  # noqa: F811
    server = start(head_s=2.0)
    with connect(server) as silent, connect(server) as half, connect(server) as dripping:
        half.sendall(HEAD)
        start_s = time.monotonic()
        try:
            # Every byte comes in time; the deadline does not move.
            for _ in range(600):
                dripping.sendall(b"X")
                time.sleep(0.1)
            pytest.fail("the connection is still open after a minute")
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert time.monotonic() - start_s >= 1.5
        assert answer_on(half).startswith(b"HTTP/1.1 408 ")
        assert answer_on(silent) == b""


def test_a_body_that_drips(start):  # noqa: F811
    server = start(body_s=0.5)
    with connect(server) as raw:
        raw.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        try:
            for _ in range(600):
                raw.sendall(b"x")
                time.sleep(0.1)
            pytest.fail("the connection is still open after a minute")
        except (BrokenPipeError, ConnectionResetError):
            pass
        with connect(server) as other:
            other.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
            assert answer_on(other).startswith(b"HTTP/1.1 408 ")


@pytest.mark.slow
def test_a_body_that_nobody_reads_ends_as_well(start):  # noqa: F811
    """The answer is out, its body goes on."""
    server = start(body_s=4.0)
    with connect(server) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        data = answer_on(raw)
        assert data.startswith(b"HTTP/1.1 200 ")
        assert data.endswith(b"}")


def test_idle_connections_are_closed(start):  # noqa: F811
    server = start(idle_s=2.0)
    with connect(server) as raw:
        for _ in range(2):
            raw.sendall(request({"query": "a"}))
            data = b""
            while not data.endswith(b"]]}"):
                data += raw.recv(1 << 16)
            assert data.startswith(b"HTTP/1.1 200 ")
        assert answer_on(raw) == b""


class Large(Echo):
    def search(self, queries, k):
        found = super().search(queries, k)
        return [[type(p)(p.id, p.title, "x" * 1_000_000, p.score) for p in one] for one in found]


def test_an_answer_that_nobody_takes(start):  # noqa: F811
    server = start(retriever=Large(), search_s=1.5, write_s=0.2, idle_s=600.0)
    with connect(server, holds=65_536) as raw:
        raw.sendall(request({"query": "a", "topk": 20}))
        assert raw.recv(1024).startswith(b"HTTP/1.1 200 ")
        deadline = time.monotonic() + 300
        while server.server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not server.server.server_state.connections


@pytest.mark.parametrize("headers", [b"", b"Connection: close\r\n"])
def test_an_answer_that_is_taken_late_is_whole(start, monkeypatch, headers):  # noqa: F811
    """Neither the time for an idle connection nor that for closing one runs meanwhile."""
    monkeypatch.setattr(connections, "_CLOSING_S", 0.1)
    server = start(retriever=Large(), write_s=300.0, idle_s=0.2)
    with connect(server, holds=65_536) as raw:
        raw.sendall(request({"query": "a", "topk": 20}, headers))
        data = raw.recv(1024)
        time.sleep(1.5)
        data += answer_on(raw)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.count(b"x" * 1_000_000) == 20
    assert data.endswith(b"]]}")


# Numbers of connections.


def test_half_open_connections_do_not_block(start):  # noqa: F811
    server = start(max_connections=16, head_s=600.0)
    half = []
    try:
        for _ in range(100):
            half.append(connect(server))
            half[-1].sendall(b"POST /retrieve HTTP/1.1\r\nHost: local")
        for _ in range(5):
            assert server.ask(b"", "GET", "/health") == (200, {"status": "ok"})
            assert server.ask({"query": "a"})[0] == 200
    finally:
        for raw in half:
            raw.close()


def test_a_connection_that_is_answered_makes_no_room(start):  # noqa: F811
    gate = threading.Event()

    class Waiting(Echo):
        def search(self, queries, k):
            assert gate.wait(60)
            return super().search(queries, k)

    server = start(retriever=Waiting(), max_connections=8, threads=8)
    busy = [connect(server) for _ in range(8)]
    try:
        for raw in busy:
            raw.sendall(request({"query": "a"}, b"Connection: close\r\n"))
        deadline = time.monotonic() + 300
        state = server.server.server_state
        while len(state.tasks) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        with connect(server) as ninth:
            assert answer_on(ninth).startswith(b"HTTP/1.1 503 ")
    finally:
        gate.set()
    for raw in busy:
        assert answer_on(raw).startswith(b"HTTP/1.1 200 ")
        raw.close()


@pytest.mark.parametrize("soft, most", [(128, 48), (1024, 720), (1 << 20, 1024)])
def test_limit_stays_below_the_descriptors(monkeypatch, soft, most):
    monkeypatch.setattr(connections.resource, "getrlimit", lambda which: (soft, 1 << 20))
    found, at_once = connections.connections_for(1024)
    assert found == most
    assert found + 4 * at_once < soft


def test_a_process_with_few_descriptors_survives_many_connections(tmp_path):
    """The command itself, with 128 open files at most and 200 half-open connections."""
    server = subprocess.Popen(
        ["bash", "-c", f"ulimit -n 128; exec {sys.executable} -m stapo.cli.main serve-retriever "
         f"{write_corpus(tmp_path / 'c.jsonl')} --port 0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip
    half = []
    try:
        url = server.stdout.readline().split()[-1]
        port = int(url.rpartition(":")[2].partition("/")[0])
        for _ in range(200):
            half.append(socket.create_connection(("127.0.0.1", port), timeout=300))
            half[-1].sendall(b"POST /retrieve HTTP/1.1\r\nHost: local")
        with open_retriever(url, total_s=120.0, read_s=120.0) as client:
            for _ in range(3):
                assert client.search(["otters"], 1)[0][0].id == "a4"
        server.terminate()
        _, err = server.communicate(timeout=300)
        assert err == "stopped\n"
    finally:
        server.kill()
        server.communicate()
        for raw in half:
            raw.close()


# Searches.


class Hanging(Echo):
    """The query "hang" never comes back."""

    def __init__(self):
        self.asked = []
        self.end = threading.Event()

    def search(self, queries, k):
        self.asked += queries
        if "hang" in queries:
            self.end.wait(120)
        return super().search(queries, k)


@pytest.mark.slow
def test_searches_that_hang_are_given_up_and_hold_nothing(start):  # noqa: F811
    hanging = Hanging()
    server = start(retriever=hanging, threads=1, search_s=2.0)
    for _ in range(3):
        status, answer = server.ask({"query": "hang"})
        assert status == 504
        assert "more than 2 s" in answer["error"]
        assert server.ask({"query": "a"})[0] == 200
    assert server.ask({"query": "hang"})[0] == 504
    # Not more than a few threads are lost to it.
    status, answer = server.ask({"query": "a"})
    assert (status, "have not come back" in answer["error"]) == (503, True)
    hanging.end.set()
    deadline = time.monotonic() + 300
    while server.ask({"query": "a"})[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_search_in_portions_stops_in_between(start):  # noqa: F811
    class Slow(Echo):
        portion = 2

        def __init__(self):
            self.asked = 0

        def search(self, queries, k):
            self.asked += len(queries)
            time.sleep(0.2)
            return super().search(queries, k)

    slow = Slow()
    server = start(retriever=slow, search_s=3.0)
    assert server.ask({"queries": ["a"] * 60})[0] == 504
    time.sleep(0.5)
    assert slow.asked < 60
    assert [len(one) for one in server.ask({"queries": ["a", "b"], "topk": 2})[1]["result"]] == [2, 2]


def test_who_waits_too_long_for_a_search_is_told(start):  # noqa: F811
    hanging = Hanging()
    server = start(retriever=hanging, threads=1, search_s=1.0)
    found = []
    first = threading.Thread(target=lambda: found.append(server.ask({"query": "hang"})[0]))
    first.start()
    deadline = time.monotonic() + 300
    while not hanging.asked and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.ask({"query": "a"})[0] in (200, 503)
    first.join(60)
    hanging.end.set()
    assert found == [504]


def test_a_client_that_leaves_is_not_searched_for(start):  # noqa: F811
    """It waits for its turn; once it has hung up, its turn passes."""
    hanging = Hanging()
    server = start(retriever=hanging, threads=1, search_s=60.0)
    asking = threading.Thread(target=lambda: server.ask({"query": "hang"}))
    asking.start()
    deadline = time.monotonic() + 300
    while not hanging.asked and time.monotonic() < deadline:
        time.sleep(0.01)
    with connect(server) as raw:
        raw.sendall(request({"query": "left"}))
        while len(server.server.server_state.tasks) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
    while len(server.server.server_state.connections) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    hanging.end.set()
    asking.join(60)
    assert server.ask({"query": "a"})[0] == 200
    assert hanging.asked == ["hang", "a"]


@pytest.mark.slow
def test_the_server_stops_beside_a_search_that_hangs(start):  # noqa: F811
    hanging = Hanging()
    server = start(retriever=hanging, stop_s=4.0, search_s=60.0)
    found = []
    asking = threading.Thread(target=lambda: found.append(server.ask({"query": "hang"})))
    asking.start()
    deadline = time.monotonic() + 300
    while not hanging.asked and time.monotonic() < deadline:
        time.sleep(0.01)
    server.server.should_exit = True
    server.thread.join(60)
    assert not server.thread.is_alive()
    asking.join(60)
    assert found == [(503, {"error": "the server stops"})]
    hanging.end.set()


# What is asked.


@pytest.mark.parametrize(
    "body, status, reason",
    [
        ({"query": "word " * 200_000}, 413, "more than 1048576 bytes"),
        ({"query": "word " * 200_000}, 400, "characters, expected at most 10000"),
        ({"queries": ["w" * 9_000] * 100}, 400, "900000 characters in all"),
        ({"query": "日" * 600}, 400, "more than 512 words"),
        ({"query": "a," * 600}, 400, "more than 512 words"),
    ],
)
def test_too_much_to_search_for(start, body, status, reason):  # noqa: F811
    server = start(retriever=Hanging(), max_body=1 << 20 if status == 413 else 1 << 22)
    if status == 413:
        body = {"query": body["query"] * 2}
    found, answer = server.ask(body)
    assert found == status
    assert reason in answer["error"]


def test_what_is_refused_costs_little(start):  # noqa: F811
    """A query of a megabyte took seconds of a core; it is not looked at any more, and neither are runs of joiners."""
    start_s = time.process_time()
    for text in ("word " * 200_000, "\u203f" * 1_000_000):
        with pytest.raises(Refusal, match="characters"):
            read_request(json.dumps({"query": text}).encode(), ServerOptions(max_body=1 << 30))
    for text in ("\u203f" * 10_000, "_\u0301" * 5_000):
        assert read_request(json.dumps({"query": text}).encode(), ServerOptions()).queries == [text]
    assert time.process_time() - start_s < 5


def test_a_long_query_of_few_words_is_searched_for(start):  # noqa: F811
    server = start()
    assert server.ask({"query": "antidisestablishmentarianism " * 300})[0] == 200


def test_an_answer_has_a_limit(start):  # noqa: F811
    server = start(retriever=Large(), max_answer=10_000_000)
    assert server.ask({"query": "a", "topk": 9})[0] == 200
    status, answer = server.ask({"query": "a", "topk": 12})
    assert (status, "ask for less" in answer["error"]) == (400, True)


def test_half_characters_on_the_way_out(start):  # noqa: F811
    server = start()
    status, answer = server.ask(b'{"query": "a\\ud800b", "topk": 1}')
    assert status == 200
    assert answer["result"][0][0]["contents"] == '"About a?b"\ntext 0'


# Whom it listens to.


def head(**headers):
    pairs = {"host": "127.0.0.1:8000", "content_type": "application/json", **headers}
    return [(k.replace("_", "-").encode(), v.encode()) for k, v in pairs.items() if v is not None]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content_type": None},
        {"content_type": "application/json; charset=utf-8"},
        {"content_type": "Application/JSON"},
        {"content_type": "application/vnd.api+json"},
        {"host": "localhost"},
        {"host": "[::1]:8000"},
        {"host": "LOCALHOST.:8000"},
        {"host": "127.8.9.10"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://127.0.0.1:8000", "sec_fetch_site": "same-origin"},
        {"content_encoding": "identity"},
    ],
)
def test_welcome(headers):
    check_head("POST", head(**headers), local_names_only=True)


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "text/plain;application/json"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"content_type": "multipart/form-data; boundary=application/json"}, 415),
        ({"content_type": "application/json, text/plain"}, 415),
        ({"content_type": "application/jsonp"}, 415),
        ({"content_type": ""}, 415),
        ({"content_type": None, "origin": "http://127.0.0.1:8000"}, 415),
        ({"content_type": None, "sec_fetch_mode": "no-cors"}, 415),
        ({"content_encoding": "gzip"}, 415),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "http://localhost:8000"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"host": "evil.example"}, 400),
        ({"host": "127.0.0.1.evil.example"}, 400),
        ({"host": "localhost@evil.example"}, 400),
        ({"host": "evil.example:127.0.0.1"}, 400),
        ({"host": "[::1].evil.example"}, 400),
        ({"host": "[::1"}, 400),
        ({"host": "[evil.example]"}, 400),
        ({"host": ""}, 400),
        ({"host": None}, 400),
        ({"transfer_encoding": "chunked", "content_length": "5"}, 400),
    ],
)
def test_unwelcome(headers, status):
    with pytest.raises(Refusal) as caught:
        check_head("POST", head(**headers), local_names_only=True)
    assert caught.value.status == status


def test_pages_are_refused_before_anything_is_searched(start):  # noqa: F811
    hanging = Hanging()
    server = start(retriever=hanging)
    text = {"query": "a"}
    assert server.ask(text, **{"Content-Type": "text/plain"})[0] == 415
    assert server.ask(text, Origin="http://evil.example")[0] == 403
    assert server.ask(b"", "OPTIONS", Origin="http://evil.example")[0] == 403
    assert server.ask(text, Host="evil.example")[0] == 400
    assert server.ask(text, **{"Content-Type": "application/json"})[0] == 200
    assert hanging.asked == ["a"]


@pytest.mark.parametrize(
    "headers, status", [({"Content-Type": "text/plain"}, 415), ({"Authorization": "Bearer x"}, 401)]
)
def test_a_refusal_is_heard_by_who_still_sends(start, headers, status):  # noqa: F811
    """A body of megabytes is under way when it is refused."""
    server = start(token="secret" if status == 401 else None)
    assert server.ask(b" " * 4_000_000, **headers)[0] == status


# Odd requests.


def test_requests_in_a_row_are_answered_in_order(start):  # noqa: F811
    server = start()
    with connect(server) as raw:
        raw.sendall(
            b"".join(request({"query": f"q{i}", "topk": 1}) for i in range(20))
            + request({"query": "last", "topk": 1}, b"Connection: close\r\n")
        )
        text = answer_on(raw).decode()
    places = [text.index(f"About {name}\\") for name in [*(f"q{i}" for i in range(20)), "last"]]
    assert places == sorted(places)
    assert text.count("HTTP/1.1 200 OK") == 21


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%00%ff%2e%2e/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: +5\r\n\r\n{}   ",
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}   XX",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n",
        HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        request({"query": "a"}) + b"garbage\r\n\r\n",
        request({"query": "a"}) * 3 + b"GET",
        HEAD + b" Folded: x\r\nX\x00Y: z\r\n\r\n",
    ],
)
def test_odd_requests_leave_the_server_as_it_was(start, data):  # noqa: F811
    """None of them is answered with passages of another request, or with a trace."""
    server = start(head_s=1.0, body_s=1.0, idle_s=1.0)
    with connect(server) as raw:
        with suppress(BrokenPipeError, ConnectionResetError):
            raw.sendall(data)
        found = answer_on(raw)
    assert b"Traceback" not in found
    assert found.count(b"HTTP/1.1 200") <= data.count(b'"query"') + (b"/health" in data)
    if b"chunked" in data and b"Content-Length" in data:
        assert found.count(b"HTTP/1.1 ") == 1
    assert server.ask({"query": "a"})[0] == 200


def test_chunks_are_read(start):  # noqa: F811
    server = start()
    with connect(server) as raw:
        raw.sendall(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b'{"que', b'ry": "a"', b"}"):
            raw.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        raw.sendall(b"0\r\n\r\n")
        assert b"About a" in answer_on(raw)


def test_clients_that_hang_up_leave_no_trace(start, caplog):  # noqa: F811
    server = start(retriever=Large())
    whole = request({"query": "a", "topk": 20})
    for length in (1, 30, len(HEAD), len(whole) - 5, len(whole)):
        for _ in range(5):
            with connect(server) as raw:
                raw.sendall(whole[:length])
    assert server.ask({"query": "a"})[0] == 200
    assert caplog.text == ""
