"""The search space of one way to reach a goal; see `stapo.envs.alfworld.expert`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.goals import Conjunction
from stapo.envs.alfworld.world import NOWHERE

CLEAN, HOT, COOL, TOGGLED = 1, 2, 4, 8
_MARK = {"clean": CLEAN, "hot": HOT, "cool": COOL, "toggled": TOGGLED}
_TREATMENT = {CLEAN: "clean", HOT: "heat", COOL: "cool"}


class Move(NamedTuple):
    """One action of a plan; `obj` and `receptacle` are NOWHERE where they do not apply."""

    verb: str
    obj: int
    receptacle: int


class Node(NamedTuple):
    """Place, object in hand, open doors, and per wanted object its receptacles and marks."""

    loc: int
    held: int
    opened: int
    within: tuple[int, ...]
    marks: tuple[int, ...]


class Subproblem:
    """Reaching one conjunction of facts from one state.

    Attributes:
        root: the position to start from.
    """

    def __init__(self, state: State, way: Conjunction, within: list[int]) -> None:
        self.game = state.game
        self.objects = tuple(sorted({o for fact, o, _ in way if fact != "at"}))
        index = {o: i for i, o in enumerate(self.objects)}
        self.targets = [0] * len(self.objects)
        self.wanted = [0] * len(self.objects)
        self.hold = NOWHERE
        self.places = [o for fact, o, _ in way if fact == "at"]
        for fact, first, second in way:
            if fact == "in":
                self.targets[index[first]] |= 1 << second
            elif fact == "holds":
                self.hold = first
            elif fact != "at":
                self.wanted[index[first]] |= _MARK[fact]
        masks = [(getattr(state, name), flag) for name, flag in _MARK.items()]
        self.root = Node(
            state.loc,
            state.held,
            state.opened,
            tuple(within[o] for o in self.objects),
            tuple(sum(flag for mask, flag in masks if mask >> o & 1) for o in self.objects),
        )

    def reached(self, node: Node) -> bool:
        """Whether the conjunction holds."""
        if self.hold not in (NOWHERE, node.held) or any(place != node.loc for place in self.places):
            return False
        return all(
            not target & ~at and not wanted & ~marks
            for target, wanted, at, marks in zip(self.targets, self.wanted, node.within, node.marks, strict=True)
        )

    # -- moves -----------------------------------------------------------------------------------

    @cached_property
    def useful(self) -> dict[int, list[int]]:
        """Location -> receptacles there that a shortest plan may touch."""
        game, root = self.game, self.root
        needed = 0
        for i, at in enumerate(root.within):
            needed |= at | self.targets[i]
            for flag, treatment in _TREATMENT.items():
                if self.wanted[i] & ~root.marks[i] & flag:
                    needed |= game.tools[treatment]
        useful: dict[int, list[int]] = {root.loc: []}
        for place in self.places:
            useful.setdefault(place, list(game.loc_recs[place][:1]))
        for r, loc in enumerate(game.rec_loc):
            if needed >> r & 1 and loc != NOWHERE:
                useful.setdefault(loc, [])
                if r not in useful[loc]:
                    useful[loc].append(r)
        if root.held != NOWHERE:
            self._add_dumps(useful)
        return useful

    def _add_dumps(self, useful: dict[int, list[int]]) -> None:
        """Add places to drop what is in hand: one per useful location, the cheapest elsewhere."""
        game, root = self.game, self.root
        fits = [r for r, loc in enumerate(game.rec_loc) if loc != NOWHERE and game.accepts[root.held] >> r & 1]
        fits.sort(key=lambda r: not self._accessible(root.opened, r))
        for loc, here in useful.items():
            here += [r for r in fits if game.rec_loc[r] == loc and r not in here][:1]
        elsewhere = next((r for r in fits if game.rec_loc[r] not in useful), None)
        if elsewhere is not None:
            useful[game.rec_loc[elsewhere]] = [elsewhere]

    def _accessible(self, opened: int, receptacle: int) -> bool:
        return bool((opened | ~self.game.openable) >> receptacle & 1)

    def successors(self, node: Node) -> Iterator[tuple[Move, Node]]:
        """The positions one useful action away."""
        for loc, receptacles in self.useful.items():
            if loc != node.loc and receptacles:
                yield Move("go to", NOWHERE, receptacles[0]), node._replace(loc=loc)
        here = self.useful.get(node.loc, ())
        for r in here:
            if not self._accessible(node.opened, r):
                yield Move("open", NOWHERE, r), node._replace(opened=node.opened | 1 << r)
            elif node.held == NOWHERE:
                yield from self._takes(node, r)
            elif self.game.accepts[node.held] >> r & 1:
                yield Move("put", node.held, r), self._put(node, r)
        yield from self._changes(node, here)

    def _takes(self, node: Node, r: int) -> Iterator[tuple[Move, Node]]:
        for i, o in enumerate(self.objects):
            if node.within[i] >> r & 1 and self.game.pickupable >> o & 1:
                within = _with(node.within, i, node.within[i] & ~(1 << r))
                yield Move("take", o, r), node._replace(held=o, within=within)

    def _put(self, node: Node, r: int) -> Node:
        within = node.within
        if node.held in self.objects:
            i = self.objects.index(node.held)
            within = _with(within, i, within[i] | 1 << r)
        return node._replace(held=NOWHERE, within=within)

    def _changes(self, node: Node, here: list[int] | tuple[()]) -> Iterator[tuple[Move, Node]]:
        for i, o in enumerate(self.objects):
            missing = self.wanted[i] & ~node.marks[i]
            if not missing:
                continue
            lit = missing & TOGGLED and self.game.toggleable >> o & 1
            if lit and any(node.within[i] >> r & 1 for r in here):
                marks = _with(node.marks, i, node.marks[i] | TOGGLED)
                yield Move("use", o, NOWHERE), node._replace(marks=marks)
            if node.held != o:
                continue
            for flag, treatment in _TREATMENT.items():
                if missing & flag and self.game.treatable[treatment] >> o & 1:
                    for r in here:
                        if self.game.tools[treatment] >> r & 1:
                            after = (node.marks[i] | flag) & ~({HOT: COOL, COOL: HOT}.get(flag, 0))
                            yield Move(treatment, o, r), node._replace(marks=_with(node.marks, i, after))

    # -- lower bound -----------------------------------------------------------------------------

    def estimate(self, node: Node) -> int:
        """A lower bound on the actions still needed: manipulations, doors and arrivals."""
        game = self.game
        rec_loc, here = game.rec_loc, node.loc
        actions = 0
        doors = 0
        arrivals: dict[int, int] = {}
        open_choice = False
        takes, puts_held = False, False
        for place in self.places:
            if place != here:
                arrivals[place] = 1
        for i, o in enumerate(self.objects):
            at, target = node.within[i], self.targets[i]
            missing = self.wanted[i] & ~node.marks[i]
            held = node.held == o
            source_locs = {rec_loc[r] for r in _bits(at)}
            if missing & TOGGLED:
                actions += 1
                if here not in source_locs:
                    if len(source_locs) == 1:
                        arrivals.setdefault(next(iter(source_locs)), 1)
                    else:
                        open_choice = True
            treatments = missing & (CLEAN | HOT | COOL)
            unplaced = target & ~at
            if not (treatments or unplaced or (self.hold == o and not held)):
                continue
            from_here = held
            if not held:
                takes = True
                actions += 1
                if not any(self._accessible(node.opened, r) for r in _bits(at)) and at & (at - 1) == 0:
                    doors |= at
                from_here = here in source_locs
                if not from_here and len(source_locs) == 1:
                    arrivals.setdefault(next(iter(source_locs)), 1)
                elif not from_here:
                    open_choice = True
            for flag, treatment in _TREATMENT.items():
                if treatments & flag:
                    actions += 1
                    tools = {rec_loc[r] for r in _bits(game.tools[treatment])}
                    if len(tools) == 1:
                        tool = next(iter(tools))
                        if tool != here or not from_here:
                            arrivals.setdefault(tool, 1)
                    from_here = from_here and here in tools
            # Taken out for a treatment, an object has to come back unless it lies in the target
            # twice over.
            back = unplaced or (target if not held and at == target else 0)
            if back:
                r = back.bit_length() - 1
                actions += 1
                puts_held = puts_held or held
                if not self._accessible(node.opened, r):
                    doors |= 1 << r
                loc = rec_loc[r]
                if loc != here or not from_here:
                    away = held or not source_locs or loc not in source_locs or bool(treatments)
                    seen = arrivals.get(loc, 0)
                    # One hand: each object brought from elsewhere is an arrival of its own.
                    arrivals[loc] = max(seen, 1) if not away else self._brought(node, loc, i)
        if takes and node.held != NOWHERE and not puts_held:
            actions += 1
        missing_choice = open_choice and not arrivals
        return actions + doors.bit_count() + sum(arrivals.values()) + missing_choice

    def _brought(self, node: Node, loc: int, upto: int) -> int:
        """How many of the first wanted objects must still be brought here from elsewhere."""
        number = 0
        for i in range(upto + 1):
            o, at, target = self.objects[i], node.within[i], self.targets[i]
            if not target & ~at or self.game.rec_loc[target.bit_length() - 1] != loc:
                continue
            elsewhere = loc not in {self.game.rec_loc[r] for r in _bits(at)}
            if elsewhere and not (node.held == o and node.loc == loc):
                number += 1
        return max(number, 1)


def _with(values: tuple[int, ...], i: int, value: int) -> tuple[int, ...]:
    return (*values[:i], value, *values[i + 1 :])


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
