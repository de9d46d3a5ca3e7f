"""What there is to know in a made-up world: entities, relations between them, and one fact per entity and relation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from stapo.errors import ConfigError, did_you_mean

EntityKind = Literal["person", "company", "town", "river", "trade"]


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation that holds between an entity and exactly one other.

    Attributes:
        name: as it stands in task types.
        subject: kind of entity that has it.
        object: kind of entity it leads to.
        tells: sentences that state it, with {s} and {o}; the first is the plainest.
        asks: questions for the object, with {s}; the first is the plainest.
        phrase: words for the object inside a longer question, with {s}.
        key: the word that a query adds to the name.
    """

    name: str
    subject: EntityKind
    object: EntityKind
    tells: tuple[str, ...]
    asks: tuple[str, ...]
    phrase: str
    key: str


RELATIONS = {
    relation.name: relation
    for relation in (
        Relation(
            "born", "person", "town",
            ("{s} was born in {o}.", "The birthplace of {s} is {o}.", "{s} came into the world in {o}."),
            ("Where was {s} born?", "In which town was {s} born?"),
            "the birthplace of {s}", "born",
        ),
        Relation(
            "employer", "person", "company",
            ("{s} works for {o}.", "{s} is employed by {o}.", "The employer of {s} is {o}."),
            ("Which company does {s} work for?", "Who employs {s}?"),
            "the employer of {s}", "works",
        ),
        Relation(
            "trade", "person", "trade",
            ("{s} is a {o}.", "{s} earns a living as a {o}.", "By trade {s} is a {o}."),
            ("What is the trade of {s}?", "What does {s} do for a living?"),
            "the trade of {s}", "trade",
        ),
        Relation(
            "head", "company", "person",
            ("{s} is led by {o}.", "The head of {s} is {o}.", "At the top of {s} stands {o}."),
            ("Who leads {s}?", "Who is the head of {s}?"),
            "the head of {s}", "led",
        ),
        Relation(
            "base", "company", "town",
            ("{s} is based in {o}.", "The seat of {s} is {o}.", "{s} has its offices in {o}."),
            ("Where is {s} based?", "In which town does {s} have its seat?"),
            "the seat of {s}", "based",
        ),
        Relation(
            "river", "town", "river",
            ("{s} lies on the {o}.", "The {o} flows through {s}.", "{s} stands on the banks of the {o}."),
            ("Which river flows through {s}?", "On which river does {s} lie?"),
            "the river of {s}", "river",
        ),
    )
}  # fmt: skip

CHAINS: tuple[tuple[str, ...], ...] = (
    ("born",), ("employer",), ("trade",), ("head",), ("base",), ("river",),
    ("head", "born"), ("head", "trade"), ("employer", "base"), ("born", "river"), ("employer", "head"),
    ("base", "river"), ("employer", "head", "born"), ("employer", "base", "river"),
)  # fmt: skip
"""What is asked: relations from the entity in the question to the answer."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is in a world.

    Attributes:
        first_names, family_names: words that names of people are made of; few words make many namesakes.
        people, companies, towns, rivers, trades: entities of each kind.
        hops: longest chain of relations in a question.
        wordings: how many ways of saying a thing are in use.
        asides: share of people whose passage has a sentence about a namesake.
        questions: how many questions a chain has at most.
        heldout: share of the questions of each chain that no training question repeats.
    """

    first_names: int
    family_names: int
    people: int
    companies: int
    towns: int
    rivers: int
    trades: int
    hops: int
    wordings: int
    asides: float
    questions: int
    heldout: float


SIZES = {
    "tiny": Size(20, 20, 160, 16, 16, 8, 8, hops=2, wordings=1, asides=0.0, questions=160, heldout=0.25),
    "standard": Size(120, 160, 2400, 240, 160, 60, 16, hops=3, wordings=3, asides=0.5, questions=1200, heldout=0.2),
}


def size_named(name: str) -> Size:
    """The size called `name`. Raises ConfigError for one that does not exist."""
    if name not in SIZES:
        raise ConfigError(f"there is no world of size '{name}'.{did_you_mean(name, SIZES)} Sizes: {', '.join(SIZES)}.")
    return SIZES[name]


@dataclass
class Facts:
    """Entities by kind, and the object of each (entity, relation)."""

    entities: dict[EntityKind, list[str]] = field(default_factory=dict)
    objects: dict[tuple[str, str], str] = field(default_factory=dict)

    def follow(self, start: str, chain: tuple[str, ...]) -> list[str]:
        """The entities on the way along a chain of relations, the start first."""
        way = [start]
        for relation in chain:
            way.append(self.objects[way[-1], relation])
        return way


def draw_facts(size: Size, rng: random.Random) -> Facts:
    """Draw a world."""
    taken: set[str] = set()
    first = words("first", size.first_names, rng, taken)
    family = words("family", size.family_names, rng, taken)
    everyone = [f"{a} {b}" for a in first for b in family]
    facts = Facts()
    facts.entities = {
        "person": rng.sample(everyone, size.people),
        "company": words("company", size.companies, rng, taken),
        "town": words("town", size.towns, rng, taken),
        "river": words("river", size.rivers, rng, taken),
        "trade": list(TRADES[: size.trades]),
    }
    for relation in RELATIONS.values():
        for subject in facts.entities[relation.subject]:
            facts.objects[subject, relation.name] = rng.choice(facts.entities[relation.object])
    return facts


_HEADS = (
    "al", "ar", "bel", "bor", "cal", "cor", "dar", "del", "dor", "el", "fal", "fen", "gar", "gil", "hal", "hel", "ib",
    "jal", "jor", "kal", "ker", "kor", "lam", "len", "lor", "mal", "mer", "mor", "nal", "ner", "nor", "ol", "or", "pel",
    "por", "quil", "ral", "ren", "ros", "sal", "sel", "sor", "tal", "tem", "tor", "ul", "val", "ven", "vor", "wal",
    "wen", "yal", "yor", "zal", "zen",
)  # fmt: skip
_MIDDLES = ("", "a", "an", "da", "e", "en", "i", "is", "la", "mi", "o", "ri", "so", "ti", "u", "va")
_TAILS = {
    "first": ("a", "ia", "o", "us", "ette", "in", "ys", "ard"),
    "family": ("sk", "ov", "ham", "kin", "dal", "mont", "stra", "ner"),
    "town": ("wick", "mere", "holt", "ford", "stead", "by", "haven", "combe"),
    "company": ("ex", "tec", "corp", "works", "line", "ium", "soft", "gram"),
    "river": ("isk", "ane", "wen", "ash", "onne", "ude", "imar", "ell"),
}
TRADES = (
    "baker", "carpenter", "painter", "doctor", "farmer", "pilot", "tailor", "weaver", "miller", "potter", "smith",
    "teacher", "fisher", "gardener", "glazier", "printer",
)  # fmt: skip


def words(kind: str, count: int, rng: random.Random, taken: set[str]) -> list[str]:
    """Draw `count` new names of a kind, shortest syllables first, and add them to `taken`.

    Args:
        kind: "first", "family", "town", "company" or "river".
        count: at most some thousands.
        rng: decides which.
        taken: names that exist already, lower-case.
    """
    found: list[str] = []
    for word in _endless(kind, rng):
        if word not in taken:
            taken.add(word)
            found.append(word.capitalize())
        if len(found) == count:
            break
    return found


def _endless(kind: str, rng: random.Random) -> Iterator[str]:
    tails = _TAILS[kind]
    # One middle syllable at a time: small worlds have short names, large ones take as many as they need.
    for middle in (*_MIDDLES, *(a + b for a in _MIDDLES[1:] for b in _MIDDLES[1:])):
        layer = [head + middle + tail for head in _HEADS for tail in tails]
        rng.shuffle(layer)
        yield from layer
