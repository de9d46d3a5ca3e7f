"""Hand-made worlds small enough to check by hand or by exhaustive search."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from stapo.envs.alfworld.engine import State
from stapo.envs.alfworld.game import Game
from stapo.envs.alfworld.goals import Goal, compile_goal
from stapo.envs.alfworld.text import GRAMMARS
from stapo.envs.alfworld.world import compile_world

CLEANABLE = {"mug", "apple", "plate", "knife", "spoon"}
HEATABLE = {"mug", "apple", "plate", "egg"}
COOLABLE = {"mug", "apple", "plate", "egg"}
SLICEABLE = {"apple", "egg", "bread"}
CONTAINERS = {"plate", "bowl", "box"}
LAMPS = {"desklamp", "floorlamp"}


def put(obj: str, where: str, condition: str = "") -> str:
    able = {"isClean": "cleanable", "isHot": "heatable", "isCool": "coolable"}
    extra = f"({able[condition]} ?o) ({condition} ?o)" if condition else ""
    return (
        f"(and (exists (?r - receptacle) (exists (?o - object) (and {extra} (inReceptacle ?o ?r) "
        f"(objectType ?o {obj}Type) (receptacleType ?r {where}Type)))))"
    )


def put_two(obj: str, where: str) -> str:
    return (
        f"(and (exists (?r - receptacle) (exists (?o1 - object) (and (objectType ?o1 {obj}Type) "
        f"(receptacleType ?r {where}Type) (inReceptacle ?o1 ?r) (exists (?o2 - object) (and "
        f"(not (= ?o1 ?o2)) (objectType ?o2 {obj}Type) (receptacleType ?r {where}Type) "
        "(inReceptacle ?o2 ?r)))))))"
    )


def look_at(obj: str, lamp: str) -> str:
    return (
        "(and (exists (?ot - object ?r - receptacle ?a - agent ?l - location) "
        f"(and (objectType ?ot {lamp}Type) (toggleable ?ot) (isToggled ?ot) "
        "(receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r))) "
        f"(exists (?o - object ?a - agent) (and (objectType ?o {obj}Type) (holds ?a ?o))))"
    )


@dataclass
class Tiny:
    """Builds a game place by place."""

    goal: str = field(default_factory=lambda: put("mug", "desk"))
    goal_text: str = "put a mug in desk."
    task_type: str = "pick_and_place_simple"
    start: int = 0
    facts: list[str] = field(default_factory=list)
    kinds: dict[str, set[str]] = field(default_factory=lambda: {"object": set(), "receptacle": set()})
    refuses: set[tuple[str, str]] = field(default_factory=set)

    def entity(self, name: str) -> str:
        """An id whose display name is `name`: ids sort against the numbers."""
        kind, number = name.split()
        code = f"{99 - int(number):02d}"
        if kind.endswith("basin"):
            return f"{kind.removesuffix('basin').title()}_bar_{code}_bar_{kind.title()}"
        return f"{kind.title()}_bar_{code}"

    def fact(self, *words: str) -> Tiny:
        self.facts.append(f"({' '.join(words)})")
        return self

    def at(self, name: str, loc: int, *holds: str, door: str = "", spot: int | None = None) -> Tiny:
        """Add a receptacle; `door` is "", "closed" or "open", `spot` notes objects elsewhere."""
        kind, rid = name.split()[0], self.entity(name)
        self.kinds["receptacle"].add(kind)
        self.fact("receptacleType", rid, f"{kind}Type")
        self.fact("receptacleAtLocation", rid, f"loc_bar_{loc}")
        if door:
            self.fact("openable", rid)
        if door == "open":
            self.fact("opened", rid)
        for obj in holds:
            self.thing(obj)
            self.fact("inReceptacle", self.entity(obj), rid)
            self.fact("objectAtLocation", self.entity(obj), f"loc_bar_{loc if spot is None else spot}")
        return self

    def thing(self, name: str) -> Tiny:
        kind, oid = name.split()[0], self.entity(name)
        self.kinds["object"].add(kind)
        marks = {"cleanable": CLEANABLE, "heatable": HEATABLE, "coolable": COOLABLE}
        marks |= {"sliceable": SLICEABLE, "isReceptacleObject": CONTAINERS, "toggleable": LAMPS}
        if f"(objectType {oid} {kind}Type)" in self.facts:
            return self
        self.fact("objectType", oid, f"{kind}Type")
        if kind not in LAMPS:
            self.fact("pickupable", oid)
        for predicate, kinds in marks.items():
            if kind in kinds:
                self.fact(predicate, oid)
        return self

    def declared(self, facts: list[str]) -> str:
        """The typed objects that TextWorld wants to be told; the native engine reads the facts."""
        kinds: dict[str, str] = {"agent1": "agent"}
        for fact in facts:
            predicate, *names = fact.strip("()").split()
            kinds |= {name: "location" for name in names if name.startswith("loc_")}
            if predicate in ("objectType", "receptacleType"):
                kind = predicate.removesuffix("Type")
                kinds |= {names[0]: kind, names[1]: "otype" if kind == "object" else "rtype"}
        return " ".join(f"{name} - {kind}" for name, kind in kinds.items())

    def game(self, game_id: str = "tiny/one", split: str = "train") -> Game:
        can = [
            f"(canContain {r}Type {o}Type)"
            for r in sorted(self.kinds["receptacle"])
            for o in sorted(self.kinds["object"])
            if (r, o) not in self.refuses
        ]
        facts = [f"(atLocation agent1 loc_bar_{self.start})", *self.facts, *can]
        problem = (
            f"(define (problem p) (:domain alfred) (:objects {self.declared(facts)}) "
            f"(:init {' '.join(facts)}) (:goal {self.goal}))"
        )
        return Game(game_id, split, self.task_type, self.goal_text, problem)  # type: ignore[arg-type]

    def play(self, grammar: str = "move") -> State:
        return State(compile_world(self.game()), GRAMMARS[grammar])

    def compiled_goal(self) -> Goal:
        return compile_goal(compile_world(self.game()))


def kitchen(**options: object) -> Tiny:
    """A desk, two drawers side by side, and the three tools."""
    return (
        Tiny(**options)  # type: ignore[arg-type]
        .at("desk 1", 1, "mug 1", "knife 1")
        .at("drawer 1", 2, "mug 2", door="closed")
        .at("drawer 2", 2, "spoon 1", door="open")
        .at("fridge 1", 3, "apple 1", "egg 1", door="closed")
        .at("microwave 1", 4, door="closed")
        .at("sinkbasin 1", 5, "plate 1")
    )


def record(game: Game) -> dict[str, str]:
    return {key: getattr(game, key) for key in ("id", "split", "task_type", "goal", "pddl_problem")}


def write_jsonl(path: Path, games: list[Game]) -> Path:
    path.write_text("".join(json.dumps(record(game)) + "\n" for game in games), encoding="utf-8")
    return path
