"""From a name or an address to a retriever."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stapo.errors import ConfigError, UnknownNameError, did_you_mean
from stapo.registry import Registry
from stapo.retrieval.protocol import Retriever

RETRIEVERS: Registry[Callable[..., Retriever]] = Registry(
    "retriever",
    "stapo.retrievers",
    {
        "bm25": "stapo.retrieval.local:open_bm25",
        "tantivy": "stapo.retrieval.tantivy_index:open_tantivy",
        "dense": "stapo.retrieval.dense:open_dense",
    },
)
"""Name -> function with the keywords `corpus`, `cache` and its own options; open to entry points."""


def open_retriever(
    spec: str, *, corpus: Path | str | None = None, cache: Path | str | None = None, **options: Any
) -> Retriever:
    """Open a retriever.

    Args:
        spec: a name ("bm25", "tantivy", "dense", or one that another package registers under the entry point
            `stapo.retrievers`), or the address of a server, "http://host:port".
        corpus: JSONL file of passages; needed by name, useless with an address.
        cache: folder for indexes; `$STAPO_CACHE` or the user's cache folder without it.
        **options: what the retriever takes besides, e.g. `k1=1.2` for "bm25", or for an address the fields of
            `stapo.retrieval.http_client.HttpOptions`.

    Raises:
        UnknownNameError: no such retriever; the message proposes the closest name.
        ConfigError: no corpus, or an option that the retriever does not know.
        CorpusError: the corpus cannot be read.
        IndexFileError: the index could not be written.
    """
    if spec.startswith(("http://", "https://")):
        # Here, because it takes as long to import as everything else together.
        from stapo.retrieval.http_client import HttpOptions, HttpRetriever

        _check_options(spec, HttpOptions, options)
        return HttpRetriever(spec, **options)
    try:
        factory = RETRIEVERS.get(spec)
    except UnknownNameError as err:
        raise UnknownNameError(f"{err} Or the address of a server, http://host:port.") from None
    if corpus is None:
        raise ConfigError(f"retriever '{spec}' needs a corpus: a JSONL file with id and contents per line.")
    _check_options(spec, factory, options)
    return factory(corpus=corpus, cache=cache, **options)


def _check_options(spec: str, factory: Callable[..., Any], options: dict[str, Any]) -> None:
    known = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return
    names = [name for name in known if name not in ("corpus", "cache")]
    for name in options:
        if name not in names:
            raise ConfigError(
                f"retriever '{spec}' has no option '{name}'.{did_you_mean(name, names)} Known: {', '.join(names)}."
            )
