"""A question with its answers, and sets of questions by split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from stapo.envs.tasks import SplitTasks
from stapo.errors import unknown_name
from stapo.texts import replace_surrogates

SPLIT_ORDER = ("train", "dev", "valid", "test", "heldout")


@dataclass(frozen=True, slots=True)
class Hop:
    """One look-up on the way to an answer, where the way is known.

    Attributes:
        passage: id of the passage that tells it.
        entity: the name to look for.
        key: the word that says what is wanted of it.
        found: the name that it leads to.
    """

    passage: str
    entity: str
    key: str
    found: str


@dataclass(frozen=True, slots=True)
class Question:
    """One task.

    Attributes:
        task_id: stable: it depends on the content alone.
        text: the question.
        golds: right answers.
        source: the data set it is reported under.
        split: the split it belongs to.
        hops: the way to the answer, or () where it is not known.
    """

    task_id: str
    text: str
    golds: tuple[str, ...]
    source: str
    split: str
    hops: tuple[Hop, ...] = ()


def digest_of(text: str, golds: Sequence[str]) -> str:
    """Twelve characters that depend on a question and its right answers alone."""
    return hashlib.sha256(replace_surrogates("\0".join([text, *sorted(golds)])).encode()).hexdigest()[:12]


class QuestionSet(SplitTasks):
    """Questions by id and by split; ids are source/split/digest, and so the same for the same content.

    Args:
        questions: all are kept: an id that is there already gets a number, since published sets hold repeats, and
            whoever reports their numbers plays them all.
        notes: what is odd about them, a sentence each.

    Attributes:
        notes: as given.
    """

    def __init__(self, questions: Iterable[Question], notes: Sequence[str] = ()) -> None:
        self.notes = list(notes)
        rank = {name: i for i, name in enumerate(SPLIT_ORDER)}
        self._by_id: dict[str, Question] = {}
        times: Counter[str] = Counter()
        for question in questions:
            times[question.task_id] += 1
            number = times[question.task_id]
            name = question.task_id if number == 1 else f"{question.task_id}-{number}"
            self._by_id[name] = question if number == 1 else replace(question, task_id=name)
        self._answers: dict[str, tuple[str, ...]] = {}
        by_split: dict[str, list[str]] = {}
        for i in sorted(self._by_id):
            by_split.setdefault(self._by_id[i].split, []).append(i)
        super().__init__(dict(sorted(by_split.items(), key=lambda part: (rank.get(part[0], len(rank)), part[0]))))

    def answers_to(self, key: str) -> tuple[str, ...]:
        """Answers of the questions whose last look-up has this key, sorted."""
        if key not in self._answers:
            last = (q.hops[-1] for q in self._by_id.values() if q.hops)
            self._answers[key] = tuple(sorted({hop.found for hop in last if hop.key == key}))
        return self._answers[key]

    def question(self, wanted: str) -> Question:
        """The question of an id. Raises UnknownNameError."""
        if not isinstance(wanted, str) or wanted not in self._by_id:
            raise unknown_name("task", wanted, self.tasks)
        return self._by_id[wanted]
