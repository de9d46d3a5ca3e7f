"""Calls into environments that may raise, exit or return garbage.

What goes wrong becomes a value with a name: `EnvFailure`. That holds for every exception, those that are no `Exception`
included: a canceled task, an exit, classes of the environment's own. `KeyboardInterrupt` alone passes, since it is how
a user stops a run. Values are checked where they enter the package, so that nothing behind this line has to doubt them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from stapo.documents import plain
from stapo.envs.protocol import NO_SHAPES, CommandShapes, Env, HasCommandShapes, Observation, StepResult
from stapo.errors import ConfigError, EnvServerError, GameFileError, RetrieverError, UnknownNameError

T = TypeVar("T")

SETTINGS_ERRORS = (ConfigError, UnknownNameError, GameFileError)
"""Raised by a constructor, these say that no environment can be built with these options, now or later."""

_OTHERS = {RetrieverError: "retriever", EnvServerError: "server"}
"""Errors with which an environment says that the failure is not its own."""

_FLAGS = ("truncated", "effect")
_FLAG = (bool, type(None))
_SCALARS = (*_FLAGS, "task_score")
_TEXTS = frozenset({str})
_TEXT_OR_NONE = (str, type(None))
_TYPES: dict[str, tuple[Any, str]] = {
    "text": (str, "a text"),
    "goal": (str, "a text"),
    "done": (bool, "True or False"),
    "won": (bool, "True or False"),
    "blind_text": (_TEXT_OR_NONE, "a text or None"),
}
_DETAIL = 2_000
_SHORT = 80


@dataclass(frozen=True, slots=True)
class Started:
    """An episode that has begun.

    Attributes:
        observation: what the environment returned from `reset`.
        task_type: the family that the task is reported under.
        shapes: how the commands and pages of the environment look.
    """

    observation: Observation
    task_type: str
    shapes: CommandShapes = NO_SHAPES


@dataclass(frozen=True, slots=True)
class EnvFailure:
    """A call that failed.

    Attributes:
        boundary: whose failure it is: "environment", "retriever", "server" or "reward".
        error: what was called and what happened.
        detail: the end of the stack trace, or the last that a worker wrote; "" where there is neither.
    """

    boundary: str
    error: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class EpisodeLost:
    """An episode that is gone without a fault of its own.

    Attributes:
        reason: what took it along.
    """

    reason: str


def attempt(
    call: Callable[[], T], name: Callable[[], str], passing: tuple[type[BaseException], ...] = ()
) -> T | EnvFailure:
    """What a call into an environment returns, or its failure; `passing` are exceptions that are let through."""
    try:
        return call()
    except KeyboardInterrupt:
        raise
    except passing:
        raise
    except BaseException as err:
        return raised(err, name())


def start(env: Env, task_id: str, passing: tuple[type[BaseException], ...] = ()) -> Started | EnvFailure:
    """Begin the episode of a task; `passing` are exceptions that are let through."""
    call = f"reset({short(task_id)})"

    def begin() -> Started | EnvFailure:
        task_type: Any = env.task_type(task_id)
        seen = env.reset(task_id)
        shapes: Any = env.command_shapes if isinstance(env, HasCommandShapes) else NO_SHAPES
        wrong = _wrong(seen, Observation)
        if not wrong and not isinstance(task_type, str):
            wrong = f"task_type {short(task_type)}, expected a text"
        if not wrong and not isinstance(shapes, CommandShapes):
            wrong = f"command_shapes {short(shapes)}, expected CommandShapes"
        return EnvFailure("environment", f"{call} returned {wrong}") if wrong else Started(seen, task_type, shapes)

    return attempt(begin, lambda: call, passing)


def advance(env: Env, action: str, passing: tuple[type[BaseException], ...] = ()) -> StepResult | EnvFailure:
    """Take one action; `passing` are exceptions that are let through."""
    return attempt(lambda: _advanced(env, action), lambda: f"step({short(action)})", passing)


def _advanced(env: Env, action: str) -> StepResult | EnvFailure:
    out: StepResult = env.step(action)
    if _is_plain(out):
        return out
    out = _with_plain_numbers(out)
    if wrong := _wrong(out, StepResult):
        return EnvFailure("environment", f"step({short(action)}) returned {wrong}")
    if unpaid := wrong_reward(out.reward) or _wrong_rewards(out.info.get("rewards")):
        return EnvFailure("reward", f"step({short(action)}) returned {unpaid}")
    return out


def close_quietly(env: Env) -> None:
    """Close an environment that nobody asks anything any more; what it raises then is of no use to anybody."""
    attempt(env.close, str)


def raised(err: BaseException, call: str) -> EnvFailure:
    """The value for an exception."""
    boundary = next((name for kind, name in _OTHERS.items() if isinstance(err, kind)), "environment")
    said = _shown(lambda: str(err), "(its text cannot be shown)")
    detail = _shown(lambda: "".join(traceback.format_exception(err))[-_DETAIL:], "")
    return EnvFailure(boundary, f"{call} raised {type(err).__name__}" + (f": {said}" if said else ""), detail)


def short(value: object) -> str:
    """A value as it is shown in a message, of at most 80 characters or so."""
    text = _shown(lambda: repr(value), f"(an unprintable {type(value).__name__})")
    return text if len(text) <= _SHORT else text[: _SHORT - 2] + " …"


def _shown(text: Callable[[], str], otherwise: str) -> str:
    """What foreign code says of itself; that may also fail."""
    try:
        return text()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return otherwise


def _is_plain(out: Any) -> bool:
    """What well-behaved environments return needs no closer look, and no microseconds."""
    return (
        type(out) is StepResult
        and type(out.text) is str
        and type(out.reward) is float
        and type(out.done) is bool
        and type(out.won) is bool
        and type(out.info) is dict
        and type(out.info.get("truncated")) in _FLAG
        and type(out.info.get("effect")) in _FLAG
        and out.info.get("task_score") is None
        and "rewards" not in out.info
        and type(out.blind_text) in _TEXT_OR_NONE
        and (out.admissible is None or (type(out.admissible) is list and _TEXTS.issuperset(map(type, out.admissible))))
    )


def _with_plain_numbers(out: Any) -> Any:
    if not isinstance(out, StepResult):
        return out
    info: Any = out.info
    if isinstance(info, dict):
        info = {key: plain(value) if key in _SCALARS else value for key, value in info.items()}
        if isinstance(info.get("rewards"), dict):
            info["rewards"] = {name: plain(value) for name, value in info["rewards"].items()}
    return replace(out, reward=plain(out.reward), done=plain(out.done), won=plain(out.won), info=info)


def wrong_parts(seen: Any) -> Iterator[tuple[str, object, str]]:
    """Each part of an `Observation` or `StepResult` that is of another type: its name, its value, what is expected.

    Numbers are not looked at.
    """
    info: Any = getattr(seen, "info", {})
    if isinstance(info, dict):
        for key in _FLAGS:
            if not isinstance(info.get(key), _FLAG):
                yield f"info['{key}']", info[key], "True or False"
    else:
        yield "info", info, "a dict"
    for what, (kinds, expected) in _TYPES.items():
        if hasattr(seen, what) and not isinstance(value := getattr(seen, what), kinds):
            yield what, value, expected
    commands = seen.admissible
    if commands is not None and not (isinstance(commands, list) and all(isinstance(one, str) for one in commands)):
        yield "admissible", commands, "a list of texts or None"


def _wrong(seen: Any, kind: type[Observation] | type[StepResult]) -> str:
    """What is wrong with what an environment returned, its rewards aside; "" for nothing."""
    if not isinstance(seen, kind):
        return f"{short(seen)}, expected {'an' if kind is Observation else 'a'} {kind.__name__}"
    for what, value, expected in wrong_parts(seen):
        return f"{what} {short(value)}, expected {expected}"
    score = seen.info.get("task_score") if isinstance(seen, StepResult) else None
    if score is not None and not (isinstance(score, int | float) and 0 <= score <= 1):
        return f"info['task_score'] {short(score)}, expected a number from 0 to 1"
    return ""


def _wrong_rewards(rewards: object) -> str:
    if rewards is None:
        return ""
    if not isinstance(rewards, dict) or not all(isinstance(name, str) for name in rewards):
        return f"info['rewards'] {short(rewards)}, expected a dict of names and numbers"
    wrong = ((name, wrong_reward(value)) for name, value in rewards.items())
    return next((f"info['rewards'][{short(name)}] as {said}" for name, said in wrong if said), "")


def wrong_reward(reward: object) -> str:
    """What is wrong with a reward, "" for nothing.

    NaN and infinity pass: training stops on them, and names the row, before the weights move.
    """
    if not isinstance(reward, int | float):
        return f"reward {short(reward)}, expected a number"
    try:
        float(reward)
    except OverflowError:
        return "a reward that is too large for a number, expected one that fits"
    return ""
