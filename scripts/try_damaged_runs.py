"""Damage run folders in hundreds of ways, give them to every command that reads a run, and print what came of it.

    python scripts/try_damaged_runs.py [--every N] [--first N] [--rotate N] [--commands NAME ...]

One tiny run is trained. For each of its files, at its beginning, middle and end, copies get a flipped byte, a NUL, a
byte that is not UTF-8, a cut, a removed, doubled or added line; whole files become empty, random, JSON or YAML of other
types, nested deep; files and folders become symbolic links, hard links, pipes, or vanish. On each copy `resume`,
`train`, `report`, `eval`, `diagnose` and `compare` run, each in a fork of this process that has a deadline. Counted are

    tracebacks  an exception that is not an error of ours, or a crash
    silent      rows differ from what was written, and neither the command nor the page says so; or a file or folder
                outside of the run was changed
    hangs       no end within 30 seconds of the child's own processor time or 300 seconds on the wall

The exit code is 1 unless all are 0.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import yaml

from stapo.cli.main import main as stapo

CPU_SECONDS, WALL_SECONDS = 30, 300
COMMANDS = ("resume", "train", "report", "eval", "diagnose", "compare")
DEEP_JSON = b"[" * 200_000 + b"]" * 200_000
BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    f"{n}: &{n} [*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p}]\n".encode()
    for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)
SETTINGS = {
    "seed": 3,
    "env": {"name": "alfworld", "options": {"scenes": "tiny", "games_per_type": 2, "max_steps": 3}},
    "agent": {"prompt": "compact", "response": "action", "max_prompt_tokens": 600, "max_response_tokens": 4},
    "model": {
        "architecture": "qwen3", "hidden_size": 8, "layers": 1, "heads": 2, "intermediate_size": 8, "vocab_size": 300,
        "device": "cpu",
    },
    "sft": {"steps": 2, "episodes": 6, "batch_size": 2},
    "rollout": {"groups": 1, "group_size": 2},
    "optim": {"iterations": 2, "mini_batch": 8},
    "eval": {"episodes": 2, "every": 1, "quick_episodes": 1, "greedy": False},
    "log": {"transcript_every": 1, "save_seconds": 1000.0},
}  # fmt: skip

Damage = Callable[[Path], None]


def at(kind: str, where: float) -> Damage:
    """Damage of bytes or lines at a place of a file, 0 its beginning and 1 its end."""

    def flip(data: bytes, i: int) -> bytes:
        # A digit where there is one near: the damage that nothing but a hash can see.
        digits = [j for j in range(i, min(len(data), i + 400)) if data[j : j + 1].isdigit()] or [i]
        changed = data[digits[0]] ^ 1
        return data[: digits[0]] + bytes([changed]) + data[digits[0] + 1 :]

    def lines(data: bytes, i: int) -> tuple[list[bytes], int]:
        parts = data.splitlines(keepends=True)
        return parts, min(len(parts) - 1, data[:i].count(b"\n"))

    def change(path: Path) -> None:
        data = path.read_bytes()
        i = min(len(data) - 1, int(where * len(data)))
        parts, n = lines(data, i)
        new = {
            "flip": lambda: flip(data, i),
            "nul": lambda: data[:i] + b"\0" + data[i + 1 :],
            "not utf-8": lambda: data[:i] + b"\xff" + data[i + 1 :],
            "cut": lambda: data[:i],
            "removed line": lambda: b"".join(parts[:n] + parts[n + 1 :]),
            "doubled line": lambda: b"".join([*parts[: n + 1], *parts[n:]]),
            "added line": lambda: b"".join([*parts[: n + 1], b'{"iteration": 1}\n', *parts[n + 1 :]]),
        }[kind]()
        replace(path, new)

    return change


def replace(path: Path, data: bytes) -> None:
    """Give a file other contents, and no other name of it."""
    path.unlink()
    path.write_bytes(data)


def whole(data: bytes) -> Damage:
    """Other contents of a whole file."""
    return lambda path: replace(path, data)


def outside_of(path: Path) -> Path:
    """Where links of a damaged copy lead."""
    root = next(p for p in path.parents if p.name == "copy")
    return root.parent / "outside"


def as_link(path: Path) -> None:
    """The file or folder is elsewhere, and a link leads there."""
    target = outside_of(path) / path.name
    shutil.move(path, target)
    path.symlink_to(target)


def as_hard_link(path: Path) -> None:
    """The file has a second name elsewhere."""
    os.link(path, outside_of(path) / path.name)


def as_dangling(path: Path) -> None:
    """A link to something that is not there."""
    remove(path)
    path.symlink_to(outside_of(path) / "nothing")


def as_pipe(path: Path) -> None:
    """A pipe that nobody writes to."""
    remove(path)
    os.mkfifo(path)


def as_socket(path: Path) -> None:
    """A socket that nobody listens on."""
    remove(path)
    here = Path.cwd()
    os.chdir(path.parent)  # addresses of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def as_folder(path: Path) -> None:
    """A folder in the place of a file."""
    remove(path)
    path.mkdir()


def as_file(path: Path) -> None:
    """A file in the place of a folder."""
    remove(path)
    path.write_bytes(b"no folder\n")


def remove(path: Path) -> None:
    """A file or folder is gone."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def most_read(name: Path) -> int:
    """The order of files: those that every command reads come first."""
    if len(name.parts) == 1 and name.suffix in (".jsonl", ".json", ".yaml"):
        return 0
    return 1 if "checkpoints" not in name.parts else 2


def damages(run: Path) -> Iterator[tuple[str, str, Damage]]:
    """(path in the run, kind of damage, what does it) for every file and folder of a run."""
    rng = random.Random(7)
    for path in sorted(run.rglob("*"), key=lambda path: (most_read(path.relative_to(run)), path)):
        name = path.relative_to(run).as_posix()
        if path.is_dir():
            for kind, damage in (("link", as_link), ("dangling", as_dangling), ("file", as_file), ("gone", remove)):
                yield name, kind, damage
            continue
        kinds = ["flip", "nul", "not utf-8", "cut"]
        if name.endswith(".jsonl"):
            kinds += ["removed line", "doubled line", "added line"]
        if path.stat().st_size:
            for kind in kinds:
                for where in (0.0, 0.5, 0.999):
                    yield name, f"{kind} at {where:g}", at(kind, where)
        contents = {"empty": b"", "random": rng.randbytes(2000), "deep": DEEP_JSON}
        contents |= {f"JSON {text}": text.encode() + b"\n" for text in ("[]", "null", "7", '"x"', "{}")}
        if name.endswith(".yaml"):
            contents["alias bomb"] = BOMB
            contents["odd scalars"] = b"seed: 2024-13-45\nenv: !!int abc\n"
        if name == "run.json":
            for text in ('"done"', "[1]"):
                contents[f"status {text}"] = f'{{"format": 1, "status": {text}, "iterations": 2}}'.encode()
            contents["done, evaluations of other types"] = (
                b'{"format": 1, "status": "done", "iterations": 2, "evaluations": [7], "seconds": null, "resumed": 7}'
            )
        for kind, data in contents.items():
            yield name, kind, whole(data)
        for kind, damage in (
            ("gone", remove), ("link", as_link), ("hard link", as_hard_link), ("dangling", as_dangling),
            ("pipe", as_pipe), ("socket", as_socket), ("folder", as_folder),
        ):  # fmt: skip
            yield name, kind, damage


def argv_of(command: str, folder: Path, settings: Path) -> list[str]:
    """The command line that gives a run to a command."""
    run = str(folder / "run")
    return {
        "resume": ["resume", run, "--quiet"],
        "train": ["train", str(settings), "--out", run, "--quiet"],
        "report": ["report", run],
        "eval": ["eval", run, "--episodes", "1", "--seeds", "0", "--json"],
        "diagnose": ["diagnose", run, "--tasks", "1", "--group-size", "2", "--json"],
        "compare": ["compare", "--out", str(folder / "compare"), "--quiet", "--jobs", "1"],
    }[command]


def child(argv: list[str], log: Path) -> tuple[int | None, float]:
    """Run a command in a fork; its exit code (None: no end) and the seconds it took."""
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
            with log.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            code = stapo(argv)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        took = time.monotonic() - started
        if found:
            code = os.waitstatus_to_exitcode(status)
            return (None if code in (-signal.SIGXCPU, -signal.SIGKILL) else code), took
        if took > WALL_SECONDS:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None, took
        time.sleep(0.005)


def fingerprint(folder: Path) -> dict[str, str]:
    """Digests of all files below a folder, which are regular ones."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def rows_of(run: Path) -> dict[str, bytes]:
    """The files of rows of a run that can be read."""
    paths = [*run.glob("*.jsonl"), *run.glob("transcripts/*.jsonl")]
    return {str(p.relative_to(run)): p.read_bytes() for p in paths if p.is_file()}


def verdict(code: int | None, text: str, rows: dict[str, bytes], good: dict[str, bytes], page: str) -> str:
    """What a command made of a damaged run: "said", "unharmed", or one of the three that may not be."""
    if code is None:
        return "hang"
    if "Traceback (most recent call last)" in text or code < 0 or code == 70:
        return "traceback"
    if code != 0:
        # A comparison names a run that does not count, and its exit code is not 0.
        return "said" if any(word in text for word in ("error: ", ": damaged: ", ": failed: ")) else "traceback"
    wrong = [name for name in good if rows.get(name) != good[name]]
    # A file that nobody reads any more is no difference; every row that differs has to be named.
    unsaid = [name for name in wrong if Path(name).name not in text and Path(name).name not in page]
    return "silent" if unsaid else "said" if wrong else "unharmed"


def train(folder: Path) -> tuple[Path, Path, dict[str, bytes]]:
    """The run that is damaged: its folder, a comparison that holds it, and the rows it has when it is undisturbed."""
    settings = folder / "settings.yaml"
    settings.write_text(yaml.safe_dump(SETTINGS))
    log = folder / "log"
    code, _ = child(["train", str(settings), "--out", str(folder / "good"), "--quiet"], log)
    assert code == 0, log.read_text()
    words = ["compare", str(settings), "--algorithms", "stapo", "--seeds", "3", "--out", str(folder / "cmp"), "--quiet"]
    code, _ = child(words, log)
    assert code == 0, log.read_text()
    return settings, folder / "cmp", rows_of(folder / "good")


def attempt(
    folder: Path, settings: Path, good: dict[str, bytes], case: tuple[str, str, Damage], commands: tuple[str, ...]
) -> Iterator[tuple[str, str, str]]:
    """Each command on one damaged copy: (command, verdict, what it printed)."""
    name, _, damage = case
    for command in commands:
        base = folder / "work"
        shutil.rmtree(base, ignore_errors=True)
        (base / "outside").mkdir(parents=True)
        place = base / "copy"
        place.mkdir()
        if command == "compare":
            shutil.copytree(folder / "cmp", place / "compare", symlinks=True)
            run = place / "compare" / "runs" / "stapo" / "seed-3"
            expected = rows_of(run)
            if not (run / name).exists():
                continue
        else:
            shutil.copytree(folder / "good", place / "run", symlinks=True)
            run, expected = place / "run", good
        damage(run / name)
        before = fingerprint(base / "outside")
        code, _ = child(argv_of(command, place, settings), folder / "log")
        text = (folder / "log").read_text(errors="replace")
        pages = [
            p for p in (run / "report.html", place / "compare" / "report.html") if p.is_file() and not p.is_symlink()
        ]
        page = "".join(p.read_text(errors="replace") for p in pages)
        found = verdict(code, text, rows_of(run), expected, page)
        if fingerprint(base / "outside") != before:
            found = "silent"
            text += "\n(a file outside of the run was changed)"
        yield command, found, text


def main() -> int:
    """Run the cases; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="take every N-th case only")
    parser.add_argument("--first", type=int, default=0, help="begin with this case")
    parser.add_argument("--rotate", type=int, help="give each case to N of the commands only, in turn")
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    args = parser.parse_args()
    import stapo.cli.resume_command
    import stapo.diagnosis
    import stapo.report
    import stapo.training.pipeline  # noqa: F401 (forks begin with everything imported)

    counts: dict[str, collections.Counter[str]] = {command: collections.Counter() for command in args.commands}
    cases = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings, _, good = train(folder)
        # Stopped early, it prints what came of the cases so far.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            chosen = list(damages(folder / "good"))[args.first :: args.every]
            print(f"{len(chosen)} cases", flush=True)
            for n, case in enumerate(chosen):
                taken = args.rotate or len(args.commands)
                turn = tuple(args.commands[(n * taken + k) % len(args.commands)] for k in range(taken))
                for command, found, text in attempt(folder, settings, good, case, turn):
                    counts[command][found] += 1
                    if found in ("traceback", "silent", "hang"):
                        last = text.strip().splitlines()[-3:] if text.strip() else []
                        print(f"{found}: {command}, {case[0]}, {case[1]}: {' | '.join(last)[:500]}", flush=True)
                cases += 1
                if cases % 25 == 0:
                    print(f"{cases} of {len(chosen)}", file=sys.stderr, flush=True)
    print(f"{cases} damaged runs")
    heads = ("said", "unharmed", "traceback", "silent", "hang")
    print("| command | " + " | ".join(heads) + " |\n| --- |" + " ---: |" * len(heads))
    for command, found in counts.items():
        print(f"| {command} | " + " | ".join(str(found[head]) for head in heads) + " |")
    return int(any(found[head] for found in counts.values() for head in heads[2:]))


if __name__ == "__main__":
    raise SystemExit(main())
