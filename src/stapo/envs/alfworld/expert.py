"""Shortest plans from any state, found by search.

Each way of reaching the goal (see `stapo.envs.alfworld.goals`) names at most a few objects, so it
can be searched in a space of those objects, the hand, the place of the agent and the doors that
matter. Ways are searched by A*, the most promising first, until no other way can be shorter.
Actions that no plan needs are left out: looking, closing, slicing, taking other objects. Nothing is
lost by that, because no precondition asks for a closed door or a full hand.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count

from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.goals import Conjunction, Goal
from stapo.envs.alfworld.subproblem import Move, Node, Subproblem
from stapo.envs.alfworld.world import NOWHERE


def shortest_plan(state: State, goal: Goal) -> list[str] | None:
    """A shortest list of commands that reaches the goal.

    Ties are broken by the order of the ids, so the plan is the same on every run.

    Args:
        state: any state, also in the middle of an episode; it is not changed.
        goal: the goal of the same world.

    Returns:
        The commands, empty if the goal holds already, or None if it cannot be reached.
    """
    if goal.holds(state):
        return []
    candidates = sorted(
        ((sub.estimate(sub.root), i, sub) for i, sub in enumerate(_subproblems(state, goal))),
        key=lambda entry: entry[:2],
    )
    best: list[Move] | None = None
    for estimate, _, sub in candidates:
        if best is not None and estimate >= len(best):
            break
        found = _search(sub, len(best) if best is not None else None)
        if found is not None:
            best = found
    return None if best is None else [_command(state, move) for move in best]


def _subproblems(state: State, goal: Goal) -> list[Subproblem]:
    """One subproblem per way, without those that only exchange alike objects."""
    within = [0] * len(state.game.objects)
    for r, held in enumerate(state.contents):
        for o in held:
            within[o] |= 1 << r
    seen: set[frozenset[tuple[object, ...]]] = set()
    subs: list[Subproblem] = []
    for way in goal.ways:
        look = _likeness(way, state, within)
        if look not in seen:
            seen.add(look)
            subs.append(Subproblem(state, way, within))
    return subs


def _likeness(way: Conjunction, state: State, within: list[int]) -> frozenset[tuple[object, ...]]:
    game = state.game
    wants: dict[int, list[tuple[object, ...]]] = {}
    places: set[tuple[object, ...]] = set()
    for fact, first, second in way:
        if fact == "at":
            places.add((fact, first))
        else:
            wants.setdefault(first, []).append((fact, second))
    # Two alike objects in one way would melt into one element, so each carries its rank among its
    # likes.
    copies: dict[tuple[object, ...], int] = {}
    for o, facts in sorted(wants.items()):
        look = (
            within[o],
            state.held == o,
            game.accepts[o],
            game.pickupable >> o & 1,
            game.toggleable >> o & 1,
            *(mask >> o & 1 for mask in game.treatable.values()),
            *(mask >> o & 1 for mask in (state.clean, state.hot, state.cool, state.toggled)),
            tuple(sorted(facts, key=repr)),
        )
        copies[look] = copies.get(look, 0) + 1
        places.add((*look, copies[look]))
    return frozenset(places)


def _search(sub: Subproblem, bound: int | None) -> list[Move] | None:
    """A* on one subproblem; only plans shorter than `bound` count."""
    order = count()
    open_nodes = [(sub.estimate(sub.root), next(order), sub.root)]
    cost = {sub.root: 0}
    came: dict[Node, tuple[Node, Move]] = {}
    while open_nodes:
        estimate, _, node = heappop(open_nodes)
        done = cost[node]
        if bound is not None and estimate >= bound:
            return None
        if sub.reached(node):
            moves: list[Move] = []
            while node in came:
                node, move = came[node]
                moves.append(move)
            return moves[::-1]
        for move, after in sub.successors(node):
            if done + 1 < cost.get(after, 1 << 30):
                cost[after] = done + 1
                came[after] = (node, move)
                heappush(open_nodes, (done + 1 + sub.estimate(after), next(order), after))
    return None


def _command(state: State, move: Move) -> str:
    game = state.game
    receptacle = game.receptacles[move.receptacle] if move.receptacle != NOWHERE else ""
    obj = game.objects[move.obj] if move.obj != NOWHERE else ""
    match move.verb:
        case "go to" | "open":
            return f"{move.verb} {receptacle}"
        case "take":
            return f"take {obj} from {receptacle}"
        case "put":
            return state.grammar.put_command(obj, receptacle)
        case "use":
            return f"use {obj}"
        case verb:
            return f"{verb} {obj} with {receptacle}"
