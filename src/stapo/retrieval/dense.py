"""Search by vectors: an embedding function, every passage's vector on disk, the nearest by inner product.

Up to `FLAT_PASSAGES` passages the nearest are found exactly, by NumPy; beyond that an inverted file of faiss looks at
the clusters that are near the query.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from hashlib import blake2b
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from stapo.errors import ConfigError, IndexFileError
from stapo.extras import need
from stapo.models.cache import folder_of
from stapo.models.catalog import KNOWN, find
from stapo.progress import tell
from stapo.retrieval.analyzer import LuceneAnalyzer
from stapo.retrieval.index_files import count_of, read_manifest, written_whole
from stapo.retrieval.local import CorpusRetriever, open_indexed
from stapo.retrieval.ranking import best
from stapo.texts import escape_control_chars, replace_surrogates

KIND = "dense"
VERSION = 1

FLAT_PASSAGES = 100_000
"""More passages than this are searched by faiss."""

EMBEDDING = "minilm"
"""The embedding model where none is named; `stapo models fetch minilm` brings it."""

_BATCH = 256
_BLOCK = 1 << 16
_LOOK_AT = 16


class HashingEmbedder:
    """Words thrown into a fixed number of buckets with a sign: no model, no meaning, good for tests and wiring."""

    size = 256
    name = "hashing-256"

    def __init__(self) -> None:
        self._analyzer = LuceneAnalyzer()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1, or 0 for a text without words."""
        vectors = np.zeros((len(texts), self.size), np.float32)
        for row, text in enumerate(texts):
            for term in self._analyzer(text):
                code = int.from_bytes(blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
                vectors[row, (code >> 1) % self.size] += 1.0 if code & 1 else -1.0
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


class SentenceEmbedder:
    """A model of sentence-transformers, from a folder or by the name of one.

    Args:
        model: a name that 'stapo models' lists (minilm), a folder, or a name on the hub.
        device: "cpu", "cuda", ...; chosen by the library without it.
        query_prefix: put before every query, e.g. "query: " for E5.
        passage_prefix: put before every passage, e.g. "passage: " for E5.

    Raises:
        ConfigError: sentence-transformers is not installed, or has no such model.
        ModelError: the model of this name is not fetched.
    """

    def __init__(
        self, model: str, *, device: str | None = None, query_prefix: str = "", passage_prefix: str = ""
    ) -> None:
        folder = str(folder_of(find(model, "embedding model"))) if model in KNOWN else model
        library = need("sentence_transformers", "sentence-transformers", "dense", f"the embedding model '{model}'")
        try:
            # Code that a model brings along is never run. Its progress bar cannot be switched off.
            with redirect_stderr(StringIO()):
                self._model = library.SentenceTransformer(folder, device=device, trust_remote_code=False)
        except Exception as err:
            raise ConfigError(f"embedding model '{model}' cannot be loaded: {err}") from err
        self.query_prefix = query_prefix
        self.passage_prefix = passage_prefix
        # A name may mean other weights one day, a folder of the cache never does.
        self.name = f"{Path(folder).name if model in KNOWN else model}|{passage_prefix}"

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of passages, of length 1."""
        return self._encode([self.passage_prefix + text for text in texts])

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of queries, of length 1."""
        return self._encode([self.query_prefix + text for text in texts])

    def _encode(self, texts: list[str]) -> np.ndarray:
        found = self._model.encode(texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(found, np.float32)


Embed = Callable[[Sequence[str]], np.ndarray]


class DenseIndex:
    """Vectors of documents, searched exactly or, beyond `FLAT_PASSAGES`, by faiss.

    Attributes:
        documents: how many there are.
        size: length of a vector.
    """

    def __init__(
        self, documents: int, size: int, embed: Embed, *, vectors_nd: np.ndarray | None, clusters: Any = None
    ) -> None:
        self.documents = documents
        self.size = size
        self._embed_queries: Embed = getattr(embed, "queries", embed)
        self._vectors_nd = vectors_nd
        self._clusters = clusters

    @classmethod
    def build(
        cls, documents: Iterable[str], folder: Path | str, embed: Embed, *, flat_passages: int = FLAT_PASSAGES
    ) -> None:
        """Embed documents into a folder, batch by batch; the id of a document is its place, from 0.

        Raises:
            ConfigError: the embedder returned no such vectors, or faiss is needed and not installed.
            IndexFileError: the index could not be written.
        """
        facts: dict[str, Any] = {"embedder": name_of(embed), "documents": 0, "faiss": False}
        with written_whole(Path(folder), KIND, VERSION, facts) as inside:
            size = 0
            raw = inside / "vectors.f32"
            with raw.open("wb") as file:
                for batch in _batches(documents, _BATCH):
                    batch = [replace_surrogates(text) for text in batch]
                    vectors = checked_vectors(embed(batch), len(batch), size or None)
                    size = vectors.shape[1]
                    file.write(vectors.tobytes())
                    facts["documents"] += len(batch)
                    tell("embedding passages", facts["documents"])
            facts["size"] = size
            if facts["documents"] > flat_passages:
                facts["faiss"] = True
                vectors = np.memmap(raw, np.float32, "r", shape=(facts["documents"], size))
                _write_clusters(vectors, inside / "clusters.faiss")
                del vectors
                raw.unlink()

    @classmethod
    def open(cls, folder: Path | str, embed: Embed, *, verify: bool | None = None) -> DenseIndex:
        """Open an index; its vectors stay on disk.

        Raises:
            ConfigError: faiss is needed and not installed.
            IndexFileError: no index, a damaged one, one of another version, or one of another embedder.
        """
        folder = Path(folder)
        facts = read_manifest(folder, KIND, VERSION, verify=verify)
        if facts.get("embedder") != name_of(embed):
            built = escape_control_chars(str(facts.get("embedder"))[:120])
            raise IndexFileError(f"index {folder} was built with the embedder '{built}', asked for '{name_of(embed)}'.")
        documents, size = count_of(facts, "documents", folder), count_of(facts, "size", folder)
        if facts.get("faiss"):
            faiss = _faiss()
            try:
                clusters = faiss.read_index(str(folder / "clusters.faiss"), faiss.IO_FLAG_MMAP)
                clusters.nprobe = _LOOK_AT
                fits = (clusters.ntotal, clusters.d) == (documents, size)
            except (RuntimeError, MemoryError, AttributeError) as err:
                raise IndexFileError(f"index {folder} is damaged: faiss cannot read it. Build it anew.") from err
            if not fits:
                raise IndexFileError(f"index {folder} is damaged: clusters.faiss has another size. Build it anew.")
            return cls(documents, size, embed, vectors_nd=None, clusters=clusters)
        raw = folder / "vectors.f32"
        if not raw.is_file() or raw.stat().st_size != 4 * documents * size:
            raise IndexFileError(f"index {folder} is damaged: vectors.f32 has another size. Build it anew.")
        vectors = (
            np.memmap(raw, np.float32, "r", shape=(documents, size)) if documents else np.zeros((0, 0), np.float32)
        )
        return cls(documents, size, embed, vectors_nd=vectors)

    def __len__(self) -> int:
        return self.documents

    def search_many(self, queries: Sequence[str], k: int = 10) -> list[list[tuple[int, float]]]:
        """For each query the k nearest documents as (id, inner product), the nearest first, equal ones by id.

        Raises:
            ConfigError: the embedder returned no such vectors.
        """
        if not queries or not len(self):
            return [[] for _ in queries]
        query_qd = checked_vectors(
            self._embed_queries([replace_surrogates(query) for query in queries]), len(queries), self.size
        )
        k = min(k, len(self))
        if self._vectors_nd is None:
            score_qk, id_qk = self._clusters.search(query_qd, k)
        else:
            score_qk, id_qk = _nearest(self._vectors_nd, query_qd, k)
        return [
            sorted(
                ((int(i), float(s)) for i, s in zip(ids, scores, strict=True) if i >= 0),
                key=lambda hit: (-hit[1], hit[0]),
            )
            for ids, scores in zip(id_qk, score_qk, strict=True)
        ]


def _nearest(vectors_nd: np.ndarray, query_qd: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact search, block by block: no more than a block of scores is in memory."""
    found = [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in query_qd]
    for start in range(0, len(vectors_nd), _BLOCK):
        block = np.asarray(vectors_nd[start : start + _BLOCK])
        ids = np.arange(start, start + len(block))
        for row, score_n in enumerate(query_qd @ block.T):
            ids_so_far, scores_so_far = found[row]
            found[row] = best(np.append(ids_so_far, ids), np.append(scores_so_far, score_n), k)
    return np.stack([scores for _, scores in found]), np.stack([ids for ids, _ in found])


def _write_clusters(vectors_nd: np.ndarray, path: Path) -> None:
    faiss = _faiss()
    documents, size = vectors_nd.shape
    clusters = max(1, min(int(4 * math.sqrt(documents)), documents // 39))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, clusters, faiss.METRIC_INNER_PRODUCT)
    step = max(1, documents // (clusters * 64))
    index.train(np.ascontiguousarray(vectors_nd[::step]))
    for start in range(0, documents, _BLOCK):
        index.add(np.ascontiguousarray(vectors_nd[start : start + _BLOCK]))
    faiss.write_index(index, str(path))


def _faiss() -> Any:
    return need("faiss", "faiss-cpu", "dense", f"dense retrieval over more than {FLAT_PASSAGES} passages")


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    source = iter(texts)
    while batch := list(islice(source, size)):
        yield batch


def checked_vectors(found: Any, count: int, size: int | None) -> np.ndarray:
    """What an embedder returned, as float32 of shape (count, size).

    Raises:
        ConfigError: another shape, or values that are not finite.
    """
    vectors = np.ascontiguousarray(found, np.float32)
    expected = f"({count}, {size or 'any'})"
    if vectors.ndim != 2 or len(vectors) != count or vectors.shape[1] == 0 or (size and vectors.shape[1] != size):
        raise ConfigError(f"the embedder returned an array of shape {vectors.shape}, expected {expected}.")
    if not np.isfinite(vectors).all():
        raise ConfigError("the embedder returned NaN or infinity.")
    return vectors


def name_of(embed: Embed) -> str:
    """What an index remembers of its embedder.

    Raises:
        ConfigError: the embedder has no name.
    """
    name = getattr(embed, "name", None)
    if not isinstance(name, str) or not name:
        raise ConfigError(
            "the embedder has no name; give it an attribute 'name' that changes with the model and its settings, so "
            "that vectors of another one are never taken for its own."
        )
    return name


def open_dense(
    *,
    corpus: Path | str,
    cache: Path | str | None = None,
    embed: Embed | str = EMBEDDING,
    device: str | None = None,
    query_prefix: str = "",
    passage_prefix: str = "",
) -> CorpusRetriever:
    """Dense retrieval over a JSONL corpus; its vectors are computed on first use and kept in the cache.

    Args:
        corpus: the JSONL file.
        cache: folder for indexes; by default `stapo.stored.default_cache()`.
        embed: a function with a `name` that turns texts into vectors, "hashing" for the toy one, or folder or name of a
            model of sentence-transformers; `EMBEDDING` without it.
        device: where such a model runs.
        query_prefix: put before every query, for such a model.
        passage_prefix: put before every passage, for such a model.

    Raises:
        ConfigError: no embedder, or a package or model that is missing.
        ModelError: the model of this name is not fetched.
        CorpusError: the corpus cannot be read.
        IndexFileError: the cache cannot be written.
    """
    if not embed:
        raise ConfigError(
            "retriever 'dense' needs embed=...: a function with a name, the folder or name of a model of "
            "sentence-transformers, or 'hashing' to try things out."
        )
    if embed == "hashing":
        embed = HashingEmbedder()
    elif isinstance(embed, str):
        embed = SentenceEmbedder(embed, device=device, query_prefix=query_prefix, passage_prefix=passage_prefix)
    embedder: Embed = embed
    name = name_of(embedder)
    short = re.sub(r"[^\w.-]+", "_", name)[-40:]
    return open_indexed(
        corpus,
        cache,
        f"dense-{short}-{blake2b(name.encode(), digest_size=6).hexdigest()}",
        lambda texts, folder: DenseIndex.build(texts, folder, embedder),
        lambda folder, verify: DenseIndex.open(folder, embedder, verify=verify),
    )
