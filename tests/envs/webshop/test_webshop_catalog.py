"""Catalogs: bad files, the cache, other versions, two builders at once, nothing left behind."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from small_shop import ATTRIBUTES, HUMAN, PRODUCTS, product, write

from stapo.envs.webshop import catalog, streaming
from stapo.envs.webshop.catalog import is_usable, open_catalog
from stapo.envs.webshop.env import WebShopEnv
from stapo.envs.webshop.goals import GoalBook
from stapo.envs.webshop.product import pack, read_prices, read_product, unpack
from stapo.envs.webshop.sources import file_source
from stapo.envs.webshop.streaming import iter_items, iter_list
from stapo.errors import ConfigError, GameFileError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("STAPO_CACHE", str(folder))
    return folder


def hidden(cache):
    return [p for p in (cache / "webshop").glob(".*") if not p.name.endswith(".lock")]


@pytest.mark.parametrize(
    "pricing, prices",
    [
        (None, [100.0]),
        ("", [100.0]),
        ("$9.99", [9.99]),
        ("$1,234.50", [1234.5]),
        ("$5 to $7.50", [5.0, 7.5]),
        ("$3.00$4.00$5.00", [3.0, 4.0]),
        ("$5 to $5", [5.0, 5.0]),
        ([], [100.0]),
        (0, [100.0]),
        (9.99, [9.99]),
        (12, [12.0]),
        ("1,299.00", [1299.0]),
        (["$5", "$7.50"], [5.0, 7.5]),
    ],
)
def test_prices(pricing, prices):
    assert read_prices(pricing, "here") == prices


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": None}, "product 'B0X' .* has the name None"),
        ({"asin": 7}, "number 1 in .* has the asin 7"),
        ({"pricing": "cheap"}, "product 'B0X' .* has the pricing 'cheap' without a"),
        ({"pricing": "$1.2.3"}, "product 'B0X' .* has the pricing '.1.2.3'"),
        ({"pricing": True}, "product 'B0X' .* has the pricing True"),
        ({"pricing": -3}, "product 'B0X' .* has the pricing -3"),
        ({"pricing": {"low": 3}}, "product 'B0X' .* has the pricing"),
        ({"pricing": "$" + "9" * 400}, "product 'B0X' .* more than a number can hold"),
        ({"pricing": float("nan")}, "product 'B0X' .* has the pricing nan"),
        ({"asin": "B0\ud800"}, "number 1 in .* expected a text of 1 to 10 printable"),
        ({"asin": "B0GOOD\0"}, "number 1 in .* expected a text of 1 to 10 printable"),
        ({"small_description": [1]}, "product 'B0X' .* has the small_description"),
        ({"customization_options": {"size": [{"price": 1}]}}, "product 'B0X' .* has the customization_options"),
    ],
)
def test_a_product_that_cannot_be_sold_is_named(tmp_path, cache, change, message):
    path = write(tmp_path / "shop", [product("B0GOOD", "Good"), {**product("B0X", "Bad"), **change}])
    with pytest.raises(GameFileError, match=message):
        WebShopEnv(products=path)
    assert hidden(cache) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ('[{"asin": "B0", "name": "cut', "product number 0.*cut short"),
        ('[{"asin": "B01", "name": "a"}, {"asin"', "product number 1.*cut short"),
        ('[{"asin": "B01", "name": "a"}', "found the end of the file at product number 1"),
        ('[{"asin": "B01", "name": "a"} {"asin": 1}]', "product number 1, expected ',' or '\\]'"),
        ('{"B01": {}}', "found an object with keys .* expected a list of products"),
        ("", "found the end of the file"),
        ("[", "found the end of the file"),
        ("[]", "holds no product"),
        ('["text"]', "number 0 in .* is str 'text'"),
        ("[" * 20_000, "nested too deeply|cut short"),
        ('[{"asin": "B01", "name": tru' + "e" * 100 + "}]", "product number 0"),
        ("\ufeff[]", "holds no product"),
        ('[{"asin": "B01", "name": ' + "9" * 5_000 + "}]", "found a number that is too long at product number 0"),
        ('[{"asin": "B01", "name": "a"}]\n[{"asin": "B02", "name": "a"}]', "product number 1, expected nothing after"),
        ("[] x", "found 'x' behind the end at product number 0, expected nothing after"),
    ],
)
def test_a_file_that_is_no_catalog(tmp_path, cache, text, message):
    path = write(tmp_path / "shop")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GameFileError, match=message):
        WebShopEnv(products=path)
    assert hidden(cache) == []


def test_a_file_in_another_encoding(tmp_path):
    path = write(tmp_path / "shop")
    path.write_bytes('[{"asin": "B01", "name": "é"}]'.encode("latin-1"))
    with pytest.raises(GameFileError, match="not text in UTF-8"):
        WebShopEnv(products=path)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("items_ins_v2_small.json", '{"B0LAMP0001": {"attributes": ["a"', "items_ins_v2_small.json.*entry number 0"),
        ("items_ins_v2_small.json", "[]", "items_ins_v2_small.json.*found a list"),
        ("items_ins_v2_small.json", "{} {}", "items_ins_v2_small.json.*behind the end"),
        ("items_ins_v2_small.json", '{"B0LAMP0001": {"attributes": "a"}}', "'B0LAMP0001' .* has the attributes 'a'"),
        ("items_human_ins.json", '{"B0LAMP0001": [{"instruction": 1, "instruction_attributes": ["a"]}]}', "ruction 1"),
        ("items_human_ins.json", '{"B0LAMP0001": ', "items_human_ins.json.*number 0"),
    ],
)  # fmt: skip
def test_broken_companions_are_named(tmp_path, name, text, message):
    path = write(tmp_path / "shop")
    (path.parent / name).write_text(text)
    with pytest.raises(GameFileError, match=message):
        WebShopEnv(products=path, goals="human")


def test_missing_files(tmp_path):
    with pytest.raises(GameFileError, match=r"products '.*none.json' is not a file"):
        WebShopEnv(products=tmp_path / "none.json")
    path = write(tmp_path / "shop")
    (path.parent / "items_human_ins.json").unlink()
    with pytest.raises(GameFileError, match=r"goals=human needs .*items_human_ins.json"):
        WebShopEnv(products=path, goals="human")
    (path.parent / "items_ins_v2_small.json").rename(path.parent / "items_ins_v2_large.json")
    with pytest.raises(GameFileError, match=r"no 'items_ins_v2_small.json' beside it, but items_ins_v2_large.json"):
        WebShopEnv(products=path)
    assert len(WebShopEnv(products=path, attributes=path.parent / "items_ins_v2_large.json").tasks)
    with pytest.raises(ConfigError, match="products must be a path"):
        WebShopEnv(products=7)


def test_nobody_asks_for_anything(tmp_path):
    path = write(tmp_path / "shop", attributes={})
    with pytest.raises(GameFileError, match=r"no synthetic goal in .*items_shuffle_small.json"):
        WebShopEnv(products=path)


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_reading_in_pieces_gives_what_reading_at_once_gives(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(streaming, "_PIECE", piece)
    path = write(tmp_path / "shop", [*PRODUCTS, product("B0U", 'é \u2605 "quoted" \\ \ud83d')])
    assert list(iter_list(path, "product")) == json.loads(path.read_text())
    beside = path.parent / "items_ins_v2_small.json"
    assert dict(iter_items(beside, "entry")) == ATTRIBUTES
    beside.write_text("[1, 23, 4.5e6, true, null]")
    assert list(iter_list(beside, "number")) == [1, 23, 4.5e6, True, None]
    beside.write_text("{}")
    assert list(iter_items(beside, "entry")) == []


def test_a_record_gives_the_product_back():
    raw = {**PRODUCTS[0], "name": "half a character: \ud83d"}
    made = read_product(raw, ATTRIBUTES["B0LAMP0001"], HUMAN["B0LAMP0001"], "here")
    assert unpack(pack(made)) == made
    assert made.options == {"size": ["large", "small | flat"], "color": ["navy blue", "red"]}
    assert made.query == "lamps"
    assert made.document() == (
        "half a character: \ud83d a lamp of brass. dimmable  size: large, small | flat, and color: navy blue, red"
    )


def test_a_product_that_the_attributes_file_does_not_tell_of():
    """The original gives it one attribute that nobody asks for; an empty list stays empty."""
    for extra, attributes in ((None, ["DUMMY_ATTR"]), ({"instruction": "x"}, ["DUMMY_ATTR"]), ({"attributes": []}, [])):
        assert read_product(PRODUCTS[0], extra, None, "here").attributes == attributes


def test_options_that_a_person_named_stay_pairs():
    asked = [{"instruction": "x", "instruction_attributes": ["a"], "instruction_options": {"color": "red"}}]
    made = read_product(PRODUCTS[0], None, asked, "here")
    assert made.requests[0].options == [("color", "red")]
    assert unpack(pack(made)) == made
    asked[0]["instruction_options"] = {"color": 7}
    with pytest.raises(GameFileError, match="has the instruction_options"):
        read_product(PRODUCTS[0], None, asked, "here")


def test_products_that_the_shop_leaves_out(tmp_path):
    found = open_catalog(file_source(write(tmp_path / "shop")))
    assert len(found) == len(PRODUCTS) - 3
    assert found.product(found.find("B0LAMP0001")).title == "Brass desk lamp"
    assert found.find("nan") is None
    assert found.find("") is None
    assert [found.find(str(asin)) for asin in found.column("asins")] == list(range(len(found)))


def test_equal_scores_are_ordered_by_id(tmp_path):
    products = [product(f"B0{letter}", "blue vase", query=letter) for letter in "CABED"]
    found = open_catalog(file_source(write(tmp_path / "shop", products)))
    assert [found.product(i).asin for i in found.search("vase", 50)] == ["B0A", "B0B", "B0C", "B0D", "B0E"]


def test_environments_share_one_catalog_and_its_goals(tmp_path):
    path = write(tmp_path / "shop")
    one, two = WebShopEnv(products=path), WebShopEnv(products=path, observation="text_rich")
    assert one.catalog is two.catalog
    assert one.goals is two.goals
    folder = one.catalog.folder
    built = (folder / "manifest.json").stat().st_mtime_ns
    del one, two
    gc.collect()
    assert folder not in catalog._OPEN
    again = WebShopEnv(products=path)
    assert (again.catalog.folder / "manifest.json").stat().st_mtime_ns == built


def test_a_changed_file_is_another_catalog(tmp_path):
    path = write(tmp_path / "shop")
    first = WebShopEnv(products=path).catalog.folder
    write(tmp_path / "shop", [*PRODUCTS, product("B0NEW", "New lamp")])
    second = WebShopEnv(products=path)
    assert second.catalog.folder != first
    assert second.catalog.find("B0NEW") is not None
    copied = write(tmp_path / "copy")
    assert WebShopEnv(products=copied).catalog.folder == first


def test_versions_that_share_a_cache_leave_each_other_alone(tmp_path, monkeypatch):
    path = write(tmp_path / "shop")
    ours = WebShopEnv(products=path).catalog.folder
    gc.collect()
    monkeypatch.setattr(catalog, "FORMAT", catalog.FORMAT + 1)
    theirs = WebShopEnv(products=path).catalog.folder
    assert ours != theirs
    assert is_usable(theirs)
    monkeypatch.undo()
    assert is_usable(ours)


@pytest.mark.parametrize("damage", ["version", "cut", "missing", "meta", "index"])
def test_a_catalog_that_is_damaged_or_of_another_version_is_built_anew(tmp_path, damage):
    path = write(tmp_path / "shop")
    env = WebShopEnv(products=path)
    folder, titles = env.catalog.folder, [env.catalog.product(i).title for i in range(len(env.catalog))]
    del env
    gc.collect()
    if damage == "version":
        meta = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**meta, "version": 0}))
    elif damage == "cut":
        os.truncate(folder / "records.bin", 100)
    elif damage == "missing":
        (folder / "order.npy").unlink()
    elif damage == "meta":
        (folder / "manifest.json").write_text("[]")
    else:
        next((folder / "index").glob("*.npy")).unlink()
    assert not is_usable(folder)
    again = WebShopEnv(products=path)
    assert again.catalog.folder == folder
    assert [again.catalog.product(i).title for i in range(len(again.catalog))] == titles
    assert sorted(p.name for p in folder.parent.iterdir()) == sorted([folder.name, f".{folder.name}.lock"])


def test_several_processes_that_build_at_once(tmp_path, cache):
    path = write(tmp_path / "shop", [product(f"B0{i:06}", f"lamp {i}") for i in range(500)], {
        "B0000001": {"attributes": ["a"], "instruction": "Find me", "instruction_attributes": ["a"]}})  # fmt: skip
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = int(len(WebShopEnv(products=path).catalog) != 500)
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert hidden(cache) == []
    assert len([p for p in (cache / "webshop").iterdir() if not p.name.startswith(".")]) == 1


def test_a_lost_race_uses_what_the_winner_built(tmp_path, monkeypatch):
    source = file_source(write(tmp_path / "shop"))
    real = catalog.build

    def slow(source, folder):
        monkeypatch.setattr(catalog, "build", real)
        # As if the wait for the other process had timed out, and it was done first.
        categories = real(source, folder)
        target = folder.with_name(folder.name.split(".")[1])
        catalog._build_whole(source, target)
        return categories

    monkeypatch.setattr(catalog, "build", slow)
    found = open_catalog(source)
    assert len(found) == len(PRODUCTS) - 3
    assert sorted(p.name[0] for p in found.folder.parent.iterdir()) == sorted([".", found.folder.name[0]])


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STAPO_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cache .* cannot be written: .* set STAPO_CACHE"):
        WebShopEnv(products=write(tmp_path / "shop"))


@pytest.mark.parametrize("kilobytes", [1, 4])
def test_a_disk_that_runs_full(tmp_path, cache, kilobytes):
    """Files over a limit are refused, as by a full disk, before and in the middle of the index."""
    path = write(tmp_path / "shop", [*PRODUCTS, *(product(f"B1{i:06}", "warm lamp") for i in range(40))])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, kilobytes << 10))
            with pytest.raises(ConfigError, match=r"catalog .* cannot be written: .* Make room there"):
                WebShopEnv(products=path)
            status = len(hidden(cache))
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(WebShopEnv(products=path).catalog) == len(PRODUCTS) - 3 + 40


def test_a_finished_catalog_is_read_without_writing(tmp_path, monkeypatch):
    path = write(tmp_path / "shop")
    folder = WebShopEnv(products=path).catalog.folder
    gc.collect()

    def refuse(*args, **more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "rename", "write_text", "write_bytes"):
        monkeypatch.setattr(Path, name, refuse)
    assert WebShopEnv(products=path).catalog.folder == folder


def test_progress_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "_REPORTED", 10)
    told = []
    monkeypatch.setattr(catalog, "tell", lambda *news: told.append(news))
    open_catalog(file_source(write(tmp_path / "shop")))
    assert ("reading products", 20) in [news[:2] for news in told]
    assert ("indexing products", 20) in [news[:2] for news in told]


def test_a_thousand_visits_leave_nothing(tmp_path):
    env = WebShopEnv(products=write(tmp_path / "shop"))

    def visit(number):
        env.reset(env.tasks[number % len(env.tasks)])
        env.step(f"search[lamp {number}]")
        env.close()

    def held():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return len(os.listdir("/proc/self/fd")), threading.active_count(), pages * os.sysconf("SC_PAGE_SIZE")

    for number in range(200):
        visit(number)
    files, threads, memory = held()
    for number in range(1_000):
        visit(number)
    after = held()
    assert after[:2] == (files, threads)
    assert after[2] - memory < 4 << 20


def test_goals_are_counted_and_not_made(tmp_path):
    """A product with millions of combinations costs nothing until one is played."""
    many = {str(name): [{"value": f"v{i}"} for i in range(100)] for name in range(5)}
    path = write(tmp_path / "shop", [product("B0MANY", "Many", customization_options=many)], {
        "B0MANY": {"attributes": ["a"], "instruction": "Find me", "instruction_attributes": ["a"]}})  # fmt: skip
    env = WebShopEnv(products=path)
    assert len(env.tasks) == 100**5
    assert env.tasks[12_345_678] == "B0MANY/0012345678"
    env.reset("B0MANY/0012345678")
    assert env.goal.options == [("0", "v0"), ("1", "v12"), ("2", "v34"), ("3", "v56"), ("4", "v78")]
    with pytest.raises(ConfigError, match="too many to shuffle"):
        _ = WebShopEnv(products=path, splits="original").splits
    assert isinstance(env.goals, GoalBook)
    assert env.goals.counts.dtype == np.int64
