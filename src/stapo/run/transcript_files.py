"""Names of transcript files, which hold their iteration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

FOLDER = "transcripts"
_NAME = re.compile(r"iteration-(\d{1,9})\.jsonl")


def row_file_name(iteration: int) -> str:
    """The name under which `RunDirectory.write_rows` writes the transcript of an iteration."""
    return f"{FOLDER}/iteration-{iteration:05d}"


def transcript_of(run: Path, iteration: int) -> Path:
    """Where the transcript of an iteration is written, in the folder of a run."""
    return run / f"{row_file_name(iteration)}.jsonl"


def by_iteration(paths: Iterable[Path]) -> dict[int, Path]:
    """Transcript files by iteration; files of other names are somebody else's."""
    matches = ((_NAME.fullmatch(path.name), path) for path in paths)
    return {int(match[1]): path for match, path in matches if match}
