"""A retriever behind HTTP: ``POST /retrieve`` in both published shapes, ``GET /health``.

Nothing is believed: who asks, the size of a body, the number of queries, their words and the passages are bounded, and
so is the time for each stage of a request. An answer holds passages or one line of error, never a trace. Decided
elsewhere: whom it listens to (`serving.gate`), how long a connection may take (`serving.connections`), how searches run
(`serving.threads`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from stapo.documents import parse_json
from stapo.errors import StapoError
from stapo.retrieval.analyzer import words
from stapo.retrieval.protocol import Passage, Retriever
from stapo.retrieval.wire import answer_of
from stapo.serving.gate import Bodies, Receive, Refusal, check_token, error_headers, leaves_rest
from stapo.serving.server import Limits, application, check_options, need_starlette
from stapo.serving.threads import ThreadCalls
from stapo.texts import counted, escape_control_chars, replace_surrogates

_LOG = logging.getLogger("stapo.retrieval.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Limits of a server.

    Attributes:
        token: clients have to send it as a bearer token; None lets everybody on this machine in.
        threads: searches at a time.
        waiting: requests that may wait for a thread; more are told to come again (status 503).
        max_body: bytes of a request.
        max_queries: queries of a request.
        max_topk: passages per query.
        max_query: characters of a query.
        max_terms: words of a query.
        max_characters: characters of all queries of a request.
        max_answer: characters of an answer.
        max_connections: connections at once; fewer where the system allows fewer open files.
        head_s: seconds that a client may take to send the headers of a request.
        body_s: seconds that a client may take to send its request.
        search_s: seconds that a request may wait for a thread, and that its search may take then.
        write_s: seconds that a client may take to receive its answer.
        idle_s: seconds that a connection may stay open without a request.
        stop_s: seconds that requests under way may still take when the server is stopped.
    """

    token: str | None = field(default=None, repr=False)
    threads: int = 4
    waiting: int = 256
    max_body: int = 1 << 20
    max_queries: int = 512
    max_topk: int = 100
    max_query: int = 10_000
    max_terms: int = 512
    max_characters: int = 200_000
    max_answer: int = 64 << 20
    max_connections: int = 1024
    head_s: float = 10.0
    body_s: float = 10.0
    search_s: float = 60.0
    write_s: float = 30.0
    idle_s: float = 30.0
    stop_s: float = 10.0

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def limits(self) -> Limits:
        """What of it bounds connections: a body is read twice at most, an answer waits, is computed and is sent."""
        return Limits(
            connections=self.max_connections,
            head_s=self.head_s,
            body_s=2 * self.body_s,
            answer_s=2 * self.search_s + self.write_s,
            idle_s=self.idle_s,
            stop_s=self.stop_s,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for."""

    queries: list[str]
    k: int
    scores: bool


def read_request(data: bytes, options: ServerOptions) -> Request:
    """Read the body of a request, in either shape.

    Raises:
        Refusal: it cannot be answered.
    """
    try:
        body = parse_json(data)
    except ValueError:
        raise Refusal(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the body is not a JSON object")
    if ("queries" in body) == ("query" in body):
        raise Refusal(400, "expected either 'queries', a list of texts, or 'query', a text")
    queries = body["queries"] if "queries" in body else [body["query"]]
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise Refusal(400, "expected 'queries' to be a list of texts, or 'query' to be a text")
    if not 1 <= len(queries) <= options.max_queries:
        raise Refusal(400, f"{counted(len(queries), 'query', 'queries')}, expected 1 to {options.max_queries}")
    if max(map(len, queries)) > options.max_query:
        raise Refusal(400, f"a query of {max(map(len, queries))} characters, expected at most {options.max_query}")
    if sum(map(len, queries)) > options.max_characters:
        raise Refusal(
            400, f"queries of {sum(map(len, queries))} characters in all, expected at most {options.max_characters}"
        )
    # A query has no more words than characters.
    if any(_has_more_words(query, options.max_terms) for query in queries if len(query) > options.max_terms):
        raise Refusal(400, f"a query of more than {options.max_terms} words")
    k = 3 if body.get("topk") is None else body["topk"]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= options.max_topk:
        raise Refusal(400, f"expected 'topk' to be a whole number from 1 to {options.max_topk}")
    scores = body.get("return_scores", False)
    if not isinstance(scores, bool):
        raise Refusal(400, "expected 'return_scores' to be true or false")
    return Request(queries, k, scores)


def _has_more_words(query: str, most: int) -> bool:
    return sum(1 for _ in islice(words(query), most + 1)) > most


class _Service:
    """Answers requests; one per application."""

    def __init__(self, retriever: Retriever, options: ServerOptions) -> None:
        self.retriever = retriever
        self.options = options
        self.searches = ThreadCalls(options.threads, options.waiting, options.search_s, ("search", "searches"))
        self.bodies = Bodies(options.max_body, options.body_s)

    async def retrieve(self, request: Any) -> bytes:
        """The body of an answer.

        Raises:
            Refusal: there is none.
        """
        check_token(request.headers.get("authorization", ""), self.options.token)
        asked = read_request(await self.bodies.read(request), self.options)
        gone = threading.Event()
        watching = asyncio.ensure_future(_until_gone(request.receive, gone))
        try:
            return await self.searches.run(lambda given_up: self._search(asked, given_up), gone)
        except StapoError as err:
            _LOG.error("a search failed: %s", escape_control_chars(str(err)))
            raise Refusal(500, "the search failed; the server's log says why") from None
        except Refusal:
            raise
        except Exception as err:
            _LOG.error("a search failed", exc_info=err)
            raise Refusal(500, "the search failed; the server's log says why") from None
        finally:
            watching.cancel()

    def _search(self, asked: Request, given_up: Callable[[], bool]) -> bytes:
        portion = getattr(self.retriever, "portion", None) or len(asked.queries)
        found: list[list[Passage]] = []
        size = 0
        for start in range(0, len(asked.queries), portion):
            if given_up():
                raise Refusal(504, f"the search took more than {self.options.search_s:g} s and was given up")
            found += self.retriever.search(asked.queries[start : start + portion], asked.k)
            size += sum(len(p.contents) for one in found[start:] for p in one)
            if size > self.options.max_answer:
                raise Refusal(400, f"the answer has more than {self.options.max_answer} characters; ask for less")
        text = json.dumps(answer_of(found, scores=asked.scores), ensure_ascii=False)
        return replace_surrogates(text).encode("utf-8")


async def _until_gone(receive: Receive, gone: threading.Event) -> None:
    """Set `gone` as soon as the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


def create_app(retriever: Retriever, options: ServerOptions | None = None) -> Any:
    """The ASGI application of a retriever. Closing the retriever stays with the caller.

    Raises:
        ConfigError: starlette is not installed.
    """
    responses, routing = need_starlette("responses"), need_starlette("routing")
    options = options or ServerOptions()
    service = _Service(retriever, options)

    async def retrieve(request: Any) -> Any:
        try:
            return responses.Response(await service.retrieve(request), media_type="application/json")
        except Refusal as refusal:
            headers = error_headers(refusal.status, close=await leaves_rest(refusal, request))
            return responses.JSONResponse({"error": refusal.reason}, refusal.status, headers=headers)

    async def health(request: Any) -> Any:
        return responses.JSONResponse({"status": "ok"})

    routes = [
        routing.Route("/retrieve", retrieve, methods=["POST"]),
        routing.Route("/health", health, methods=["GET"]),
    ]
    return application(routes, options.token, "POST /retrieve and GET /health")
