"""Retrievers: what they find, how long they take to build and to answer, what they hold, how the server bears load.

    python benchmarks/retrieval_speed.py                       # the real corpus (STAPO_SHARED), the server
    python benchmarks/retrieval_speed.py --passages 1000000    # and generated passages, for tantivy and bm25
    python benchmarks/retrieval_speed.py --only server         # real, generated or server
    python benchmarks/retrieval_speed.py --only real --cache DIR  # indexes that are in DIR are not built again

Each build and each round of queries runs in a process of its own, so that its peak memory is its own. Times are of the
clock; seconds of the processor stand beside them, because on a busy machine the clock also counts the others. Memory is
the peak resident set; for indexes that are mapped it counts the pages that were read, which other readers share.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from stapo.models.cache import unfetched
from stapo.retrieval import open_retriever

ROOT = Path(__file__).resolve().parent.parent
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "bm25": ("bm25", {}),
    "tantivy": ("tantivy", {}),
    "dense (hashing)": ("dense", {"embed": "hashing"}),
    "dense (minilm)": ("dense", {"embed": "minilm"}),
}
WORDS_PER_PASSAGE = 60
VOCABULARY = 200_000


def peak_mib() -> float:
    """Peak resident set of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def quantiles(seconds: list[float]) -> str:
    """Median and 99th percentile, in words."""
    p50, p99 = np.quantile(np.array(seconds) * 1e3, [0.5, 0.99])
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"


def shared() -> Path | None:
    """Folder of the real corpus, if it is there."""
    path = Path(os.environ.get("STAPO_SHARED", ROOT.parent / "shared")) / "data" / "searchqa"
    return path if path.is_dir() else None


def hit(answers: list[str], contents: list[str]) -> bool:
    """Whether one of the answers stands in one of the passages, case aside."""
    return any(answer.lower() in text.lower() for answer in answers for text in contents)


def in_own_process(job: str, *args: object) -> dict[str, Any]:
    """Run `job` of this file in a new process; returns what it prints."""
    done = subprocess.run(
        [sys.executable, __file__, "--job", json.dumps([job, *args])], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# Jobs.


def job_open(name: str, corpus: str, cache: str) -> dict[str, Any]:
    """Open a retriever, which builds its index."""
    start, cpu = time.perf_counter(), time.process_time()
    retriever, options = CHOICES[name]
    open_retriever(retriever, corpus=corpus, cache=cache, **options).close()
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "peak": peak_mib()}


def job_ask(name: str, corpus: str, cache: str, questions: str) -> dict[str, Any]:
    """Ask an open retriever one question after the other."""
    asked = [json.loads(line) for line in Path(questions).read_text().splitlines()]
    kind, options = CHOICES[name]
    retriever = open_retriever(kind, corpus=corpus, cache=cache, **options)
    for one in asked[:20]:
        retriever.search([one["question"]], 3)
    seconds, hits, cpu = [], 0, time.process_time()
    for one in asked:
        start = time.perf_counter()
        found = retriever.search([one["question"]], 3)[0]
        seconds.append(time.perf_counter() - start)
        hits += hit(one.get("golden_answers", []), [p.contents for p in found])
    cpu = (time.process_time() - cpu) / len(asked) * 1e3
    return {"times": f"{quantiles(seconds)}, cpu {cpu:.2f} ms", "hits": hits / len(asked), "peak": peak_mib()}


def job_bm25s(corpus: str, questions: str) -> dict[str, Any]:
    """The library bm25s, with its Lucene variant and its stop words, no stemmer."""
    import bm25s

    texts = [json.loads(line)["contents"] for line in Path(corpus).read_text().splitlines()]
    start, cpu = time.perf_counter(), time.process_time()
    index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    built, used = time.perf_counter() - start, time.process_time() - cpu
    seconds, hits = [], 0
    asked = [json.loads(line) for line in Path(questions).read_text().splitlines()]
    for one in asked:
        start = time.perf_counter()
        words = bm25s.tokenize([one["question"]], stopwords="en", show_progress=False)
        rows = index.retrieve(words, k=3, show_progress=False)[0][0]
        found = [texts[row] for row in rows]
        seconds.append(time.perf_counter() - start)
        hits += hit(one["golden_answers"], found)
    return {"seconds": built, "cpu": used, "times": quantiles(seconds), "hits": hits / len(asked), "peak": peak_mib()}


# Parts.


def real(cache: str) -> None:
    """Every retriever on the real corpus, and bm25s beside them."""
    data = shared()
    if data is None:
        print("real corpus: left out, no data/searchqa in $STAPO_SHARED")
        return
    corpus = str(data / "corpus.jsonl")
    # Chosen by a BM25 (an answer in its first ten), by the titles of the passages that answer, and not at all.
    files = ["covered_questions", "questions/2wiki_dev_covered", "questions/hotpotqa_distractor100"]
    asked_of = [str(data / f"{name}.jsonl") for name in files]
    questions = asked_of[0]
    numbers = ", ".join(f"{len(Path(name).read_text().splitlines()):,}" for name in asked_of)
    print(f"real corpus; {numbers} questions ({', '.join(files)}): answer in the first 3, build, times, peak memory")
    for name in CHOICES:
        if name == "tantivy" and not find_spec("tantivy"):
            print("  tantivy: left out, not installed")
            continue
        if name == "dense (minilm)" and (unfetched("minilm") or not find_spec("sentence_transformers")):
            print("  dense (minilm): left out; it needs pip install 'stapo[dense]' and 'stapo models fetch minilm'")
            continue
        built = in_own_process("open", name, corpus, cache)
        rounds = [in_own_process("ask", name, corpus, cache, file) for file in asked_of]
        asked, hits = rounds[0], ", ".join(f"{one['hits']:.3f}" for one in rounds)
        print(
            f"  {name:<16} hit@3 {hits}   build {built['seconds']:.1f} s, cpu {built['cpu']:.1f} s, "
            f"{built['peak']:.0f} MiB   {asked['times']}   {asked['peak']:.0f} MiB",
            flush=True,
        )
    if not find_spec("bm25s"):
        print("  bm25s: left out, not installed (pip install 'stapo[bench]')")
        return
    found = in_own_process("bm25s", corpus, questions)
    print(
        f"  {'bm25s':<16} hit@3 {found['hits']:.3f}   build {found['seconds']:.1f} s, cpu {found['cpu']:.1f} s   "
        f"{found['times']}   {found['peak']:.0f} MiB"
    )


def write_generated(path: Path, passages: int) -> Path:
    """Passages of 60 words, and 500 questions of 5 to 13: words fall off as in language (Zipf, exponent 1)."""
    generator = np.random.Generator(np.random.PCG64(0))
    weights = 1 / np.arange(1, VOCABULARY + 1)
    edges = np.cumsum(weights / weights.sum())
    names = np.array([f"w{i:x}" for i in range(VOCABULARY)])

    def draw(n: int) -> np.ndarray:
        return np.asarray(names[np.minimum(np.searchsorted(edges, generator.random(n)), VOCABULARY - 1)])

    with path.open("w") as file:
        for start in range(0, passages, 10_000):
            block = draw(min(10_000, passages - start) * WORDS_PER_PASSAGE).reshape(-1, WORDS_PER_PASSAGE)
            for row, words in enumerate(block, start):
                text = " ".join(words)
                file.write(f'{{"id": "{row}", "contents": "\\"{words[0]} {words[1]}\\"\\n{text}"}}\n')
    questions = path.with_name("questions.jsonl")
    # The sixty commonest words stand for the stop words that a retriever drops from real questions.
    with questions.open("w") as file:
        for _ in range(500):
            words = [w for w in draw(40) if int(w[1:], 16) >= 60][: generator.integers(5, 14)]
            file.write(json.dumps({"question": " ".join(words)}) + "\n")
    return questions


def generated(folder: Path, passages: int) -> None:
    """Generated passages, many of them."""
    corpus = folder / "generated.jsonl"
    questions = str(write_generated(corpus, passages))
    print(f"{passages} generated passages of {WORDS_PER_PASSAGE} words, 500 questions")
    for name in ("tantivy", "bm25"):
        cache = folder / f"cache-{name}"
        built = in_own_process("open", name, str(corpus), str(cache))
        size = sum(p.stat().st_size for p in cache.rglob("*") if p.is_file()) / 2**20
        print(
            f"  {name:<16} build {built['seconds']:.1f} s, cpu {built['cpu']:.1f} s, peak {built['peak']:.0f} MiB, "
            f"{size:.0f} MiB on disk"
        )
        asked = in_own_process("ask", name, str(corpus), str(cache), questions)
        print(f"  {name:<16} {asked['times']}, peak {asked['peak']:.0f} MiB", flush=True)


def server(folder: Path, clients: int, requests: int) -> None:
    """The server and many clients at once."""
    data = shared()
    if data is None:
        print("server: left out, no data/searchqa in $STAPO_SHARED")
        return
    corpus = data / "corpus.jsonl"
    name = "tantivy" if find_spec("tantivy") else "bm25"
    asked = [json.loads(line)["question"] for line in (data / "covered_questions.jsonl").read_text().splitlines()]
    running = subprocess.Popen(
        [sys.executable, "-m", "stapo.cli.main", "serve-retriever", str(corpus), "--retriever", name, "--port", "0",
         "--cache", str(folder / "cache")],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    url = running.stdout.readline().split()[-1]
    seconds: list[float] = []
    errors: list[str] = []
    with open_retriever(url, connections=clients) as retriever:  # type: ignore[attr-defined]

        def ask(first: int) -> None:
            for i in range(first, requests, clients):
                start = time.perf_counter()
                try:
                    retriever.search([asked[i % len(asked)]], 3)
                except Exception as err:
                    errors.append(str(err))
                seconds.append(time.perf_counter() - start)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(clients)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall = time.perf_counter() - start
        counts = dict(retriever.counts)
    running.terminate()
    code = running.wait(30)
    print(
        f"server ({name}): {clients} clients, {len(seconds)} requests in {wall:.1f} s, {len(errors)} errors, "
        f"{quantiles(seconds)}, tries {counts}, exit code {code}"
    )
    for error in errors[:3]:
        print("  ", error)


def versions() -> str:
    """What is measured here."""
    found = []
    for package in ("numpy", "tantivy", "faiss-cpu", "bm25s", "numba", "starlette", "uvicorn", "httpx2"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return f"Python {sys.version.split()[0]}, {', '.join(found)}"


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["real", "generated", "server"])
    parser.add_argument("--passages", type=int, default=0, help="generated passages; 0 leaves them out")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--cache", help="folder for the indexes of the real corpus; left out, a temporary one")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        name, *rest = json.loads(args.job)
        print(json.dumps(globals()[f"job_{name}"](*rest)))
        return
    print(versions(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if args.only in (None, "real"):
            real(args.cache or str(folder / "cache"))
        if args.only in (None, "server"):
            server(folder, args.clients, args.requests)
        if args.passages or args.only == "generated":
            generated(folder, args.passages or 1_000_000)


if __name__ == "__main__":
    main()
