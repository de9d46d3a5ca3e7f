"""The numbers of Lucene's ``BM25Similarity``, in its precision and with its rounded lengths.

``score(q, d) = sum over terms t of q: qtf(t) * idf(t) * tf / (tf + k1 * (1 - b + b * length(d) / mean length))`` with
``idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5))``. Lucene leaves the usual factor ``k1 + 1`` out. It keeps a length in
one byte: lengths up to 40 are exact, larger ones are rounded down to four significant bits above an offset of 24.

Source: S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; the rounding is
that of Lucene 8 and later.
"""

from __future__ import annotations

import numpy as np

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
