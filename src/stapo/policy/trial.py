"""Trying a stranger's tokenizer and chat templates in a child process, before they run in this one.

A pre-tokenizer's regular expression can backtrack for hours, a chat template can loop or fill the memory. The child
has a limit of computing time and of memory, so that either is one error within seconds. A template that misbehaves
for some texts only is not found out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stapo.errors import ModelError
from stapo.policy import tokenizer as own

_SCRIPT = Path(__file__).with_name("try_tokenizer.py")
_SECONDS, _PATIENCE = 10, 300.0
_BYTES = 3 * 2**29
_LONG = 4_000
_MOST_PROBES = 40
_TEXTS = ("a", "A", "0", " ", "\n", "é", "字", "!", "a ", "0a", "Aa", ",.", "\r\n")
_tried: dict[str, str] = {}
"""Contents that were tried already, and what is wrong with them ("" where nothing is)."""


def try_out(
    path: str, tokenizer: Path | None, described: Any, templates: dict[str, str], given: dict[str, str]
) -> None:
    """Load a tokenizer, cut a few texts with it, render its templates.

    Args:
        path: of the model, for messages.
        tokenizer: its tokenizer.json, if any.
        described: what that holds.
        templates: names and texts of chat templates.
        given: special tokens that templates may name.

    Raises:
        ModelError: something of it fails, needs more than seconds, or more memory than there is for it.
    """
    patterns = sorted(set(_patterns(described)))
    known = {pattern for cuts in own._SPLITS.values() for pattern in cuts}
    if not templates and set(patterns) <= known:
        return
    size = 0 if tokenizer is None else tokenizer.stat().st_size
    request = {
        "tokenizer": None if tokenizer is None else os.path.abspath(tokenizer),
        "probes": _probes(patterns) if patterns else ["a " * 50],
        "templates": templates,
        "given": given,
        "bytes": _BYTES + 100 * size,
        "seconds": _SECONDS + size // 2_000_000,
    }
    content = b"" if tokenizer is None else tokenizer.read_bytes()
    key = hashlib.sha256(content + json.dumps([templates, given], sort_keys=True).encode()).hexdigest()
    if key not in _tried:
        _tried[key] = _ask(request)
    if _tried[key]:
        raise ModelError(
            f"the tokenizer of model '{path}' is refused: {_tried[key]}. Take a model whose tokenizer files are as "
            "they were published."
        )


def _ask(request: dict[str, Any]) -> str:
    """What is wrong, in the words of the child; "" where nothing is."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(_SCRIPT)],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=_PATIENCE,
            env=environment,
            check=False,
        )
        output, ended = done.stdout, done.returncode
    except subprocess.TimeoutExpired as err:
        output, ended = err.stdout or b"", -1
    doing, problem, answered = "its tokenizer cannot be tried", "", False
    for line in output.splitlines():
        told = json.loads(line)
        doing = told.get("doing", doing)
        if "problem" in told:
            problem, answered = told["problem"] or "", True
    if answered and not problem:
        return ""
    if not answered and ended >= 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit status {ended}"]
        problem = said[0][:200]
    elif not answered:
        problem = "it was ended after seconds of computing, or for all the memory that it took"
    return f"{doing}: {problem.rstrip('.')}"


def _patterns(part: Any) -> Iterator[str]:
    """Every regular expression in a tokenizer.json."""
    pending = [part]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if isinstance(part.get("Regex"), str):
                yield part["Regex"]
            pending += [value for key, value in part.items() if key not in ("vocab", "merges", "added_tokens")]
        elif isinstance(part, list):
            pending += part


def _probes(patterns: list[str]) -> list[str]:
    """Texts that make expressions backtrack: long runs of what they name, with an end that fits nothing."""
    named = re.findall(r"\\[a-zA-Z]|[^\\\[\](){}*+?.^$|\d]|\d", "".join(patterns))
    literal = dict.fromkeys(c for c in named if len(c) == 1)
    words = dict.fromkeys(w for pattern in patterns for w in re.findall(r"[A-Za-z]{2,}|[^\W\d_]", pattern))
    units = list(dict.fromkeys([*_TEXTS, *list(words)[:12], *literal]))[:_MOST_PROBES]
    texts = []
    for unit in units:
        run = unit * (_LONG // len(unit))
        texts += [run[:32] + "\x01", run + "\x01", run + "!"]
    return texts
