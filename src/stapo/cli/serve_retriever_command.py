"""`stapo serve-retriever CORPUS`: a retriever behind HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from stapo.cli.command import Command, arg
from stapo.cli.serving import serve_until_stopped, token_of
from stapo.cli.words import write_line
from stapo.retrieval.opening import RETRIEVERS


@dataclass(frozen=True, kw_only=True)
class ServeRetriever(Command):
    """Answer searches over HTTP: POST /retrieve in the request shapes of Search-R1 and of verl-agent, GET /health.

    The index is built on first use and kept in the cache. Ctrl-C or SIGTERM stops the server after the current
    requests.

    Attributes:
        corpus: JSONL file with the keys id and contents per line; contents is a quoted title, a newline and the text.
        retriever: bm25 (default), tantivy for large corpora, dense, or one of another package.
        host: address to listen on (default: 127.0.0.1). Any other than this machine's own needs a token.
        port: port to listen on, 0 to 65535 (default: 8000); 0 takes a free one.
        token: bearer token that clients have to send. $STAPO_RETRIEVER_TOKEN is safer: the list of processes does not
            show it.
        cache: folder for indexes (default: $STAPO_CACHE, or stapo in the user's cache folder).
        embed: model of dense (default: minilm, after 'stapo models fetch minilm'): another name of 'stapo
            models', or folder or name of a model of sentence-transformers.
        threads: searches at a time; 1 or more (default: 4).
        max_topk: maximum number of passages per query; 1 or more (default: 100).
        max_queries: maximum number of queries per request; 1 or more (default: 512).
        max_body: maximum number of bytes of a request; 1 or more (default: 1048576).
        max_connections: connections at once; 1 or more (default: 1024, or fewer if the system allows fewer open files).
        search_seconds: seconds that a search may take; above 0 (default: 60).
    """

    EXAMPLES = """
stapo serve-retriever corpus.jsonl --retriever tantivy --port 8000
curl -s 127.0.0.1:8000/retrieve -H 'Content-Type: application/json' -d '{"query": "Faust author"}'
"""

    corpus: Positional[str] = arg("CORPUS", needs="a corpus: a JSONL file with id and contents per line")
    retriever: str = arg("NAME", "bm25")
    host: str = arg("ADDRESS", "127.0.0.1", needs="an address")
    port: int = arg("N", 8000, least=0)
    token: str | None = arg("TOKEN", None, needs="a text")
    cache: str | None = arg("DIR", None)
    embed: str | None = arg("MODEL", None, needs="a model")
    threads: int | None = arg("N", None, least=1)
    max_topk: int | None = arg("N", None, least=1)
    max_queries: int | None = arg("N", None, least=1)
    max_body: int | None = arg("N", None, least=1)
    max_connections: int | None = arg("N", None, least=1)
    search_seconds: float | None = arg("SECONDS", None, least=0.001)

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        from stapo.retrieval.http_client import TOKEN_VARIABLE
        from stapo.retrieval.opening import check_sources, open_retriever
        from stapo.retrieval.server import ServerOptions, create_app
        from stapo.serving.server import listen

        names = ("threads", "max_topk", "max_queries", "max_body", "max_connections")
        limits: dict[str, Any] = {name: getattr(self, name) for name in names} | {"search_s": self.search_seconds}
        token = token_of(self.token, TOKEN_VARIABLE)
        options = ServerOptions(token=token, **{name: limit for name, limit in limits.items() if limit is not None})
        if self.retriever not in RETRIEVERS.names():
            RETRIEVERS.get(self.retriever)
        check_sources(self.retriever, self.corpus)
        # Before the index: whoever waited an hour for it does not want to hear then that the port is taken.
        listening = listen(self.host, self.port, token=options.token)
        try:
            own = {} if self.embed is None else {"embed": self.embed}
            retriever = open_retriever(self.retriever, corpus=Path(self.corpus), cache=self.cache, **own)
        except BaseException:
            listening.close()
            raise

        def ready(place: str) -> None:
            write_line(f"{self.retriever} over {self.corpus} answers on http://{place}/retrieve", flush=True)

        try:
            return serve_until_stopped(create_app(retriever, options), listening, options.limits, ready)
        finally:
            retriever.close()


COMMAND = ServeRetriever
