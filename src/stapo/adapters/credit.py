"""Advantages and flags for other trainers: from plain rows, by the function that our own training calls.

It maps, and computes nothing of its own: rows become trajectories of `stapo.training.batch.build_batch`. A row is one
step of one episode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import index
from typing import Any

from stapo.algo import AlgorithmConfig, get_algorithm
from stapo.documents import plain, shown
from stapo.errors import ConfigError, NonFiniteError, did_you_mean
from stapo.rollout.types import Step, StopReason, Trajectory
from stapo.texts import counted
from stapo.training.batch import build_batch


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One step of one episode.

    Attributes:
        group: the task group: episodes of one task that are compared with each other.
        episode: the episode. Its rows are in the order of its steps; other episodes may stand in between.
        reward: of this step.
        state: key of the state before the action, a text such as that of the observation; equal keys inside one group
            form an anchor group.
        entropy: mean entropy (nats) of the response's tokens, 0 or more; None where it is not known, so that the step
            is never flagged.
        valid: the response kept the format.
        won: the episode was won; one of its rows is enough to say so.
        acts: whether the selective terms may act on the step: its prompt differs from the trajectory-blind one.
    """

    group: Hashable
    episode: Hashable
    reward: float
    state: str
    entropy: float | None = None
    valid: bool = True
    won: bool = False
    acts: bool = True


@dataclass(frozen=True, slots=True)
class StepCredit:
    """What a step gets.

    Attributes:
        advantage: A, for all tokens of the response.
        episode_advantage: its part from the episode's return, before weights.
        step_advantage: its part from the steps of its anchor group; 0 where the algorithm has none.
        normalized_entropy: as compared with the fences; NaN where it has none.
        flagged: the selective terms act on it.
        trajectory_weight: alpha of R_TA where the step is flagged and `selective.gate` asks it for R_TA, else 0.
        independence_weight: gamma of P_TI where the step is flagged, else 0.
    """

    advantage: float
    episode_advantage: float
    step_advantage: float
    normalized_entropy: float
    flagged: bool
    trajectory_weight: float
    independence_weight: float


def assign_credit(
    rows: Sequence[StepRow | Mapping[str, Any]],
    algorithm: str | AlgorithmConfig = "stapo",
    *,
    seed: Sequence[int] | None = None,
) -> list[StepCredit]:
    """Compute advantages and flags of one batch of whole episodes.

    Args:
        rows: of one batch: `StepRow`, or mappings with its fields.
        algorithm: which math; a name of `stapo algorithms` or a configuration.
        seed: of what is drawn by chance: whole numbers of 0 or more, such as (seed, 3, iteration). Algorithms that
            draw, such as `stapo-random`, need it.

    Returns:
        One for each row, in the order of the rows.

    Raises:
        ConfigError: a row lacks a field, has an unknown one or a value of another type (the message names row and
            field), an episode is in two groups, the seed is missing or none, or the algorithm needs more than rows: a
            critic's values, entropies of earlier iterations, or R_TA in its advantages (``gate=bonus``).
        NonFiniteError: a reward or entropy is not finite; the message names the row.
    """
    config = _algorithm(algorithm)
    if config.needs_critic or config.needs_states:
        what = "values of a critic" if config.needs_critic else "entropies of earlier iterations"
        raise ConfigError(f"algorithm '{config.name}' needs {what}, which plain rows do not have; take another one.")
    if config.selective_on and config.selective.gate == "bonus":
        raise ConfigError("selective.gate is 'bonus', which needs R_TA for advantages; expected 'none' or 'positive'.")
    seed = _seed(seed, needed=config.outlier.select == "random", name=config.name)
    if not isinstance(rows, Iterable):
        raise ConfigError(f"rows is {shown(rows)}, expected a list of rows: StepRow, or mappings with its fields.")
    read = [_row(row, number) for number, row in enumerate(rows)]
    if not read:
        return []
    trajectories, places = _trajectories(read)
    batch = build_batch(trajectories, config, seed=seed)
    found: list[StepCredit | None] = [None] * len(read)
    for b, place in enumerate(places):
        flagged = config.selective_on and bool(batch.flag_b[b])
        asked = flagged and (config.selective.gate == "none" or batch.advantages.total_b[b] > 0)
        found[place] = StepCredit(
            advantage=float(batch.advantages.total_b[b]),
            episode_advantage=float(batch.advantages.episode_b[b]),
            step_advantage=float(batch.advantages.step_b[b]),
            normalized_entropy=float(batch.outliers.normalized_b[b]),
            flagged=flagged,
            trajectory_weight=config.selective.alpha if asked else 0.0,
            independence_weight=config.selective.gamma if flagged else 0.0,
        )
    return [credit for credit in found if credit is not None]


_FIELDS = {f.name: f for f in fields(StepRow)}
_NEEDED = ("group", "episode", "reward", "state")


def _algorithm(given: object) -> AlgorithmConfig:
    if isinstance(given, AlgorithmConfig):
        return given
    if isinstance(given, str):
        return get_algorithm(given)
    raise ConfigError(f"algorithm is {shown(given)}, expected a name of 'stapo algorithms' or an AlgorithmConfig.")


def _seed(given: Any, *, needed: bool, name: str) -> list[int] | None:
    if given is None and needed:
        raise ConfigError(f"algorithm '{name}' draws rows by chance; give seed, such as (seed, 3, iteration).")
    if given is None:
        return None
    try:
        seed = [index(number) for number in given]
    except TypeError:
        seed = [-1]
    if not seed or min(seed) < 0:
        raise ConfigError(f"seed is {shown(given)}, expected whole numbers of 0 or more, such as (0, 3, 1).")
    return seed


def _row(row: StepRow | Mapping[str, Any], number: int) -> StepRow:
    if isinstance(row, StepRow):
        return _checked({name: getattr(row, name) for name in _FIELDS}, number)
    if not isinstance(row, Mapping):
        raise ConfigError(f"row {number} is {shown(row)}, expected a StepRow or a mapping with its fields.")
    for key in row:
        if key not in _FIELDS:
            raise ConfigError(
                f"row {number} has the unknown field {shown(key)}.{did_you_mean(str(key), _FIELDS)} Fields: "
                f"{', '.join(_FIELDS)}."
            )
    lacking = [name for name in _NEEDED if name not in row]
    if lacking:
        raise ConfigError(f"row {number} has no {', '.join(lacking)}; every row needs {', '.join(_NEEDED)}.")
    return _checked(row, number)


def _checked(row: Mapping[str, Any], number: int) -> StepRow:
    """A row with plain values: numbers of NumPy and torch become Python's.

    Raises:
        ConfigError: a value of another type.
        NonFiniteError: a reward or entropy is not finite.
    """
    values = {name: plain(value) for name, value in row.items()}
    for name, value in values.items():
        expected, fits = _EXPECTED[name]
        if not fits(value):
            raise ConfigError(f"row {number}: {name} is {shown(value)}, expected {expected}.")
    for name in ("reward", "entropy"):
        value = values.get(name)
        if value is not None and not math.isfinite(value):
            raise NonFiniteError(f"row {number}: {name} is {value}, expected a finite number.")
    return StepRow(**values)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53)


def _is_name(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    # What is not equal to itself (NaN, of a table with gaps) would be a group of its own in every row.
    return value is not None and bool(value == value)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))


_NAME = ("a name: a text, a number, or a tuple of them", _is_name)
_FLAG = ("True or False", _is_flag)
_EXPECTED: dict[str, tuple[str, Callable[[object], bool]]] = {
    "group": _NAME,
    "episode": _NAME,
    "reward": ("a number", _is_number),
    "state": ("a text, equal for equal states", lambda value: isinstance(value, str)),
    "entropy": (
        "a number of nats, 0 or more, or None",
        lambda value: value is None or (_is_number(value) and not value < 0),  # type: ignore[operator]
    ),
    "valid": _FLAG,
    "won": _FLAG,
    "acts": _FLAG,
}


def _trajectories(rows: Sequence[StepRow]) -> tuple[list[Trajectory], list[int]]:
    """The episodes, ordered by group and first row, and where each of their steps stands in `rows`."""
    groups: dict[Hashable, int] = {}
    episodes: dict[Hashable, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.group, len(groups))
        episodes.setdefault(row.episode, []).append(number)
    found: list[tuple[int, list[int]]] = []
    for episode, numbers in episodes.items():
        its_groups = {rows[n].group for n in numbers}
        if len(its_groups) > 1:
            raise ConfigError(
                f"episode {shown(episode)} has rows in {counted(len(its_groups), 'group')}, expected one; "
                "name each episode of the batch differently."
            )
        found.append((groups[rows[numbers[0]].group], numbers))
    found.sort(key=lambda entry: entry[0])
    members: dict[int, int] = {}
    trajectories = []
    for group, numbers in found:
        member = members[group] = members.get(group, -1) + 1
        steps = [_step(rows[n]) for n in numbers]
        won = any(rows[n].won for n in numbers)
        trajectories.append(
            Trajectory("", "", "", group, member, steps, won, StopReason.WON if won else StopReason.STEP_LIMIT)
        )
    return trajectories, [n for _, numbers in found for n in numbers]


def _step(row: StepRow) -> Step:
    """A row as the math takes it. Of its tokens only whether the blind prompt differs is looked at."""
    return Step(
        prompt_ids=[0],
        blind_ids=[1] if row.acts else [0],
        response_ids=[0],
        logprobs=[],
        entropies=[] if row.entropy is None else [float(row.entropy)],
        prompt="",
        blind_prompt="",
        response="",
        action="",
        valid=bool(row.valid),
        problem="",
        anchor=row.state,
        observation=row.state,
        reward=float(row.reward),
    )
