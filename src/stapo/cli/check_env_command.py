"""`stapo check-env NAME`: whether an environment keeps our protocol, and what OpenEnv's RFC 008 asks of one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial

from rich.console import Console
from tyro.conf import Positional

from stapo.cli.command import Command, arg
from stapo.cli.env_calls import asked
from stapo.cli.words import foreign, say

_STYLES = {"pass": "green", "skip": "dim", "fail": "red", "error": "bold red"}


@dataclass(frozen=True, kw_only=True)
class CheckEnv(Command):
    """Check an environment: our protocol, and rewards, seeds, determinism, isolation, oracle, floor and leaks.

    The exit code is 0 where nothing is wrong, 1 where a check fails, 2 where the environment cannot be built or a
    server that it needs does not answer, 3 where a check could not be done.

    Attributes:
        name: environment; 'stapo envs' lists them.
        tasks: tasks to play, evenly spaced; 1 or more (default: 5).
        json: print machine-readable JSON: one object for each check.
    """

    EXAMPLES = """
stapo check-env sokoban
stapo check-env alfworld --env.scenes tiny --json
"""
    PASSES = ("env.",)

    name: Positional[str] = arg("NAME", needs="an environment; 'stapo envs' lists them")
    tasks: int = arg("N", 5, least=1)
    json: bool = False

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        from stapo.cli.arguments import own_env_options
        from stapo.envs.conformance import exit_code, report
        from stapo.envs.guard import close_quietly
        from stapo.envs.protocol import HasNotes
        from stapo.envs.registry import make
        from stapo.progress import note

        own, _ = own_env_options(settings, self.name, "check-env")
        env = make(self.name, **own)
        for text in asked(lambda: list(env.notes) if isinstance(env, HasNotes) else [], "reading its notes"):
            note(str(text))
        close_quietly(env)
        rows = report(partial(make, self.name, **own), self.tasks)
        if self.json:
            print(json.dumps([asdict(row) for row in rows], indent=1))
            return exit_code(rows)
        console = Console()
        for row in rows:
            measured = ", ".join(f"{key} {value:g}" for key, value in row.measured.items())
            said = "; ".join(part for part in (measured, " ".join(row.evidence.split())) if part)
            said = f"{said.rstrip('.')}. {row.remediation}" if row.remediation else said
            say(console, foreign(f"{row.status:5}  {row.check_id}  {said}".rstrip()), _STYLES[row.status])
        return exit_code(rows)


COMMAND = CheckEnv
