"""15. A search engine that refuses, hangs, fails, answers nonsense or drips costs turns, never a run or a prompt.

The run is a whole one, and its search engine a real server on this machine that has all illnesses at once: each query
has its own. What each illness does to a single search is tested in tests/retrieval.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter

import pytest
from reliable import settings, train

from sick_server import SickServer, answer, http
from stapo.envs.registry import ENVIRONMENTS
from stapo.envs.search.env import SearchEnv
from stapo.retrieval import open_retriever
from stapo.run.rows import read_jsonl

SECONDS = 1.0
"""For one search that is never answered, with all its tries. Others have as long as a busy machine may need."""

FOREVER = 600.0
"""What a server that hangs would take."""

GOOD = {"document": {"id": "7", "contents": '"A title"\nA healthy passage.'}, "score": 1.5}


class AlwaysSearching(SearchEnv):
    """Searches for whatever is said: an untrained policy seldom asks for a search by itself."""

    def __init__(self, **options):
        super().__init__(**options)
        self._hurried = self._search
        self._patient = open_retriever(options["retriever"], total_s=FOREVER, read_s=FOREVER, backoff_s=0.01)

    def step(self, action):
        words = " ".join("".join(c if c.isalnum() else " " for c in action).split()) or "nothing"
        self._search = self._hurried if illness(words) in ("timeout", "slow") else self._patient
        return super().step(f"<search> {words} </search>")


QUICK = ("good", "refused", "http_500", "empty", "malformed", "recovering")
KINDS = (*QUICK, "timeout", "slow")


def illness(query):
    """Each query has one, and keeps it when it is asked again; few hang, since each of these takes its time."""
    number = zlib.crc32(query.encode()) % 40
    return {0: "timeout", 1: "slow"}.get(number, QUICK[number % len(QUICK)])


def behave_badly(server, connection, kind, times):
    if kind == "good" or (kind == "recovering" and times > 1):
        connection.sendall(answer([[GOOD]]))
    elif kind == "timeout":
        server.stopping.wait(FOREVER)
    elif kind in ("http_500", "recovering"):
        connection.sendall(
            http("503 Busy" if kind == "recovering" else "500 Oops", b"Traceback (most recent call last): boom")
        )
    elif kind == "empty":
        connection.sendall(answer([]))
    elif kind == "malformed":
        connection.sendall(http("200 OK", b'{"result": [['))
    elif kind == "slow":
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n")
        server.drip(connection, b'{"result": [' + b" " * 10_000)


@pytest.fixture
def outage():
    """The server, and which illnesses it has had."""
    seen, asked = set(), Counter()

    def behave(connection, number, body):
        (query,) = body["queries"]
        asked[query] += 1
        seen.add(illness(query))
        behave_badly(server, connection, illness(query), asked[query])

    server = SickServer(behave)
    ENVIRONMENTS.register("always-searching", AlwaysSearching)
    yield server, seen
    server.close()


def test_training_goes_on_and_every_kind_is_counted(tmp_path, outage):
    server, seen = outage
    data = settings("search", optim__iterations=2, sft__steps=4, eval__every=1, eval__quick_episodes=2)
    data["env"] = {
        "name": "always-searching",
        "options": {"topk": 1, "max_steps": 3, "retriever": server.url, "retriever_seconds": SECONDS},
    }
    data["rollout"]["groups"] = 4
    started = time.monotonic()
    run = train(tmp_path, data)
    rows = list(read_jsonl(run.path / "metrics.jsonl"))
    assert [row["iteration"] for row in rows] == [1, 2]
    counted = {kind for row in rows for kind in row["retriever_errors"]}
    assert seen == set(KINDS)
    # What recovers at the second try, after a 503, is not an error.
    assert counted == {"refused", "timeout", "http_500", "empty", "malformed", "slow"}
    for row in rows:
        assert 0 < sum(row["retriever_errors"].values()) < row["rows"]
        assert row["failures"] == {}
    # Nothing waits for a server that hangs.
    assert time.monotonic() - started < FOREVER / 2

    turns = [s for p in run.transcripts() for t in read_jsonl(p) for s in steps_of(t)]
    shown = json.dumps(turns)
    assert "A healthy passage." in shown
    assert "the search engine could not be reached" in shown
    for leak in ("Traceback", "boom", "127.0.0.1", "Errno", "status 500", "RetrieverError", "retriever "):
        assert leak not in shown, leak


def steps_of(trajectory):
    """What the policy was shown."""
    return [[s["prompt"], s["observation"]] for s in trajectory["steps"]]
