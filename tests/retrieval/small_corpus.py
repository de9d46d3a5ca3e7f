"""A corpus of five passages, and a retriever that needs no index."""

from __future__ import annotations

import json
from pathlib import Path

from stapo.retrieval import Passage

PASSAGES = [
    ("a1", "Faust", "A tragedy in two parts by Johann Wolfgang von Goethe."),
    ("a2", "Hamlet", "A tragedy by William Shakespeare about the prince of Denmark."),
    ("a3", "Aarhus", "The second largest city of Denmark, on the east coast of Jutland."),
    ("a4", "Otter", "A mammal that eats fish and lives in rivers."),
    ("a5", "Zürich", "The largest city of Switzerland; its river is the Limmat."),
]


def write_corpus(path: Path, passages=PASSAGES) -> Path:
    lines = [json.dumps({"id": i, "contents": f'"{title}"\n{text}'}) for i, title, text in passages]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Echo:
    """Answers every query with k passages that say which query it was; the query "boom" fails."""

    def search(self, queries, k):
        if "boom" in queries:
            raise RuntimeError("secret detail")
        return [[Passage(f"{n}", f"About {q}", f"text {n}", 1.0 / (n + 1)) for n in range(k)] for q in queries]

    def close(self):
        pass
