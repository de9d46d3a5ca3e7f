"""Give secrets with odd characters to every command that takes one, and search all that it says and writes for them.

    python scripts/try_secrets.py [COUNT] [SEED]

Keys go in by environment variables, options and addresses, in every place that takes one. The servers that they are
sent to repeat them: as they are, cut, escaped, encoded, in refusals, in errors inside answers, in what a model says,
in passages. A leak is a piece of eight characters of a secret in standard output, standard error or a file. One row of
the table is one way in; the exit status is 1 where anything leaked or raised.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import random
import string
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import yaml

PIECE = 8
ODD = [
    "\n",
    "\r\n",
    "\r",
    " ",
    "\t",
    "\x1b[31m",
    "\x7f",
    "\x1f",
    "é",
    "日",
    "\u00a0",
    "\u202e",
    "\udc80",
    '"',
    "'",
    "`",
    "\\",
]
PLAIN = ["%", "&", "=", "+", "/", "<", ">", "$", "{}", ":", ";", ",", "!", "*", "~", ".", "-", "_"]


def secrets(count: int, seed: int) -> list[str]:
    """Keys with something odd at the beginning, inside or at the end; some plain, some very long."""
    draw = random.Random(seed)
    letters = string.ascii_letters + string.digits
    found = []
    for number in range(count):
        body = "".join(draw.choices(letters, k=draw.choice((16, 24, 40, 64, 200))))
        if number % 50 == 49:
            body *= 200
        mark = draw.choice(ODD if number % 3 else PLAIN)
        at = draw.choice((0, len(body), draw.randrange(1, len(body))))
        found.append(draw.choice(("", "sk-", "Bearer")) + body[:at] + mark + body[at:])
    return found


def pieces_in(text: str, secret: str) -> bool:
    """Whether eight characters of a secret in a row are in a text."""
    known = {secret[i : i + PIECE] for i in range(len(secret) - PIECE + 1)}
    known -= {piece for piece in known if len(set(piece)) == 1}
    return any(text[i : i + PIECE] in known for i in range(len(text) - PIECE + 1))


class Echo(BaseHTTPRequestHandler):
    """Repeats the key that it is sent, as the mode of its server says."""

    def do_GET(self) -> None:
        """Answer the request for a list of models."""
        self._answer(200, {"data": []})

    def do_POST(self) -> None:
        """Answer a prompt or a search."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        forms = [
            key,
            key[:-3],
            key[5:20],
            repr(key),
            quote(key, safe=""),
            base64.b64encode(f"u:{key}".encode()).decode(),
        ]
        said = " | ".join(["x" * 270, *forms])
        mode = self.server.mode  # type: ignore[attr-defined]
        if mode == "refusal":
            self._answer(401, {"error": {"message": f"Incorrect API key: {key} " + said}})
        elif mode == "inside":
            self._answer(200, {"error": {"message": said, "code": 400, "metadata": {"raw": key}}})
        elif mode == "passages":
            self._answer(200, {"result": [[{"document": {"id": "1", "contents": said}, "score": 1.0}]]})
        else:
            self._answer(200, {"choices": [{"message": {"content": said[271:]}, "finish_reason": "stop"}]})

    def _answer(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@contextlib.contextmanager
def echo(mode: str) -> Iterator[str]:
    """A server of this mode; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.mode = mode  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


_TAKE_RETRIEVERS = (
    ["train", "search-tiny"], ["verl", "search-tiny", "--print"], ["compare", "search-tiny"], ["play", "search"],
    ["envs", "search"],
)  # fmt: skip


class Ways:
    """Every way in. Each is called with a secret and returns what was said; files go under `folder`.

    Args:
        folder: for files.
        urls: addresses of echoing servers, by mode.
        settings: a YAML file to evaluate and train with, whose environment is quick.
    """

    def __init__(self, folder: Path, urls: dict[str, str], settings: Path) -> None:
        self.folder = folder
        self.urls = urls
        self.settings = str(settings)

    def all(self) -> dict[str, Callable[[str], str]]:
        """Name of a way -> function."""
        ways: dict[str, Callable[[str], str]] = {}
        for mode in ("refusal", "inside", "content"):
            asked = [
                "--endpoint",
                self.urls[mode],
                "--model",
                "m",
                "--episodes",
                "1",
                "--seeds",
                "0",
                "--attempts",
                "1",
            ]
            ways[f"eval, STAPO_API_KEY, {mode}"] = self._in_variable("STAPO_API_KEY", ["eval", self.settings, *asked])
        named = ["eval", self.settings, *asked, "--key-variable", "OTHER_KEY", "--json"]
        ways["eval, --key-variable NAME"] = self._in_variable("OTHER_KEY", named)
        plain = ["eval", self.settings, *asked]
        ways["eval, --key-variable KEY"] = lambda s: self._said([*plain, "--key-variable", s])
        ways["serve-retriever, --token"] = lambda s: self._said(["serve-retriever", "nowhere.jsonl", "--token", s])
        serve = ["serve-retriever", "nowhere.jsonl"]
        ways["serve-retriever, variable"] = self._in_variable("STAPO_RETRIEVER_TOKEN", serve)
        ways["retriever, variable"] = self._in_variable("STAPO_RETRIEVER_TOKEN", None)
        ways["verl --print, a setting"] = lambda s: self._said(
            ["verl", "tiny", "--model.path", "m", "--sft.steps", "0", "--print", f"+trainer.api_key={s}"]
        )
        for name, form in (
            ("password", "http://user:{}@127.0.0.1:1/v1"),
            ("user", "http://{}@127.0.0.1:1/v1"),
            ("?api_key", "http://127.0.0.1:1/v1?a=b&api_key={}"),
            ("?key", "http://127.0.0.1:1/v1?key={}"),
            ("?token", "http://127.0.0.1:1/v1?token={}"),
            ("#token", "http://127.0.0.1:1/v1#token={}"),
            ("no scheme", "user:{}@127.0.0.1:1/v1"),
        ):
            ways[f"eval --endpoint, {name}"] = self._in_address(
                form, ["eval", self.settings, "--model", "m"], "--endpoint"
            )
            if name != "no scheme":
                for command in _TAKE_RETRIEVERS:
                    ways[f"{command[0]} --env.retriever, {name}"] = self._in_address(form, command, "--env.retriever")
                ways[f"train FILE, {name}"] = self._in_file(form)
        return ways

    def _in_variable(self, variable: str, argv: list[str] | None) -> Callable[[str], str]:
        def way(secret: str) -> str:
            before = os.environ.get(variable)
            os.environ[variable] = secret
            try:
                return self._said(argv) if argv is not None else self._searched()
            finally:
                os.environ.pop(variable)
                if before is not None:
                    os.environ[variable] = before

        return way

    def _searched(self) -> str:
        from stapo.errors import StapoError
        from stapo.retrieval.opening import open_retriever

        try:
            (page,) = open_retriever(self.urls["passages"]).search(["q"], 1)
        except StapoError as err:
            return f"{err!r} {err}"
        return repr(page)

    def _in_address(self, form: str, argv: list[str], flag: str) -> Callable[[str], str]:
        def way(secret: str) -> str:
            both = [
                self._said([*argv, flag, form.format(quoted)])
                for quoted in (secret, quote(secret, safe="", errors="replace"))
            ]
            return "".join([*both, self._said([*argv, f"{flag}={form.format(secret)}"])])

        return way

    def _in_file(self, form: str) -> Callable[[str], str]:
        def way(secret: str) -> str:
            with tempfile.TemporaryDirectory() as own:
                path = Path(own) / "settings.yaml"
                options = {"retriever": form.format(quote(secret, safe="", errors="replace"))}
                path.write_text(yaml.safe_dump({"env": {"name": "search", "options": options}}))
                return self._said(["train", str(path), "--out", str(self.folder / "run")])

        return way

    def _said(self, argv: list[str]) -> str:
        from stapo.cli.main import main

        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                status = main(argv)
            except SystemExit as err:
                status = err.code
            print(f"status {status}")
        return out.buffer.getvalue().decode()  # type: ignore[attr-defined]


def leaks(folder: Path, secret: str) -> list[str]:
    """Files in which a piece of the secret stands; every one is removed."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            text = path.read_bytes().decode("utf-8", "backslashreplace")
            if pieces_in(f"{path} {text}", secret):
                found.append(str(path))
            path.unlink()
    return found


SETTINGS = {
    "env": {"name": "search", "options": {"protocol": "stepwise"}},
    "agent": {"prompt": "search-stepwise", "response": "search_answer"},
    "eval": {"split": "test"},
}


def main(argv: list[str]) -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=200, help="secrets given to each way in")
    parser.add_argument("seed", nargs="?", type=int, default=0)
    args = parser.parse_args(argv)
    count, rows, bad = args.count, [], 0
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as servers:
        folder = Path(place)
        settings = folder.parent / f"{folder.name}.yaml"
        settings.write_text(yaml.safe_dump(SETTINGS))
        servers.callback(settings.unlink)
        urls = {mode: servers.enter_context(echo(mode)) for mode in ("refusal", "inside", "content", "passages")}
        for name, way in Ways(folder, urls, settings).all().items():
            started, leaked, raised = time.perf_counter(), 0, 0
            for secret in secrets(count, args.seed):
                try:
                    said = way(secret)
                except Exception:
                    raised += 1
                    said = traceback.format_exc()
                if pieces_in(said, secret) or leaks(folder, secret):
                    leaked += 1
                raised += "Traceback (most recent call last)" in said
            bad += leaked + raised
            print(f"{name}: {leaked} leaked, {raised} raised", file=sys.stderr, flush=True)
            rows.append((name, count, leaked, raised, time.perf_counter() - started))
    print(f"{'way in':<44} {'secrets':>8} {'leaked':>7} {'raised':>7} {'seconds':>8}")
    for name, number, leaked, raised, seconds in rows:
        print(f"{name:<44} {number:>8} {leaked:>7} {raised:>7} {seconds:>8.1f}")
    print(f"{'all':<44} {count * len(rows):>8} {sum(r[2] for r in rows):>7} {sum(r[3] for r in rows):>7}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
