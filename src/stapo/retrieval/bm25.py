"""BM25 search with the rankings of Lucene, in NumPy: no Java, no compiler, arrays that are mapped and not loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stapo.checks import check_integer, check_number
from stapo.errors import ConfigError, IndexFileError
from stapo.retrieval.analyzer import Analyzer, LuceneAnalyzer
from stapo.retrieval.index_files import count_of, open_array, read_manifest, written_whole
from stapo.retrieval.postings import Postings, Terms, build_postings
from stapo.retrieval.ranking import rank
from stapo.stored import VERIFIED_BYTES
from stapo.texts import escape_control_chars

KIND = "bm25"
VERSION = 1


class BM25Index:
    """An immutable index; `build` or `open` one. Several threads and processes may search it at once.

    Attributes:
        k1: how soon repeats of a term stop counting.
        b: how much long documents are held back, 0 to 1.
        analyzer: turns documents and queries into terms.
    """

    def __init__(self, terms: Terms, postings: Postings, *, k1: float, b: float, analyzer: Analyzer) -> None:
        self._terms = terms
        self._postings = postings
        self.k1 = k1
        self.b = b
        self.analyzer = analyzer

    @classmethod
    def build(
        cls, documents: Iterable[str], *, k1: float = 0.9, b: float = 0.4, analyzer: Analyzer | None = None
    ) -> BM25Index:
        """Index documents; the id of a document is its place, from 0. The defaults are Anserini's.

        Equal scores are ordered by id. Anserini orders them by the name of the document: to have its order exactly,
        give the documents sorted by name.

        Args:
            documents: texts, read once and not kept.
            k1: at least 0.
            b: from 0 to 1.
            analyzer: by default `LuceneAnalyzer`.

        Raises:
            ConfigError: k1 or b out of range, or a document that is not text.
        """
        check_number("k1", k1, 0)
        check_number("b", b, 0, 1)
        analyzer = analyzer or LuceneAnalyzer()
        terms, postings = build_postings(_checked(documents), analyzer, k1, b)
        return cls(terms, postings, k1=k1, b=b, analyzer=analyzer)

    def __len__(self) -> int:
        return self._postings.documents

    def search(self, query: str, k: int = 10) -> list[tuple[int, float]]:
        """The best k documents as (id, score), best first, equal scores by id; only documents with a term of the query.

        Raises:
            ConfigError: k below 1.
        """
        check_integer("k", k, 1)
        rows = {self._terms.find(term): times for term, times in Counter(self.analyzer(query)).items()}
        rows.pop(-1, None)
        try:
            ids, scores = rank(self._postings, rows, k)
        except (IndexError, ValueError) as err:
            raise IndexFileError("the index is damaged: its lists do not belong together. Build it anew.") from err
        return list(zip(ids.tolist(), scores.tolist(), strict=True))

    def search_many(self, queries: Sequence[str], k: int = 10) -> list[list[tuple[int, float]]]:
        """`search` for each query, in order."""
        return [self.search(query, k) for query in queries]

    def save(self, folder: Path | str) -> None:
        """Write the index into a folder, whole or not at all; an index that is there is replaced.

        Raises:
            IndexFileError: it could not be written.
        """
        facts = {"k1": self.k1, "b": self.b, "analyzer": self.analyzer.name, "documents": len(self)}
        with written_whole(Path(folder), KIND, VERSION, facts) as inside:
            for name, array in self._arrays().items():
                np.save(inside / f"{name}.npy", array, allow_pickle=False)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "term_text": self._terms.text_n,
            "term_starts": self._terms.starts_t,
            "starts": self._postings.starts_t,
            "documents": self._postings.doc_p,
            "impacts": self._postings.impact_p,
            "bounds": self._postings.bound_t,
        }

    @classmethod
    def open(cls, folder: Path | str, *, analyzer: Analyzer | None = None, verify: bool | None = None) -> BM25Index:
        """Open a saved index; its arrays stay on disk and are shared by all processes that open it.

        Args:
            folder: as `save` wrote it.
            analyzer: the one it was built with; by default `LuceneAnalyzer`.
            verify: compare hashes, which reads every file once; by default where they hold at most 256 MiB.

        Raises:
            IndexFileError: no index, a damaged one, one of another version, or one that another analyzer built.
        """
        folder = Path(folder)
        analyzer = analyzer or LuceneAnalyzer()
        facts = read_manifest(folder, KIND, VERSION, verify=verify)
        if facts.get("analyzer") != analyzer.name:
            built = escape_control_chars(str(facts.get("analyzer"))[:80])
            raise IndexFileError(f"index {folder} was built with the analyzer '{built}', asked for '{analyzer.name}'.")
        terms = Terms(
            open_array(folder / "term_text.npy", np.uint8),
            open_array(folder / "term_starts.npy", np.int64),
        )
        documents = count_of(facts, "documents", folder)
        try:
            k1, b = float(facts["k1"]), float(facts["b"])
        except (KeyError, TypeError, ValueError, OverflowError) as err:
            raise IndexFileError(f"index {folder} is damaged: its manifest has no k1 or b. Build it anew.") from err
        postings = Postings(
            documents,
            open_array(folder / "starts.npy", np.int64),
            open_array(folder / "documents.npy", np.uint32),
            open_array(folder / "impacts.npy", np.float32),
            open_array(folder / "bounds.npy", np.float32),
        )
        if not len(terms) == len(postings.starts_t) - 1 == len(postings.bound_t) or not postings.fits(
            thorough=postings.doc_p.nbytes <= VERIFIED_BYTES
        ):
            raise IndexFileError(f"index {folder} is damaged: its files disagree. Build it anew.")
        return cls(terms, postings, k1=k1, b=b, analyzer=analyzer)


def _checked(documents: Iterable[str]) -> Iterable[str]:
    for i, text in enumerate(documents):
        if not isinstance(text, str):
            raise ConfigError(f"document {i} is a {type(text).__name__}, expected text.")
        yield text
