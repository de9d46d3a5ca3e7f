"""Commands and scripts in forked children of a parent that has done what each would do for itself once."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any


@cache
def warm() -> None:
    """Import what trains, have transformers build its tables, compile the report, and draw the rooms of small games."""
    import stapo.training.pipeline  # noqa: F401
    from stapo.envs import make
    from stapo.html.pages import page_environment
    from stapo.report.trajectories import place
    from toy_world import small_policy

    with TemporaryDirectory() as folder:
        small_policy(architecture="qwen3").save(Path(folder) / "model")
    pages = page_environment(place=place)
    for name in ("report", "layout", "cards", "trajectory", "page.css", "page.js", "chat.css"):
        pages.get_template(f"{name}.html.jinja" if "." not in name else f"{name}.jinja")
    env = make("alfworld", scenes="tiny", games_per_type=4, max_steps=5)
    env.reset(env.tasks_of("train")[0])
    env.close()


def fork(does: Callable[[], int], output: int, **changed: str) -> int:
    """The process id of a child that does it and ends with the exit code that comes back, or 70 where it raises.

    Args:
        does: what is done.
        output: descriptor of what the child prints.
        changed: variables of its environment.
    """
    warm()
    if pid := os.fork():
        return pid
    code = 70
    try:
        os.environ.update(changed)
        for standard in (1, 2):
            os.dup2(output, standard)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        code = does()
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_script(script: Path, folder: Path, *argv: str) -> tuple[int, str]:
    """Run a script in a folder as `python SCRIPT ARGV` would; returns its exit code and what it printed."""

    def does() -> int:
        os.chdir(folder)
        sys.argv = [str(script), *argv]
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as err:
            return err.code if isinstance(err.code, int) else int(err.code is not None)
        return 0

    printed = folder / "printed"
    with printed.open("wb") as file:
        _, status = os.waitpid(fork(does, file.fileno()), 0)
    return os.waitstatus_to_exitcode(status), printed.read_text()


class ForkedStapo:
    """In the place of `subprocess.Popen` for `python -m stapo ARGS`: runs the same command line, in a forked child."""

    def __init__(
        self, argv: list[str], *, stdout: IO[bytes], env: dict[str, str], process_group: int, **_: Any
    ) -> None:
        from stapo.cli.main import main

        assert argv[0] == sys.executable
        words = [word for word in argv[argv.index("stapo") + 1 :] if not word.startswith("--parent=")]

        def does() -> int:
            os.setpgid(0, process_group)
            return main(words)

        self.pid, self._code = fork(does, stdout.fileno(), **env), None

    def poll(self) -> int | None:
        """The exit code, or None as long as it runs."""
        if self._code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if found else None
        return self._code
