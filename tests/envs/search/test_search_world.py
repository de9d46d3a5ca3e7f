"""The generated world: every question has one answer, which its passages tell, and no split repeats another's."""

from __future__ import annotations

from collections import Counter

import pytest

from stapo.envs.search.world import CHAINS, SIZES, generate_world
from stapo.errors import ConfigError


@pytest.fixture(scope="module", params=sorted(SIZES))
def world(request):
    return request.param, generate_world(request.param)


def test_each_hop_is_told_by_its_passage(world):
    _, w = world
    text = {i: body for i, _, body in w.passages}
    titles = {i: title for i, title, _ in w.passages}
    for question in w.questions:
        assert question.hops[0].entity in question.text
        assert question.golds == (question.hops[-1].found,)
        for hop, following in zip(question.hops, question.hops[1:], strict=False):
            assert hop.found == following.entity
            assert hop.found not in question.text
        for hop in question.hops:
            assert titles[hop.passage] == hop.entity
            assert hop.found in text[hop.passage]
            assert hop.entity in text[hop.passage]


def test_splits_share_no_question(world):
    _, w = world
    by_split = {}
    for q in w.questions:
        by_split.setdefault(q.split, set()).add((q.hops[0].entity, tuple(h.key for h in q.hops)))
    assert set(by_split) == {"train", "heldout"}
    assert not by_split["train"] & by_split["heldout"]
    assert len({q.text for q in w.questions}) == len(w.questions) == len({q.task_id for q in w.questions})


def test_every_chain_is_asked_in_both_splits(world):
    name, w = world
    asked = Counter((len(q.hops), q.split) for q in w.questions)
    size = SIZES[name]
    assert {hops for hops, _ in asked} == {len(c) for c in CHAINS if len(c) <= size.hops}
    share = sum(n for (_, split), n in asked.items() if split == "heldout") / len(w.questions)
    assert share == pytest.approx(size.heldout, abs=0.01)


def test_people_have_namesakes(world):
    _, w = world
    people = [title.split() for _, title, _ in w.passages if " " in title]
    first, family = Counter(a for a, _ in people), Counter(b for _, b in people)
    assert sum(first[a] > 1 for a, _ in people) > 0.9 * len(people)
    assert sum(family[b] > 1 for _, b in people) > 0.9 * len(people)


def test_the_tiny_world_has_few_words():
    words = {w.strip(".?") for _, _, text in generate_world("tiny").passages for w in text.split()}
    assert len(words) < 150


def test_seed_and_size_decide():
    generate_world.cache_clear()
    once = generate_world("tiny", 0)
    generate_world.cache_clear()
    assert generate_world("tiny", 0) == once
    assert generate_world("tiny", 1).passages != once.passages
    with pytest.raises(ConfigError, match=r"size is 'tinny', expected one of tiny, standard\. Did you mean 'tiny'"):
        generate_world("tinny")


def test_a_world_is_what_it_was():
    """The ids of a world are in other people's result files."""
    w = generate_world("tiny", 0)
    assert (len(w.passages), len(w.questions)) == (192, 1056)
    assert w.questions[0].task_id == "1-hop/heldout/born-bd237e7d3190"
