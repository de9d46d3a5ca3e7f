"""Lines of plain and compressed files: numbered, bounded, and a damaged file is one error that names the line."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import resource
import subprocess
import sys
import time

import pytest

from slow import slow_except
from stapo.documents import compression_of, read_lines

LINES = [b'{"id": 1}\n', b"\n", b'{"id": 2}\r\n', "Zürich 日本\n".encode(), b"no line feed at the end"]
WHOLE = b"".join(LINES)


def zstd(data):
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


PACKERS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstd}


@pytest.fixture(params=["", *PACKERS])
def packed(request):
    """A suffix, and how to write such a file."""
    return request.param, PACKERS.get(request.param, bytes)


def test_lines_with_numbers(tmp_path, packed):
    suffix, pack = packed
    path = tmp_path / f"lines.jsonl{suffix}"
    path.write_bytes(pack(WHOLE))
    assert list(read_lines(path)) == list(enumerate(LINES, 1))
    assert list(read_lines(str(path))) == list(enumerate(LINES, 1))
    assert compression_of(path) == suffix


def test_several_streams_in_one_file(tmp_path, packed):
    suffix, pack = packed
    path = tmp_path / f"lines{suffix}"
    path.write_bytes(b"".join(pack(line) for line in LINES) + b"\0" * 4 * (suffix in (".gz", ".xz")))
    assert b"".join(raw for _, raw in read_lines(path)) == WHOLE


def test_the_content_decides_before_the_name(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(lzma.compress(WHOLE))
    assert [raw for _, raw in read_lines(path)] == LINES
    path.write_bytes(b"")
    assert list(read_lines(path)) == []


def test_a_line_that_is_too_long(tmp_path, packed):
    suffix, pack = packed
    path = tmp_path / f"lines{suffix}"
    path.write_bytes(pack(b"x" * 99 + b"\n" + b"y" * 100 + b"\n"))
    found = []
    with pytest.raises(ValueError, match=r"^line 2: longer than 100 bytes$"):
        found.extend(number for number, _ in read_lines(path, 100))
    lines = read_lines(path, 100)
    assert next(lines) == (1, b"x" * 99 + b"\n")
    assert len(list(read_lines(path, 101))) == 2


@pytest.mark.parametrize("suffix", slow_except(PACKERS, *list(PACKERS)[:2]))
@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "garbage behind", "plain"])
def test_damage_is_named(tmp_path, suffix, harm):
    if suffix == ".bz2" and harm == "garbage behind":
        pytest.skip("bzip2's own tool passes over it, too")
    rows = b"".join(b'{"id": %d, "text": "%d"}\n' % (i, i * 7919) for i in range(20_000))
    data = bytearray(PACKERS[suffix](rows))
    if harm == "flipped":
        for place in range(len(data) // 2, len(data) // 2 + 50):
            data[place] ^= 0xFF
    path = tmp_path / f"lines{suffix}"
    path.write_bytes(
        {"cut": bytes(data[: len(data) // 2]), "empty": b"", "garbage behind": bytes(data) + b"rubbish", "plain": rows}
        .get(harm, bytes(data))
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"^line \d+: the compressed data is damaged or cut off") as caught:
        list(read_lines(path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_what_unpacks_to_gigabytes_takes_little_memory_and_time(tmp_path):
    """In a process of its own with 400 MB of address space; on one line, in blank lines, in lines alike."""
    for name, unit in (("one", b"x"), ("blank", b"\n"), ("rows", b'{"id": 1}\n')):
        packer, path = lzma.LZMACompressor(preset=0), tmp_path / f"{name}.xz"
        with path.open("wb") as file:
            block = unit * ((1 << 24) // len(unit))
            for _ in range(4):
                file.write(packer.compress(block))
            file.write(packer.flush())
    code = (
        "import sys; from stapo import documents; from stapo.documents import read_lines\n"
        "documents._FREE_BYTES = 1 << 22\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        for _ in read_lines(path): pass\n        print('read')\n"
        "    except ValueError as err: print(err)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(tmp_path / f"{n}.xz") for n in ("one", "blank", "rows"))],
        capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20)),
    )  # fmt: skip
    one, blank, rows = done.stdout.splitlines()
    assert one == "line 1: longer than 16,777,216 bytes"
    assert blank.endswith("it unpacks to more than 500 times its size")
    assert rows.endswith("it unpacks to more than 500 times its size")


def test_what_never_ends_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    start = time.monotonic()
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="not a regular file"):
            next(read_lines(path))
    assert time.monotonic() - start < 30


def test_errors_of_the_system_are_its_own(tmp_path):
    with pytest.raises(FileNotFoundError):
        next(read_lines(tmp_path / "none"))
    with pytest.raises(IsADirectoryError):
        next(read_lines(tmp_path))


def test_zstandard_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "lines.zst").write_bytes(b"\x28\xb5\x2f\xfd" + b"0" * 20)
    with pytest.raises(ValueError, match="pip install zstandard"):
        next(read_lines(tmp_path / "lines.zst"))
