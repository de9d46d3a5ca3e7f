"""Entry point: picks the command, turns our errors into one clear line.

Standard output and error are taken as they are found: closed, full, a pipe that nobody reads, or one for another
encoding.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, TextIO

from stapo import __version__
from stapo.cli.words import guard_secrets, write_line
from stapo.errors import FailureLimitError, NonFiniteError, SaveError, StapoError, did_you_mean, files_named
from stapo.former_names import FormerNameWarning, with_present_flags
from stapo.progress import Listener, listen, listen_to_notes
from stapo.texts import escape_control_chars

READER_LEFT = 141
"""Exit code where nobody reads the output any more: 128 and SIGPIPE."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
NOT_WRITTEN = 1
"""Exit code where the output could not be written."""


if TYPE_CHECKING:
    from stapo.cli.command import Command

# The input was fine and the run went wrong; everything else is wrong input.
_FAILED_RUN = (NonFiniteError, FailureLimitError, SaveError)

_COMMANDS = {
    "train": "train an agent: SFT, RL, evaluation, report",
    "resume": "resume an interrupted run, or extend a finished one",
    "eval": "evaluate a trained run by a stated protocol",
    "export": "write episodes into a file for SFT",
    "compare": "train several algorithms with several seeds from the same starts, and compare them",
    "diagnose": "measure the steps of a trained policy: outliers, neglect, bad steps",
    "play": "play a task yourself in the terminal, or watch a policy play",
    "report": "write the static HTML report of a run",
    "view": "look into runs in the browser, while they train and afterwards",
    "track": "send a run to trackers: TensorBoard, W&B, trackio, MLflow",
    "verl": "train on many GPUs with verl, in a separate Python environment",
    "serve-env": "serve an environment to other programs by the OpenEnv protocol",
    "serve-retriever": "serve searches in a corpus over HTTP",
    "models": "list pretrained models that have a name, and fetch them from packages",
    "envs": "list environments, their options and task counts",
    "check-env": "check an environment: our protocol, rewards, seeds, isolation, oracle",
    "algorithms": "list algorithms with their papers",
    "plugins": "list everything that you can choose by name, with its package",
    "runs": "list run folders: progress, outcome and size of each",
    "presets": "list the shipped presets: environment, model and duration of each",
}

_HELP_FLAGS = ("-h", "--help", "--help-all")
_HELP = """usage: stapo COMMAND ...

Train LLM agents over many steps: STAPO, its ablations and its baselines.

commands:
{commands}

start here:
  stapo train                            train the embedded default on generated household tasks (minutes, CPU)
  stapo train --algorithm gigpo          the same with a baseline
  stapo train alfworld-tiny --env.games DIR  a small policy on real ALFWorld games
  stapo play                             try a task yourself

'stapo help COMMAND' (or 'stapo COMMAND --help') explains a command; 'stapo COMMAND --help-all' has every setting.
"""


def _in_lines() -> Listener:
    """Lines on stderr about what takes long; how they are worded is loaded with the first."""
    lines: list[Any] = []

    def say(what: str, done: int, total: int) -> None:
        if not lines:
            from stapo.cli.progress import Lines

            lines.append(Lines(complain))
        lines[0].stage(what, done, total)

    return say


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 done, 1 a run that failed or output that could not be written, 2 wrong input, 130 and 143 stopped by SIGINT and
    SIGTERM, 141 nobody reads the output any more.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    prepare()
    return guarded(lambda: _run(args))


def _run(args: list[str]) -> int:
    if args[:1] == ["help"] and len(args) > 1:
        args = [args[1], "--help"]
    if not args or args[0] in ("-h", "--help", "help"):
        width = max(map(len, _COMMANDS))
        write_line(_HELP.format(commands="\n".join(f"  {name:<{width}}  {what}" for name, what in _COMMANDS.items())))
        return 0
    if args[0] in ("-V", "--version"):
        print("stapo", __version__)
        return 0
    name = args[0]
    if name not in _COMMANDS:
        complain(f"error: unknown command '{name}'.{did_you_mean(name, _COMMANDS)} Commands: {', '.join(_COMMANDS)}.")
        return 2
    args, former = with_present_flags(args)
    for flag, present in former.items():
        complain(f"warning: {flag} has another name now, {present}; this one will go.")
    from stapo.cli.command import read
    from stapo.cli.help import help_of

    try:
        guard_secrets(args[1:])
        # Each command imports what it needs: `stapo --help` must not wait for it.
        command: type[Command] = import_module(f"stapo.cli.{name.replace('-', '_')}_command").COMMAND
        if any(word in _HELP_FLAGS for word in args[1:]):
            write_line(help_of(command, name, args[1:]))
            return 0
        given, settings = read(command, name, args[1:])
        listen(_in_lines())
        listen_to_notes(lambda text: complain(f"note: {_in_one_line(text)}"))
        with _former_names_said(), files_named():
            return given.run(settings, args[1:])
    except StapoError as err:
        complain(f"error: {_in_one_line(str(err))}")
        return 1 if isinstance(err, _FAILED_RUN) else 2
    except KeyboardInterrupt as err:
        complain(f"interrupted: {_in_one_line(str(err))}" if str(err) else "interrupted")
        return int(getattr(err, "exit_code", 130))


@contextmanager
def _former_names_said() -> Iterator[None]:
    """Inside, a former name of a setting is one line on stderr, once."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", FormerNameWarning)
        show = warnings.showwarning

        def say(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if not issubclass(category, FormerNameWarning):
                show(message, category, *where)
            elif str(message) not in said:
                said.add(str(message))
                complain(f"warning: {_in_one_line(str(message))}")

        warnings.showwarning = say  # type: ignore[assignment]
        yield


def _in_one_line(text: str) -> str:
    """The text without line ends, a list of lines with semicolons."""
    stripped = text.strip()
    return re.sub(r"\s*[\r\n]+\s*", lambda m: " " if stripped[max(0, m.start() - 1)] in ".:;,!?" else "; ", stripped)


def prepare() -> None:
    """Let every text be printed: what an encoding lacks is spelt out, and what is closed swallows it."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (it lives as long as the process)
        elif hasattr(stream, "reconfigure"):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")


def complain(text: str) -> None:
    """Print to standard error, which may be gone."""
    with suppress(OSError, ValueError):
        print(escape_control_chars(text), file=sys.stderr, flush=True)


def guarded(command: Callable[[], int]) -> int:
    """The exit code of a command, once all that it printed is written, or could not be.

    A reader that has seen enough (`| head`) ends the command silently, a disk that is full with one line.
    """
    try:
        try:
            code = command()
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):  # so rich's tables leave
                raise end.__context__ from None
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard()
        return READER_LEFT
    except OSError as err:
        if err.filename is not None or err.errno not in _NO_ROOM:  # files have names, and errors of their own
            raise
        _discard()
        complain(f"error: the output cannot be written: {err.strerror or err}.")
        return NOT_WRITTEN


def _discard() -> None:
    """Nothing more is written to standard output, not even by the interpreter when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        number = sys.stdout.fileno()
        empty = os.open(os.devnull, os.O_WRONLY)
        os.dup2(empty, number)
        os.close(empty)


if __name__ == "__main__":
    raise SystemExit(main())
