"""A report on an environment: our protocol, and what OpenEnv's RFC 008 asks of one, as far as it applies to text.

Each check is a row with what was measured. The oracle is the environment's expert, or else its demonstrator; checks
that need one are skipped where there is none. Names of checks are those of the RFC.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from stapo.envs.check import violations
from stapo.envs.guard import EnvFailure, attempt, close_quietly
from stapo.envs.offers import is_template
from stapo.envs.protocol import Env, Expert, HasDemonstrator, Observation, StepResult
from stapo.errors import ConfigError, EnvServerError, RetrieverError

Status = Literal["pass", "fail", "skip", "error"]

_MOST_STEPS = 200  # of an episode at random; the oracle plays to the end
_RETURN_MARGIN = 1e-9
_NO_ORACLE = "no expert and no demonstrator"


@dataclass(frozen=True)
class CheckRow:
    """What one check has found.

    Attributes:
        check_id: name of the check.
        status: "error" where the check itself could not be done.
        measured: numbers.
        evidence: what was seen, in a sentence.
        remediation: what to do; "" where nothing is wrong.
    """

    check_id: str
    status: Status
    measured: dict[str, Any] = field(default_factory=dict)
    evidence: str = ""
    remediation: str = ""


@dataclass(frozen=True)
class Played:
    """An episode.

    Attributes:
        seen: all that was seen, the first observation first.
        rewards: of its steps.
        won: the task was solved.
    """

    seen: list[Observation | StepResult]
    rewards: list[float]
    won: bool

    @property
    def total(self) -> float:
        """Sum of the rewards."""
        return sum(self.rewards)


def report(build: Callable[[], Env], tasks: int = 5) -> list[CheckRow]:
    """Check an environment.

    Args:
        build: makes one; several are needed.
        tasks: how many tasks are played, spread over all of them.

    Raises:
        EnvServerError, RetrieverError: what the environment depends on does not answer, so that nothing could be said
            of the environment itself.
    """
    rows: list[CheckRow] = []
    with _closing(build) as made:
        probe = made()
        attempt(lambda: probe.reset(probe.tasks[0]), str, passing=(EnvServerError, RetrieverError))
        first = made()
        every = attempt(lambda: list(first.tasks), lambda: "tasks")
        listed = [] if isinstance(every, EnvFailure) else every
        number = max(1, min(tasks, len(listed)))
        sample = [listed[place * (len(listed) - 1) // max(1, number - 1)] for place in range(number)] if listed else []
        for name, found in violations(first).items():
            check_id = f"protocol.{name.replace(' ', '_').replace(',', '')}"
            if found:
                more = "stapo.check_env lists everything that was found, with what to do."
                rows.append(CheckRow(check_id, "fail", evidence=found[0], remediation=more))
            else:
                rows.append(CheckRow(check_id, "pass"))
    if not sample:
        said = every.error if isinstance(every, EnvFailure) else "there are no tasks"
        return rows + [CheckRow(name, "error", {}, said, "List the tasks, sorted.") for name in _CHECKS]
    for name, check in _CHECKS.items():
        try:
            with _closing(build) as made:
                measured, said, advice = check(made, sample)
            status: Status = "fail" if advice else "skip" if said else "pass"
            rows.append(CheckRow(name, status, measured, said, advice))
        except KeyboardInterrupt:
            raise
        except BaseException as err:  # an environment that exits as well
            said = f"{type(err).__name__}: {' '.join(str(err).split())}".removesuffix(": ")
            rows.append(CheckRow(name, "error", {}, said, "Run the episode by hand with 'stapo play'."))
    return rows


@contextmanager
def _closing(build: Callable[[], Env]) -> Iterator[Callable[[], Env]]:
    """Gives what builds environments; they are closed at the end, whatever happened."""
    with ExitStack() as stack:

        def made() -> Env:
            env = build()
            stack.callback(close_quietly, env)
            return env

        yield made


def exit_code(rows: Sequence[CheckRow]) -> int:
    """0 where nothing is wrong, 1 where a check fails, 3 where one could not be done."""
    statuses = {row.status for row in rows}
    return 3 if "error" in statuses else 1 if "fail" in statuses else 0


def _random_action(rng: random.Random, seen: Observation | StepResult) -> str:
    offered = [command for command in seen.admissible or () if not is_template(command)]
    return rng.choice(offered) if offered else f"look {rng.randrange(10)}"


def _episode(
    env: Env, first: Observation, choose: Callable[[Observation | StepResult], str | None], most: int
) -> Played:
    """Play on from a first observation, until the end, until nothing is chosen, or for at most so many steps."""
    seen: list[Observation | StepResult] = [first]
    rewards, won = [], False
    for _ in range(most):
        action = choose(seen[-1])
        if action is None:
            break
        out = env.step(action)
        seen.append(out)
        rewards.append(float(out.reward))
        won = out.won
        if out.done:
            break
    return Played(seen, rewards, won)


def _at_random(env: Env, task: str) -> Played:
    rng = random.Random(task)
    return _episode(env, env.reset(task), lambda seen: _random_action(rng, seen), min(env.max_steps, _MOST_STEPS))


def _by_the_oracle(env: Env, task: str) -> Played | None:
    """The episode of the expert, or else of the demonstrator; None where there is neither for this task."""
    first = env.reset(task)
    plan = env.expert_plan() if isinstance(env, Expert) else None
    if plan is not None:
        moves = iter(plan)
        return _episode(env, first, lambda seen: next(moves, None), env.max_steps)
    if not isinstance(env, HasDemonstrator):
        return None
    try:
        player = env.demonstrator(random.Random(0))
    except ConfigError:
        return None
    last = ""

    def choose(seen: Observation | StepResult) -> str | None:
        nonlocal last
        if isinstance(seen, StepResult):
            player.played(last, bool(seen.info.get("effect", True)))
        action = player.action()
        last = action or ""
        return action

    return _episode(env, first, choose, env.max_steps)


_Found = tuple[dict[str, Any], str, str]
"""What was measured; what was seen, where the check fails or cannot be made; and what to do, where it fails."""


def _told(wrong: Sequence[object], said: str, advice: str) -> tuple[str, str]:
    """What is said of the first that is wrong, and what to do; nothing where none is."""
    return (said.format(wrong[0]), advice) if wrong else ("", "")


def _reward_well_formed(build: Callable[[], Env], sample: Sequence[str]) -> _Found:
    env = build()
    rewards = [reward for task in sample for reward in _at_random(env, task).rewards]
    wrong = [reward for reward in rewards if not math.isfinite(reward)]
    bounds = {} if wrong else {"least": min(rewards, default=0.0), "most": max(rewards, default=0.0)}
    return {"steps": len(rewards), **bounds}, *_told(wrong, "the reward {}", "Return a finite number.")


def _seed_control(build: Callable[[], Env], sample: Sequence[str]) -> _Found:
    """Different tasks begin differently, and the same task always begins alike."""
    env = build()
    starts = {task: env.reset(task) for task in sample}
    again = {task: env.reset(task) for task in reversed(sample)}
    changed = [task for task in sample if starts[task] != again[task]]
    different = len({(start.text, start.goal) for start in starts.values()})
    measured = {"tasks": len(starts), "different_starts": different}
    if not changed and len(starts) > 1 and different == 1:
        return measured, "all tasks begin alike", "Let the task id choose the episode."
    return measured, *_told(changed, "'{}' began in two ways", "Derive all chance from the task id.")


def _episode_determinism(build: Callable[[], Env], sample: Sequence[str]) -> _Found:
    """The same actions in two fresh environments."""
    one, other = build(), build()
    stories = [(_at_random(one, task).seen, _at_random(other, task).seen) for task in sample]
    differ = [task for task, (a, b) in zip(sample, stories, strict=True) if a != b]
    measured = {"episodes": len(sample), "steps": sum(len(a) - 1 for a, _ in stories)}
    said = "'{}' went differently in a second environment for the same actions"
    return measured, *_told(differ, said, "Derive all chance from the task id, not from time or process.")


def _episode_isolation(build: Callable[[], Env], sample: Sequence[str]) -> _Found:
    """Environments that play in turn see what each sees alone."""
    alone = build()
    expected = {task: _at_random(alone, task).seen for task in sample}
    envs = {task: build() for task in sample}
    rngs = {task: random.Random(task) for task in sample}
    seen: dict[str, list[Observation | StepResult]] = {task: [env.reset(task)] for task, env in envs.items()}
    for step in range(max(len(story) for story in expected.values()) - 1):
        for task, env in envs.items():
            last = seen[task][-1]
            if len(seen[task]) == step + 1 and step + 1 < len(expected[task]) and not getattr(last, "done", False):
                seen[task].append(env.step(_random_action(rngs[task], last)))
    differ = [task for task in sample if seen[task] != expected[task]]
    said = "'{}' went differently while other environments played"
    return {"environments": len(envs)}, *_told(differ, said, "Keep what an episode changes in its own instance.")


def _oracle_max(build: Callable[[], Env], sample: Sequence[str]) -> _Found:
    env = build()
    played = {task: _by_the_oracle(env, task) for task in sample}
    known = {task: episode for task, episode in played.items() if episode is not None}
    if not known:
        return {}, _NO_ORACLE, ""
    lost = [task for task, episode in known.items() if not episode.won]
    mean_return = sum(episode.total for episode in known.values()) / len(known)
    measured = {"tasks": len(known), "won": len(known) - len(lost), "mean_return": mean_return}
    return measured, *_told(lost, "the oracle did not win '{}'", "See whether it can be won at all.")


def _floor_gap(build: Callable[[], Env], sample: Sequence[str]) -> _Found:
    """Random actions earn less than the oracle."""
    env = build()
    pairs = [(_at_random(env, task), _by_the_oracle(env, task)) for task in sample]
    known = [(floor.total, best.total) for floor, best in pairs if best is not None]
    if not known:
        return {}, _NO_ORACLE, ""
    floor, best = (sum(pair[side] for pair in known) / len(known) for side in (0, 1))
    measured = {"tasks": len(known), "random_return": floor, "oracle_return": best}
    if best <= floor + _RETURN_MARGIN:
        said = "random actions earn as much as the oracle"
        return measured, said, "Let the reward tell a solved task from an unsolved one."
    return measured, "", ""


def _no_solution_leakage(build: Callable[[], Env], sample: Sequence[str]) -> _Found:
    """The commands of the expert's plan, in its order, stand in the text that is seen first."""
    env = build()
    if not isinstance(env, Expert):
        return {}, "no expert", ""
    looked, told = 0, []
    for task in sample:
        first = env.reset(task)
        plan = env.expert_plan() or []
        # Two commands may follow one another in a text by chance.
        if len(plan) > 2:
            looked += 1
            told += [task] if _in_order(plan, first.text) else []
    if not looked:
        return {"tasks": 0}, "plans of one or two commands", ""
    said = "the first observation of '{}' has the whole plan"
    return {"tasks": looked}, *_told(told, said, "Take the solution out of the text.")


def _in_order(commands: Sequence[str], text: str) -> bool:
    place = 0
    for command in commands:
        place = text.find(command, place)
        if place < 0:
            return False
        place += len(command)
    return True


_CHECKS: dict[str, Callable[[Callable[[], Env], Sequence[str]], _Found]] = {
    "runtime.reward_well_formed": _reward_well_formed,
    "runtime.seed_control": _seed_control,
    "runtime.episode_determinism": _episode_determinism,
    "runtime.episode_isolation": _episode_isolation,
    "semantic.oracle_max": _oracle_max,
    "semantic.floor_gap": _floor_gap,
    "semantic.no_solution_leakage": _no_solution_leakage,
}
