"""The compiled, immutable side of a game: names, places and what fits where.

Objects, receptacles and locations become indices in the sorted order of their ids, which is also
the order in which observations list them. Sets of objects, receptacles or locations are bit masks
over those indices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

from stapo.envs.alfworld.game import Game
from stapo.envs.alfworld.pddl import Formula, Problem, parse_problem
from stapo.errors import GameFileError
from stapo.texts import counted

NOWHERE = -1
"""Location of a receptacle that stands nowhere, and what an empty hand holds."""

TOOLS = {"clean": "sinkbasintype", "heat": "microwavetype", "cool": "fridgetype"}
"""Receptacle type that each treatment needs."""

_KNIVES = frozenset({"knifetype", "butterknifetype"})


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """The initial values of what can change; see `stapo.envs.alfworld.engine.State`."""

    loc: int
    held: int
    opened: int
    clean: int
    hot: int
    cool: int
    toggled: int
    sliced: int
    contents: tuple[tuple[int, ...], ...]
    spots: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledGame:
    """Everything about a game that no action changes.

    Attributes:
        objects: display name of each object; `receptacles` and `locations` likewise.
        object_types: PDDL type of each object ("mugtype"); `receptacle_types` likewise.
        rec_loc: location of each receptacle, or NOWHERE.
        loc_recs: receptacles at each location, ascending.
        accepts: per object, the mask of receptacles whose type can contain it.
        inside: per object, the names shown when it is examined, or None if it is not a container.
        treatable: treatment -> mask of objects; `tools` gives the mask of receptacles that do it.
        go_to: per location, the sorted ``go to`` commands offered there.
        goal: the unevaluated goal formula.
    """

    objects: tuple[str, ...]
    object_types: tuple[str, ...]
    object_index: dict[str, int]
    receptacles: tuple[str, ...]
    receptacle_types: tuple[str, ...]
    receptacle_index: dict[str, int]
    locations: tuple[str, ...]
    rec_loc: tuple[int, ...]
    loc_recs: tuple[tuple[int, ...], ...]
    openable: int
    accepts: tuple[int, ...]
    pickupable: int
    toggleable: int
    sliceable: int
    knives: int
    treatable: dict[str, int]
    tools: dict[str, int]
    inside: tuple[tuple[str, ...] | None, ...]
    go_to: tuple[list[str], ...]
    goal: Formula
    start: Start = field(repr=False)


def compile_world(game: Game) -> CompiledGame:
    """Parse a game's PDDL and index it.

    Raises:
        GameFileError: the text is not a problem of the ALFWorld domain; the message names the game.
    """
    try:
        return _compile(parse_problem(game.pddl_problem))
    except GameFileError as err:
        raise GameFileError(f"game '{game.id}': {err}") from err


def _mask(indices: Iterable[int]) -> int:
    return reduce(or_, (1 << index for index in indices), 0)


def _single(problem: Problem, predicate: str, what: str) -> dict[str, str]:
    """The facts of a binary predicate as a mapping; two values for one id are an error."""
    values: dict[str, str] = {}
    for entity, value in _pairs(problem, predicate):
        if values.setdefault(entity, value) != value:
            raise GameFileError(f"'{entity}' has two {what}s, '{values[entity]}' and '{value}'; expected one.")
    return values


def _pairs(problem: Problem, predicate: str) -> list[tuple[str, str]]:
    facts = problem.of(predicate)
    for fact in facts:
        if len(fact) != 2:
            raise GameFileError(
                f"fact ({predicate} {' '.join(fact)}) has {counted(len(fact), 'argument')}; expected 2."
            )
    return [(fact[0], fact[1]) for fact in facts]


def _compile(problem: Problem) -> CompiledGame:
    names = display_names(e for facts in problem.facts.values() for fact in facts for e in fact)
    object_types = _single(problem, "objecttype", "type")
    receptacle_types = _single(problem, "receptacletype", "type")
    places = _single(problem, "receptacleatlocation", "location")
    agents = _single(problem, "atlocation", "location")
    if len(agents) != 1:
        raise GameFileError(f"found {len(agents)} agents with an atLocation fact; expected exactly one.")
    within, lying = _pairs(problem, "inreceptacle"), _pairs(problem, "objectatlocation")
    oids = sorted(object_types)
    rids = sorted(receptacle_types)
    lids = sorted(set(places.values()) | set(agents.values()) | {spot for _, spot in lying})
    objects = {o: i for i, o in enumerate(oids)}
    recs = {r: i for i, r in enumerate(rids)}
    locs = {place: i for i, place in enumerate(lids)}

    def mask_of(predicate: str, index: dict[str, int]) -> int:
        return _mask(index[fact[0]] for fact in problem.of(predicate) if fact and fact[0] in index)

    accepting: dict[str, set[str]] = {}
    for rtype, otype in _pairs(problem, "cancontain"):
        accepting.setdefault(otype, set()).add(rtype)
    inner: dict[str, list[str]] = {fact[0]: [] for fact in problem.of("isreceptacleobject")}
    for held, outer in sorted(_pairs(problem, "inreceptacleobject")):
        inner.setdefault(outer, []).append(names.get(held, held))
    contents: list[set[int]] = [set() for _ in rids]
    for o, r in within:
        if o not in objects or r not in recs:
            raise GameFileError(
                f"fact (inReceptacle {o} {r}) names an id without a type; expected objectType and receptacleType facts "
                "for both."
            )
        contents[recs[r]].add(objects[o])
    spots = [0] * len(oids)
    for o, spot in lying:
        if o in objects:
            spots[objects[o]] |= 1 << locs[spot]
    loc_recs: list[list[int]] = [[] for _ in lids]
    rec_loc = [NOWHERE] * len(rids)
    for r in rids:
        if r in places:
            rec_loc[recs[r]] = locs[places[r]]
            loc_recs[locs[places[r]]].append(recs[r])
    rec_names = tuple(names.get(r, r) for r in rids)
    obj_names = tuple(names.get(o, o) for o in oids)
    rtypes = tuple(receptacle_types[r] for r in rids)
    goings = sorted((f"go to {rec_names[r]}", at) for r, at in enumerate(rec_loc) if at != NOWHERE)
    (agent_at,) = agents.values()
    in_hand = [objects[o] for _, o in _pairs(problem, "holds") if o in objects]
    return CompiledGame(
        objects=obj_names,
        object_types=tuple(object_types[o] for o in oids),
        object_index={name: i for i, name in enumerate(obj_names)},
        receptacles=rec_names,
        receptacle_types=rtypes,
        receptacle_index={name: i for i, name in enumerate(rec_names)},
        locations=tuple(names.get(place, place) for place in lids),
        rec_loc=tuple(rec_loc),
        loc_recs=tuple(map(tuple, loc_recs)),
        openable=mask_of("openable", recs),
        accepts=tuple(_mask(i for i, t in enumerate(rtypes) if t in accepting.get(object_types[o], ())) for o in oids),
        pickupable=mask_of("pickupable", objects),
        toggleable=mask_of("toggleable", objects),
        sliceable=mask_of("sliceable", objects),
        knives=_mask(objects[o] for o in oids if object_types[o] in _KNIVES),
        treatable={t: mask_of(t + "able", objects) for t in TOOLS},
        tools={treatment: _mask(i for i, t in enumerate(rtypes) if t == tool) for treatment, tool in TOOLS.items()},
        inside=tuple(tuple(inner[o]) if o in inner else None for o in oids),
        go_to=tuple([command for command, at in goings if at != here] for here in range(len(lids))),
        goal=problem.goal,
        start=Start(
            loc=locs[agent_at],
            held=in_hand[0] if in_hand else NOWHERE,
            opened=mask_of("opened", recs),
            clean=mask_of("isclean", objects),
            hot=mask_of("ishot", objects),
            cool=mask_of("iscool", objects),
            toggled=mask_of("istoggled", objects),
            sliced=mask_of("issliced", objects),
            contents=tuple(tuple(sorted(held_here)) for held_here in contents),
            spots=tuple(spots),
        ),
    )


_SEPARATOR = "_bar_"


def kind_of(entity: str) -> str:
    """The word that an id is shown under: "cup" for ``cup_bar__plus_00…``."""
    kind, separator, _ = entity.partition(_SEPARATOR)
    return kind + "basin" if separator and "basin" in entity else kind


def display_names(entities: Iterable[str]) -> dict[str, str]:
    """Number the entities of each kind.

    Within a kind the ids are sorted and numbered downwards: the first gets the highest number. Ids
    without coordinates (types, the agent) are not shown and keep their id.

    Args:
        entities: every lower-case id that occurs in the initial facts.
    """
    placed = sorted(e for e in set(entities) if _SEPARATOR in e)
    left = Counter(map(kind_of, placed))
    names: dict[str, str] = {}
    for entity in placed:
        kind = kind_of(entity)
        names[entity] = f"{kind} {left[kind]}"
        left[kind] -= 1
    return names
