"""A made-up world as a corpus and questions: everything follows from size and seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from stapo.checks import check_choice
from stapo.documents import package_data
from stapo.envs.search.questions import Hop, Question, digest_of

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


_WORLD = package_data(__package__, "world.yaml")
RELATIONS = {name: Relation(name, **given) for name, given in _WORLD["relations"].items()}
CHAINS: tuple[tuple[str, ...], ...] = _WORLD["chains"]
"""What is asked: relations from the entity in the question to the answer."""


@dataclass(frozen=True, slots=True)
class CorpusSize:
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


SIZES = {name: CorpusSize(**numbers) for name, numbers in _WORLD["sizes"].items()}


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


def draw_facts(size: CorpusSize, rng: random.Random) -> Facts:
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
        "trade": _WORLD["trades"].split()[: size.trades],
    }
    for relation in RELATIONS.values():
        for subject in facts.entities[relation.subject]:
            facts.objects[subject, relation.name] = rng.choice(facts.entities[relation.object])
    return facts


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
    heads, tails, middles = _WORLD["heads"].split(), _WORLD["tails"][kind].split(), _WORLD["middles"]
    # One middle syllable at a time: small worlds have short names, large ones take as many as they need.
    for middle in (*middles, *(a + b for a in middles[1:] for b in middles[1:])):
        layer = [head + middle + tail for head in heads for tail in tails]
        rng.shuffle(layer)
        yield from layer


@dataclass(frozen=True)
class QuestionCorpus:
    """A corpus with questions that it answers.

    Attributes:
        passages: (id, title, text) of each entity that has anything to tell, sorted by id.
        questions: of the splits train and heldout; no question is in both.
    """

    passages: tuple[tuple[str, str, str], ...]
    questions: tuple[Question, ...]


@lru_cache(maxsize=4)
def generate_world(size: str = "tiny", seed: int = 0) -> QuestionCorpus:
    """Generate a world.

    Args:
        size: "tiny" (few words, one wording each, for policies that are trained from scratch) or "standard".
        seed: another seed is another world.

    Raises:
        ConfigError: there is no such size.
    """
    sizes = SIZES[check_choice("size", size, SIZES)]
    rng = random.Random(f"stapo search world {size} {seed}")
    facts = draw_facts(sizes, rng)
    return QuestionCorpus(_passages(facts, sizes, rng), _questions(facts, sizes, rng))


def passage_id(entity: str) -> str:
    """The id of an entity's passage."""
    return entity.lower().replace(" ", "-")


def _passages(facts: Facts, size: CorpusSize, rng: random.Random) -> tuple[tuple[str, str, str], ...]:
    found = []
    for kind, entities in facts.entities.items():
        relations = [relation for relation in RELATIONS.values() if relation.subject == kind]
        for entity in entities if relations else ():
            rng.shuffle(relations)
            sentences = []
            for number, relation in enumerate(relations):
                # Later sentences leave the name out, as people do: which passage they stand in has to be noticed.
                subject = entity if number == 0 or kind != "person" else "They"
                wording = relation.tells[rng.randrange(size.wordings)]
                if subject == "They":
                    wording = relation.tells[0].replace("{s} was", "{s} were").replace("{s} is", "{s} are")
                    wording = wording.replace("{s} works", "{s} work")
                sentences.append(wording.format(s=subject, o=facts.objects[entity, relation.name]))
            if kind == "person" and rng.random() < size.asides:
                sentences.insert(rng.randrange(1, len(sentences) + 1), _aside(entity, facts, rng))
            found.append((passage_id(entity), entity, " ".join(sentences)))
    return tuple(sorted(found))


def _aside(person: str, facts: Facts, rng: random.Random) -> str:
    """A sentence about somebody with the same first or family name."""
    names = set(person.split())
    others = [p for p in facts.entities["person"] if p != person and names & set(p.split())]
    other = rng.choice(others or [p for p in facts.entities["person"] if p != person])
    relation = rng.choice([r for r in RELATIONS.values() if r.subject == "person"])
    told = relation.tells[0].format(s=f"{other}, who", o=facts.objects[other, relation.name])
    return f"Not to be mixed up with {told}"


def _questions(facts: Facts, size: CorpusSize, rng: random.Random) -> tuple[Question, ...]:
    found: list[Question] = []
    for chain in CHAINS:
        if len(chain) > size.hops:
            continue
        starts = list(facts.entities[RELATIONS[chain[0]].subject])
        rng.shuffle(starts)
        starts = starts[: size.questions]
        heldout = round(len(starts) * size.heldout)
        for number, start in enumerate(starts):
            found.append(_question(facts, chain, start, "heldout" if number < heldout else "train", size, rng))
    return tuple(found)


def _question(
    facts: Facts, chain: tuple[str, ...], start: str, split: str, size: CorpusSize, rng: random.Random
) -> Question:
    way = facts.follow(start, chain)
    asked = start
    for relation in chain[:-1]:
        asked = RELATIONS[relation].phrase.format(s=asked)
    last = RELATIONS[chain[-1]]
    text = last.asks[rng.randrange(min(size.wordings, len(last.asks)))].format(s=asked)
    hops = tuple(
        Hop(passage_id(subject), subject, RELATIONS[relation].key, found)
        for subject, relation, found in zip(way, chain, way[1:], strict=False)
    )
    return Question(
        task_id=f"{len(chain)}-hop/{split}/{'-'.join(chain)}-{digest_of(text, way[-1:])}",
        text=text,
        golds=(way[-1],),
        source=f"{len(chain)}-hop",
        split=split,
        hops=hops,
    )
