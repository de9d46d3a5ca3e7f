"""The best k documents of a few posting lists: by adding everything up, or by leaving out what cannot matter.

Both give the same answer: documents by falling score, equal scores by rising id, a score being the sum of its float32
impacts in double precision, rounded to float32 once, as Lucene has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stapo.retrieval.postings import Postings

SMALL = 20_000
"""Up to this many documents everything is added up: choosing what to leave out would cost more."""

# Partial sums are rounded; whoever is this close to the limit stays in.
_SLACK = 1e-4


@dataclass(frozen=True, slots=True)
class _List:
    doc_p: np.ndarray
    impact_p: np.ndarray
    bound: float


def _lists(postings: Postings, query: dict[int, int]) -> list[_List]:
    """The lists of the query's terms, the weightiest first. A term that occurs n times weighs n times as much."""
    lists = []
    for term, times in query.items():
        doc_p, impact_p = postings.list_of(term)
        impact_p = impact_p if times == 1 else impact_p * np.float32(times)
        lists.append(_List(doc_p, impact_p, float(postings.bound_t[term]) * times))
    return sorted(lists, key=lambda one: -one.bound)


def rank(postings: Postings, query: dict[int, int], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k documents with a term of the query.

    Args:
        postings: the lists.
        query: row of each term of the query -> how often it occurs there.
        k: at most how many, at least 1.

    Returns:
        ids, shape (K,), int64, and scores, shape (K,), float32; K <= k.
    """
    if not query:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    if postings.documents <= SMALL:
        return rank_all(postings, query, k)
    return rank_pruned(postings, query, k)


def rank_all(postings: Postings, query: dict[int, int], k: int) -> tuple[np.ndarray, np.ndarray]:
    """`rank` by adding up every posting."""
    lists = _lists(postings, query)
    doc_n = np.concatenate([one.doc_p for one in lists])
    impact_n = np.concatenate([one.impact_p for one in lists])
    score_d = np.bincount(doc_n, weights=impact_n, minlength=postings.documents).astype(np.float32)
    found = np.flatnonzero(score_d)
    return best(found, score_d[found], k)


def rank_pruned(postings: Postings, query: dict[int, int], k: int) -> tuple[np.ndarray, np.ndarray]:
    """`rank` by MaxScore (H. Turtle and J. Flood, 1995).

    Lists are added up from the weightiest on. As soon as the lists that are left cannot lift a new document into the
    best k, they are only looked up for the documents that still can get there.
    """
    lists = _lists(postings, query)
    left = np.append(np.cumsum([one.bound for one in lists][::-1])[::-1], 0.0)
    slack = _SLACK * left[0]
    score_d = np.zeros(postings.documents, np.float32)
    threshold = 0.0
    done = 0
    for one in lists:
        score_d[one.doc_p] += one.impact_p
        done += 1
        if len(one.doc_p) >= k:
            threshold = max(threshold, _kth(score_d[one.doc_p], k))
        if left[done] + slack < threshold:
            break
    doc_c = _candidates([one.doc_p for one in lists[:done]], score_d, threshold - left[done] - slack)
    score_c = score_d[doc_c]
    for i in range(done, len(lists)):
        score_c += _look_up(lists[i], doc_c)
        if len(doc_c) > k:
            threshold = max(threshold, _kth(score_c, k))
            stays = score_c >= threshold - left[i + 1] - slack
            doc_c, score_c = doc_c[stays], score_c[stays]
    if len(doc_c) > k:
        doc_c = doc_c[score_c >= _kth(score_c, k) - slack]
    exact_c = np.zeros(len(doc_c), np.float64)
    for one in lists:
        exact_c += _look_up(one, doc_c)
    return best(doc_c.astype(np.int64), exact_c.astype(np.float32), k)


def _kth(score_n: np.ndarray, k: int) -> float:
    return float(np.partition(score_n, len(score_n) - k)[len(score_n) - k])


def _candidates(lists: list[np.ndarray], score_d: np.ndarray, limit: float) -> np.ndarray:
    if limit <= 0:
        return np.flatnonzero(score_d)
    if sum(map(len, lists)) > len(score_d) // 4:
        return np.flatnonzero(score_d >= limit)
    return np.unique(np.concatenate([doc_p[score_d[doc_p] >= limit] for doc_p in lists]))


def _look_up(one: _List, doc_c: np.ndarray) -> np.ndarray:
    """Impacts of the given documents in a list, 0 where they are not in it; shape (C,)."""
    place = np.searchsorted(one.doc_p, doc_c.astype(one.doc_p.dtype))
    place[place == len(one.doc_p)] = 0
    return np.where(one.doc_p[place] == doc_c, one.impact_p[place], np.float32(0))


def best(doc_n: np.ndarray, score_n: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k documents of the highest scores, the highest first, equal scores by id; shapes (N,) in, (K,) out."""
    if len(doc_n) > k:
        stays = score_n >= _kth(score_n, k)
        doc_n, score_n = doc_n[stays], score_n[stays]
    order = np.lexsort((doc_n, -score_n))[:k]
    return doc_n[order], score_n[order]
