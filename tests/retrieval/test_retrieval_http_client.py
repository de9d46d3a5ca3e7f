"""Whatever a server does, a search ends in time, with passages or with an error of a kind."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import pickle
import threading
import time
from email.utils import formatdate

import pytest

from sick_server import SickServer, answer, free_port, http
from stapo.errors import ConfigError, RetrieverError
from stapo.retrieval import Passage, open_retriever
from stapo.retrieval.http_client import HttpRetriever

FAST = {"connect_s": 60.0, "read_s": 60.0, "total_s": 120.0, "attempts": 3, "backoff_s": 0.01}
"""No pauses; deadlines that only a server that hangs can reach. A test of a deadline sets its own."""
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
    """The error of one search, and the retriever; it has to come before the deadlines that the test did not set."""
    url = server_or_url if isinstance(server_or_url, str) else server_or_url.url
    retriever = HttpRetriever(url, **{**FAST, **settings})
    start = time.monotonic()
    with pytest.raises(RetrieverError) as caught, retriever:
        retriever.search(["q"], 3)
    assert time.monotonic() - start < 110
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


def test_token_goes_to_the_host_it_was_given_for(serve, monkeypatch):
    server = serve(lambda c, n, b: c.sendall(answer([[]])))
    port = server.url.rpartition(":")[2]
    monkeypatch.setenv("STAPO_RETRIEVER_TOKEN", " from-env\n")
    for host, sent in (
        ("", True),
        ("127.0.0.1", True),
        (f"127.0.0.1:{port}", True),
        ("127.0.0.1:1", False),
        ("other.example", False),
    ):
        monkeypatch.setenv("STAPO_RETRIEVER_HOST", host)
        with HttpRetriever(server.url, **FAST) as retriever:
            retriever.search(["q"], 1)
        assert ("Bearer from-env" in server.heads[-1]) == sent, host
    with HttpRetriever(server.url, **FAST, token="given") as retriever:
        retriever.search(["q"], 1)
    assert "Bearer given" in server.heads[-1]
    assert "given" not in repr(retriever.options)


@pytest.mark.parametrize("token", ["two words", "schlüssel-1234", "one\ntwo-1234", "x" * 10_000])
def test_tokens_that_are_none(monkeypatch, token):
    monkeypatch.setenv("STAPO_RETRIEVER_TOKEN", token)
    with pytest.raises(ConfigError, match="STAPO_RETRIEVER_TOKEN") as caught:
        HttpRetriever("http://127.0.0.1:1", **FAST)
    assert token[:8] not in str(caught.value)


def test_a_token_does_not_follow_a_redirect(serve):
    other = serve(lambda c, n, b: c.sendall(answer([[HIT]])))
    server = serve(lambda c, n, b: c.sendall(http("307 Moved", b"", f"Location: {other.url}/retrieve")))
    err, _ = fails(server, token="secret-token")
    assert (err.kind, other.heads) == ("http_307", [])


# What fails, by kind.


def test_refused(serve):
    err, retriever = fails(f"http://127.0.0.1:{free_port()}")
    assert err.kind == "refused"
    assert retriever.counts == {"refused": 3}
    assert "Is it running? (try 3 of 3)" in str(err)


def test_hanging_is_not_tried_again(serve):
    server = serve(lambda c, n, b: server.stopping.wait(600))
    err, retriever = fails(server, read_s=2.0)
    assert (err.kind, len(server.bodies), retriever.counts) == ("timeout", 1, {"timeout": 1})
    assert "nothing came for 2 s" in str(err)


def test_hanging_ends_with_the_time_for_all(serve):
    server = serve(lambda c, n, b: server.stopping.wait(600))
    err, _ = fails(server, total_s=2.0)
    assert err.kind == "timeout"
    assert "had not answered after 2 s" in str(err)


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
        (b'{"result": [[], []]}', "2 results for 1 query"),
        (b'{"result": ["x"]}', "results that are no lists"),
        (b'{"result": [[5]]}', "a passage that is not an object"),
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
    err, retriever = fails(server, total_s=3.0)
    assert (err.kind, len(server.bodies), retriever.counts) == ("slow", 1, {"slow": 1})
    assert "was still answering after 3 s" in str(err)


def test_slow_drip_of_the_head(serve):
    server = serve(lambda c, n, b: server.drip(c, b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 400))
    err, _ = fails(server, total_s=2.0)
    assert err.kind == "timeout"


def test_pauses_end_with_the_time_for_all(serve):
    server = serve(lambda c, n, b: c.sendall(http("500 Oops", b"")))
    err, _ = fails(server, attempts=100, backoff_s=2.0, total_s=3.0)
    assert err.kind == "http_500"
    assert "no more time after 3 s" in str(err)
    # The pauses are 1 to 2 and 2 to 4 seconds.
    assert 1 <= len(server.bodies) <= 3


def test_one_failed_query_of_several_fails_the_search(serve):
    server = serve(lambda c, n, b: c.sendall(http("400 Bad", b"") if b["query"] == "bad" else answer([[HIT]])))
    with HttpRetriever(server.url, shape="single", **FAST) as retriever:
        with pytest.raises(RetrieverError, match="status 400"):
            retriever.search(["fine", "bad"], 1)
        assert retriever.search(["fine"], 1) == [[FOUND]]


# Servers that misbehave.


@pytest.mark.parametrize(
    "passages, more",
    [
        ([[{"document": {"contents": "x" * 9_000_000}, "score": 1.0}]], []),
        ([[HIT] * 150_000], []),
        ([[HIT]], ["x" * 9_000_000]),
    ],
)
def test_large_answers_are_cut_off(serve, passages, more):
    body = json.dumps({"result": passages, "more": more}).encode()
    err, retriever = fails(serve(lambda c, n, b: c.sendall(http("200 OK", body))))
    assert (err.kind, retriever.counts) == ("malformed", {"malformed": 1})
    assert "more than 8 MiB" in str(err)
    with HttpRetriever(serve(lambda c, n, b: c.sendall(http("200 OK", body))).url, **FAST, answer_bytes=1 << 26) as big:
        assert len(big.search(["q"], 3)[0]) in (1, 3)


def test_an_answer_without_end(serve):
    sent = [0]

    def behave(connection, number, body):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not server.stopping.is_set():
            connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
            sent[0] += 65536

    server = serve(behave)
    err, _ = fails(server)
    assert err.kind == "malformed"
    # What lies in the buffers of the system counts as sent.
    assert sent[0] < 64 << 20


def test_an_answer_that_unpacks_to_gigabytes(serve):
    packed = gzip.compress(b" " * 50_000_000, mtime=0)
    err, _ = fails(serve(lambda c, n, b: c.sendall(http("200 OK", packed, "Content-Encoding: gzip"))))
    assert err.kind == "malformed"


def test_half_characters_cost_nothing(serve):
    body = b'{"result": [[{"document": {"id": "\\udc00", "contents": "\\"T\\ud800\\"\\nbo\\udfffdy"}, "score": 1}]]}'
    server = serve(lambda c, n, b: c.sendall(http("200 OK", body)))
    for shape in ("batch", "single"):
        with HttpRetriever(server.url, **FAST, shape=shape) as retriever:
            (found,) = retriever.search(["who \ud800?"], 1)[0]
        assert (found.id, found.title, found.text) == ("?", "T?", "bo?dy")
    assert server.bodies[0]["queries"] == ["who ??"]
    assert server.bodies[1]["query"] == "who ??"


@pytest.mark.parametrize(
    "hit",
    [
        {"document": None},
        {"document": {"contents": ["x"]}},
        {"document": {"contents": None, "text": 5}},
        {"document": {"title": {"a": 1}, "text": "x"}},
        {"document": {"contents": "x"}, "score": True},
        {"document": {"contents": "x"}, "score": None},
        {"document": {"contents": "x"}, "score": [[1]]},
        {"document": {"contents": "x"}, "score": 10**400},
        {"document": {"contents": "x"}, "score": float("inf")},
        [HIT],
        None,
    ],
)
def test_hits_of_wrong_types(serve, hit):
    err, _ = fails(serve(lambda c, n, b: c.sendall(answer([[hit]]))))
    assert err.kind == "malformed"
    assert len(str(err)) < 400


@pytest.mark.parametrize(
    "header", ["Retry-After: 1", "Retry-After: 0.7", "retry-after-ms: 700", "Retry-After: {date}"], ids=str
)
def test_a_pause_that_a_server_asks_for(serve, header):
    asked = []

    def behave(connection, number, body):
        asked.append(time.time())
        if number > 1:
            connection.sendall(answer([[HIT]]))
        else:
            # Whole seconds, so that the time itself may be up to a second less away.
            date = formatdate(time.time() + 2, usegmt=True)
            connection.sendall(http("429 Slow down", b"", header.format(date=date)))

    with HttpRetriever(serve(behave).url, **FAST) as retriever:
        assert retriever.search(["q"], 3) == [[FOUND]]
    assert asked[1] - asked[0] >= 0.6


@pytest.mark.parametrize(
    "header", ["Retry-After: 99999999", "retry-after-ms: 999999999", "Retry-After: 2099-01-01T00:00:00Z"]
)
def test_a_pause_beyond_the_time_of_a_search_ends_it_at_once(serve, header):
    err, retriever = fails(serve(lambda c, n, b: c.sendall(http("503 Busy", b"", header))), total_s=900.0)
    assert err.kind == "http_503"
    assert "asks for a pause" in str(err)
    assert retriever.counts["http_503"] == 1


def test_no_secret_is_in_a_message(serve):
    """A query of the address is sent, and not shown."""
    server = serve(lambda c, n, b: c.sendall(http("404 No", b"")))
    err, _ = fails(server.url + "/retrieve?index=wiki-18")
    assert "wiki-18" not in str(err)
    assert server.heads[0].startswith("POST /retrieve?index=wiki-18 ")


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
        assert queue.get(timeout=300) == [[FOUND]]
        child.join(300)
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
    with pytest.raises(ConfigError, match="is not an address"):
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
