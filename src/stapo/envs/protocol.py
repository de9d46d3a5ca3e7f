"""The public protocol that every environment follows.

An environment plays one episode at a time: `reset(task_id)` starts the episode of that task from its fixed initial
state, `step(action)` takes free text and never raises on it (text that the world does not understand is a wasted
turn, not an error), `close()` frees what it holds. Tasks have stable ids, sorted, and belong to splits. The same task
id always gives the same episode for the same actions.

What does not follow this costs its episode and no more: an exception (`stapo.errors.RetrieverError` is recorded as the
retriever's failure, everything else as the environment's), a result of another type than the classes below, a reward
that is not a number. A reward may be an int, a float, a bool (True is 1) or a NumPy scalar; NaN and infinity stop
training before the weights move.

An environment may have further parts; each is a protocol below, and `isinstance` tells which of them it has:
`HasDemonstrator` for SFT (a demonstrator that `Thinks` says why), `Expert` for hints and for finding tasks that cannot
be won, `HasJudge` for `stapo diagnose`, `HasState` for what it carries from one episode to the next, `HasCommandShapes`
for prompts that shorten lists of commands and number links, `HasChatSettings` for pretrained models,
`HasDefaultPresets` for the presets that its name stands for, `HasTaskScore` for partial credit, `HasNotes` for what is
odd about its data.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from stapo.agent.pages import NO_SHAPES as NO_SHAPES
from stapo.agent.pages import CommandShapes as CommandShapes
from stapo.agent.tools import Tool as Tool
from stapo.agent.tools import read_call as read_call
from stapo.agent.tools import write_call as write_call
from stapo.errors import EnvError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Observation:
    """What an episode begins with.

    Attributes:
        text: the observation as the environment words it.
        goal: the task sentence alone.
        admissible: sorted commands that the world understands now, or None where actions are free text. A command with
            a placeholder in angle brackets, such as ``search[<your query>]``, stands for every command with some text
            in its stead (`stapo.envs.offers`).
        blind_text: `text` with every trace of the goal removed, for the trajectory-blind prompt.
    """

    text: str
    goal: str
    admissible: list[str] | None = None
    blind_text: str | None = None

    @property
    def blind(self) -> str:
        """The text for the trajectory-blind prompt: `blind_text`, or `text` where that has no trace of the goal."""
        return self.text if self.blind_text is None else self.blind_text


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one action led to.

    Attributes:
        text: the new observation.
        admissible: as in `Observation`.
        reward: reward of this step, in the environment's own unit (ALFWorld: 1.0 on success, else 0.0).
        done: the episode is over, by success, failure or the step limit.
        won: the task is solved.
        info: further facts. Keys in use: ``truncated`` (bool, ended by the step limit alone) and
            ``effect`` (bool, the action changed the state of the world), and, where an environment judges by degrees,
            ``task_score`` (float, 0 … 1, when the episode is over), and ``retriever_error`` (text: a search engine
            failed, and the turn was used up) with ``retriever_error_kind`` (one word, for counting), and ``rewards``
            (name -> number: rewards of this step beside `reward`, which training weighs by `rewards.weights`).
        blind_text: `text` with every trace of the goal removed, for the trajectory-blind prompt; None where the
            observation has no trace of it.
    """

    text: str
    admissible: list[str] | None
    reward: float
    done: bool
    won: bool
    info: dict[str, Any] = field(default_factory=dict)
    blind_text: str | None = None

    @property
    def blind(self) -> str:
        """As in `Observation`."""
        return self.text if self.blind_text is None else self.blind_text


@runtime_checkable
class Env(Protocol):
    """A text environment; see the module docstring for the contract."""

    name: str
    max_steps: int

    def __init__(self, **options: Any) -> None: ...

    @property
    def tasks(self) -> Sequence[str]:
        """All task ids, sorted."""
        ...

    @property
    def splits(self) -> Sequence[str]:
        """Names of the splits that hold at least one task, train first."""
        ...

    def tasks_of(self, split: str) -> Sequence[str]:
        """Sorted task ids of one split. Raises UnknownNameError for a split that does not exist."""
        ...

    def task_type(self, task_id: str) -> str:
        """The family a task is reported under (ALFWorld: one of six)."""
        ...

    def reset(self, task_id: str) -> Observation:
        """Start the episode of `task_id`. Raises UnknownNameError for an id that does not exist."""
        ...

    def step(self, action: str) -> StepResult:
        """Take one action. Raises EnvError before reset or after the episode ended."""
        ...

    def close(self) -> None:
        """Free what the environment holds; calling it twice is fine."""
        ...


def tasks_in(env: Env, split: str | None) -> Sequence[str]:
    """Sorted task ids of a split; None for the first one. Raises UnknownNameError for a split that does not exist."""
    return env.tasks_of(env.splits[0] if split is None else split)


def begun(episode: T | None, what: str) -> T:
    """A part of the episode that `reset` sets. Raises EnvError before that; `what` names the part."""
    if episode is None:
        raise EnvError(f"there is no {what} before reset; call reset(task_id) first.")
    return episode


def going_on(episode: T | None, over: bool) -> T:
    """The episode in which a step is taken. Raises EnvError before reset, and where it is over."""
    if episode is None:
        raise EnvError("step was called before reset; call reset(task_id) first.")
    if over:
        raise EnvError("step was called after the episode ended; call reset(task_id) to start another.")
    return episode


@runtime_checkable
class Demonstrator(Protocol):
    """Plays one episode as it is to be imitated, by what an agent could know at each step."""

    def action(self) -> str | None:
        """Return the next command, None when there is nothing left to do; the same until `played` is called."""
        ...

    def played(self, action: str, effect: bool) -> None:
        """Note which command was taken, which may be another, and whether it had an effect."""
        ...


@runtime_checkable
class Thinks(Protocol):
    """A demonstrator that says why, for responses that hold a thought."""

    def thought(self) -> str:
        """The thought behind the command that `action` returned last, in a sentence or two."""
        ...


@runtime_checkable
class HasDemonstrator(Protocol):
    """An environment whose episodes can be demonstrated."""

    def demonstrator(self, rng: random.Random) -> Demonstrator:
        """A player for the episode that was just reset; `rng` decides everything that is drawn."""
        ...


@runtime_checkable
class Expert(Protocol):
    """An environment that knows how its episodes are won."""

    def expert_plan(self) -> list[str] | None:
        """The commands that win from here, none where it is won, None where it cannot be."""
        ...


@runtime_checkable
class HasState(Protocol):
    """An environment that carries something from one episode to the next, a random generator of its own, say.

    A resumed run then has the same numbers.
    """

    def state_dict(self) -> Any:
        """Return it, in JSON's types."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Take it back, before any episode was begun."""
        ...


@runtime_checkable
class HasCommandShapes(Protocol):
    """An environment that says how its commands and pages look, where an agent acts, and which tools it has.

    An action is then a call of one of its tools where `agent.response` is `tool_call`: JSON, for `read_call`.
    """

    command_shapes: CommandShapes


@runtime_checkable
class HasChatSettings(Protocol):
    """An environment whose class says which settings of the agent suit an instruction-tuned model (`--model.path`)."""

    chat_settings: Mapping[str, Any]


@runtime_checkable
class HasDefaultPresets(Protocol):
    """An environment whose class says what its name stands for where a preset is expected.

    Keys: `scratch`, for a small model that is trained from scratch, and `pretrained`, for a pretrained model that
    plays; either may be missing. Values: a shipped preset, or the path of a YAML file.
    """

    default_presets: Mapping[str, str]


@runtime_checkable
class HasTaskScore(Protocol):
    """An environment whose class says that it judges by degrees: each episode ends with ``info["task_score"]``.

    A run can then choose its best policy by `task_score` (`eval.keep_best`).
    """

    has_task_score: bool


@runtime_checkable
class HasNotes(Protocol):
    """An environment that says what is odd about its data."""

    @property
    def notes(self) -> Sequence[str]:
        """One sentence each."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Names what was wrong with each step of one episode, by what the environment knows and a model may not.

    It is told every command just before `Env.step` takes it, and what came of it just after. It looks at the
    environment and never changes it: an episode goes on as it would without.

    Names in use: ``invalid`` (the world does not understand the command), ``repeated`` (without effect, and given
    before in the same state), ``revisit`` (back to a place already searched, for nothing), ``detour`` (the shortest way
    to the goal is longer than before). Further ones are welcome.

    Attributes:
        faults: every name that `after` may return, with a sentence that explains it.
    """

    faults: Mapping[str, str]

    def before(self, action: str) -> None:
        """Note a command that is about to be taken."""
        ...

    def after(self, result: StepResult) -> AbstractSet[str]:
        """Return the faults of the command that was just taken, none for a good step."""
        ...


@runtime_checkable
class HasJudge(Protocol):
    """An environment that can tell good steps from bad ones by itself."""

    def judge(self) -> Judge:
        """A judge of the episode that was just reset."""
        ...
