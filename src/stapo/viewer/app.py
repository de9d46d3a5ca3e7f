"""The server of the pages: a few addresses, all of them GET, none of which changes anything.

Whom it answers is decided in `stapo.serving.gate`. The pages get a policy that runs only the script shipped with the
package, loads nothing from elsewhere and lets no other page frame them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from stapo.atomic_io import reason_of
from stapo.errors import ConfigError, StapoError
from stapo.html.pages import cleaned, encoded
from stapo.serving.gate import Gate, is_authorized
from stapo.serving.server import need_starlette
from stapo.viewer.catalog import Catalog
from stapo.viewer.pages import Pages, Results
from stapo.viewer.rollouts import Rollouts
from stapo.viewer.tables import Tables

_LOG = logging.getLogger("stapo.viewer")
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _Asked(Exception):
    """A request that says what it wants in a way that cannot be read."""


def create_app(catalog: Catalog, token: str | None = None) -> Any:
    """The ASGI application of the viewer.

    Args:
        catalog: the runs that may be looked at.
        token: pages have to send it with every request for data; None lets everybody on this machine in.

    Raises:
        ConfigError: starlette is not installed, or the built pages are not in the package.
    """
    starlette, responses = need_starlette("applications"), need_starlette("responses")
    routing, middleware = need_starlette("routing"), need_starlette("middleware")
    pages, rollouts, tables, results = Pages(catalog), Rollouts(catalog), Tables(catalog), Results(catalog)
    built = _built_files()

    def answer(body: bytes, kind: str = "application/json", status: int = 200) -> Any:
        return responses.Response(body, status, headers=_HEADERS, media_type=kind)

    def refused(status: int, reason: str) -> Any:
        return answer(encoded({"error": cleaned(reason)}), status=status)

    def api(path: str, find: Callable[[Any], bytes], kind: str = "application/json") -> Any:
        # Starlette runs functions that are not coroutines in threads, so a slow file blocks nobody.
        def endpoint(request: Any) -> Any:
            if token is not None and not is_authorized(request.headers.get("authorization", ""), token):
                return refused(401, "the token is missing or wrong; open the whole address that 'stapo view' printed")
            try:
                return answer(find(request.query_params), kind)
            except _Asked as err:
                return refused(400, str(err))
            except StapoError as err:
                return refused(404, str(err))
            except OSError as err:
                return refused(404, f"a file of the run cannot be read: {reason_of(err)}.")

        return routing.Route(f"/api/{path}", endpoint, methods=["GET"])

    def file(request: Any) -> Any:
        found = built.get(request.path_params.get("name", "index.html"))
        if found is None:
            return refused(404, "there is no such file")
        return answer(*found)

    async def missing(request: Any, err: Any) -> Any:
        return refused(err.status_code, f"{err.detail}: the viewer answers GET of its own addresses only")

    async def failed(request: Any, err: Exception) -> Any:
        _LOG.error("a request failed", exc_info=err)
        return refused(500, "the request failed; the terminal of 'stapo view' says why")

    place = ("iteration", "group", "member")
    return starlette.Starlette(
        routes=[
            routing.Route("/", file, methods=["GET"]),
            routing.Route("/static/{name}", file, methods=["GET"]),
            api("runs", lambda q: encoded(pages.runs())),
            api("run", lambda q: encoded(pages.run(_name(q)))),
            api("checks", lambda q: encoded(pages.checks(_name(q)))),
            api("version", lambda q: encoded(pages.version(_name(q)))),
            api("iteration", lambda q: rollouts.iteration(_name(q), _number(q, "iteration"))),
            api("step", lambda q: encoded(rollouts.step(_name(q), *(_number(q, key) for key in (*place, "step"))))),
            api("table_state", lambda q: encoded(tables.state(_name(q)))),
            api(
                "table",
                lambda q: tables.packed(_name(q), _number(q, "first"), _number(q, "generation")),
                "application/octet-stream",
            ),
            api("search", lambda q: encoded(tables.search(_name(q), q.get("text", "")))),
            api("batch", lambda q: encoded(tables.batch(_name(q), _number(q, "iteration")))),
            api("comparison", lambda q: encoded(results.comparison(_name(q)))),
            api("diagnoses", lambda q: encoded(results.diagnoses(_name(q)))),
            api("record", lambda q: encoded(rollouts.record(_name(q), *(_number(q, key) for key in place)))),
        ],
        # Without a token only names of this machine are served: a page that has its own name point here gets nothing.
        # The page itself opens from links anywhere; what it shows is asked for by the page alone.
        middleware=[middleware.Middleware(Gate, local_names_only=token is None, linked=("/",))],
        exception_handlers={404: missing, 405: missing, Exception: failed},
    )


def _built_files() -> dict[str, tuple[bytes, str]]:
    """The built pages with their types, by name."""
    found = {}
    for entry in (files("stapo.viewer") / "static").iterdir():
        kind = _TYPES.get(entry.name.rpartition(".")[2])
        if kind is not None:
            found[entry.name] = (entry.read_bytes(), kind)
    if "index.html" not in found:
        raise ConfigError("the pages of the viewer are not in this installation; build them with 'make viewer'.")
    return found


def _name(query: Any) -> str:
    name = query.get("run")
    if not name:
        raise _Asked("expected the parameter 'run', the name of a run")
    return str(name)


def _number(query: Any, key: str) -> int:
    text = query.get(key, "")
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise _Asked(f"expected the parameter '{key}' to be a whole number")
    return int(text)
