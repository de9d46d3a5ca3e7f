"""Settings and files under the names that earlier versions gave them.

A former name is read for one more release. Whoever reads settings that a user wrote says so; runs of earlier
versions are read without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTINGS = {
    "warm_start": "sft",
    "env.options.catalogue_products": "env.options.catalog_products",
    "env.options.catalogue_seed": "env.options.catalog_seed",
    "algorithm.outlier.min_spread": "algorithm.outlier.min_scale",
}
"""Dotted path of a setting, or of a group of settings, as it was -> as it is."""

FLAGS = {"warm-starts": "starts", "env.catalogue_products": "env.catalog_products"}
FLAGS |= {"warm-start": "sft", "env.catalogue_seed": "env.catalog_seed"}
FLAGS |= {"algorithm.outlier.min-spread": "algorithm.outlier.min-scale"}
"""Flags of the command line, and groups of them, without the dashes before them."""

ROWS = {"sft": "warm_start"}
"""Files of rows of a run, without .jsonl, as they are -> as they were; a run keeps what it has."""


STARTS = "warm"
"""Folder of the starts in a comparison, which keeps it."""


class FormerNameWarning(FutureWarning):
    """Settings that a user wrote use a former name."""


def with_present_names(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Settings under their present names, and the former names among them that were used.

    A setting that is there under both names is left alone: it is then an unknown key.
    """
    found, used = dict(data), []
    for old, new in SETTINGS.items():
        *groups, key = old.split(".")
        place: Any = found
        for group in groups:
            inner = place.get(group) if isinstance(place, dict) else None
            if isinstance(inner, Mapping):
                place[group] = inner = dict(inner)
            place = inner
        present = new.rpartition(".")[2]
        if isinstance(place, dict) and key in place and present not in place:
            renamed = {present if name == key else name: value for name, value in place.items()}
            place.clear()
            place.update(renamed)
            used.append(old)
    return found, used


def with_present_flags(args: list[str]) -> tuple[list[str], dict[str, str]]:
    """Arguments of the command line under their present names, and the present flag of each former one among them."""
    used = {}

    def present(arg: str) -> str:
        for old, new in FLAGS.items():
            for written in {old, old.replace("-", "_"), old.replace("_", "-")}:
                flag = f"--{written}"
                if arg == flag or arg.startswith((f"{flag}.", f"{flag}=")):
                    used[flag] = f"--{new}"
                    return f"--{new}{arg[len(flag) :]}"
        return arg

    return [present(arg) for arg in args], used
