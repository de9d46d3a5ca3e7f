"""A retriever on the other end of HTTP, with an end to every wait; see `stapo.calls`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from stapo.calls import Caller, CallFailed, CallOptions, checked_key, key_from, read_address
from stapo.errors import ConfigError, RetrieverError
from stapo.retrieval.protocol import Closing, Passage, check_k
from stapo.retrieval.wire import Shape, read_answer, requests_of

TOKEN_VARIABLE = "STAPO_RETRIEVER_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions(CallOptions):
    """How to ask, and how long to wait.

    Attributes:
        shape: "batch" sends all queries in one request, as Search-R1 does; "single" sends one per query, as verl-agent
            does.
        token: sent as a bearer token; by default `$STAPO_RETRIEVER_TOKEN`.
    """

    shape: Shape = "batch"
    token: str | None = None

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ConfigError(f"shape is {self.shape!r}, expected one of {', '.join(get_args(Shape))}.")
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
        token = checked_key(self.options.token, "the option token") or key_from(TOKEN_VARIABLE)
        self._caller = Caller(f"retriever {self.url}", self.options, token=token, purpose="one search")

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
        check_k(k)
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
                found += read_answer(data, len(body.get("queries", [0])), k, self.url)
            except RetrieverError as err:
                self._caller.count(err.kind)
                raise
            self._caller.count("answered")
        return found

    def close(self) -> None:
        """Close all connections; more than once is fine. Searches that are under way fail."""
        self._caller.close()
