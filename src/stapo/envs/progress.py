"""How an environment tells that it is busy with something long: building a catalogue, say.

Nobody listens unless asked to; the command line does.
"""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, int], None]
"""Gets what is being done ("reading products") and how many are done."""

_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Tell `listener`, and nobody else, from now on."""
    _listeners[:] = [listener]


def tell(what: str, done: int) -> None:
    """Say how far something long has come; now and then is enough."""
    for listener in _listeners:
        listener(what, done)
