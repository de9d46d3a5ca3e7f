"""Terms are Lucene's: rule by rule, and on recorded documents."""

from __future__ import annotations

import gzip
import json

import pytest
from webshop_documents import webshop_documents

from stapo.retrieval.analyzer import LONGEST_TOKEN, LuceneAnalyzer, words
from stapo.retrieval.porter import stem

terms = LuceneAnalyzer()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("can't won't", ["can't", "won't"]),
        ("'quoted' x'", ["quoted", "x"]),
        ("3.14 1,000 1;2 v2.0 a.1", ["3.14", "1,000", "1;2", "v2.0", "a", "1"]),
        ("12.ab ab.12", ["12", "ab", "ab", "12"]),
        ("U.S.A. foo@bar.com", ["U.S.A", "foo", "bar.com"]),
        ("a:b a: b a::b", ["a:b", "a", "b", "a", "b"]),
        ("尺寸:5 a：b", ["尺", "寸", "5", "a：b"]),
        ("snake_case __init__ __", ["snake_case", "__init__"]),
        ("well-known rock&roll", ["well", "known", "rock", "roll"]),
        ("日本 カタカナ ひら 한국어", ["日", "本", "カタカナ", "ひ", "ら", "한국어"]),
        ("カナabc", ["カナ", "abc"]),
        ("e\u0301te\u0301 cafe\u0301", ["e\u0301te\u0301", "cafe\u0301"]),
        ('צה"ל ג\' "abc"', ['צה"ל', "ג'", "abc"]),
        ("👍🏽 👩‍👩‍👧 🇩🇪🇫🇷 1️⃣ ★♬", ["👍🏽", "👩‍👩‍👧", "🇩🇪", "🇫🇷", "1️⃣", "★", "♬"]),
        ("☺\ufe0e + = …", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert list(words(text)) == expected


def test_words_of_plain_text_do_not_depend_on_what_else_is_in_it():
    """The short rules for ASCII give what the long ones give."""
    text = "a_b's 1,2.3 x:y:z 'q' 5'6 e.g. _ _1_ 7;8 ..9 p,q r;s"
    assert [*words(text), "é"] == list(words(text + " é"))


def test_long_words_are_cut():
    assert list(map(len, words("x" * (2 * LONGEST_TOKEN + 1)))) == [LONGEST_TOKEN, LONGEST_TOKEN, 1]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The Women's Shoes", ["women", "shoe"]),
        ("women’s WOMEN'S dogs' x＇s", ["women", "women", "dog", "x"]),
        ("To be, or not to be", []),
        ("İSTANBUL ΣΑΣ", ["istanbul", "σασ"]),
        # What is left of a possessive is a stop word like any other.
        ("is's as it's", []),
    ],
)
def test_terms(text, expected):
    assert terms(text) == expected


@pytest.mark.parametrize(
    "word, expected",
    # The examples of the article, step by step, and the two later rules at the end.
    [
        *[("caresses", "caress"), ("ponies", "poni"), ("ties", "ti"), ("caress", "caress"), ("cats", "cat")],
        *[("feed", "feed"), ("agreed", "agre"), ("plastered", "plaster"), ("bled", "bled"), ("motoring", "motor")],
        *[("sing", "sing"), ("conflated", "conflat"), ("troubled", "troubl"), ("sized", "size"), ("hopping", "hop")],
        *[("tanned", "tan"), ("falling", "fall"), ("hissing", "hiss"), ("fizzed", "fizz"), ("failing", "fail")],
        *[("filing", "file"), ("happy", "happi"), ("sky", "sky"), ("relational", "relat"), ("rational", "ration")],
        *[("conditional", "condit"), ("valenci", "valenc"), ("digitizer", "digit"), ("radicalli", "radic")],
        *[("differentli", "differ"), ("vileli", "vile"), ("analogousli", "analog"), ("predication", "predic")],
        *[("operator", "oper"), ("feudalism", "feudal"), ("decisiveness", "decis"), ("hopefulness", "hope")],
        *[("formaliti", "formal"), ("sensitiviti", "sensit"), ("sensibiliti", "sensibl"), ("triplicate", "triplic")],
        *[("formative", "form"), ("electrical", "electr"), ("goodness", "good"), ("revival", "reviv")],
        *[("allowance", "allow"), ("airliner", "airlin"), ("adjustable", "adjust"), ("replacement", "replac")],
        *[("adoption", "adopt"), ("communism", "commun"), ("effective", "effect"), ("probate", "probat")],
        *[("rate", "rate"), ("cease", "ceas"), ("controll", "control"), ("roll", "roll"), ("onion", "onion")],
        *[("possibly", "possibl"), ("apology", "apolog"), ("as", "as"), ("is", "is"), ("yes", "ye"), ("day", "dai")],
    ],
)
def test_stems(word, expected):
    assert stem(word) == expected


def test_recorded_documents_and_queries(shared):
    """Every one of 1,000 documents and 290 queries has the terms that Lucene recorded."""
    with gzip.open(shared / "golden" / "webshop" / "lucene_analyzer_tokens.json.gz", "rt") as file:
        recorded = json.load(file)
    documents = webshop_documents(shared)
    assert len(documents) == len(recorded["docs"]) == 1000
    assert [asin for asin, text in documents.items() if terms(text) != recorded["docs"][asin]] == []
    assert [query for query, expected in recorded["q"].items() if terms(query) != expected] == []
