"""Anchor groups: first-seen ids, tasks kept apart, greedy similarity."""

from __future__ import annotations

import random
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Indel

from stapo.algo import AdvantageConfig, anchor_groups, exact_groups, similarity_groups


def test_exact_ids_are_dense_in_first_seen_order_and_kept_apart_by_task():
    got = exact_groups([5, 5, 2, 5, 2], ["b", "a", "a", "b", "a"])
    np.testing.assert_array_equal(got, [0, 1, 2, 0, 2])
    named = exact_groups(["x", "x", "y"], ["k", "k", "k"])
    np.testing.assert_array_equal(named, [0, 0, 1])


def test_similarity_joins_the_first_group_that_fits():
    base = "a" * 10
    near = "a" * 9 + "b"  # 0.9 to base
    far = "a" * 8 + "bb"  # 0.8 to base, 0.9 to near
    got = similarity_groups([0, 0, 0], [base, near, far], 0.9)
    np.testing.assert_array_equal(got, [0, 0, 1])
    # `far` first: `near` fits it, and base fits neither's founder.
    np.testing.assert_array_equal(similarity_groups([0, 0, 0], [far, near, base], 0.9), [0, 0, 1])


def test_similarity_keeps_tasks_apart_and_ids_in_first_seen_order():
    got = similarity_groups([1, 0, 1, 0], ["hello", "hello", "zzzzz", "hello"], 0.9)
    np.testing.assert_array_equal(got, [0, 1, 2, 1])


def test_similarity_of_equal_and_empty_texts():
    np.testing.assert_array_equal(similarity_groups([0] * 4, ["", "", "a", "a"], 1.0), [0, 0, 1, 1])
    np.testing.assert_array_equal(similarity_groups([0] * 3, ["a", "b", ""], 0.0), [0, 0, 0])
    assert similarity_groups([], []).shape == (0,)
    assert exact_groups([], []).shape == (0,)


def one_by_one(groups, texts, threshold):
    """Place each row into the first group of its task whose founder is similar enough."""
    founders, out = [], []
    for g, t in zip(groups, texts, strict=True):
        for i, (fg, ft) in enumerate(founders):
            if fg == g and Indel.normalized_similarity(ft, t) >= threshold - 1e-9:
                out.append(i)
                break
        else:
            out.append(len(founders))
            founders.append((g, t))
    return out


@given(
    st.lists(st.tuples(st.integers(0, 2), st.text("ab", min_size=0, max_size=8)), max_size=30),
    st.sampled_from([0.5, 0.75, 0.9, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_batched_greedy_equals_one_by_one(rows, threshold):
    groups, texts = [r[0] for r in rows], [r[1] for r in rows]
    np.testing.assert_array_equal(similarity_groups(groups, texts, threshold), one_by_one(groups, texts, threshold))


@given(st.lists(st.tuples(st.integers(0, 2), st.text("abc", max_size=3)), max_size=30))
@settings(max_examples=80, deadline=None)
def test_similarity_one_is_exact_matching(rows):
    groups, texts = [r[0] for r in rows], [r[1] for r in rows]
    np.testing.assert_array_equal(similarity_groups(groups, texts, 1.0), exact_groups(groups, texts))


def test_the_knob_chooses():
    texts = ["a" * 10, "a" * 9 + "b"]
    exact = anchor_groups([0, 0], texts, AdvantageConfig())
    similar = anchor_groups([0, 0], texts, AdvantageConfig(anchor="similarity"))
    np.testing.assert_array_equal(exact, [0, 1])
    np.testing.assert_array_equal(similar, [0, 0])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="3 rows and there are 2 keys"):
        exact_groups([0, 0, 0], ["a", "b"])


def test_similarity_of_free_text_that_differs_in_a_word():
    rng = random.Random(0)
    page = " ".join("".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(50))
    other = " ".join("".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(50))
    got = similarity_groups([0, 0, 0], [page, page.replace(page[:6], "walrus"), other], 0.9)
    np.testing.assert_array_equal(got, [0, 0, 1])
