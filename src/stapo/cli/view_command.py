"""`stapo view [RUNS...]`."""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from stapo.cli.command import Command, arg
from stapo.cli.serving import serve_until_stopped, token_of
from stapo.cli.words import write_line
from stapo.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class View(Command):
    """Look into runs in the browser: curves, the rollouts of an iteration, the members of a group side by side, steps.

    Nothing is written. A run that is still training shows new iterations as they come. Ctrl-C stops the server. It
    needs the packages of the extra 'server'.

    Attributes:
        runs: runs, or folders that hold runs (default: runs).
        host: address to listen on (default: 127.0.0.1). Any other than this machine's own needs a token.
        port: port to listen on, 0 to 65535 (default: a free one).
        token: what a browser has to send: open the address with '#token=' and the token behind it. $STAPO_VIEW_TOKEN
            is safer: the list of processes does not show it.
        no_browser: print the address and open nothing.
    """

    EXAMPLES = """
stapo view
stapo view runs/quickstart
stapo view runs/gigpo runs/stapo --port 8080 --no-browser
"""

    runs: Positional[tuple[str, ...]] = arg("RUNS", ())
    host: str = arg("ADDRESS", "127.0.0.1", needs="an address")
    port: int = arg("N", 0, least=0)
    token: str | None = arg("TOKEN", None, needs="a text")
    no_browser: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        from stapo.serving.server import Limits, listen
        from stapo.viewer.app import create_app
        from stapo.viewer.catalog import Catalog

        tops = [Path(run) for run in self.runs or ("runs",)]
        for top in tops:
            if not top.is_dir():
                raise ConfigError(
                    f"'{top}' is not a folder. 'stapo view RUNS...' takes runs and folders that hold runs; "
                    "'stapo train' writes to runs."
                )
        token = token_of(self.token, "STAPO_VIEW_TOKEN")
        app = create_app(Catalog(tops), token)
        listening = listen(self.host, self.port, token=token)

        def ready(place: str) -> None:
            url = f"http://{place}/"
            write_line(f"{url}{'' if token is None else '#token=TOKEN'}", flush=True)
            print("Ctrl-C stops the server", file=sys.stderr)
            # With a token the list of processes would show it as a part of the browser's address.
            if token is None and not self.no_browser and _has_browser():
                webbrowser.open(url)

        return serve_until_stopped(app, listening, Limits(), ready, last_words=False)


def _has_browser() -> bool:
    """Whether a browser with a window can be opened; one in this terminal would take it away from the server."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


COMMAND = View
