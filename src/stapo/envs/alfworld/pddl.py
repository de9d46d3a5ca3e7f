"""Reads the PDDL problem text of a game: the initial facts and the goal formula, nothing more.

PDDL is case-insensitive, so everything is lower-cased; object ids keep their other characters
because the display names depend on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from stapo.errors import GameFileError, did_you_mean
from stapo.texts import counted

Formula: TypeAlias = "str | list[Formula]"
"""An s-expression: a token or a list of them."""

_PLACES = "atlocation receptacleatlocation objectatlocation inreceptacle inreceptacleobject"
_KINDS = "receptacletype objecttype cancontain isreceptacleobject openable pickupable"
_ABILITIES = "cleanable heatable coolable toggleable sliceable moveable"
_MARKS = "opened holds holdsany isclean ishot iscool istoggled issliced"
# Part of the domain, but nothing that a player can see depends on them.
_UNUSED = "ison checked examined full wasinreceptacle isreceptacleobjectfull holdsanyreceptacleobject"
PREDICATES = frozenset(" ".join((_PLACES, _KINDS, _ABILITIES, _MARKS, _UNUSED)).split())
# Travel costs: some problem files state them, no rule reads them.
_COSTS = frozenset({"distance", "total-cost", "="})

_FACT = re.compile(r"\(([^()]+)\)")
_TOKEN = re.compile(r"[()]|[^\s()]+")
_COMMENT = re.compile(r";[^\n]*")


@dataclass(frozen=True, slots=True)
class Problem:
    """A parsed problem.

    Attributes:
        facts: predicate -> argument tuples, in the order of the file.
        goal: the formula after ``:goal``.
    """

    facts: dict[str, list[tuple[str, ...]]]
    goal: Formula

    def of(self, predicate: str) -> list[tuple[str, ...]]:
        """The argument tuples of one predicate (lower-case)."""
        return self.facts.get(predicate, [])


def parse_problem(text: str) -> Problem:
    """Parse the text of a PDDL problem of the ALFWorld release.

    Raises:
        GameFileError: a section is missing, parentheses do not balance, or a predicate is unknown.
    """
    lowered = _COMMENT.sub("", text).lower()
    init_at = lowered.find("(:init")
    goal_at = lowered.find("(:goal")
    for section, at in ((":init", init_at), (":goal", goal_at)):
        if at < 0:
            raise GameFileError(
                f"the PDDL problem has no ({section} …) section; expected a problem of the ALFWorld release "
                "with (:init …) before (:goal …). Was the file cut short?"
            )
    if goal_at < init_at:
        raise GameFileError("the PDDL problem has (:goal …) before (:init …); expected the facts first.")
    return Problem(_facts(lowered[init_at + 6 : goal_at]), _goal(lowered[goal_at:]))


def _facts(section: str) -> dict[str, list[tuple[str, ...]]]:
    facts: dict[str, list[tuple[str, ...]]] = {}
    for match in _FACT.findall(section):
        name, *arguments = match.split()
        known = facts.get(name)
        if known is None:
            if name in _COSTS:
                continue
            if name not in PREDICATES:
                raise GameFileError(
                    f"unknown predicate '{name}' in the initial facts.{did_you_mean(name, PREDICATES)} Expected the "
                    "predicates of the ALFWorld domain."
                )
            known = facts[name] = []
        known.append(tuple(arguments))
    return facts


def _goal(section: str) -> Formula:
    stack: list[list[Formula]] = []
    for token in _TOKEN.findall(section):
        if token == "(":
            stack.append([])
        elif token != ")":
            stack[-1].append(token)
        else:
            done = stack.pop()
            if stack:
                stack[-1].append(done)
                continue
            if len(done) != 2:
                raise GameFileError(f"expected one formula after :goal, found {len(done) - 1}.")
            return done[1]
    raise GameFileError(
        f"the goal formula ends with {counted(len(stack), 'open parenthesis', 'open parentheses')}; the PDDL "
        "problem is truncated."
    )
