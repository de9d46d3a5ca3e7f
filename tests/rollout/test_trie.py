"""The trie of commands: what may come next, token by token.

1. Commands: exactly the offered ones can be said, and after each only the end token or a longer command.
2. Texts of the agent's own: anything in between, never nothing, never past the limit.
3. What is not allowed is an error, and so are commands that do not fit.
"""

from __future__ import annotations

import random

import pytest

from stapo.policy.sequences import Allowed, FreeTokens
from stapo.rollout.trie import LONGEST_TEXT, Grammar, Template

END = 0
FIRST, LATER = FreeTokens({20: 1, 21: 4}), FreeTokens({20: 1, 21: 4, 22: 1, 5: 2})
SEARCH = Template((1, 2), FIRST, LATER, (9, END))


def responses(grammar, walk_of=()):
    """All complete responses, by depth first."""
    walk = grammar.walk()
    for token in walk_of:
        walk.take(token)
    found = []
    for token in [*walk.allowed.ids, *(walk.allowed.free.ids.tolist() if walk.allowed.free else [])]:
        found += [[*walk_of, token]] if token == END else responses(grammar, (*walk_of, token))
    return found


# -- 1 -----------------------------------------------------------------------------------------------------------------


def test_the_commands_and_no_others_can_be_said():
    rng = random.Random(0)
    for _ in range(50):
        commands = {tuple(rng.choices(range(1, 5), k=rng.randint(1, 5))) for _ in range(rng.randint(1, 12))}
        paths = [(*command, END) for command in commands]
        found = responses(Grammar([*paths, *paths[:2]], limit=6))
        assert sorted(map(tuple, found)) == sorted(paths)


def test_a_command_may_begin_a_longer_one():
    grammar = Grammar([(1, END), (1, 2, END), (3, END)], limit=5)
    assert [a.ids for a in grammar.along([1, 2, END])] == [(1, 3), (0, 2), (0,)]
    assert [a.choice for a in grammar.along([1, 2, END])] == [True, True, False]
    walk = grammar.walk()
    for token in (1, END):
        walk.take(token)
    assert walk.allowed == Allowed(())


def test_positions_of_one_node_share_what_they_allow():
    grammar = Grammar([(1, END), (2, END)], limit=2)
    assert grammar.along([1, END])[0] is grammar.along([2, END])[0]


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_a_text_begins_with_something_and_ends_where_it_is_closed():
    found = Grammar([], [SEARCH], limit=9).along([1, 2, 21, 22, 5, 9, END])
    assert [a.ids for a in found] == [(1,), (2,), (), (9,), (9,), (9,), (0,)]
    assert [a.free for a in found] == [None, None, FIRST, LATER, LATER, LATER, None]
    assert [a.choice for a in found] == [False, False, True, True, True, True, False]


def test_a_text_ends_in_time():
    """Every response of a template ends by itself within the limit, and uses all of it where it can."""
    for limit in range(SEARCH.length, 8):
        found = responses(Grammar([(7, END)], [SEARCH], limit=limit))
        assert max(map(len, found)) == limit
        texts = [r[2:-2] for r in found if r != [7, END]]
        assert {len(text) for text in texts} == set(range(1, limit - 3))
        assert len(texts) == sum(2 * 4**n for n in range(limit - 4))
        assert len({tuple(r) for r in found}) == len(found)


def test_a_text_has_a_longest_length():
    grammar = Grammar([], [SEARCH], limit=10_000)
    ids = [1, 2, *[21] * (LONGEST_TEXT // 4)]
    assert grammar.along([*ids, 9])[-1] == Allowed((9,))
    with pytest.raises(ValueError, match="not allowed"):
        grammar.along([*ids, 21])


def test_commands_beside_a_text_that_begins_alike():
    """A command inside a text's tokens, one that leaves them, one that ends where the text begins."""
    grammar = Grammar([(1, 2, 21, 9, END), (1, 2, 30, END), (1, 2, END)], [SEARCH], limit=9)
    found = grammar.along([1, 2, 21, 9, END])
    assert found[2] == Allowed((0, 21, 30), FIRST)
    assert found[3] == Allowed((9,), LATER)
    assert found[4] == Allowed((0,))
    for said in ([1, 2, END], [1, 2, 30, END], [1, 2, 21, 22, 9, END]):
        grammar.along(said)
    with pytest.raises(ValueError, match="token 20 is not allowed"):
        grammar.along([1, 2, 30, 20])


def test_a_text_without_anything_around_it():
    grammar = Grammar([], [Template((), FIRST, LATER, (END,))], limit=3)
    assert grammar.walk().allowed == Allowed((), FIRST)
    assert grammar.along([20, 22, END])[1:] == [Allowed((END,), LATER), Allowed((END,))]


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [[3], [1, 1], [1, END, 1], [1, 2, 22], [1, 2, 9]])
def test_what_is_not_allowed_is_an_error(said):
    with pytest.raises(ValueError, match="not allowed"):
        Grammar([(1, END)], [SEARCH], limit=6).along(said)


def test_commands_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="no commands"):
        Grammar([], limit=5)
    with pytest.raises(ValueError, match="a command of 3 tokens; expected at most 2"):
        Grammar([(1, 2, END)], limit=2)
    with pytest.raises(ValueError, match="a command of 5 tokens"):
        Grammar([], [SEARCH], limit=4)
