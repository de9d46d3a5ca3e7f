"""Compiles a goal formula into a check that costs microseconds.

Quantifiers are grounded over the world and everything that never changes (types, what can be
cleaned, where receptacles stand) is decided once. What stays is a disjunction of conjunctions over
facts that actions change; the expert plans for the same disjunction, so the check and the planner
cannot disagree about what the goal is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.pddl import Formula
from stapo.envs.alfworld.world import NOWHERE, CompiledGame
from stapo.errors import GameFileError
from stapo.texts import counted


class Literal(NamedTuple):
    """One changeable fact.

    `fact` is ``in`` (object, receptacle), ``holds`` (object), ``at`` (location), or a mark of an
    object: ``clean``, ``hot``, ``cool`` or ``toggled``. `second` is NOWHERE unless the fact has two
    arguments. (Goals with sliced objects are missing, as the original loader leaves them out.)
    """

    fact: str
    first: int
    second: int = NOWHERE


Conjunction = frozenset[Literal]

_MARKS = {"isclean": "clean", "ishot": "hot", "iscool": "cool", "istoggled": "toggled"}


class Goal:
    """A goal grounded in one world.

    Attributes:
        ways: the conjunctions of which one must hold, without duplicates.
    """

    __slots__ = ("_by_first", "ways")

    def __init__(self, ways: list[Conjunction]) -> None:
        self.ways = ways
        # Placing facts fail most often, so one shared leading literal rejects a whole group of
        # ways.
        self._by_first: dict[Literal, list[tuple[Literal, ...]]] = {}
        for way in ways:
            first, *rest = sorted(way, key=_rarity)
            self._by_first.setdefault(first, []).append(tuple(rest))

    def holds(self, state: State) -> bool:
        """Whether the goal is reached."""
        for first, ways in self._by_first.items():
            if literal_holds(first, state):
                for rest in ways:
                    for literal in rest:
                        if not literal_holds(literal, state):
                            break
                    else:
                        return True
        return False


def _rarity(literal: Literal) -> tuple[int, Literal]:
    return ({"holds": 0, "in": 1}.get(literal.fact, 2), literal)


def literal_holds(literal: Literal, state: State) -> bool:
    """Whether one changeable fact is true in a state."""
    fact, first, second = literal
    if fact == "in":
        return first in state.contents[second]
    if fact == "holds":
        return state.held == first
    if fact == "at":
        return state.loc == first
    mask: int = getattr(state, fact)
    return bool(mask >> first & 1)


def compile_goal(game: CompiledGame) -> Goal:
    """Ground and simplify the goal of a world.

    Raises:
        GameFileError: the formula uses a form or predicate that is not supported, or no way to
            reach it exists in this world (a type without instances, a place that cannot hold the
            object, a missing tool).
    """
    # What can never become true is left out: unsolvable games are found at load.
    ways = [way for way in _Grounder(game).ways(game.goal, {}) if all(_possible(fact, game) for fact in way)]
    unique = sorted(set(ways), key=lambda way: (len(way), sorted(way)))
    if not unique or frozenset() in unique:
        trivial = "holds whatever is done" if unique else _why_impossible(game)
        raise GameFileError(f"the goal cannot be played: {trivial}.")
    return Goal(unique)


class _Grounder:
    """Turns a formula into its conjunctions, binding by binding."""

    def __init__(self, game: CompiledGame) -> None:
        self.game = game
        self.domains: dict[str, range] = {
            "object": range(len(game.objects)),
            "receptacle": range(len(game.receptacles)),
            "location": range(len(game.locations)),
            "agent": range(1),
        }
        able = {"toggleable": game.toggleable, "sliceable": game.sliceable}
        able |= {"pickupable": game.pickupable}
        able |= {treatment + "able": mask for treatment, mask in game.treatable.items()}
        self.static: dict[str, Callable[..., bool]] = {
            "objecttype": lambda o, t: game.object_types[o] == t,
            "receptacletype": lambda r, t: game.receptacle_types[r] == t,
            "receptacleatlocation": lambda r, at: game.rec_loc[r] == at,
            "openable": lambda r: bool(game.openable >> r & 1),
            "=": lambda a, b: a == b,
        }
        for name, mask in able.items():
            self.static[name] = lambda o, mask=mask: bool(mask >> o & 1)

    def ways(self, formula: Formula, bound: dict[str, int]) -> Iterator[Conjunction]:
        """The conjunctions that make `formula` true under the bindings."""
        if isinstance(formula, str) or not formula or not isinstance(formula[0], str):
            raise GameFileError(f"expected a goal formula, found {formula!r}.")
        head, *parts = formula
        if head == "and":
            yield from self._all(parts, bound)
        elif head == "or":
            for part in parts:
                yield from self.ways(part, bound)
        elif head == "not":
            if len(parts) != 1 or self._truth(parts[0], bound) is None:
                raise GameFileError(
                    f"goal (not {parts}) negates something that actions change; only comparisons and fixed facts can "
                    "be negated."
                )
            if not self._truth(parts[0], bound):
                yield frozenset()
        elif head == "exists":
            if len(parts) != 2 or not isinstance(parts[0], list):
                raise GameFileError("expected (exists (variables) formula) in the goal.")
            yield from self._exists(_variables(parts[0]), parts[1], bound)
        else:
            truth = self._truth(formula, bound)
            if truth is None:
                yield frozenset({self._literal(str(head), parts, bound)})
            elif truth:
                yield frozenset()

    def _all(self, parts: list[Formula], bound: dict[str, int]) -> Iterator[Conjunction]:
        changing: list[Formula] = []
        for part in parts:
            truth = self._truth(part, bound)
            if truth is False:
                return
            if truth is None:
                changing.append(part)
        for chosen in product(*(list(self.ways(part, bound)) for part in changing)):
            yield frozenset().union(*chosen)

    def _exists(self, variables: list[tuple[str, str]], body: Formula, bound: dict[str, int]) -> Iterator[Conjunction]:
        if not variables:
            yield from self.ways(body, bound)
            return
        (variable, kind), *rest = variables
        if kind not in self.domains:
            raise GameFileError(
                f"the goal quantifies over '{kind}'; expected one of {', '.join(sorted(self.domains))}."
            )
        # Whatever is required of this variable further inside thins out its values here, before
        # the inner variables multiply them.
        tests = [part for part in self._required(body) if variable in part]
        for value in self.domains[kind]:
            now = {**bound, variable: value}
            if all(self._truth(test, now, partial=True) is not False for test in tests):
                yield from self._exists(rest, body, now)

    def _required(self, formula: Formula) -> Iterator[list[Formula]]:
        """The fixed facts without which `formula` cannot hold."""
        match formula:
            case ["and", *parts]:
                for part in parts:
                    yield from self._required(part)
            case ["exists", list(variables), body]:
                inner = {name for name, _ in _variables(variables)}
                yield from (fact for fact in self._required(body) if inner.isdisjoint(map(str, fact)))
            case [str(head), *_] if head in self.static:
                yield list(formula)

    def _truth(self, formula: Formula, bound: dict[str, int], *, partial: bool = False) -> bool | None:
        """The value of a fixed fact; None if actions change it or (`partial`) it is not bound."""
        if not isinstance(formula, list) or not formula:
            raise GameFileError(f"expected a goal formula, found {formula!r}.")
        head = formula[0]
        if head == "not" and len(formula) == 2:
            inner = self._truth(formula[1], bound, partial=partial)
            return None if inner is None else not inner
        test = self.static.get(head) if isinstance(head, str) else None
        if test is None:
            return None
        values: list[int | str] = []
        for argument in formula[1:]:
            if not isinstance(argument, str):
                raise GameFileError(f"expected a name or variable in the goal, found {argument!r}.")
            if argument in bound:
                values.append(bound[argument])
            elif not argument.startswith("?"):
                values.append(argument)
            elif partial:
                return None
            else:
                raise GameFileError(f"variable '{argument}' of the goal is not bound.")
        try:
            return test(*values)
        except TypeError as err:
            raise GameFileError(f"goal fact {formula} has the wrong number of arguments.") from err

    def _literal(self, head: str, parts: list[Formula], bound: dict[str, int]) -> Literal:
        try:
            values = [bound[str(part)] for part in parts]
        except KeyError as err:
            raise GameFileError(f"variable {err} of the goal is not bound.") from err
        match head, values:
            case "inreceptacle", [obj, receptacle]:
                return Literal("in", obj, receptacle)
            case "holds", [_, obj]:
                return Literal("holds", obj)
            case "atlocation", [_, place]:
                return Literal("at", place)
            case _, [obj] if head in _MARKS:
                return Literal(_MARKS[head], obj)
        raise GameFileError(
            f"the goal uses ({head} …) with {counted(len(values), 'argument')}; supported are inReceptacle, holds, "
            f"atLocation, {', '.join(sorted(_MARKS))} and the fixed facts."
        )


def _variables(tokens: list[Formula]) -> list[tuple[str, str]]:
    """``?a ?b - object ?r - receptacle`` as pairs of variable and kind."""
    pairs: list[tuple[str, str]] = []
    waiting: list[str] = []
    stream = iter(map(str, tokens))
    for token in stream:
        if token == "-":
            kind = next(stream, "")
            pairs += [(variable, kind) for variable in waiting]
            waiting = []
        else:
            waiting.append(token)
    if waiting:
        raise GameFileError(f"variables {' '.join(waiting)} of the goal have no kind.")
    return pairs


def _possible(literal: Literal, game: CompiledGame) -> bool:
    fact, o, r = literal
    start = game.start
    if fact == "at":
        return bool(game.loc_recs[o]) or start.loc == o
    if fact == "in" and o in start.contents[r]:
        return True
    if fact == "in" and not (game.accepts[o] >> r & 1 and game.rec_loc[r] != NOWHERE):
        return False
    reachable = any(o in held and game.rec_loc[i] != NOWHERE for i, held in enumerate(start.contents))
    if fact in ("in", "holds"):
        return start.held == o or (bool(game.pickupable >> o & 1) and reachable)
    mask: int = getattr(start, fact)
    if mask >> o & 1:
        return True
    if fact == "toggled":
        return bool(game.toggleable >> o & 1) and (reachable or start.held == o)
    verb = {"clean": "clean", "hot": "heat", "cool": "cool"}[fact]
    usable = any(game.tools[verb] >> i & 1 and at != NOWHERE for i, at in enumerate(game.rec_loc))
    return usable and bool(game.treatable[verb] >> o & 1)


def _why_impossible(game: CompiledGame) -> str:
    """The most telling reason: a type that the goal names and the world lacks."""
    text = _flatten(game.goal)
    kinds = {"objecttype": game.object_types, "receptacletype": game.receptacle_types}
    for head, wanted in zip(text, text[2:], strict=False):
        if head in kinds and wanted not in kinds[head]:
            return f"it needs a '{wanted}' and this world has none"
    return (
        "no object of the wanted type can reach the wanted place in the wanted condition "
        "(check canContain, pickupable and the tools)"
    )


def _flatten(formula: Formula) -> list[str]:
    if isinstance(formula, str):
        return [formula]
    return [token for part in formula for token in _flatten(part)]
