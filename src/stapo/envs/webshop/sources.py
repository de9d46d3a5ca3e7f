"""Where products come from: the original files, or the generator of this package."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stapo.checks import user_path
from stapo.envs import draws
from stapo.envs.webshop import generator
from stapo.envs.webshop.product import Product, is_skipped, read_product
from stapo.envs.webshop.streaming import iter_items, iter_list
from stapo.errors import ConfigError, GameFileError, reading
from stapo.stored import default_cache, known_digest


class Source(Protocol):
    """A fixed list of products."""

    def key(self) -> str:
        """Equal for equal products; a digest."""
        ...

    def describe(self) -> str:
        """What it is, in messages."""
        ...

    def products(self, scratch: Path) -> Iterator[Product]:
        """The products in order; `scratch` is a folder for files that are needed meanwhile."""
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """The original files.

    Attributes:
        items: items_shuffle*.json.
        attributes: items_ins_v2*.json.
        human: items_human_ins.json, or None.
    """

    items: Path
    attributes: Path
    human: Path | None

    def key(self) -> str:
        """Digest of the contents of the files."""
        files = [self.items, self.attributes, *([self.human] if self.human else [])]
        return _digest(["files", *map(file_digest, files)])

    def describe(self) -> str:
        """The path of the products."""
        return f"'{self.items}'"

    def products(self, scratch: Path) -> Iterator[Product]:
        """The products in the order of the file.

        Raises:
            GameFileError: a file or a product that cannot be used.
        """
        with _entries_in(self.attributes, scratch) as entry_of:
            human = dict(iter_items(self.human, "list of instructions")) if self.human else {}
            for number, raw in enumerate(iter_list(self.items, "product")):
                if is_skipped(raw):
                    continue
                asin = str(raw.get("asin")) if isinstance(raw, dict) else ""
                where = f"number {number} in '{self.items}'"
                yield read_product(raw, entry_of(asin), human.get(asin), where)


@contextmanager
def _entries_in(path: Path, scratch: Path) -> Iterator[Callable[[str], Any]]:
    """Gives what finds the entries of a large attributes file, on disk; only their places are held in memory."""
    places: dict[str, int] = {}
    copy = scratch / "entries"
    with copy.open("w+b") as file:
        try:
            for asin, entry in iter_items(path, "entry"):
                places[asin] = file.tell()
                file.write(json.dumps(entry).encode() + b"\n")

            def find(asin: str) -> Any:
                if asin not in places:
                    return None
                file.seek(places[asin])
                return json.loads(file.readline())

            yield find
        finally:
            copy.unlink()


@dataclass(frozen=True, slots=True)
class GeneratedSource:
    """A generated shop.

    Attributes:
        size: name of a size of the generator.
        count: number of products, None for the size's own.
        seed: another seed, another shop.
    """

    size: str
    count: int | None
    seed: int

    def key(self) -> str:
        """Digest of the arguments and of the generator's code and tables: another version makes another shop."""
        parts = (part for part in Path(generator.__file__).parent.iterdir() if part.suffix in (".py", ".yaml"))
        files = [*sorted(parts), Path(draws.__file__)]
        return _digest(["generated", self.size, self.count, self.seed, *map(file_digest, files)])

    def describe(self) -> str:
        """The size of the shop."""
        return f"the generated catalog '{self.size}'"

    def products(self, scratch: Path) -> Iterator[Product]:
        """The products of the shop."""
        for number, article in enumerate(generator.iter_products(self.count, self.seed, self.size)):
            yield read_product(article.product, article.synthetic, article.human, f"generated number {number}")


def file_source(
    items: str | os.PathLike[str],
    attributes: str | os.PathLike[str] | None = None,
    human: str | os.PathLike[str] | None = None,
    *,
    need_human: bool = False,
) -> FileSource:
    """The files of a catalog; those that are not named are looked for beside the products.

    Raises:
        GameFileError: a file that is needed is not there.
    """
    path = _existing(items, "products")
    suffix = path.name.removeprefix("items_shuffle").removesuffix(".json")
    beside = path.parent / f"items_ins_v2{suffix}.json"
    if attributes is None and not beside.is_file():
        found = sorted(path.parent.glob("items_ins_v2*.json"))
        raise GameFileError(
            f"the attributes of the products in '{path}' are missing: there is no '{beside.name}' beside it"
            + (f", but {', '.join(f.name for f in found)}" if found else "")
            + ". Give attributes=PATH."
        )
    human_beside = path.parent / "items_human_ins.json"
    if human is None and need_human and not human_beside.is_file():
        raise GameFileError(
            f"goals=human needs '{human_beside}', which does not exist. Give human_goals=PATH, or choose "
            "goals=synthetic."
        )
    return FileSource(
        items=path,
        attributes=beside if attributes is None else _existing(attributes, "attributes"),
        human=_existing(human, "human_goals")
        if human is not None
        else human_beside
        if need_human and human_beside.is_file()
        else None,
    )


def _existing(path: str | os.PathLike[str], option: str) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"{option} must be a path or None, found {path!r}.")
    found = user_path(path)
    if not found.is_file():
        raise GameFileError(
            f"{option} '{found}' is not a file; expected JSON of the WebShop release. Leave products out to play in a "
            "generated shop."
        )
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file, remembered in the cache; see `stapo.stored.known_digest`.

    Raises:
        GameFileError: it cannot be read.
    """
    with reading(f"'{path}'", GameFileError):
        return known_digest(path, default_cache())


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
