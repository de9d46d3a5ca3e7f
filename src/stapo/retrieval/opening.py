"""From a name or an address to a retriever."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stapo.errors import ConfigError, UnknownNameError, did_you_mean
from stapo.registry import Registry, no_function
from stapo.retrieval.protocol import Retriever
from stapo.texts import secret_in_address

RETRIEVERS: Registry[Callable[..., Retriever]] = Registry("retriever", "stapo.retrievers", no_function)
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
    check_sources(spec, corpus)
    if is_address(spec):
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


def check_sources(spec: str, corpus: Path | str | os.PathLike[str] | None) -> None:
    """Look at what a retriever is opened with, before any message or file shows it.

    Raises:
        ConfigError: a secret in it, or a corpus that is an address. Neither is shown.
    """
    _check_secrets("retriever", spec)
    if corpus is not None:
        _check_secrets("corpus", os.fspath(corpus))
        if "://" in os.fspath(corpus):
            raise ConfigError("corpus is an address, expected a JSONL file of this machine; download it first.")


def is_address(spec: str) -> bool:
    """Whether it is the address of a server, and no name."""
    return spec.lower().startswith(("http://", "https://"))


def _check_secrets(what: str, text: str) -> None:
    if held := secret_in_address(text):
        raise ConfigError(
            f"{what} holds {held}, and is written down; expected it without. A token goes into the environment "
            "variable STAPO_RETRIEVER_TOKEN."
        )


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
