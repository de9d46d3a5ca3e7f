"""An environment behind a server of the OpenEnv protocol, under our protocol: one session for each instance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from stapo.checks import DAY_S, check_integer, check_number, check_text
from stapo.documents import number, shown
from stapo.envs.foreign import FIRST_HELDOUT_SEED, ForeignEnv, ForeignObservation, texts_of
from stapo.envs.openenv.session import ServerSession
from stapo.errors import ConfigError, EnvServerError
from stapo.progress import note
from stapo.texts import escape_control_chars

_FIELDS_SHOWN = 500  # characters of the names of fields in a message


class OpenEnvEnv(ForeignEnv):
    """Environments behind servers of the OpenEnv protocol, one episode at a time.

    Args:
        url: address of the server, http://HOST:PORT, or that of its sessions, ws://HOST:PORT/ws. A token goes into
            $STAPO_OPENENV_TOKEN.
        goal: task sentence where observations have none.
        text_field: field of observations that is shown; None takes text, and all of the observation as JSON where
            there is none.
        goal_field: field of observations with the task sentence.
        action_field: field of actions that takes the command.
        admissible_field: field of observations that lists the commands that work now.
        won_field: field of observations that says whether the task is solved; without it, an end with a reward above 0
            counts as won. `effect` and `task_score` are taken from their `info`, where our own servers have them.
        reset: further fields that an episode is asked for with, as a mapping, such as {split: train}.
        heldout_reset: the same for tasks of the split heldout; None takes those of train.
        tasks: tasks of the split train; their seeds are 0, 1, 2 and so on.
        heldout: tasks of the split heldout; their seeds begin at 1,000,000,000.
        max_steps: actions after which an episode ends.
        seconds: that the server may take for one answer.
        max_message: bytes of an answer at most.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name = "openenv"

    def __init__(
        self,
        url: str,
        goal: str = "Get as much reward as possible.",
        text_field: str | None = None,
        goal_field: str = "goal",
        action_field: str = "command",
        admissible_field: str = "admissible",
        won_field: str = "won",
        reset: Mapping[str, Any] | None = None,
        heldout_reset: Mapping[str, Any] | None = None,
        tasks: int = 1_000,
        heldout: int = 100,
        max_steps: int = 50,
        seconds: float = 60.0,
        max_message: int = 16 << 20,
    ) -> None:
        super().__init__("openenv", goal, tasks, heldout, max_steps)
        for option, given in (("reset", reset), ("heldout_reset", heldout_reset)):
            if given is not None and not isinstance(given, Mapping):
                raise ConfigError(
                    f"{option} is {shown(given)}, expected a mapping of fields: --env.{option}.FIELD VALUE, or a "
                    "mapping in a file."
                )
        for option, name in (
            ("text_field", "text" if text_field is None else text_field),
            ("goal_field", goal_field), ("action_field", action_field),
            ("admissible_field", admissible_field), ("won_field", won_field),
        ):  # fmt: skip
            check_text(option, name, "the name of a field")
        self._session = ServerSession(
            check_text("url", url, "the address of a server, such as http://127.0.0.1:8000"),
            check_number("seconds", seconds, 0, DAY_S, open_low=True),
            check_integer("max_message", max_message, 1),
        )
        self._text_field, self._goal_field, self._action_field = text_field, goal_field, action_field
        self._admissible_field, self._won_field = admissible_field, won_field
        self._train = dict(reset or {})
        self._heldout = self._train if heldout_reset is None else dict(heldout_reset)
        for remark in self.notes:
            note(remark)

    @property
    def notes(self) -> Sequence[str]:
        """What this environment cannot promise."""
        return (
            f"the server {self._session.name} plays the episodes. Only if it honors seeds do they repeat, and does a "
            "resumed run have the same numbers.",
        )

    def close(self) -> None:
        """End the session; the environment can be reset again."""
        self._session.close()
        self._goal = None

    def _begin(self, seed: int) -> ForeignObservation:
        more = self._heldout if seed >= FIRST_HELDOUT_SEED else self._train
        return self._seen(self._session.ask("reset", {"seed": seed, **more}))

    def _act(self, action: str) -> ForeignObservation:
        return self._seen(self._session.ask("step", {self._action_field: action}))

    def _seen(self, data: Mapping[str, Any]) -> ForeignObservation:
        observation: Mapping[str, Any] = data["observation"]
        given, done = data.get("reward"), data.get("done", False)
        reward = 0.0 if given is None else number(given)
        if not math.isfinite(reward):
            raise self._malformed(f"the reward {shown(given)}, expected a finite number or null")
        if not isinstance(done, bool):
            raise self._malformed(f"done {shown(done)}, expected true or false")
        facts = observation.get("info")
        facts = facts if isinstance(facts, dict) else {}
        effect, score = facts.get("effect"), number(facts.get("task_score"))
        goal, won = observation.get(self._goal_field), observation.get(self._won_field)
        return ForeignObservation(
            text=self._text(observation),
            admissible=texts_of(observation.get(self._admissible_field)),
            goal=goal if isinstance(goal, str) and goal.strip() else None,
            reward=reward,
            done=done,
            truncated=done and observation.get("truncated") is True,
            won=won if isinstance(won, bool) else None,
            effect=effect if isinstance(effect, bool) else True,
            info={"task_score": score} if 0 <= score <= 1 else {},
        )

    def _text(self, observation: Mapping[str, Any]) -> str:
        field = self._text_field or "text"
        found = observation.get(field)
        if isinstance(found, str):
            return found
        if self._text_field is not None:
            fields = escape_control_chars(", ".join(observation)[:_FIELDS_SHOWN]) or "none"
            raise self._malformed(
                f"no text in the field '{field}' of its observation; its fields are {fields}, and --env.text_field "
                "names another one"
            )
        return json.dumps(observation, ensure_ascii=False)

    def _malformed(self, found: str) -> EnvServerError:
        self._session.close()
        return EnvServerError(f"the environment's server {self._session.name} answered with {found}.", "malformed")
