"""Finding passages: an index with Lucene's rankings, retrievers over it and over the network.

`open_retriever` gives a `Retriever` for a name and a corpus; `BM25Index` is the index alone, for any texts.
"""

from stapo.retrieval.analyzer import LuceneAnalyzer
from stapo.retrieval.bm25 import BM25Index
from stapo.retrieval.corpus import Corpus
from stapo.retrieval.opening import RETRIEVERS, open_retriever
from stapo.retrieval.protocol import Passage, Retriever

__all__ = [
    "RETRIEVERS",
    "BM25Index",
    "Corpus",
    "LuceneAnalyzer",
    "Passage",
    "Retriever",
    "open_retriever",
]
