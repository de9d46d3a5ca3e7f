"""Posting lists in compressed sparse rows, and the sorted table of terms that finds them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stapo.errors import ConfigError
from stapo.retrieval.analyzer import Analyzer

_LARGEST_TF = 0xFFFF
_CHUNK = 1 << 22
_MOST_DOCUMENTS = 1 << 32


@dataclass(frozen=True, slots=True)
class Terms:
    """Sorted terms as one block of UTF-8, looked up by bisection: opening costs nothing, whatever the size.

    Attributes:
        text_n: all terms after one another, shape (bytes,), uint8.
        starts_t: where each starts, and the end of the last; shape (T + 1,), int64.
    """

    text_n: np.ndarray
    starts_t: np.ndarray

    @classmethod
    def of(cls, terms: list[str]) -> Terms:
        """Lay out terms that are sorted already."""
        encoded = [term.encode("utf-8", "surrogatepass") for term in terms]
        starts_t = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(e) for e in encoded], out=starts_t[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), starts_t)

    def __len__(self) -> int:
        return len(self.starts_t) - 1

    def find(self, term: str) -> int:
        """Row of a term, -1 if there is none."""
        # The order of UTF-8 bytes is that of code points, in which the terms were sorted.
        wanted = term.encode("utf-8", "surrogatepass")
        row = bisect_left(range(len(self)), wanted, key=self._encoded)
        return row if row < len(self) and self._encoded(row) == wanted else -1

    def _encoded(self, row: int) -> bytes:
        return self.text_n[self.starts_t[row] : self.starts_t[row + 1]].tobytes()


@dataclass(frozen=True, slots=True)
class Postings:
    """The lists of all terms, term by term; inside a list documents ascend.

    Attributes:
        documents: number of documents D, empty ones included.
        starts_t: where the list of each term starts, and the end of the last; shape (T + 1,), int64.
        doc_p: document of each posting, shape (P,), uint32.
        impact_p: what the posting adds to a score for a term that is once in the query, shape (P,), float32.
        bound_t: the largest impact of each term, shape (T,), float32.
    """

    documents: int
    starts_t: np.ndarray
    doc_p: np.ndarray
    impact_p: np.ndarray
    bound_t: np.ndarray

    def list_of(self, term: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents and impacts of one term."""
        rows = slice(int(self.starts_t[term]), int(self.starts_t[term + 1]))
        return self.doc_p[rows], self.impact_p[rows]

    def fits(self, *, thorough: bool) -> bool:
        """Whether the arrays belong together.

        Args:
            thorough: also look at every posting, which reads the files whole.
        """
        postings = len(self.doc_p)
        if self.documents > _MOST_DOCUMENTS or len(self.impact_p) != postings or not len(self.starts_t):
            return False
        if self.starts_t[0] != 0 or self.starts_t[-1] != postings:
            return False
        if not thorough:
            return True
        return bool((np.diff(self.starts_t) > 0).all()) and (not postings or int(self.doc_p.max()) < self.documents)


def build_postings(documents: Iterable[str], analyzer: Analyzer, k1: float, b: float) -> tuple[Terms, Postings]:
    """Read documents once, one at a time, and lay out their postings.

    Memory is about 30 bytes per posting (a term of a document) at the peak, besides the vocabulary.

    Raises:
        ConfigError: more postings than the format numbers (2^32).
    """
    vocabulary: dict[str, int] = {}
    term_p, tf_p = array("I"), array("H")
    terms_d, length_d = array("I"), array("I")
    for text in documents:
        counts: dict[str, int] = {}
        terms = analyzer(text)
        for term in terms:
            counts[term] = counts.get(term, 0) + 1
        term_p.extend([vocabulary.setdefault(term, len(vocabulary)) for term in counts])
        tf_p.extend([min(n, _LARGEST_TF) for n in counts.values()])
        terms_d.append(len(counts))
        length_d.append(len(terms))
    if len(term_p) > 0xFFFFFFFF:
        raise ConfigError(f"the corpus has {len(term_p)} postings, this index holds 2^32; use the retriever 'tantivy'.")
    names = sorted(vocabulary)
    postings = _lay_out(
        _ranks(names, vocabulary)[np.frombuffer(term_p, np.uint32)],
        np.frombuffer(tf_p, np.uint16),
        np.frombuffer(terms_d, np.uint32),
        np.frombuffer(length_d, np.uint32),
        len(names),
        (k1, b),
    )
    return Terms.of(names), postings


def _ranks(names: list[str], vocabulary: dict[str, int]) -> np.ndarray:
    rank_t = np.empty(len(names), np.uint64)
    rank_t[np.fromiter((vocabulary[name] for name in names), np.int64, len(names))] = np.arange(len(names))
    return rank_t


def _lay_out(
    key_p: np.ndarray,
    tf_p: np.ndarray,
    terms_d: np.ndarray,
    length_d: np.ndarray,
    terms: int,
    parameters: tuple[float, float],
) -> Postings:
    # Sorting by (term, place) as one number is many times faster than a stable argsort, and needs no second array.
    key_p <<= np.uint64(32)
    key_p |= np.arange(len(key_p), dtype=np.uint64)
    key_p.sort()
    frequency_t = np.zeros(terms, np.int64)
    doc_of = np.repeat(np.arange(len(terms_d), dtype=np.uint32), terms_d)
    full = int(np.count_nonzero(terms_d))
    factor_c = length_factors(float(length_d.sum(dtype=np.int64)) / max(full, 1), *parameters)
    code_d = length_codes(length_d)
    doc_p = np.empty(len(key_p), np.uint32)
    impact_p = np.empty(len(key_p), np.float32)
    for start in range(0, len(key_p), _CHUNK):
        frequency_t += np.bincount((key_p[start : start + _CHUNK] >> np.uint64(32)).astype(np.int64), minlength=terms)
    idf_t = idf(full, frequency_t)
    for start in range(0, len(key_p), _CHUNK):
        rows = slice(start, start + _CHUNK)
        place = (key_p[rows] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        doc_p[rows] = doc_of[place]
        idf_p = idf_t[(key_p[rows] >> np.uint64(32)).astype(np.int64)]
        impact_p[rows] = impacts(idf_p, tf_p[place], factor_c[code_d[doc_p[rows]]])
    starts_t = np.zeros(terms + 1, np.int64)
    np.cumsum(frequency_t, out=starts_t[1:])
    bound_t = np.maximum.reduceat(impact_p, starts_t[:-1]) if terms else np.zeros(0, np.float32)
    return Postings(len(terms_d), starts_t, doc_p, impact_p, bound_t)


_EXACT = 24


def _length_table() -> np.ndarray:
    """The length that each of the 256 codes stands for, shape (256,), int64, increasing."""
    decoded = []
    for code in range(256):
        rest = code - _EXACT
        if rest < 8:
            decoded.append(code)
        else:
            decoded.append(_EXACT + ((rest & 7 | 8) << ((rest >> 3) - 1)))
    return np.array(decoded, np.int64)


LENGTHS = _length_table()
"""Length by code, shape (256,)."""


def length_codes(lengths_d: np.ndarray) -> np.ndarray:
    """One-byte codes of document lengths in tokens; shape (D,) in, (D,) uint8 out."""
    return (np.searchsorted(LENGTHS, lengths_d, side="right") - 1).astype(np.uint8)


def idf(documents: int, frequency_t: np.ndarray) -> np.ndarray:
    """Inverse document frequency of terms, shape (T,) float32.

    Args:
        documents: number of documents that have any term.
        frequency_t: number of documents with each term, shape (T,).
    """
    df = frequency_t.astype(np.float64)
    return np.log1p((documents - df + 0.5) / (df + 0.5)).astype(np.float32)


def length_factors(mean_length: float, k1: float, b: float) -> np.ndarray:
    """``1 / (k1 * (1 - b + b * length / mean))`` for each length code, shape (256,) float32; infinite where k1 is 0."""
    one, k, slope = np.float32(1), np.float32(k1), np.float32(b)
    ratio = slope * LENGTHS.astype(np.float32) / np.float32(mean_length or 1.0)
    with np.errstate(divide="ignore"):
        return np.asarray(one / (k * ((one - slope) + ratio)), np.float32)


def impacts(idf_p: np.ndarray, tf_p: np.ndarray, factor_p: np.ndarray) -> np.ndarray:
    """What each posting adds to a score when its term occurs once in the query; all of shape (P,), float32."""
    one = np.float32(1)
    return np.asarray(idf_p - idf_p / (one + tf_p.astype(np.float32) * factor_p), np.float32)
