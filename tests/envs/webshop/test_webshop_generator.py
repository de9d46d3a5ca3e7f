"""The generated shops: same everywhere, in the original formats, and hard in the ways they promise to be."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest
from rapidfuzz import fuzz

from stapo.envs.webshop.generator import SIZES, generate_catalog, iter_products
from stapo.errors import ConfigError

TINY, STANDARD = SIZES["tiny"], SIZES["standard"]

BUTTONS = {
    "back to search",
    "< prev",
    "next >",
    "description",
    "features",
    "reviews",
    "attributes",
    "buy now",
    "search",
}


def digest(catalog: object) -> str:
    return hashlib.sha256(json.dumps(catalog, sort_keys=True).encode()).hexdigest()[:16]


@pytest.fixture(scope="module", params=["tiny", "standard"])
def articles(request):
    return list(iter_products(None, 0, request.param))


class TestSameEverywhere:
    @pytest.mark.parametrize(("size", "expected"), [("tiny", "f9806e35bfca6fb7"), ("standard", "dc41501adb84bf67")])
    def test_the_shop_of_a_seed_is_fixed(self, size, expected):
        # Recorded once: tasks of published runs must not move.
        assert digest(generate_catalog(50, 7, size)) == expected

    def test_another_process_with_another_hash_seed_agrees(self):
        code = (
            "import json,hashlib;from stapo.envs.webshop.generator import generate_catalog as g;"
            "print(hashlib.sha256(json.dumps(g(50,7,'standard'),sort_keys=True).encode()).hexdigest()[:16])"
        )
        out = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "5"},
        )
        assert out.stdout.strip() == digest(generate_catalog(50, 7, "standard"))

    def test_the_stream_is_the_list(self):
        listed, by_asin, requests = generate_catalog(80, 3)
        stream = list(iter_products(80, 3))
        assert [a.product for a in stream] == listed
        assert {a.product["asin"]: a.synthetic for a in stream} == by_asin
        assert {a.product["asin"]: a.human for a in stream if a.human} == requests

    def test_a_larger_standard_shop_begins_with_the_smaller(self):
        assert generate_catalog(120, 1)[0][:50] == generate_catalog(50, 1)[0]

    def test_seeds_differ(self):
        assert generate_catalog(50, 1)[0] != generate_catalog(50, 2)[0]


class TestFormats:
    def test_fields_that_the_engine_reads(self, articles):
        for article in articles:
            record = article.product
            assert {"asin", "name", "full_description", "small_description", "pricing", "images", "category", "query",
                    "product_category", "average_rating", "customization_options"} <= record.keys()  # fmt: skip
            assert len(record["asin"]) <= 10
            assert record["asin"].isalnum()
            assert isinstance(record["small_description"], list)
            assert record["images"]
            for values in record["customization_options"].values():
                assert [v["value"] for v in values]
                assert all(v["value"].strip() for v in values)
            assert re.fullmatch(r"(\$[\d.]+( to \$[\d.]+)?)?", record["pricing"])

    def test_survives_json(self):
        catalog = generate_catalog(40, 0)
        assert json.loads(json.dumps(catalog)) == [catalog[0], catalog[1], catalog[2]]

    def test_ids_are_unique(self, articles):
        assert len({a.product["asin"] for a in articles}) == len(articles)
        assert len({a.product["asin"] for a in iter_products(7000, 0, "tiny")}) == 7000

    @pytest.mark.slow
    def test_ids_stay_unique_in_large_shops(self):
        from stapo.envs.webshop.generator.catalog import _asin

        standard = SIZES["standard"]
        assert len({_asin(i, 300_000, 4, standard) for i in range(300_000)}) == 300_000

    def test_five_departments_with_paths(self, articles):
        assert {a.product["category"] for a in articles} == {"fashion", "beauty", "electronics", "garden", "grocery"}
        assert all(" › " in a.product["product_category"] for a in articles)

    def test_instructions_name_attributes_of_their_product(self, articles):
        for article in articles:
            wanted = article.synthetic.get("instruction_attributes", [])
            assert set(wanted) <= set(article.synthetic["attributes"])
            assert all(a in article.synthetic["instruction"] for a in wanted)
            for request in article.human:
                assert all(a in request["instruction"] for a in request["instruction_attributes"])
                assert all(o in request["instruction"] for o in request["instruction_options"])

    def test_prices_come_single_as_ranges_and_missing(self):
        prices = Counter(
            "missing" if not p["pricing"] else "range" if " to " in p["pricing"] else "single"
            for p in generate_catalog(600, 0)[0]
        )
        assert prices["single"] > 400
        assert prices["range"] > 30
        assert prices["missing"] > 5

    def test_no_name_of_the_real_ids(self):
        assert all(p["asin"].startswith("G0") for p in generate_catalog(200, 0)[0])


class TestWords:
    @pytest.mark.parametrize("size", [TINY, STANDARD])
    def test_an_attribute_is_taken_for_no_other(self, size):
        for pool in size.pools.values():
            for one, two in combinations(pool, 2):
                assert fuzz.token_set_ratio(one, two) <= 85, (one, two)

    @pytest.mark.parametrize("size", [TINY, STANDARD])
    def test_an_option_value_means_one_thing(self, size):
        for kind in size.kinds:
            values = [v.lower() for options in kind.options.values() for v in options]
            assert len(values) == len(set(values))
            assert not BUTTONS & set(values)
            assert not any("/" in v for v in values)

    def test_what_a_product_lacks_its_pages_do_not_say(self, articles):
        pools = {"tiny": TINY, "standard": STANDARD}
        pool = pools["tiny" if len(articles) == SIZES["tiny"].products else "standard"].pools
        for article in articles:
            record = article.product
            text = " ".join((record["name"], *record["small_description"], record["full_description"])).lower()
            told = {a for a in pool[record["category"]] if a in text}
            assert told == set(article.facts.attributes)


class TestDistractors:
    def test_every_way_to_lack_something_occurs(self, articles):
        lacks = Counter(a.facts.lacks for a in articles)
        size = SIZES["tiny" if len(articles) == SIZES["tiny"].products else "standard"]
        assert set(lacks) <= {"", *size.lacks}
        assert lacks["attribute"]
        assert lacks[""] > len(articles) / 8

    def test_they_share_the_words_and_lack_one_thing(self):
        from stapo.envs.webshop.generator.families import family

        seen = Counter()
        for number in range(200):
            group = family(SIZES["standard"], 0, number)
            first = next(w for w in group if not w.lacks)
            for other in (w for w in group if w.lacks):
                seen[other.lacks] += 1
                if other.lacks == "attribute":
                    assert len(set(first.wanted) - set(other.attributes)) == 1
                    assert other.kind == first.kind
                elif other.lacks == "option":
                    assert other.attributes == first.attributes
                    assert (
                        sum(len(v) for v in other.options.values()) == sum(len(v) for v in first.options.values()) - 1
                    )
                elif other.lacks == "price":
                    assert other.attributes == first.attributes
                    assert other.options == first.options
                    # The highest limit a goal of `first` can have is the fourth multiple of ten above its price.
                    assert other.cents[0] > (first.cents[1] // 1000 + 4) * 1000
                else:
                    assert other.attributes == first.attributes
                    assert other.kind.query != first.kind.query
        assert min(seen[k] for k in ("attribute", "option", "price", "kind")) > 20

    def test_families_are_not_listed_first_one_first(self):
        from stapo.envs.webshop.generator.families import family

        places = Counter([w.lacks for w in family(SIZES["standard"], 0, n)].index("") for n in range(300))
        assert places[0] < 150
        assert places[1] > 40
        assert places[2] > 40


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"products": 0}, "products is 0, expected a whole number from 1"),
        ({"products": True}, "products is True"),
        ({"seed": -1}, "seed is -1, expected a whole number from 0"),
        ({"size": "tyni"}, "did you mean 'tiny'"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ConfigError, match="(?i)" + re.escape(words)):
        generate_catalog(**arguments)
