"""A built catalog: compact files that every environment of the process reads together.

Products lie one after another in one file and are decoded when they are looked at; numbers per product are arrays in
mapped files; so is the search index. A million products take little memory, and processes that were forked or started
later share the pages.
"""

from __future__ import annotations

import mmap
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from stapo.envs.webshop.pages import ItemView, item_view
from stapo.envs.webshop.product import Product, pack, unpack
from stapo.envs.webshop.sources import Source
from stapo.errors import ConfigError, GameFileError, StapoError
from stapo.progress import tell
from stapo.retrieval.bm25 import BM25Index
from stapo.stored import CACHE_VARIABLE, WholeFolders, default_cache

KIND = "catalog"
FORMAT = 4
"""Raised whenever the files below change; a catalog of another number is built anew."""
CATALOGS = WholeFolders(
    "catalog",
    ConfigError,
    "Remove it; it is built anew.",
    f" Make room there, or set {CACHE_VARIABLE} to a folder that can be written.",
)
LONGEST_WAIT = 3_600.0
"""Seconds to wait for another process that builds the same catalog."""

_RECORDS, _INDEX = "records.bin", "index"
_COLUMNS = ("starts", "asins", "order", "low", "high", "ranged", "asked", "combinations", "requests", "category")
_LONGEST_KEPT = 1_000
_PRODUCTS_KEPT, _VIEWS_KEPT, _SEARCHES_KEPT = 4_096, 1_024, 4_096

_REPORTED = 1_000
_MOST_COUNTED = 1 << 40  # combinations of options; a column of numbers holds no more than 2^63


class Catalog:
    """An open catalog; read-only. `open_catalog` makes them.

    Attributes:
        source: where the products come from, in messages.
        categories: names of the categories.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.folder = folder
        self.source = source
        self.categories: list[str] = CATALOGS.read(folder, KIND, FORMAT, verify=False)["categories"]
        self._columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _COLUMNS}
        with (folder / _RECORDS).open("rb") as file:
            self._records = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.index = BM25Index.open(folder / _INDEX, verify=False)
        # Bound to this object's lifetime, unlike a cache around the methods themselves.
        this = weakref.proxy(self)
        self.product: Callable[[int], Product] = lru_cache(_PRODUCTS_KEPT)(lambda number: this._decode(number))
        self.view: Callable[[int, bool], ItemView] = lru_cache(_VIEWS_KEPT)(
            lambda number, show_attrs: item_view(this.product(number), show_attrs=show_attrs)
        )
        self._kept_search: Callable[[str, int], tuple[int, ...]] = lru_cache(_SEARCHES_KEPT)(
            lambda query, count: this._search(query, count)
        )

    def __len__(self) -> int:
        return len(self._columns["low"])

    def column(self, name: str) -> np.ndarray:
        """An array with one entry per product.

        ``asins`` (text), ``order`` (numbers sorted by "asin/"), ``low`` and ``high`` (dollars, equal for one price),
        ``ranged`` (the price is a range, be its ends equal), ``asked`` (it has an instruction), ``combinations``
        (synthetic goals), ``requests`` (human goals), ``category``.
        """
        found: np.ndarray = self._columns[name]
        return found

    def find(self, asin: str) -> int | None:
        """Number of the product with an id, or None."""
        asins, order = self._columns["asins"], self._columns["order"]
        place = bisect_left(order, f"{asin}/", key=lambda number: f"{asins[number]}/")
        return int(order[place]) if place < len(order) and asins[order[place]] == asin else None

    def category_of(self, number: int) -> str:
        """Category of a product."""
        return self.categories[int(self._columns["category"][number])]

    def search(self, query: str, count: int) -> tuple[int, ...]:
        """Numbers of the best products for a query, best first, equal ones by id."""
        # Nobody types such a query twice, and it would be kept.
        return self._search(query, count) if len(query) > _LONGEST_KEPT else self._kept_search(query, count)

    def _search(self, query: str, count: int) -> tuple[int, ...]:
        order = self._columns["order"]
        return tuple(int(order[place]) for place, _ in self.index.search(query, count))

    def _decode(self, number: int) -> Product:
        starts = self._columns["starts"]
        return unpack(self._records[int(starts[number]) : int(starts[number + 1])])


_OPEN: weakref.WeakValueDictionary[Path, Catalog] = weakref.WeakValueDictionary()


def open_catalog(source: Source) -> Catalog:
    """Open a catalog, building it where the cache does not have it. Environments of one process share it.

    Raises:
        GameFileError: a file or a product that cannot be used.
        ConfigError: the cache cannot be written.
    """
    # Versions of this package that share a cache keep theirs beside each other, and do not rebuild in turns.
    folder = default_cache() / "webshop" / f"{source.key()[:32]}-{FORMAT}"
    found = _OPEN.get(folder)
    if found is None:
        with CATALOGS.lacking(folder, partial(is_usable, folder), LONGEST_WAIT, insist=True) as lacks:
            if lacks:
                _build_whole(source, folder)
        found = _OPEN[folder] = Catalog(folder, source.describe())
    return found


def _build_whole(source: Source, folder: Path) -> None:
    facts: dict[str, Any] = {}
    with CATALOGS.written(folder, KIND, FORMAT, facts) as inside:
        facts["categories"] = build(source, inside)


def is_usable(folder: Path) -> bool:
    """Whether a folder holds a whole catalog of this version."""
    try:
        CATALOGS.read(folder, KIND, FORMAT, verify=False)
        BM25Index.open(folder / _INDEX, verify=False)
    except (StapoError, OSError):
        return False
    return True


def build(source: Source, folder: Path) -> list[str]:
    """Write the files of a catalog into an empty folder; returns the names of its categories.

    Raises:
        GameFileError: a file or a product that cannot be used, or no product at all.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    categories: dict[str, int] = {}
    seen: set[str] = set()
    at = 0
    with (folder / _RECORDS).open("wb") as records:
        for product in source.products(folder):
            if product.asin in seen:
                continue
            seen.add(product.asin)
            columns["starts"].append(at)
            at += records.write(pack(product))
            _add(columns, categories, product)
            if len(seen) % _REPORTED == 0:
                tell("reading products", len(seen))
    if not seen:
        raise GameFileError(f"{source.describe()} holds no product; expected at least one.")
    columns["starts"].append(at)
    asins = columns["asins"]
    columns["order"] = sorted(range(len(asins)), key=lambda number: f"{asins[number]}/")
    types = {"asins": "U10", "starts": "i8", "order": "i4", "ranged": "?", "asked": "?"}
    types |= {"combinations": "i8", "requests": "i4", "category": "i4"}
    for name, values in columns.items():
        np.save(folder / f"{name}.npy", np.array(values, dtype=types.get(name, "f8")), allow_pickle=False)
    BM25Index.build(_documents(folder)).save(folder / _INDEX)
    return list(categories)


def _documents(folder: Path) -> Iterator[str]:
    """What the search reads, ordered by product id: equal scores are told apart by it."""
    starts = np.load(folder / "starts.npy", mmap_mode="r", allow_pickle=False)
    order = np.load(folder / "order.npy", mmap_mode="r", allow_pickle=False)
    with (folder / _RECORDS).open("rb") as file:
        for done, number in enumerate(order):
            file.seek(starts[number])
            yield unpack(file.read(int(starts[number + 1] - starts[number]))).document()
            if done % _REPORTED == 0:
                tell("indexing products", done, len(order))


def _add(columns: dict[str, list[Any]], categories: dict[str, int], product: Product) -> None:
    columns["asins"].append(product.asin)
    columns["low"].append(product.prices[0])
    columns["high"].append(product.prices[-1])
    columns["ranged"].append(len(product.prices) > 1)
    asked = product.instruction is not None
    columns["combinations"].append(min(prod(map(len, product.options.values())), _MOST_COUNTED) if asked else 0)
    columns["asked"].append(asked)
    columns["requests"].append(len(product.requests))
    columns["category"].append(categories.setdefault(product.category, len(categories)))
