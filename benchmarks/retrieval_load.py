"""Many clients ask one retrieval server, with and without half-open connections beside them.

    python benchmarks/retrieval_load.py [--clients 64] [--requests 10000] [--half-open 300] [--passages 16704]

`stapo serve-retriever` runs in a process of its own over generated passages; the clients are in others, each with one
connection that it keeps. Half-open connections send the beginning of a request and nothing more; one that the server
closes is opened again. Every answer is compared with what the same index finds in this process. Prints a table.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from stapo.retrieval import open_retriever

QUERIES = 200


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=10_000, help="per client")
    parser.add_argument(
        "--requests-alone", type=int, help="per client without half-open connections (default: as many)"
    )
    parser.add_argument("--half-open", type=int, default=300)
    parser.add_argument("--passages", type=int, default=16_704)
    parser.add_argument("--processes", type=int, default=2, help="that hold the clients")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        words = write_corpus(corpus, args.passages)
        rng = random.Random(1)
        queries = [" ".join(rng.choices(words, k=5)) for _ in range(QUERIES)]
        with open_retriever("bm25", corpus=corpus, cache=folder) as retriever:
            right = [[p.id for p in one] for one in retriever.search(queries, 3)]
        print(f"{args.clients} clients x {args.requests} requests, {args.passages} passages, {os.cpu_count()} cores\n")
        print("| Half-open | Requests | Errors | Wrong | Requests/s | p50 | p99 | p99.9 | Longest |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        alone = args.requests if args.requests_alone is None else args.requests_alone
        for half_open, requests in ((args.half_open, args.requests), (0, alone)):
            server = subprocess.Popen(
                [sys.executable, "-m", "stapo.cli.main", "serve-retriever", corpus, "--port", "0", "--cache", folder],
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                assert server.stdout is not None
                port = int(server.stdout.readline().split(":")[-1].partition("/")[0])
                print(measure(port, args, requests, half_open, queries, right), flush=True)
            finally:
                server.terminate()
                server.wait(60)


def write_corpus(path: Path, passages: int) -> list[str]:
    """Passages of 60 words, drawn as unevenly as words are; returns the words."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(20_000)]
    weights = [1 / (i + 10) for i in range(len(words))]
    with path.open("w", encoding="utf-8") as file:
        for i in range(passages):
            text = " ".join(rng.choices(words, weights, k=60))
            file.write(json.dumps({"id": str(i), "contents": f'"Passage {i}"\n{text}'}) + "\n")
    return words


def measure(
    port: int, args: argparse.Namespace, requests: int, half_open: int, queries: list[str], right: list[list[str]]
) -> str:
    """One row of the table."""
    ended = threading.Event()
    beside = threading.Thread(target=hold_open, args=(port, half_open, ended), daemon=True)
    beside.start()
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue = context.Queue()
    shares = [args.clients // args.processes + (i < args.clients % args.processes) for i in range(args.processes)]
    start = time.perf_counter()
    running = [
        context.Process(target=ask_all, args=(port, share, requests, queries, right, results)) for share in shares
    ]
    for process in running:
        process.start()
    found = [results.get() for _ in running]
    seconds = time.perf_counter() - start
    for process in running:
        process.join()
    ended.set()
    beside.join()
    took = np.concatenate([one[0] for one in found]) * 1e3
    errors, wrong = (sum(one[i] for one in found) for i in (1, 2))
    p50, p99, p999 = np.percentile(took, [50, 99, 99.9])
    return (
        f"| {half_open} | {len(took):,} | {errors} | {wrong} | {len(took) / seconds:,.0f} | {p50:.1f} ms "
        f"| {p99:.1f} ms | {p999:.1f} ms | {took.max():.0f} ms |"
    )


def ask_all(
    port: int, clients: int, requests: int, queries: list[str], right: list[list[str]], results: multiprocessing.Queue
) -> None:
    """Run some clients, each in a thread."""
    took = np.zeros((clients, requests))
    counts = [[0, 0] for _ in range(clients)]

    def ask(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        rng = random.Random(client)
        for i in range(requests):
            number = rng.randrange(len(queries))
            body = json.dumps({"query": queries[number], "topk": 3})
            start = time.perf_counter()
            try:
                connection.request("POST", "/retrieve", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                data = response.read()
                took[client, i] = time.perf_counter() - start
                if response.status != 200:
                    counts[client][0] += 1
                elif [d["id"] for d in json.loads(data)["result"][0]] != right[number]:
                    counts[client][1] += 1
            except (OSError, http.client.HTTPException):
                took[client, i] = time.perf_counter() - start
                counts[client][0] += 1
                connection.close()

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((took.ravel(), sum(c[0] for c in counts), sum(c[1] for c in counts)))


def hold_open(port: int, connections: int, ended: threading.Event) -> None:
    """Keep so many requests begun and unfinished."""
    held: list[socket.socket] = []
    while not ended.wait(0.2):
        for raw in [*held]:
            raw.setblocking(False)
            with suppress(BlockingIOError, ConnectionError):
                raw.recv(4096)
                raw.close()
                held.remove(raw)
        while len(held) < connections and not ended.is_set():
            with suppress(OSError):
                raw = socket.create_connection(("127.0.0.1", port), timeout=10)
                raw.sendall(b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Ty")
                held.append(raw)
    for raw in held:
        raw.close()


if __name__ == "__main__":
    main()
