"""A child process that plays environments for a pool: the child's side.

Requests arrive on standard input and are answered in order, one JSON line each. What environments print goes to
standard error. A worker ends when its pool closes it or dies, even in the middle of a step that never ends.
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import Any, BinaryIO

from stapo.envs.guard import SETTINGS_ERRORS, EnvFailure, raised
from stapo.envs.slot import EnvSlot
from stapo.envs.wire import dump, load, pack


class Worker:
    """The environments of one worker, by slot.

    Args:
        target: where the class of the environment is, "module:qualified name".
        options: its keyword arguments.
    """

    def __init__(self, target: str, options: dict[str, Any]) -> None:
        module, _, name = target.partition(":")
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        self.make_env = lambda: found(**options)
        self.slots: dict[int, EnvSlot] = {}

    def answer(self, slot: int, operation: str, argument: Any, fresh: bool) -> list[Any]:
        """Do what was asked for; returns the packed answer.

        Raises:
            ConfigError: or another settings error, if no environment can be built, or it says so itself.
        """
        played = self.slots.setdefault(slot, EnvSlot(self.make_env))
        if fresh:
            played.drop()
        if operation == "reset":
            return pack(played.reset(argument))
        if operation == "step":
            return pack(played.step(argument))
        if operation == "state":
            out = played.state()
        elif operation == "restore":
            out = played.restore(argument)
        else:
            question, argument = argument
            out = played.ask(question, argument)
        return pack(out) if isinstance(out, EnvFailure) else ["answer", out]

    def close(self) -> None:
        """Close every environment."""
        for played in self.slots.values():
            played.drop()


def work(lifeline: int) -> None:
    """Answer requests until there are no more.

    Args:
        lifeline: a pipe that has no writer any more when the supervisor is gone.
    """
    # The kernel ends this process then on Linux; the thread does elsewhere, if foreign code lets go of the interpreter.
    threading.Thread(target=_wait_for_the_end, args=(lifeline,), name="lifeline", daemon=True).start()
    # Environments may print, read, and start programs that do: none of it may reach the requests and answers.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    setup = load(requests.readline())
    try:
        worker = Worker(setup["target"], setup["options"])
    except BaseException as err:
        failed = raised(err, f"importing '{setup['target']}'")
        _send(answers, dump([-1, ["settings", "ConfigError", failed.error]]))
        return
    _send(answers, dump([-1, ["ready", os.getpid()]]))
    for line in requests:
        number, slot, operation, argument, fresh = load(line)
        try:
            answer = worker.answer(slot, operation, argument, fresh)
        except SETTINGS_ERRORS as err:
            answer = ["settings", type(err).__name__, str(err)]
        except KeyboardInterrupt as err:
            # The signal is not delivered here, so the environment raised it.
            answer = pack(raised(err, operation))
        _send(answers, _line(number, answer))
    worker.close()


def _send(answers: BinaryIO, line: bytes) -> None:
    answers.write(line)
    answers.flush()


def _line(number: int, answer: list[Any]) -> bytes:
    try:
        return dump([number, answer])
    except (TypeError, ValueError, RecursionError) as err:
        return dump([number, pack(raised(err, "writing the answer as JSON"))])


def _wait_for_the_end(lifeline: int) -> None:
    """Nothing is ever written to this pipe: reading returns when the last writer is gone."""
    os.read(lifeline, 1)
    os._exit(1)
