"""`stapo serve-retriever CORPUS`: a retriever behind HTTP."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from stapo.cli.words import positional, take_flag, write_line
from stapo.errors import ConfigError
from stapo.retrieval.opening import RETRIEVERS

_HELP = """usage: stapo serve-retriever CORPUS [--retriever NAME] [--host ADDRESS] [--port N] [--token TOKEN]
                             [--cache DIR] [--embed MODEL] [--threads N] [--max-topk N] [--max-queries N]
                             [--max-body BYTES] [--max-connections N] [--search-seconds S]

Answer searches over HTTP: POST /retrieve in the request shapes of Search-R1 and of verl-agent, GET /health.
The index is built on first use and kept in the cache. Stop it with Ctrl-C or SIGTERM; requests under way are answered.

arguments:
  CORPUS              JSONL file with {"id": "0", "contents": "\\"Title\\"\\ntext"} per line
  --retriever NAME    bm25 (default), tantivy for large corpora, dense, or one of another package
  --host ADDRESS      address to listen on (default: 127.0.0.1); any other than this machine's own needs a token
  --port N            port to listen on (default: 8000); 0 takes a free one
  --token TOKEN       what clients have to send as a bearer token; better set $STAPO_RETRIEVER_TOKEN, which is not seen
                      in the list of processes
  --cache DIR         folder for indexes (default: $STAPO_CACHE, or stapo in the user's cache folder)
  --embed MODEL       for dense: folder or name of a model of sentence-transformers
  --threads N         searches at a time (default: 4)
  --max-topk N        passages per query at most (default: 100)
  --max-queries N     queries per request at most (default: 512)
  --max-body BYTES    size of a request at most (default: 1048576)
  --max-connections N connections at once (default: 1024, or fewer where the system allows fewer open files)
  --search-seconds S  seconds that a search may take (default: 60)

example:
  stapo serve-retriever corpus.jsonl --retriever tantivy --port 8000

  curl -s 127.0.0.1:8000/retrieve -H 'Content-Type: application/json' -d '{"query": "who wrote Faust", "topk": 3}'
"""
_FLAGS = {
    "--retriever": "a name",
    "--host": "an address",
    "--port": "a whole number",
    "--token": "a text",
    "--cache": "a folder",
    "--embed": "a model",
    "--threads": "a whole number",
    "--max-topk": "a whole number",
    "--max-queries": "a whole number",
    "--max-body": "a whole number",
    "--max-connections": "a whole number",
    "--search-seconds": "a number of seconds",
}


def run(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    if any(arg in ("-h", "--help") for arg in argv):
        print(_HELP, end="")
        return 0
    found: dict[str, str | None] = {}
    args = argv
    for flag, needs in _FLAGS.items():
        found[flag], args = take_flag(args, flag, needs=needs)
    words = positional(args, 1, "serve-retriever", (*_FLAGS, "--help"))
    if not words:
        raise ConfigError("'stapo serve-retriever' needs a corpus: a JSONL file with id and contents per line.")

    from stapo.http_client import checked_key, key_from
    from stapo.retrieval.http_client import TOKEN_VARIABLE
    from stapo.retrieval.opening import check_sources, open_retriever
    from stapo.retrieval.server import ServerOptions, create_app, listen, serve

    text = found["--search-seconds"]
    seconds: dict[str, Any] = {} if text is None else {"search_s": _seconds("--search-seconds", text)}
    limits = {
        flag.removeprefix("--").replace("-", "_"): _number(flag, text)
        for flag in ("--threads", "--max-topk", "--max-queries", "--max-body", "--max-connections")
        if (text := found[flag]) is not None
    }
    token = checked_key(found["--token"], "--token") or key_from(TOKEN_VARIABLE)
    options = ServerOptions(token=token, **limits, **seconds)
    host = found["--host"] or "127.0.0.1"
    name = found["--retriever"] or "bm25"
    if name not in RETRIEVERS.names():
        RETRIEVERS.get(name)
    check_sources(name, words[0])
    port = found["--port"]
    # Before the index: whoever waited an hour for it does not want to hear then that the port is taken.
    listening = listen(host, 8000 if port is None else _number("--port", port), token=options.token)
    try:
        own: dict[str, Any] = {"embed": found["--embed"]} if found["--embed"] is not None else {}
        corpus = Path(words[0])
        retriever = open_retriever(name, corpus=corpus, cache=found["--cache"], **own)
    except BaseException:
        listening.close()
        raise
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    address, number = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address

    def ready() -> None:
        write_line(f"{name} over {corpus} answers on http://{shown}:{number}/retrieve", flush=True)

    try:
        signum = serve(create_app(retriever, options), listening, options, ready)
    finally:
        retriever.close()
    if signum is None:
        return 0
    print("stopped", file=sys.stderr)
    return 128 + signum


def _seconds(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{flag} is '{text}', expected a number of seconds.") from None


def _number(flag: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"{flag} is '{text}', expected a whole number.")
    return int(text)
