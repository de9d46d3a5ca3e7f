"""How environments, retrievers and samplers tell what a user should know.

That is: that they are busy with something long (building a catalog or an index, say), and what is odd about their data
(questions of the test that are also in train) or the model. Nobody listens unless asked to; the command line does.
"""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, int, int], None]
"""Gets what is being done ("reading products"), how many are done, and of how many; 0 where nobody knows."""

_listeners: list[Listener] = []
_note_listeners: list[Callable[[str], None]] = []
_noted: set[str] = set()


def listen(listener: Listener) -> None:
    """Tell `listener`, and nobody else, from now on."""
    _listeners[:] = [listener]


def tell(what: str, done: int, total: int = 0) -> None:
    """Say how far something long has come; now and then is enough."""
    for listener in _listeners:
        listener(what, done, total)


def listen_to_notes(listener: Callable[[str], None]) -> None:
    """Give each note once to `listener`, and to nobody else, from now on."""
    _note_listeners[:] = [listener]
    _noted.clear()


def note(text: str) -> None:
    """Say what is odd about the data of an environment: one sentence, which stands by itself."""
    if text not in _noted:
        _noted.add(text)
        for listener in _note_listeners:
            listener(text)
