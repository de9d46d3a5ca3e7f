"""`stapo serve-env NAME`: an environment behind the OpenEnv protocol."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from tyro.conf import Positional

from stapo.cli.command import Command, arg
from stapo.cli.env_calls import asked
from stapo.cli.serving import serve_until_stopped, token_of
from stapo.cli.words import write_line

TOKEN_VARIABLE = "STAPO_ENV_TOKEN"


@dataclass(frozen=True, kw_only=True)
class ServeEnv(Command):
    """Serve an environment to other programs by the OpenEnv protocol: sessions over /ws, and plain requests.

    An action has one field, command. A client chooses its episode by task_id, or by seed and split. Ctrl-C or SIGTERM
    stops the server after the current calls.

    Attributes:
        name: environment; 'stapo envs' lists them.
        host: address to listen on (default: 127.0.0.1). Any other than this machine's own needs a token.
        port: port to listen on, 0 to 65535 (default: 8000); 0 takes a free one.
        token: token that clients have to send, as a bearer token or as the password in their address.
            $STAPO_ENV_TOKEN is safer: the list of processes does not show it.
        split: split that tasks are drawn from where a client names none (default: the first).
        seed: draw the same tasks every time where a client names neither a task nor a seed; 0 or more.
        max_sessions: sessions at once; 1 or more (default: 256).
        idle_seconds: seconds after which a session without a message ends; above 0 (default: 600).
        call_seconds: seconds that a call of the environment may take; above 0 (default: 60).
        threads: calls of environments at a time; 1 or more (default: 1). More help environments that wait for others,
            such as a search server; the environment must be safe to call from several threads.
        max_message: maximum number of bytes of a message; 1000 or more (default: 1048576).
    """

    EXAMPLES = """
stapo serve-env alfworld --port 8000
stapo serve-env sokoban --split heldout --env.boxes 2
"""
    PASSES = ("env.",)

    name: Positional[str] = arg("NAME", needs="an environment; 'stapo envs' lists them")
    host: str = arg("ADDRESS", "127.0.0.1", needs="an address")
    port: int = arg("N", 8000, least=0)
    token: str | None = arg("TOKEN", None, needs="a text")
    split: str | None = arg("NAME", None, needs="the name of a split")
    seed: int | None = arg("N", None, least=0, expects="a whole number of at least 0")
    max_sessions: int | None = arg("N", None, least=1)
    idle_seconds: float | None = arg("SECONDS", None, least=0.001)
    call_seconds: float | None = arg("SECONDS", None, least=0.001)
    threads: int | None = arg("N", None, least=1)
    max_message: int | None = arg("N", None, least=1000)

    def run(self, settings: list[str], argv: list[str]) -> int:
        """Run the command; returns the exit code."""
        from stapo.adapters.openenv.server import EnvServerOptions, create_app
        from stapo.cli.arguments import own_env_options
        from stapo.cli.envs_command import summary
        from stapo.envs.guard import close_quietly
        from stapo.envs.registry import ENVIRONMENTS, make
        from stapo.errors import unknown_name
        from stapo.serving.server import listen

        own, _ = own_env_options(settings, self.name, "serve-env")
        given: dict[str, Any] = {name: getattr(self, name) for name in ("max_sessions", "threads", "max_message")}
        given |= {"idle_s": self.idle_seconds, "call_s": self.call_seconds, "split": self.split, "seed": self.seed}
        token = token_of(self.token, TOKEN_VARIABLE)
        options = EnvServerOptions(token=token, **{name: value for name, value in given.items() if value is not None})
        about = summary(ENVIRONMENTS.get(self.name))
        listening = listen(self.host, self.port, token=options.token)
        try:
            # What can be wrong with its options is said here, and not to the first client.
            first = make(self.name, **own)
            splits = asked(lambda: list(first.splits), "listing its splits")
            close_quietly(first)
            if self.split is not None and self.split not in splits:
                raise unknown_name("split", self.split, splits)
            app = create_app(partial(make, self.name, **own), self.name, about, options)
        except BaseException:
            listening.close()
            raise
        return serve_until_stopped(
            app,
            listening,
            options.limits,
            lambda place: write_line(f"{self.name} plays on ws://{place}/ws (base_url http://{place})", flush=True),
        )


COMMAND = ServeEnv
