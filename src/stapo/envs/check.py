"""A conformance check for environments, of this package and of others.

Run it in the tests of an environment: it plays a few short episodes and reports everything that
does not follow the protocol, with what was found, what was expected and what to do.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import islice
from typing import Any

from stapo.documents import shown
from stapo.envs.guard import short, wrong_parts
from stapo.envs.protocol import Env, HasJudge, HasTaskScore, Observation, StepResult
from stapo.errors import EnvError, UnknownNameError
from stapo.texts import counted

GARBAGE = ("", " ", "xyzzy", "\n\t", "\x00\x07", "\ud800", "🤖 go", "None", "a" * 100_000)
"""Texts that a model may produce; none may raise."""

_WORD = re.compile(r"[^\W_]+")

_NO_SUCH = "no such name: stapo.check_env"
_LONGEST_EPISODE = 1_000
_TASKS = 3
_STEPS = 8

Problems = Iterator[str]


def check_env(env: Env) -> list[str]:
    """Check that an environment follows `stapo.envs.protocol`.

    Args:
        env: a fresh environment, not reset yet. It is closed afterwards.

    Returns:
        The names of the checks that were passed, in order.

    Raises:
        EnvError: at least one violation; the message lists all of them.
    """
    if isinstance(env, type | str):
        raise EnvError(f"check_env is given {shown(env)}; expected an environment: stapo.make('NAME'), or CLASS().")
    found = violations(env)
    problems = [f"{name}: {problem}" for name, those in found.items() for problem in those]
    if problems:
        lines = "".join(f"\n- {problem}" for problem in problems)
        raise EnvError(f"environment '{getattr(env, 'name', type(env).__name__)}' breaks the protocol:{lines}")
    return list(found)


def violations(env: Env) -> dict[str, list[str]]:
    """What breaks the protocol, by check; nothing where a check is passed.

    Args:
        env: a fresh environment, not reset yet. It is closed afterwards.
    """
    every: dict[str, list[str]] = {}
    for name, check in _CHECKS.items():
        if not isinstance(env, _OPTIONAL.get(name, object)):
            continue
        found = every[name] = []
        try:
            # A broken environment would repeat one complaint for every task.
            found += dict.fromkeys(islice(check(env), 20))
        except KeyboardInterrupt:
            raise
        except BaseException as err:  # an environment that exits as well
            found.append(
                f"found {type(err).__name__}: {err}; expected no exception here. "
                "Run the call by hand to see where it comes from."
            )
    return every


def _raises(expected: type[Exception], call: Callable[[], Any]) -> str | None:
    """What happened instead of the expected exception, or None if it was raised."""
    try:
        call()
    except expected:
        return None
    except KeyboardInterrupt:
        raise
    except BaseException as err:
        return f"found {type(err).__name__}"
    return "found no exception"


def _sample(env: Any) -> list[str]:
    tasks = list(env.tasks)
    return sorted({tasks[0], tasks[len(tasks) // 2], tasks[-1]})[:_TASKS]


def _texts(values: object) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and all(isinstance(value, str) and value for value in values)
    )


def _before_reset(env: Any) -> Problems:
    instead = _raises(EnvError, lambda: env.step("look"))
    if instead:
        yield (f"{instead} from step() before reset(); expected EnvError. Raise it, or pass a fresh environment.")


def _attributes(env: Any) -> Problems:
    if not isinstance(env, Env):
        yield "found missing methods; expected those of stapo.envs.Env. Add them."
    if not isinstance(env.name, str) or not env.name:
        yield f"found name {env.name!r}; expected a non-empty text. Set it on the class."
    steps = env.max_steps
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        yield f"found max_steps {steps!r}; expected a whole number >= 1. Set it in __init__."


def _names(env: Any) -> Problems:
    tasks, splits = list(env.tasks), list(env.splits)
    for what, names in (("tasks", tasks), ("splits", splits)):
        if not names or not _texts(names):
            yield f"found {what} {names!r:.80}; expected non-empty texts. Offer at least one."
        elif len(set(names)) != len(names):
            yield f"found repeated {what}; expected each name once. Make the names unique."
    if tasks != sorted(tasks):
        yield "found tasks out of order; expected them sorted, so that runs agree. Sort them."
    if "train" in splits and splits[0] != "train":
        yield f"found splits {splits!r}; expected 'train' first. Reorder them."
    members: list[str] = []
    for split in splits:
        ids = list(env.tasks_of(split))
        members += ids
        if not ids or ids != sorted(ids):
            yield f"found split '{split}' empty or unsorted; expected sorted ids. Sort or drop it."
    if sorted(members) != sorted(tasks):
        yield (
            f"found {counted(len(members), 'id')} in the splits and {counted(len(tasks), 'task')}; expected the same. "
            "Put every task in exactly one split."
        )
    for what, call in (("tasks_of", env.tasks_of), ("reset", env.reset)):
        instead = _raises(UnknownNameError, partial(call, _NO_SUCH))
        if instead:
            yield f"{instead} from {what}() of an unknown name; expected UnknownNameError."


def _task_types(env: Any) -> Problems:
    for task in _sample(env):
        family = env.task_type(task)
        if not isinstance(family, str) or not family or family != env.task_type(task):
            yield f"found task_type {family!r} of '{task}'; expected one fixed text. Return a name."


def _observations(env: Any) -> Problems:
    for task in _sample(env):
        seen = env.reset(task)
        if not isinstance(seen, Observation):
            yield f"found {type(seen).__name__} from reset(); expected Observation. Return one."
            continue
        yield from _types(seen, f"reset('{task}')")
        for what in ("text", "goal", "blind_text"):
            value = getattr(seen, what)
            if isinstance(value, str) and not value.strip():
                yield f"found {what} {value!r:.60} of '{task}'; expected a text. Fill it in."
        if isinstance(seen.blind_text, str) and _shows(seen.blind_text, seen.goal):
            yield (f"found the goal inside blind_text of '{task}'; expected no trace of it. Cut the task sentence out.")


def _nothing_given_away(env: Any) -> Problems:
    """The goal in texts that the trajectory-blind prompt shows: those without a blind text of their own, and commands.

    A goal that stands in the world of other tasks just the same tells nothing: "go to desk 1" may be a command of all.
    """
    tasks = _sample(env)
    stories = {task: _play(env, task) for task in tasks}
    blunders = {task: _blunder(env, task) for task in tasks}
    goals = {task: _task_of(getattr(stories[task][0], "goal", "")) for task in tasks}
    for task, story in stories.items():
        goal = goals[task]
        if not goal:
            continue
        others = [other for name, other in stories.items() if goals[name] != goal]
        for what, advice, texts_of in (
            ("an observation", "Give blind_text, the same without the task sentence", _blind_texts),
            ("an offered command", "Offer commands that do not repeat the task sentence", _offered),
        ):
            told = _tells(goal, texts_of(story)) or (" " in goal and _tells(goal, texts_of(blunders[task])))
            if told and not any(_tells(goal, texts_of(other)) for other in others):
                yield f"found the goal of '{task}' in {what} that blind prompts show; expected no trace. {advice}."


def _said(text: object) -> str:
    """Words alone, as they are compared: case, width, blanks, marks and what is not seen make no difference."""
    if not isinstance(text, str):
        return ""
    plain = "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(c) != "Cf")
    return " ".join(_WORD.findall(plain))


def _task_of(goal: object) -> str:
    """The words of a goal without an opening such as "Your task is to:"."""
    _, mark, rest = goal.partition(":") if isinstance(goal, str) else ("", "", "")
    return _said(rest) if mark and len(_said(rest).split()) > 1 else _said(goal)


def _shows(text: str, goal: object) -> bool:
    """Whether a blind text of its own shows the goal."""
    return bool(_task_of(goal)) and _task_of(goal) in _said(text)


def _tells(goal: str, shown: list[list[str]]) -> bool:
    """Whether the goal stands in the texts of one of these steps; a single word, which may name a thing, in all."""
    found = [any(f" {goal} " in f" {_said(text)} " for text in texts) for texts in shown]
    return any(found) if len(goal.split()) > 1 else len(found) > 1 and all(found)


def _blind_texts(story: list[Any]) -> list[list[str]]:
    # A blind text of its own is looked at by the checks of observations and results.
    bare = [seen for seen in story if not getattr(seen, "done", False) and getattr(seen, "blind_text", None) is None]
    return [[seen.text] for seen in bare if isinstance(seen.text, str)]


def _offered(story: list[Any]) -> list[list[str]]:
    lists = [getattr(seen, "admissible", None) for seen in story if not getattr(seen, "done", False)]
    return [[command for command in commands if isinstance(command, str)] for commands in lists if commands]


def _types(seen: Any, where: str) -> Problems:
    """Parts of another type, and commands that are empty or out of order."""
    for what, value, expected in wrong_parts(seen):
        yield f"found {what} {short(value)}; expected {expected}. Return one from {where}."
    if isinstance(seen.admissible, list) and all(isinstance(command, str) for command in seen.admissible):
        if "" in seen.admissible:
            yield f"found an empty command in admissible after {where}; expected texts. Leave it out."
        elif seen.admissible != sorted(set(seen.admissible)):
            yield f"found admissible unsorted or repeated after {where}; expected sorted. Sort them."


def _results(env: Any) -> Problems:
    for task in _sample(env):
        first: Observation = env.reset(task)
        seen: Observation | StepResult = first
        for turn in range(_STEPS):
            seen = env.step(_action(seen, turn))
            if not isinstance(seen, StepResult):
                yield f"found {type(seen).__name__} from step(); expected StepResult. Return one."
                break
            yield from _result(seen)
            yield from _score(env, seen)
            yield from _still_blind(seen, first.goal, task)
            if seen.done:
                break


def _still_blind(seen: Any, goal: str, task: str) -> Problems:
    if isinstance(seen.blind_text, str) and _shows(seen.blind_text, goal):
        yield f"found the goal inside blind_text of a later step of '{task}'; expected no trace of it. Cut it out."


def _result(seen: Any) -> Problems:
    yield from _types(seen, "step()")
    if not (isinstance(seen.reward, int | float) and math.isfinite(seen.reward)):
        yield f"found reward {seen.reward!r}; expected a finite number. Return 0.0 for none."
    if seen.won and not seen.done:
        yield "found won without done; expected a won episode to be over. Set done as well."
    if not isinstance(seen.info, dict):
        return
    named = seen.info.get("rewards", {})
    if not isinstance(named, dict) or not all(isinstance(paid, int | float) for paid in named.values()):
        yield f"found info['rewards'] {named!r:.60}; expected a dict of names and numbers."
    if seen.info.get("truncated") and (seen.won or not seen.done):
        yield "found truncated in an episode that is won or goes on; expected an end by the limit."


def _score(env: Any, seen: StepResult) -> Problems:
    said = isinstance(env, HasTaskScore) and env.has_task_score is True
    given = isinstance(seen.info, dict) and seen.info.get("task_score") is not None
    if given and not said:
        yield "found info['task_score']; expected has_task_score = True in the class. Set it, or leave the score out."
    if said and seen.done and not given:
        yield "found an end without info['task_score']; expected one, since has_task_score is True. Give 0.0 for none."


def _action(seen: Observation | StepResult, turn: int) -> str:
    """A fixed way of playing that depends only on what is offered."""
    return seen.admissible[turn * 7 % len(seen.admissible)] if seen.admissible else f"look {turn}"


def _play(env: Any, task: str) -> list[object]:
    seen: Observation | StepResult = env.reset(task)
    story: list[object] = [seen]
    for turn in range(_STEPS):
        if isinstance(seen, StepResult) and seen.done:
            break
        seen = env.step(_action(seen, turn))
        story.append(seen)
    return story


def _blunder(env: Any, task: str) -> list[object]:
    """What an environment answers to a command that fits none, as often as not a reminder of the task."""
    env.reset(task)
    return [env.step("xyzzy")]


def _determinism(env: Any) -> Problems:
    for task in _sample(env):
        first, second = _play(env, task), _play(env, task)
        if first != second:
            step = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
            yield (
                f"found a different episode of '{task}' for the same actions from step {step} on; "
                "expected the same. Derive all chance from the task id."
            )


def _garbage(env: Any) -> Problems:
    for text in GARBAGE:
        env.reset(_sample(env)[0])
        try:
            env.step(text)
        except Exception as err:
            yield (
                f"found {type(err).__name__} from step({text!r:.20}); expected a result. "
                "Treat text that fits no command as a wasted turn."
            )


def _ending(env: Any) -> Problems:
    task = _sample(env)[0]
    first = env.reset(task)
    limit = env.max_steps
    if limit > _LONGEST_EPISODE:
        return
    step, result = 1, env.step("xyzzy")
    while not result.done and step < limit:
        step, result = step + 1, env.step("xyzzy")
    if not result.done:
        yield f"found no end after max_steps = {limit} actions; expected done. Count the steps."
        return
    if not result.won and step == limit and result.info.get("truncated") is not True:
        yield "found no info['truncated'] at the step limit; expected True. Set it there."
    instead = _raises(EnvError, lambda: env.step("look"))
    if instead:
        yield f"{instead} from step() after the end; expected EnvError. Raise it."
    if env.reset(task) != first:
        yield "found another first observation after an ended episode; expected the same."


def _judging(env: Any) -> Problems:
    for task in _sample(env):
        told, judged = _judged(env, task)
        yield from told
        if judged != _play(env, task):
            yield f"found another episode of '{task}' while judge() looked on; expected the same. Judges only look."


def _judged(env: Any, task: str) -> tuple[list[str], list[object]]:
    """What is wrong with the judge of an episode, and the episode."""
    problems: list[str] = []
    seen: Observation | StepResult = env.reset(task)
    story: list[object] = [seen]
    judge = env.judge()
    names = judge.faults
    if not isinstance(names, Mapping) or not all(isinstance(t, str) and t for pair in names.items() for t in pair):
        problems.append(f"found faults {names!r:.60} of judge(); expected names with sentences. Return a mapping.")
        names = {}
    for turn in range(_STEPS):
        if isinstance(seen, StepResult) and seen.done:
            break
        command = _action(seen, turn)
        judge.before(command)
        seen = env.step(command)
        story.append(seen)
        found = judge.after(seen)
        if not isinstance(found, AbstractSet):
            problems.append(f"found {found!r:.60} from judge().after(); expected a set of names. Return an empty one.")
        elif unknown := sorted(set(found) - set(names)):
            problems.append(f"found fault {unknown[0]!r} that judge().faults does not explain; add it there.")
    return problems, story


def _closing(env: Any) -> Problems:
    for turn in ("first", "second"):
        try:
            env.close()
        except Exception as err:
            yield f"found {type(err).__name__} from the {turn} close(); expected no exception."


_CHECKS: dict[str, Callable[[Any], Problems]] = {
    "step before reset raises": _before_reset,
    "attributes": _attributes,
    "task ids and splits": _names,
    "task types": _task_types,
    "first observations": _observations,
    "step results": _results,
    "the goal is hidden": _nothing_given_away,
    "same actions, same episode": _determinism,
    "any text is tolerated": _garbage,
    "episodes end": _ending,
    "judging": _judging,
    "closing twice": _closing,
}

_OPTIONAL: dict[str, type] = {"judging": HasJudge}
"""Checks of parts that an environment may lack."""
