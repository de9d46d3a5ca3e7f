"""A retriever on the other end of HTTP, with an end to every wait; see `stapo.http_client`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from stapo.checks import check_choice, check_integer
from stapo.errors import RetrieverError
from stapo.http_client import Caller, CallFailed, CallOptions, checked_key, key_for, read_address
from stapo.retrieval.protocol import Closing, Passage
from stapo.retrieval.wire import Shape, read_answer, requests_of

TOKEN_VARIABLE = "STAPO_RETRIEVER_TOKEN"
HOST_VARIABLE = "STAPO_RETRIEVER_HOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions(CallOptions):
    """How to ask, and how long to wait.

    Attributes:
        shape: "batch" sends all queries in one request, as Search-R1 does; "single" sends one per query, as verl-agent
            does.
        token: sent as a bearer token; by default `$STAPO_RETRIEVER_TOKEN`, which goes to `$STAPO_RETRIEVER_HOST` alone
            where that is set.
        answer_bytes: bytes of an answer at most; what is longer is not received to its end.
    """

    shape: Shape = "batch"
    token: str | None = field(default=None, repr=False)
    answer_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        check_integer("answer_bytes", self.answer_bytes, 1)
        check_choice("shape", self.shape, get_args(Shape))
        CallOptions.__post_init__(self)


class HttpRetriever(Closing):
    """Asks a retrieval server. May be used from several threads, and after a fork.

    Attributes:
        url: where requests go.
        options: how to ask, and how long to wait.
    """

    def __init__(self, url: str, options: HttpOptions | None = None, **settings: Any) -> None:
        """Remember where to ask; nothing is sent yet.

        Args:
            url: "http://host:port", to which "/retrieve" is added, or a whole address.
            options: how to ask, and how long to wait.
            **settings: the fields of `HttpOptions`, instead of `options`.

        Raises:
            ConfigError: no such address, or options out of range.
        """
        address = read_address(url, "retriever")
        self.url = str(address.copy_with(path="/retrieve") if address.path in ("", "/") else address)
        self.options = options or HttpOptions(**settings)
        self._shown = self.url.partition("?")[0]
        token = checked_key(self.options.token, "the option token")
        if token is None:
            token = key_for(address, TOKEN_VARIABLE, HOST_VARIABLE)
        self._caller = Caller(
            f"retriever {self._shown}",
            self.options,
            token=token,
            purpose="one search",
            largest=self.options.answer_bytes,
        )

    @property
    def counts(self) -> Counter[str]:
        """Failures by kind, retried ones included, and "answered" requests."""
        return self._caller.counts

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """For each query at most k passages, the best first.

        Raises:
            ConfigError: k below 1.
            RetrieverError: no answer in time, or none that can be used; its `kind` says which.
        """
        check_integer("k", k, 1)
        if not queries:
            return []
        bodies = requests_of(queries, k, self.options.shape)
        try:
            answers = self._caller.all(self.url, bodies)
        except CallFailed as err:
            raise RetrieverError(str(err), err.kind) from err
        found: list[list[Passage]] = []
        for body, data in zip(bodies, answers, strict=True):
            try:
                found += read_answer(data, len(body.get("queries", [0])), k, self._shown)
            except RetrieverError as err:
                self._caller.count(err.kind)
                raise
            self._caller.count("answered")
        return found

    def close(self) -> None:
        """Close all connections; more than once is fine. Searches that are under way fail."""
        self._caller.close()
