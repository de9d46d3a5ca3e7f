"""BM25 for large corpora by tantivy: built on disk with little memory, opened by any number of readers.

Its words are simpler than Lucene's (runs of letters and digits, English stems of Snowball). Stop words are in neither
the index nor the queries, and queries lose further words that very many passages have: these hardly change a ranking
and would take most of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stapo.errors import ConfigError, CorpusError, IndexFileError
from stapo.extras import need
from stapo.retrieval.analyzer import STOP_WORDS
from stapo.retrieval.index_files import count_of, read_manifest, written_whole
from stapo.retrieval.local import PORTION, CorpusRetriever, open_indexed
from stapo.texts import replace_surrogates

KIND = "tantivy"
VERSION = 1

_OF_QUESTIONS = (
    "about also been can could did do does from had has have he her him his how i its many me more most my other our "
    "she so some than them we were what when where which who whom whose why would you your"
)
QUERY_STOP_WORDS = STOP_WORDS | frozenset(_OF_QUESTIONS.split())
"""Left out of queries, unless nothing else is in them."""

_WORDS = "stapo_words"
_LONGEST_WORD = 255
_HEAP_BYTES = 128_000_000  # filled before a piece of the index is written


class TantivyIndex:
    """A finished index on disk; `build` one, then open it. Threads and processes may search it at once."""

    def __init__(self, folder: Path | str, *, verify: bool | None = None) -> None:
        """Open an index.

        Args:
            folder: as `build` left it.
            verify: as in `stapo.retrieval.index_files.read_manifest`.

        Raises:
            ConfigError: tantivy is not installed.
            IndexFileError: no index, a damaged one, or one of another version.
        """
        tantivy = _tantivy()
        folder = Path(folder)
        facts = read_manifest(folder, KIND, VERSION, verify=verify)
        self.documents = count_of(facts, "documents", folder)
        self._tantivy = tantivy
        try:
            self._index = tantivy.Index.open(str(folder / "index"))
        except (ValueError, OSError) as err:
            raise IndexFileError(f"index {folder} cannot be opened by tantivy: {err}. Build it anew.") from err
        self._analyzer = _register(tantivy, self._index)
        self._schema = self._index.schema
        self._searcher = self._index.searcher()

    @staticmethod
    def build(documents: Iterable[str], folder: Path | str) -> None:
        """Index documents into a folder; the id of a document is its place, from 0.

        Args:
            documents: texts, read once and not kept.
            folder: the index, written whole or not at all.

        Raises:
            ConfigError: tantivy is not installed.
            IndexFileError: the index could not be written.
        """
        tantivy = _tantivy()
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("row", indexed=False, stored=False, fast=True)
        builder.add_text_field("text", stored=False, tokenizer_name=_WORDS, index_option="freq")
        facts: dict[str, Any] = {"documents": 0, "tantivy": tantivy.__version__}
        with written_whole(Path(folder), KIND, VERSION, facts) as inside:
            (inside / "index").mkdir()
            try:
                index = tantivy.Index(builder.build(), path=str(inside / "index"))
                _register(tantivy, index)
                # One thread: the same documents give the same index.
                writer = index.writer(heap_size=_HEAP_BYTES, num_threads=1)
                for row, text in enumerate(documents):
                    document = tantivy.Document()
                    document.add_unsigned("row", row)
                    document.add_text("text", replace_surrogates(text))
                    writer.add_document(document)
                    facts["documents"] = row + 1
                writer.commit()
                writer.wait_merging_threads()
            except ValueError as err:
                if isinstance(err, CorpusError | ConfigError):
                    raise
                raise IndexFileError(f"index {folder} cannot be written by tantivy: {err}.") from err
            for lock in (inside / "index").glob(".tantivy-*.lock"):
                lock.unlink()

    def __len__(self) -> int:
        return self.documents

    def _query(self, text: str) -> Any:
        tantivy, text = self._tantivy, replace_surrogates(text)
        words = text.lower().split()
        kept = [word for word in words if word.strip(".,;:!?'\"()") not in QUERY_STOP_WORDS]
        terms = self._analyzer.analyze(" ".join(kept)) or self._analyzer.analyze(text)
        if not terms:
            return None
        parts = [tantivy.Query.term_query(self._schema, "text", term, "freq") for term in terms]
        return tantivy.Query.boolean_query([(tantivy.Occur.Should, part) for part in parts])

    def search(self, query: str, k: int = 10) -> list[tuple[int, float]]:
        """The best k documents as (id, score), best first, equal scores by id."""
        parsed = self._query(query)
        if parsed is None:
            return []
        hits = self._searcher.search(parsed, limit=k, count=False).hits
        rows = self._searcher.fast_field_values("row", [address for _, address in hits])
        found = [(int(row), float(score)) for row, (score, _) in zip(rows, hits, strict=True)]
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))

    def search_many(self, queries: Sequence[str], k: int = 10) -> list[list[tuple[int, float]]]:
        """`search` for each query, in order."""
        return [self.search(query, k) for query in queries]


def _tantivy() -> Any:
    return need("tantivy", "tantivy", "retrieval", "the retriever 'tantivy'")


def _register(tantivy: Any, index: Any) -> Any:
    filters = tantivy.Filter
    analyzer = (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(filters.remove_long(_LONGEST_WORD))
        .filter(filters.lowercase())
        .filter(filters.custom_stopword(sorted(STOP_WORDS)))
        .filter(filters.stemmer("english"))
        .build()
    )
    index.register_tokenizer(_WORDS, analyzer)
    return analyzer


def open_tantivy(*, corpus: Path | str, cache: Path | str | None = None) -> CorpusRetriever:
    """BM25 by tantivy over a JSONL corpus; its index is built on first use and kept in the cache.

    Args:
        corpus: the JSONL file.
        cache: folder for indexes; by default `stapo.stored.default_cache()`.

    Raises:
        ConfigError: tantivy is not installed.
        CorpusError: the corpus cannot be read.
        IndexFileError: the cache cannot be written.
    """
    _tantivy()
    return open_indexed(
        corpus, cache, KIND, TantivyIndex.build, lambda folder, verify: TantivyIndex(folder, verify=verify), PORTION
    )
