"""Whatever a server does, a search ends in time, with passages or with an error of a kind."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import threading
import time

import pytest

from sick_server import SickServer, answer, free_port, http
from stapo.errors import ConfigError, RetrieverError
from stapo.retrieval import Passage, open_retriever
from stapo.retrieval.http_client import HttpRetriever

FAST = {"connect_s": 0.5, "read_s": 0.5, "total_s": 2.0, "attempts": 3, "backoff_s": 0.01}
HIT = {"document": {"id": "7", "contents": '"T"\nbody'}, "score": 1.5}
FOUND = Passage("7", "T", "body", 1.5)


@pytest.fixture
def serve():
    servers = []

    def start(behave):
        servers.append(SickServer(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def fails(server_or_url, **settings):
    """The error of one search, and the retriever; it has to come well before a hanging test would be killed."""
    url = server_or_url if isinstance(server_or_url, str) else server_or_url.url
    retriever = HttpRetriever(url, **{**FAST, **settings})
    start = time.monotonic()
    with pytest.raises(RetrieverError) as caught, retriever:
        retriever.search(["q"], 3)
    assert time.monotonic() - start < 10
    return caught.value, retriever


# What works.


def test_batch_shape_is_search_r1s(serve):
    server = serve(lambda c, n, body: c.sendall(answer([[HIT, HIT]] * len(body["queries"]))))
    with open_retriever(server.url, **FAST) as retriever:
        assert retriever.search(["a", "b"], 1) == [[FOUND], [FOUND]]
        assert retriever.search([], 1) == []
        assert retriever.counts == {"answered": 1}
    assert server.bodies == [{"queries": ["a", "b"], "topk": 1, "return_scores": True}]
    assert server.heads[0].startswith("POST /retrieve HTTP/1.1")


def test_single_shape_is_verl_agents(serve):
    server = serve(lambda c, n, body: c.sendall(answer([[{**HIT, "score": len(body["query"])}]])))
    with open_retriever(server.url + "/own/path", shape="single", **FAST) as retriever:
        assert [one[0].score for one in retriever.search(["a", "bbb"], 3)] == [1.0, 3.0]
    assert sorted(body["query"] for body in server.bodies) == ["a", "bbb"]
    assert server.bodies[0].keys() == {"query", "topk", "return_scores"}
    assert server.heads[0].startswith("POST /own/path HTTP/1.1")


@pytest.mark.parametrize(
    "result, expected",
    [
        ([[{"id": 7, "contents": '"T"\nbody'}]], [[Passage("7", "T", "body", 0.0)]]),  # documents without scores
        ([{"document": {"contents": "x"}, "score": 1}], [[Passage("", "", "x", 1.0)]]),  # no outer list for one query
        ([[{"document": {"title": "T", "text": "x"}, "score": 1}]], [[Passage("", "T", "x", 1.0)]]),
        ([[{"document": "x", "score": 1}]], [[Passage("", "", "x", 1.0)]]),
        ([[]], [[]]),  # nothing found is an answer
    ],
)
def test_answers_of_all_sorts(serve, result, expected):
    with HttpRetriever(serve(lambda c, n, b: c.sendall(answer(result))).url, **FAST) as retriever:
        assert retriever.search(["q"], 3) == expected


def test_token_is_sent(serve, monkeypatch):
    server = serve(lambda c, n, b: c.sendall(answer([[]])))
    monkeypatch.setenv("STAPO_RETRIEVER_TOKEN", "from-env")
    for settings in ({}, {"token": "given"}):
        with HttpRetriever(server.url, **FAST, **settings) as retriever:
            retriever.search(["q"], 1)
    assert "Bearer from-env" in server.heads[0]
    assert "Bearer given" in server.heads[1]


# What fails, by kind.


def test_refused(serve):
    err, retriever = fails(f"http://127.0.0.1:{free_port()}")
    assert err.kind == "refused"
    assert retriever.counts == {"refused": 3}
    assert "Is it running? (try 3 of 3)" in str(err)


def test_hanging_is_not_tried_again(serve):
    server = serve(lambda c, n, b: server.stopping.wait(20))
    err, retriever = fails(server)
    assert (err.kind, len(server.bodies), retriever.counts) == ("timeout", 1, {"timeout": 1})
    assert "nothing came for 0.5 s" in str(err)


def test_hanging_ends_with_the_time_for_all(serve):
    server = serve(lambda c, n, b: server.stopping.wait(20))
    err, _ = fails(server, read_s=60, total_s=0.4)
    assert err.kind == "timeout"
    assert "had not answered after 0.4 s" in str(err)


def test_status_500_is_tried_again_and_counted(serve):
    server = serve(lambda c, n, b: c.sendall(http("500 Oops", b"trace")))
    err, retriever = fails(server)
    assert (err.kind, len(server.bodies), retriever.counts) == ("http_500", 3, {"http_500": 3})
    assert "trace" not in str(err)


def test_recovers_on_the_way(serve):
    server = serve(lambda c, n, b: c.sendall(http("503 Busy", b"") if n < 3 else answer([[HIT]])))
    with HttpRetriever(server.url, **FAST) as retriever:
        assert retriever.search(["q"], 3) == [[FOUND]]
        assert retriever.counts == {"http_503": 2, "answered": 1}


def test_status_404_is_not_tried_again(serve):
    server = serve(lambda c, n, b: c.sendall(http("404 Not Found", b"")))
    err, _ = fails(server)
    assert (err.kind, len(server.bodies)) == ("http_404", 1)


def test_redirects_are_not_followed(serve):
    server = serve(lambda c, n, b: c.sendall(http("302 Found", b"", f"Location: {server.url}/elsewhere")))
    err, _ = fails(server)
    assert (err.kind, len(server.bodies)) == ("http_302", 1)


def test_a_connection_cut_in_the_middle_is_tried_again(serve):
    server = serve(lambda c, n, b: c.sendall(answer([[HIT]])[: -20 if n < 2 else None]))
    with HttpRetriever(server.url, **FAST) as retriever:
        assert retriever.search(["q"], 3) == [[FOUND]]
        assert retriever.counts == {"refused": 1, "answered": 1}


@pytest.mark.parametrize(
    "body, found",
    [
        (b"<html>", "no JSON"),
        (b'{"result": [[', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "no list 'result'"),
        (b'{"result": {}}', "no list 'result'"),
        (b'{"result": [[], []]}', "2 results for 1 queries"),
        (b'{"result": ["x"]}', "results that are no lists"),
        (b'{"result": [[5]]}', "a passage that is no object"),
        (b'{"result": [[{"document": {"id": 1}, "score": 1}]]}', "a passage without contents"),
        (b'{"result": [[{"document": {"contents": "x"}, "score": "high"}]]}', "the score 'high'"),
        (b'{"result": [[{"document": {"contents": "x"}, "score": NaN}]]}', "the score 'nan'"),
    ],
)
def test_malformed(serve, body, found):
    server = serve(lambda c, n, b: c.sendall(http("200 OK", body)))
    err, retriever = fails(server)
    assert (err.kind, len(server.bodies), retriever.counts) == ("malformed", 1, {"malformed": 1})
    assert found in str(err)
    assert "expected" in str(err)


def test_no_http_at_all(serve):
    err, _ = fails(serve(lambda c, n, b: c.sendall(b"220 mail.example ESMTP\r\n")))
    assert err.kind == "refused"


def test_empty_list_of_results(serve):
    err, retriever = fails(serve(lambda c, n, b: c.sendall(answer([]))))
    assert (err.kind, retriever.counts) == ("empty", {"empty": 1})


def test_slow_drip_of_a_body(serve):
    """Each wait is short, all together are too long."""

    def behave(connection, number, body):
        data = answer([[HIT] * 50])
        head, _, rest = data.partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        server.drip(connection, rest)

    server = serve(behave)
    err, retriever = fails(server, total_s=1.0)
    assert (err.kind, len(server.bodies), retriever.counts) == ("slow", 1, {"slow": 1})
    assert "was still answering after 1 s" in str(err)


def test_slow_drip_of_the_head(serve):
    server = serve(lambda c, n, b: server.drip(c, b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 400))
    err, _ = fails(server, total_s=1.0)
    assert err.kind == "timeout"


def test_pauses_end_with_the_time_for_all(serve):
    server = serve(lambda c, n, b: c.sendall(http("500 Oops", b"")))
    err, _ = fails(server, attempts=100, backoff_s=0.3, total_s=1.0)
    assert err.kind == "http_500"
    assert "no more time after 1 s" in str(err)
    assert 2 <= len(server.bodies) <= 6


def test_one_failed_query_of_several_fails_the_search(serve):
    server = serve(lambda c, n, b: c.sendall(http("400 Bad", b"") if b["query"] == "bad" else answer([[HIT]])))
    with HttpRetriever(server.url, shape="single", **FAST) as retriever:
        with pytest.raises(RetrieverError, match="status 400"):
            retriever.search(["fine", "bad"], 1)
        assert retriever.search(["fine"], 1) == [[FOUND]]


# Use.


def test_many_threads_share_one_retriever(serve):
    server = serve(lambda c, n, b: c.sendall(answer([[{**HIT, "score": len(q)}] for q in b["queries"]])))
    right = []
    with HttpRetriever(server.url, **FAST) as retriever:

        def ask(length):
            for _ in range(5):
                right.append(retriever.search(["x" * length], 1)[0][0].score == length)

        threads = [threading.Thread(target=ask, args=(i + 1,)) for i in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert right == [True] * 50
        assert retriever.counts == {"answered": 50}


def _ask_in_child(retriever, queue):
    queue.put(retriever.search(["q"], 1))


def test_works_after_a_fork(serve):
    server = serve(lambda c, n, b: c.sendall(answer([[HIT]])))
    context = multiprocessing.get_context("fork")
    with HttpRetriever(server.url, **FAST) as retriever:
        retriever.search(["q"], 1)
        queue = context.Queue()
        child = context.Process(target=_ask_in_child, args=(retriever, queue))
        child.start()
        assert queue.get(timeout=20) == [[FOUND]]
        child.join(20)
        assert child.exitcode == 0


def test_closed_is_said(serve):
    retriever = HttpRetriever("http://127.0.0.1:1", **FAST)
    retriever.close()
    retriever.close()
    with pytest.raises(RetrieverError, match="is closed") as caught:
        retriever.search(["q"], 1)
    assert caught.value.kind == "closed"


def test_errors_travel_between_processes():
    err = pickle.loads(pickle.dumps(RetrieverError("no such thing", "slow")))  # noqa: S301
    assert (str(err), err.kind, isinstance(err, ConnectionError)) == ("no such thing", "slow", True)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"shape": "other"}, "shape is 'other', expected one of batch, single"),
        ({"total_s": 0}, "total_s is 0"),
        ({"read_s": float("nan")}, "read_s is nan"),
        ({"attempts": 0}, "attempts is 0"),
        ({"backoff_s": -1}, "backoff_s is -1"),
    ],
)
def test_options_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        HttpRetriever("http://127.0.0.1:1", **settings)


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://[::1", "http://x:99999"])
def test_addresses_are_checked(url):
    with pytest.raises(ConfigError, match="is no address"):
        HttpRetriever(url)


def test_k_is_checked():
    with pytest.raises(ConfigError, match="k is 0"), HttpRetriever("http://127.0.0.1:1") as retriever:
        retriever.search(["q"], 0)


def test_body_is_json(serve):
    """Also for text that is hard to send."""
    server = serve(lambda c, n, b: c.sendall(answer([[]])))
    with HttpRetriever(server.url, **FAST) as retriever:
        retriever.search(['quo"te \\ 日本 \x00'], 1)
    assert json.dumps(server.bodies[0]["queries"]) == json.dumps(['quo"te \\ 日本 \x00'])
