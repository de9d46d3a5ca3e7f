"""What `model.path` and the like name, as a folder. Torch is loaded for a conversion only."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from stapo.errors import ModelError, StapoError
from stapo.models.cache import fetch, folder_of, keep, models_folder, unfetched
from stapo.models.catalog import KNOWN, find
from stapo.progress import tell
from stapo.stored import default_cache, known_digest

_ROOM = 12
"""Bytes on the disk for each byte of a GGUF file: four of a weight for as little as a third of one."""


def source_of(path: str) -> str:
    """What transformers is given for a name of the catalog, a GGUF file, a folder or a hub name.

    A GGUF file is converted on first use, and found again in the cache by its contents.

    Raises:
        ModelError: a model of the catalog that is not fetched, or a GGUF file that cannot be converted.
        ConfigError: what converts is not installed, or the model of this name is not a language model.
    """
    if path in KNOWN:
        return str(folder_of(find(path, "language model")))
    folder = Path(path).expanduser()
    if folder.suffix.lower() == ".gguf" and not folder.is_dir():
        return str(_converted(folder))
    return str(folder) if folder.is_dir() else path


def folder_here(path: str) -> Path | None:
    """The folder of a model that is on this machine, None for one that is not fetched, or for a hub name.

    Raises:
        ModelError, ConfigError: a GGUF file that cannot be converted, or a name that stands for two.
    """
    if unfetched(path) and not Path(path).is_dir():
        return None
    folder = Path(source_of(path))
    return folder if folder.is_dir() else None


def base_of(path: str) -> str:
    """Where another program finds the model that adapters belong to; `path` itself where it has gone meanwhile."""
    try:
        return source_of(path)
    except StapoError:
        return path


def fetch_model(name: str) -> Path:
    """Bring a model of the catalog into the cache, unless it is there; returns its folder.

    Raises:
        UnknownNameError: no such model.
        ConfigError: what converts it is not installed.
        ModelError: it cannot be downloaded, is another than expected, or cannot be converted or written.
    """
    known = find(name)
    if known.gguf:
        _gguf().require()
    return fetch(known, lambda file, folder: dict(_gguf().convert(file, folder)))


def _converted(file: Path) -> Path:
    try:
        digest, size = known_digest(file, default_cache()), file.stat().st_size
    except OSError as err:
        raise ModelError(f"GGUF file '{file}' cannot be read: {err.strerror or err}.") from err

    def fill(folder: Path, _: Path) -> dict[str, Any]:
        tell(f"converting {file.name}", 0)
        return {"name": file.name, "source": str(file.resolve()), "sha256": digest, **_gguf().convert(file, folder)}

    return keep(models_folder() / f"gguf-{digest[:32]}", fill, _ROOM * size)


def _gguf() -> Any:
    # It imports torch and transformers.
    return import_module("stapo.policy.gguf")
