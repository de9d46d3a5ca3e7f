"""A made-up world as a corpus and questions: everything follows from size and seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from stapo.envs.search.questions import Hop, Question, digest_of
from stapo.envs.search.world.facts import CHAINS, RELATIONS, Facts, Size, draw_facts, size_named


@dataclass(frozen=True)
class World:
    """A corpus with questions that it answers.

    Attributes:
        passages: (id, title, text) of each entity that has anything to tell, sorted by id.
        questions: of the splits train and heldout; no question is in both.
    """

    passages: tuple[tuple[str, str, str], ...]
    questions: tuple[Question, ...]


@lru_cache(maxsize=4)
def generate_world(size: str = "tiny", seed: int = 0) -> World:
    """Generate a world.

    Args:
        size: "tiny" (few words, one wording each, for policies that are trained from scratch) or "standard".
        seed: another seed is another world.

    Raises:
        ConfigError: there is no such size.
    """
    sizes = size_named(size)
    rng = random.Random(f"stapo search world {size} {seed}")
    facts = draw_facts(sizes, rng)
    return World(_passages(facts, sizes, rng), _questions(facts, sizes, rng))


def passage_id(entity: str) -> str:
    """The id of an entity's passage."""
    return entity.lower().replace(" ", "-")


def _passages(facts: Facts, size: Size, rng: random.Random) -> tuple[tuple[str, str, str], ...]:
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


def _questions(facts: Facts, size: Size, rng: random.Random) -> tuple[Question, ...]:
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


def _question(facts: Facts, chain: tuple[str, ...], start: str, split: str, size: Size, rng: random.Random) -> Question:
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
