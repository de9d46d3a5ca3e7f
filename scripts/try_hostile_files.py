"""Open hundreds of hostile files of every kind that users are given, each in a process of its own; print what came.

    python scripts/try_hostile_files.py [--only KIND] [--fast] [--verbose]

A file has to be refused in one line (exit status 2, or 1), or, where it is odd but sound, be read. What counts against
the reader: a stack trace, 30 s without an end, more memory than the limit, an end by a signal, an error of many lines,
and nonsense that is accepted. The exit status is 1 if anything counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import lzma
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SECONDS = 30.0
_MEMORY = 3 * 2**30
Expected = Literal["refused", "read", "either"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One hostile file.

    Attributes:
        kind: what it is meant to be.
        name: what is odd about it.
        write: writes it into a folder.
        command: reads it; arguments of `stapo`, given the folder.
        expected: `either` where both are sound.
    """

    kind: str
    name: str
    write: Callable[[Path], None]
    command: Callable[[Path], list[str]]
    expected: Expected = "refused"


# -- contents ----------------------------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
HUGE = "9" * 6_000
NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "blank lines": b"\n \n\n",
    "binary": bytes(range(256)) * 8,
    "NULs": b"\0" * 4096,
    "UTF-16": '{"id": "a"}\n'.encode("utf-16"),
    "Latin-1": '{"id": "\xe9"}\n'.encode("latin-1"),
    "a pickle": b"cos\nsystem\n(S'true'\ntR.",
    "HTML": b"<!doctype html><html><body>404</body></html>\n",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "nested 100,000 deep": DEEP.encode() + b"\n",
    "objects nested deep": b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"\n",
    "nested deep and never closed": b"[" * 100_000 + b"\n",
    "a number of 6,000 digits": HUGE.encode() + b"\n",
    "a list": b"[1, 2]\n",
    "a text": b'"abc"\n',
    "null": b"null\n",
    "true": b"true\n",
    "a number": b"3\n",
    "NaN": b"NaN\n",
    "an empty object": b"{}\n",
    "an empty list": b"[]\n",
    "cut in the middle": b'{"id": "a", "con',
    "a ZIP": b"PK\x03\x04" + bytes(60),
    "gzip": b"\x1f\x8b\x08" + bytes(60),
}
"""Bytes that are no file of any kind."""

VALUES: dict[str, Any] = {
    "null": None,
    "a number": 3,
    "a huge number": 10**40,
    "NaN": float("nan"),
    "true": True,
    "an empty text": "",
    "blanks": " \t ",
    "a list": ["a"],
    "an empty list": [],
    "a list of null": [None],
    "an object": {"a": 1},
    "nested 60 deep": json.loads("[" * 60 + "]" * 60),
}
"""Values in the place of a text."""

TEXTS: dict[str, str] = {
    "half a character": "a\ud800b",
    "control characters": "a\x00\x1b[2J\x07b",
    "right to left": "a\u202eb",
    "a million characters": "word " * 200_000,
    "one word of a million characters": "x" * 1_000_000,
    "tags": "</think><action>look</action><|im_end|>",
}
"""Texts that are odd and still texts."""


def row(base: dict[str, Any], **values: Any) -> str:
    """A line of JSON: `base` with other values; those of `DROP` are left out."""
    return json.dumps({k: v for k, v in (base | values).items() if v != "DROP"}) + "\n"


def file(name: str, content: bytes | str) -> Callable[[Path], None]:
    """Writes one file."""
    return lambda folder: void((folder / name).write_bytes(content if isinstance(content, bytes) else content.encode()))


def void(_: object) -> None:
    """Forget a value."""


def no_file(name: str, what: str) -> Callable[[Path], None]:
    """Puts something else in the place of a file."""

    def write(folder: Path) -> None:
        if what == "a folder":
            (folder / name).mkdir()
        elif what == "a pipe":
            os.mkfifo(folder / name)
        elif what == "a link to itself":
            (folder / name).symlink_to(name)
        elif what == "a link to a device":
            (folder / name).symlink_to("/dev/zero")

    return write


NO_FILES = ("nothing", "a folder", "a pipe", "a link to itself", "a link to a device")


def bomb(start: bytes, unit: bytes, end: bytes, times: int) -> bytes:
    """Streams of xz, one after the other, that unpack to `times` units; kilobytes for gigabytes."""
    packed = lzma.compress(unit * (2**22 // len(unit)))
    return lzma.compress(start) + packed * times + lzma.compress(end)


# -- configurations ----------------------------------------------------------------------------------------------------


def configs() -> Iterator[Case]:
    """YAML files."""
    bomb_of_aliases = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    texts: dict[str, str | bytes] = {
        "aliases that unfold": bomb_of_aliases,
        "an alias of itself": "a: &a [*a]\n",
        "merges of itself": "a: &a\n  <<: *a\n",
        "month 13": "seed: 2024-13-45\n",
        "a date": "seed: 2024-01-01\n",
        "an int that is none": "seed: !!int abc\n",
        "a float that is none": "seed: !!float x\n",
        "a bool that is none": "seed: !!bool x\n",
        "an object of Python": "seed: !!python/object/apply:os.system ['true']\n",
        "a set": "seed: !!set {a}\n",
        "bytes": "seed: !!binary aGk=\n",
        "octal": "seed: 010\n",
        "base 60": "seed: 1:30:00\n",
        "a seed beyond 64 bits": "seed: 18446744073709551616\n",
        "a negative seed": "seed: -1\n",
        "a seed of hex digits": f"seed: 0x{'f' * 6000}\n",
        "a seed of digits": f"seed: {HUGE}\n",
        "a tab": "optim:\n\titerations: 3\n",
        "a key twice": "seed: 1\nseed: 2\n",
        "a key that is a list": "[1, 2]: 3\n",
        "keys with escapes": '"\\e[2J": 1\n',
        "half a character": 'env: {name: "\\ud800"}\n',
        "NUL in a path": 'model: {path: "a\\0"}\n',
        "lists 100,000 deep": "[" * 100_000,
        "mappings 100,000 deep": "{a: " * 100_000,
        "dashes": "- " * 100_000,
        "commas": "{" + "a," * 100_000,
        "a megabyte of comment": "#" * 2_000_000,
        "a million keys": "".join(f"a{i}: 1\n" for i in range(100_000)),
        "an option that is a date": "env: {options: {games: 2024-01-01}}\n",
        "an option that nests": "env: {options: {games: " + "[" * 60 + "]" * 60 + "}}\n",
        "extends itself": "extends: config.yaml\n",
        "extends nothing": "extends: none.yaml\n",
        "extends a list": "extends: [tiny]\n",
        "groups of one": "rollout: {group_size: 1}\n",
        "two documents": "seed: 1\n---\nseed: 2\n",
        "layers by the million": "model: {layers: 1000000, hidden_size: 1024}\n",
    }
    for key in ("optim.learning_rate", "rollout.temperature", "sft.learning_rate", "algorithm.loss.beta"):
        group, _, name = key.rpartition(".")
        for value in ("3e38", ".nan", "-.inf", "-1", "abc", "[1]", "1e-400" if key.endswith("rate") else "1e999"):
            texts[f"{key} {value}"] = nested(group, f"{name}: {value}")
    for key in ("rollout.groups", "optim.iterations", "agent.max_prompt_tokens", "eval.batch", "log.threads"):
        group, _, name = key.rpartition(".")
        for value in ("99999999999999999999", "1.5", "-7", "null"):
            texts[f"{key} {value}"] = nested(group, f"{name}: {value}")
    texts |= {k: v for k, v in NOT_JSON.items() if k not in ("empty", "blank lines", "null", "an empty object")}
    for name, content in texts.items():
        yield Case(kind="config", name=name, write=file("config.yaml", content), command=dry_run)
    for what in NO_FILES:
        yield Case(kind="config", name=what, write=no_file("config.yaml", what), command=dry_run)


def nested(path: str, text: str) -> str:
    """YAML with `text` below dotted keys."""
    for key in reversed(path.split(".")):
        text = f"{key}: {{{text}}}"
    return text + "\n"


def dry_run(folder: Path) -> list[str]:
    """Reads a configuration."""
    return ["train", str(folder / "config.yaml"), "--dry-run"]


# -- games -------------------------------------------------------------------------------------------------------------


def games() -> Iterator[Case]:
    """Compact game files and folders of a release."""
    from stapo.envs.alfworld.generator import GeneratedGames

    source = GeneratedGames("tiny", 1)
    game = source.load(source.ids("train")[0])
    good = {k: getattr(game, k) for k in ("id", "split", "task_type", "goal", "pddl_problem")}
    contents: dict[str, tuple[str | bytes, Expected]] = {k: (v, "refused") for k, v in NOT_JSON.items()}
    for key in good:
        for what, value in VALUES.items():
            wrong = what != "blanks" or key in ("task_type", "pddl_problem")
            contents[f"{key} is {what}"] = (row(good, **{key: value}), "refused" if wrong else "either")
        contents[f"{key} is missing"] = (row(good, **{key: "DROP"}), "refused")
    for what, text in TEXTS.items():
        contents[f"the goal has {what}"] = (row(good, goal=text), "either")
        contents[f"the id has {what}"] = (row(good, id=text), "either")
        contents[f"the problem has {what}"] = (row(good, pddl_problem=good["pddl_problem"] + text), "either")
    contents["one id twice"] = (row(good) * 2, "refused")
    contents["a problem nested deep"] = (row(good, pddl_problem="(" * 200_000), "refused")
    contents["a problem nested deep and closed"] = (row(good, pddl_problem="(" * 99_999 + ")" * 99_999), "refused")
    contents["a problem without objects"] = (row(good, pddl_problem="(define (problem x))"), "refused")
    for name, (content, expected) in contents.items():
        yield Case(kind="games", name=name, write=file("g.jsonl", content), command=list_games, expected=expected)
    for what in NO_FILES:
        yield Case(kind="games", name=what, write=no_file("g.jsonl", what), command=list_games)
    packed = {
        "a bomb of one line": bomb(b'{"id": "', b"a", b'"}\n', 512),
        "a bomb of nesting": bomb(b"", b"[", b"\n", 512),
        "a bomb of blank lines": bomb(b"", b" \n", b"{}\n", 64),
        "cut xz": lzma.compress(row(good).encode())[:-20],
        "not xz": row(good).encode(),
    }
    for name, data in packed.items():
        yield Case(
            kind="games",
            name=name,
            write=file("g.jsonl.xz", data),
            command=lambda folder: ["envs", "alfworld", "--env.games", str(folder / "g.jsonl.xz")],
        )


def list_games(folder: Path) -> list[str]:
    """Reads games, and plays the beginning of one."""
    return ["envs", "alfworld", "--env.games", str(folder / "g.jsonl")]


# -- search ------------------------------------------------------------------------------------------------------------

QUESTION = {"id": "q1", "question": "who painted the red door", "golden_answers": ["Ann Lee"]}
PASSAGE = {"id": "0", "contents": '"Red door"\nThe red door was painted by Ann Lee.'}


def questions() -> Iterator[Case]:
    """Files of questions."""
    contents: dict[str, tuple[str | bytes, Expected]] = {k: (v, "refused") for k, v in NOT_JSON.items()}
    for what, value in VALUES.items():
        contents[f"question is {what}"] = (row(QUESTION, question=value), "refused")
        if what not in ("a list",):
            contents[f"golden_answers is {what}"] = (
                row(QUESTION, golden_answers=value),
                "either" if what in ("a number", "a huge number", "NaN") else "refused",  # read as text
            )
        contents[f"id is {what}"] = (row(QUESTION, id=value), "either")
        contents[f"data_source is {what}"] = (row(QUESTION, data_source=value), "either")
        contents[f"split is {what}"] = (row(QUESTION, split=value), "either")
    for what, text in TEXTS.items():
        contents[f"question has {what}"] = (row(QUESTION, question=text), "either")
        contents[f"answer has {what}"] = (row(QUESTION, golden_answers=[text]), "either")
        contents[f"data_source has {what}"] = (row(QUESTION, data_source=text), "either")
    for answer in ("A", "The", "?!", "", " "):
        contents[f"the answer {answer!r}"] = (row(QUESTION, golden_answers=[answer]), "refused")
    contents["no question"] = (row(QUESTION, question="DROP"), "refused")
    contents["no answer"] = (row(QUESTION, golden_answers="DROP"), "refused")
    for name, (content, expected) in contents.items():
        yield Case(kind="questions", name=name, write=search_files("q.jsonl", content), command=ask, expected=expected)
    for what in NO_FILES:
        yield Case(kind="questions", name=what, write=no_file("q.jsonl", what), command=ask)


def corpora() -> Iterator[Case]:
    """Passages."""
    contents: dict[str, tuple[str | bytes, Expected]] = {k: (v, "refused") for k, v in NOT_JSON.items()}
    for what, value in VALUES.items():
        contents[f"contents is {what}"] = (row(PASSAGE, contents=value), "refused")
        contents[f"id is {what}"] = (row(PASSAGE, id=value), "either")
    for what, text in TEXTS.items():
        contents[f"contents has {what}"] = (row(PASSAGE, contents=text), "either")
        contents[f"id has {what}"] = (row(PASSAGE, id=text), "either")
    contents["one id twice"] = (row(PASSAGE) * 2, "either")
    contents["a passage of 20 million words"] = (row(PASSAGE, contents="word " * 20_000_000), "either")
    contents["a passage of 3 million different words"] = (
        row(PASSAGE, contents=" ".join(f"w{i}" for i in range(3_000_000))),
        "either",
    )
    contents["a good line, then nonsense"] = (row(PASSAGE) + "nonsense\n", "refused")
    for name, (content, expected) in contents.items():
        yield Case(kind="corpus", name=name, write=search_files("c.jsonl", content), command=ask, expected=expected)
    for what in NO_FILES:
        yield Case(kind="corpus", name=what, write=lambda f, w=what: search_nothing(f, w), command=ask)


def search_files(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Writes questions and passages, one of them hostile."""

    def write(folder: Path) -> None:
        file("q.jsonl", row(QUESTION))(folder)
        file("c.jsonl", row(PASSAGE))(folder)
        file(name, content)(folder)

    return write


def search_nothing(folder: Path, what: str) -> None:
    """Good questions over a corpus that is not a file."""
    file("q.jsonl", row(QUESTION))(folder)
    no_file("c.jsonl", what)(folder)


def ask(folder: Path) -> list[str]:
    """Reads questions and passages."""
    return ["envs", "search", "--env.questions", str(folder / "q.jsonl"), "--env.corpus", str(folder / "c.jsonl")]


# -- shops -------------------------------------------------------------------------------------------------------------


def shops() -> Iterator[Case]:
    """Products, attributes and goals of people."""
    from stapo.envs.webshop import generator

    articles = list(generator.iter_products(6, 0, "tiny"))
    items = [dict(a.product) for a in articles]
    attributes = {a.product["asin"]: a.synthetic for a in articles}
    human = {a.product["asin"]: a.human for a in articles if a.human}
    good = {"items_shuffle.json": items, "items_ins_v2.json": attributes, "items_human_ins.json": human}

    def shop(name: str, content: bytes | str, kind: str, what: str, expected: Expected = "refused") -> Case:
        def write(folder: Path) -> None:
            for other, data in good.items():
                file(other, json.dumps(data))(folder)
            file(name, content)(folder)

        goals = ["--env.goals", "human"] if name == "items_human_ins.json" else []
        return Case(
            kind=kind,
            name=what,
            write=write,
            command=lambda f: ["envs", "webshop", "--env.products", str(f / "items_shuffle.json"), *goals],
            expected=expected,
        )

    kinds = {"items_shuffle.json": "products", "items_ins_v2.json": "attributes", "items_human_ins.json": "goals"}
    for name, kind in kinds.items():
        for what, data in NOT_JSON.items():
            fine = what == "an empty object" and name != "items_shuffle.json"
            yield shop(name, data, kind, what, "either" if fine else "refused")
    for key in ("asin", "name", "pricing", "customization_options", "small_description", "category", "query"):
        for what, value in VALUES.items():
            changed = [items[0] | {key: value}, *items[1:]]
            wrong = key in ("asin", "customization_options") and what in ("a number", "true", "an empty text")
            yield shop(
                "items_shuffle.json",
                json.dumps(changed),
                "products",
                f"{key} is {what}",
                "refused" if wrong and key == "asin" and what == "an empty text" else "either",
            )
    for what, text in TEXTS.items():
        yield shop(
            "items_shuffle.json",
            json.dumps([items[0] | {"name": text}, *items[1:]]),
            "products",
            f"name has {what}",
            "either",
        )
    for price in ("$1e999", "$-5", "$" + "9" * 500, "$NaN", "free", "$1,2,3"):
        changed = [items[0] | {"pricing": price}, *items[1:]]
        yield shop("items_shuffle.json", json.dumps(changed), "products", f"the price {price[:12]}", "either")
    asin = items[0]["asin"]
    for what, value in VALUES.items():
        yield shop(
            "items_ins_v2.json", json.dumps(attributes | {asin: value}), "attributes", f"an entry is {what}", "either"
        )
        yield shop("items_human_ins.json", json.dumps(human | {asin: value}), "goals", f"an entry is {what}", "either")
    yield shop("items_shuffle.json", json.dumps(items + items), "products", "every product twice", "either")


# -- models ------------------------------------------------------------------------------------------------------------


def models() -> Iterator[Case]:
    """Folders of pretrained models."""

    def model(name: str, edit: Callable[[Path], object], expected: Expected = "refused") -> Case:
        def write(folder: Path) -> None:
            shutil.copytree(_good_model(), folder / "model")
            edit(folder / "model")

        return Case(
            kind="model", name=name, write=write, command=lambda f: ["LOAD", str(f / "model")], expected=expected
        )

    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "model.safetensors",
    ):
        for what, data in NOT_JSON.items():
            fine = what == "an empty object" and name in ("tokenizer_config.json", "generation_config.json")
            yield model(
                f"{name} is {what}", lambda f, n=name, d=data: (f / n).write_bytes(d), "either" if fine else "refused"
            )
        for what in NO_FILES:
            optional = name in ("tokenizer_config.json", "generation_config.json") and what == "nothing"

            def replace(folder: Path, name: str = name, what: str = what) -> None:
                (folder / name).unlink()
                no_file(name, what)(folder)

            yield model(f"{name} is {what}", replace, "either" if optional else "refused")
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        for value in (2**40, 10**9, 10**30, -1, 0, "64", [], True, float("nan")):
            yield model(f"{key} is {value!r}", lambda f, k=key, v=value: edit_json(f / "config.json", **{k: v}))
    for key, value in {
        "num_labels": 10**9, "rms_norm_eps": float("inf"), "eos_token_id": "x", "model_type": "../../x",
         "auto_map": {"AutoConfig": "evil.C"}, "hidden_act": "evil", "rope_parameters": [1],
    }.items():  # fmt: skip
        yield model(
            f"{key} is {value!r}",
            lambda f, k=key, v=value: edit_json(f / "config.json", **{k: v}),
            "either" if key == "auto_map" else "refused",
        )
    for what, template in {
        "loops": "{% for a in range(99999) %}" * 4 + "{% endfor %}" * 4,
        "a terabyte": "{{ 'a' * 10 ** 12 }}",
        "a power": "{{ 7 ** 7 ** 7 ** 7 ** 7 }}",
        "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "no template": "{% for %}",
        "deafness": "hello",
    }.items():
        yield model(
            f"a template of {what}", lambda f, t=template: edit_json(f / "tokenizer_config.json", chat_template=t)
        )
    for what, pattern in {"backtracking": "(a+)+$", "words": r"(\w+\s*)+$", "no expression": "(((("}.items():
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        yield model(f"a tokenizer of {what}", lambda f, s=split: edit_json(f / "tokenizer.json", pre_tokenizer=s))
    added = [
        {
            "id": 300 + i,
            "content": f"<{i}>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i in range(200_000)
    ]
    yield model("200,000 added tokens", lambda f: edit_json(f / "tokenizer.json", added_tokens=added))
    for what, target in {"above": "../x", "absolute": "/etc/passwd", "missing": "y.safetensors"}.items():

        def index(folder: Path, target: str = target) -> None:
            (folder / "model.safetensors").rename(folder / "a.safetensors")
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": target}}))

        yield model(f"an index of what is {what}", index)
    for what, head in {"2**63": struct.pack("<Q", 2**63), "too long": struct.pack("<Q", 10**8) + b"{}"}.items():
        yield model(f"a header of {what}", lambda f, h=head: (f / "model.safetensors").write_bytes(h))


def edit_json(path: Path, **values: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


_MODEL: list[Path] = []


def _good_model() -> Path:
    """A small model, made once; removed with the process's temporary folder."""
    if not _MODEL:
        from stapo.policy import ModelConfig, build_policy

        folder = Path(tempfile.mkdtemp(prefix="stapo-model-"))
        config = ModelConfig(hidden_size=16, layers=1, heads=2, intermediate_size=32, vocab_size=300, device="cpu")
        with contextlib.redirect_stderr(io.StringIO()):
            build_policy(config, ["go to the red door 1"] * 20, 128, 0).save(folder)
        _MODEL.append(folder)
    return _MODEL[0]


KINDS: dict[str, Callable[[], Iterator[Case]]] = {
    "config": configs,
    "games": games,
    "questions": questions,
    "corpus": corpora,
    "shops": shops,
    "model": models,
}


# -- trying them -------------------------------------------------------------------------------------------------------


def try_case(case: Case, folder: Path) -> tuple[str, str, float]:
    """What came of a case: (verdict, what was said, seconds)."""
    case.write(folder)
    log, began = folder / "said.txt", time.monotonic()
    child = os.fork()
    if child == 0:
        _in_child(case, folder, log)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - began
        if ended:
            break
        # So many seconds of a machine that has a core for it.
        if seconds > SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)):
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hang", "", seconds
        time.sleep(0.01)
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line for line in said.splitlines() if "error: " in line or "cannot be listed: " in line]
    code = os.waitstatus_to_exitcode(status)
    last = (lines or said.strip().splitlines() or [""])[-1]
    if "Traceback (most recent" in said or "panicked at" in said:
        return "traceback", said.strip().splitlines()[-1], seconds
    if code < 0:
        return "killed", f"signal {-code}", seconds
    if code in (1, 2):
        return ("refused" if len(lines) == 1 and len(lines[0]) < 2_000 else "many lines"), last, seconds
    return ("read" if code == 0 else f"exit {code}"), last, seconds


def _in_child(case: Case, folder: Path, log: Path) -> None:
    code = 99
    try:
        os.setpgid(0, 0)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", errors="backslashreplace", closefd=False) for number in (1, 2))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
        os.chdir(folder)
        os.environ |= {"STAPO_CACHE": str(folder / "cache"), "COLUMNS": "4000", "HF_HUB_OFFLINE": "1"}
        code = _run(case.command(folder))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(args: list[str]) -> int:
    from stapo.cli.main import main
    from stapo.errors import StapoError
    from stapo.policy import ModelConfig, check_chat_template, check_model, load_policy

    if args[0] != "LOAD":
        return main(args)
    try:
        check_model(args[1])
        load_policy(args[1], ModelConfig(device="cpu"))
        described = Path(args[1]) / "tokenizer_config.json"
        if described.is_file() and "chat_template" in described.read_text():
            check_chat_template(args[1])
    except StapoError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    return 0


def wrong(case: Case, verdict: str) -> bool:
    """Whether a verdict counts against the reader."""
    if case.expected == "either":
        return verdict not in ("refused", "read")
    return verdict != case.expected


def run(kinds: list[str], *, fast: bool = False, verbose: bool = False) -> list[tuple[Case, str, str, float]]:
    """Try all cases of some kinds; every tenth with `fast`."""
    found = []
    for kind in kinds:
        for number, case in enumerate(KINDS[kind]()):
            if fast and number % 10:
                continue
            with tempfile.TemporaryDirectory(prefix="stapo-hostile-") as place:
                verdict, said, seconds = try_case(case, Path(place))
            found.append((case, verdict, said, seconds))
            if verbose or wrong(case, verdict):
                mark = "!!" if wrong(case, verdict) else "  "
                print(f"{mark} {case.kind}: {case.name}: {verdict} ({seconds:.1f} s) {said[:160]!a}", flush=True)
    return found


def main() -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=KINDS, help="one kind of file")
    parser.add_argument("--fast", action="store_true", help="every tenth file")
    parser.add_argument("--verbose", action="store_true", help="a line for each file")
    options = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    import stapo.cli.arguments
    import stapo.cli.main
    import stapo.policy  # noqa: F401 (imported before the processes part)

    try:
        found = run([options.only] if options.only else list(KINDS), fast=options.fast, verbose=options.verbose)
    finally:
        for folder in _MODEL:
            shutil.rmtree(folder, ignore_errors=True)
    kinds = list(dict.fromkeys(case.kind for case, *_ in found))
    columns = ("files", "refused", "read", "traceback", "hang", "killed", "many lines", "nonsense read", "slowest")
    print("\n| kind | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
    for kind in [*kinds, "all"]:
        rows = [entry for entry in found if kind in (entry[0].kind, "all")]
        verdicts = Counter(verdict for _, verdict, *_ in rows)
        nonsense = sum(case.expected == "refused" and verdict == "read" for case, verdict, *_ in rows)
        counts = [verdicts[c] for c in columns[1:7]]
        slowest = max(seconds for *_, seconds in rows)
        print(f"| {kind} | {len(rows)} | " + " | ".join(map(str, counts)) + f" | {nonsense} | {slowest:.1f} s |")
    return int(any(wrong(case, verdict) for case, verdict, *_ in found))


if __name__ == "__main__":
    raise SystemExit(main())
