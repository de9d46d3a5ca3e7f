"""Early warnings of a collapse.

1. Each sign warns in the third iteration of a collapse that sets in at once, and while a gradual one is under way.
2. Nothing is said of healthy runs: flat, slowly improving, noisy, a single odd iteration, and a recorded run.
3. Nothing is said in the first iterations, or where the numbers are missing; no row whatever makes it raise.
4. A warning begins with its name, and all but its numbers is fixed.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stapo.health import SIGNALS, WINDOW, early_warnings, gap_limit

HEALTHY = {
    "entropy.mean": 0.35,
    "update.ref_kl": 0.08,
    "update.old_kl": 0.002,
    "update.logprob_gap_mean": 4e-7,
    "repeated_actions": 0.04,
    "response_tokens": 3.5,
    "truncated_responses": 0.0,
    "equal_reward_groups": 0.4,
    "success": 0.5,
}

# What a run of the shipped preset `tiny` (seed 0) logged: entropy, ref_kl, old_kl, repeated, equal, success.
RECORDED = """
.346 .005 .0018 .018 .25 .49|.379 .006 .0023 .019 .19 .53|.349 .017 .0023 .011 .25 .61|.323 .033 .0032 .024 .31 .67
.305 .048 .0022 .032 .22 .64|.292 .062 .0014 .036 .25 .60|.271 .072 .0017 .095 .56 .58|.249 .054 .0009 .056 .47 .75
.270 .085 .0019 .038 .41 .57|.265 .104 .0022 .044 .59 .59|.297 .106 .0026 .040 .41 .57|.241 .074 .0010 .031 .69 .76
.217 .089 .0027 .045 .38 .66|.267 .105 .0019 .060 .44 .64|.288 .091 .0010 .062 .53 .61|.245 .089 .0008 .029 .41 .70
.263 .083 .0016 .037 .50 .61|.256 .113 .0050 .032 .53 .63|.217 .089 .0008 .039 .47 .79|.232 .102 .0008 .041 .50 .77
.259 .107 .0031 .062 .50 .59|.246 .086 .0018 .033 .44 .65|.277 .097 .0007 .040 .44 .61|.234 .091 .0017 .028 .25 .70
.244 .094 .0013 .036 .47 .67|.206 .072 .0004 .019 .44 .75|.207 .100 .0012 .021 .53 .70|.224 .108 .0015 .039 .50 .69
.203 .097 .0004 .038 .63 .71|.196 .101 .0006 .033 .56 .74|.219 .226 .0012 .052 .53 .69|.228 .129 .0002 .040 .59 .65
.208 .109 .0005 .048 .34 .60|.163 .089 .0001 .019 .66 .85|.215 .107 .0003 .055 .63 .67|.209 .110 .0001 .035 .50 .68
.215 .098 .0001 .054 .72 .69|.202 .101 .0000 .023 .66 .73|.200 .112 .0001 .019 .66 .68|.187 .084 .0000 .046 .56 .73
.211 .106 .0000 .044 .63 .73|.231 .114 .0001 .048 .72 .59|.186 .093 .0000 .042 .53 .74|.196 .097 .0001 .035 .63 .70
.180 .156 .0000 .044 .50 .71
"""

# The same preset with a learning rate of 4e-3, mini-batches of 64 and 12 groups, from the same start: lost in nine
# iterations. entropy, ref_kl, old_kl, repeated, equal, success.
LOST = """
.330 .064 .0331 .012 .17 .53|.306 .112 .0659 .026 .33 .57|.355 .256 .3431 .049 .25 .42|.394 .425 .1764 .089 .42 .14
.408 .899 .5015 .121 .42 .28|.749 2.11 2.647 .060 .75 .07|.605 3.73 2.169 .283 .83 .04|.441 2.29 2.374 .378 .92 .01
.495 1.33 1.854 .179 1.0 .00|.646 2.75 1.783 .123 1.0 .00|.326 1.50 .3801 .407 1.0 .00|.408 1.09 .1210 .274 1.0 .00
.438 1.46 .0984 .199 1.0 .00|.380 1.42 .1419 .305 1.0 .00|.324 1.45 .0285 .327 1.0 .00|.278 1.29 .0385 .380 1.0 .00
.251 1.38 .0481 .419 1.0 .00
"""

FIRST = dict.fromkeys(SIGNALS, 10) | {"update-kl": 5, "reference-kl": 6, "sampler-gap": 1}
"""The first iteration that each sign may speak in."""

# name -> what the collapse does, as (number, value once it has set in).
COLLAPSES = {
    "low-entropy": {"entropy.mean": 0.03},
    "high-entropy": {"entropy.mean": 1.4},
    "reference-kl": {"update.ref_kl": 0.9},
    "update-kl": {"update.old_kl": 0.2},
    "repetition": {"repeated_actions": 0.45},
    "long-responses": {"response_tokens": 6.0, "truncated_responses": 0.4},
    "short-responses": {"response_tokens": 1.0},
    "equal-groups": {"equal_reward_groups": 0.95},
    "sampler-gap": {"update.logprob_gap_mean": 0.04},
}


def row(iteration, **numbers):
    found = {"iteration": iteration, "entropy": {}, "update": {}}
    for path, value in numbers.items():
        part, _, key = path.rpartition(".")
        (found[part] if part else found)[key] = value
    return found


def healthy(count, rng=None, spread=0.15):
    """Rows of an ordinary run; with `rng` each number scatters by `spread` of itself."""
    rows = []
    for i in range(1, count + 1):
        numbers = {k: v * (1 if rng is None else math.exp(spread * rng.standard_normal())) for k, v in HEALTHY.items()}
        rows.append(row(i, **numbers))
    return rows


def said(rows):
    """Names of warnings by iteration, over a run that is looked at after every iteration as the trainer does."""
    found = {}
    for end in range(1, len(rows) + 1):
        for text in early_warnings(rows[max(0, end - WINDOW) : end]):
            found.setdefault(text.partition(":")[0], []).append(end)
    return found


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("onset", [4, 5, 8, 9, 21, 40])
def test_a_collapse_is_told_in_its_third_iteration(name, onset):
    """Or in the first that the sign may speak in, where it comes earlier."""
    rows = healthy(onset - 1) + [row(i, **HEALTHY | COLLAPSES[name]) for i in range(onset, onset + 8)]
    found = said(rows)
    assert list(found) == [name]
    assert found[name][0] == max(onset + 2, FIRST[name])


@pytest.mark.parametrize("name", SIGNALS)
def test_a_collapse_is_told_through_noise(name):
    rng = np.random.default_rng(7)
    rows = healthy(20, rng) + healthy(8, rng)
    for k, changed in enumerate(rows[20:], start=21):
        noisy = {path: v * math.exp(0.05 * rng.standard_normal()) for path, v in COLLAPSES[name].items()}
        rows[k - 1] = row(k, **{**HEALTHY, **noisy}) | {"success": changed["success"]}
    assert said(rows)[name][0] <= 24


@pytest.mark.parametrize(
    "name, path, factor, told",
    [
        # From iteration 11 on the number changes by `factor` an iteration. By hand: 0.35 * 0.7^n <= 0.07 from n = 5 on;
        # the middle one of five is two iterations old.
        ("low-entropy", "entropy.mean", 0.7, 17),
        # 0.35 * 1.2^n >= 0.7 from n = 4 on.
        ("high-entropy", "entropy.mean", 1.2, 16),
        # 0.08 * 1.3^n >= 0.5 from n = 7 on, and the rise over five iterations is 1.3^5 = 3.7.
        ("reference-kl", "update.ref_kl", 1.3, 19),
        # 0.002 * 1.5^n >= 0.1 from n = 10 on.
        ("update-kl", "update.old_kl", 1.5, 22),
        # 0.04 * 1.3^n >= 0.3 from n = 8 on.
        ("repetition", "repeated_actions", 1.3, 20),
        # 3.5 * 1.15^n >= 8.75 from n = 7 on: without responses that are cut off it takes 2.5 times the length.
        ("long-responses", "response_tokens", 1.15, 19),
        # 3.5 * 0.8^n <= 3.5 / 3 from n = 5 on.
        ("short-responses", "response_tokens", 0.8, 17),
        # 0.4 * 1.1^n >= 0.85 from n = 8 on.
        ("equal-groups", "equal_reward_groups", 1.1, 20),
    ],
)
def test_a_gradual_collapse_is_told_while_it_is_under_way(name, path, factor, told):
    rows = healthy(10) + [row(10 + n, **HEALTHY | {path: HEALTHY[path] * factor**n}) for n in range(1, 16)]
    assert said(rows)[name][0] == told


def test_an_explosion_of_entropy_is_told_on_its_way():
    """As in the run of docs/results/tiny.md that went from 0.25 to 3 nats: 0.25 * 1.3^n >= 0.7 from n = 4 on."""
    rows = healthy(5) + [row(5 + n, **HEALTHY | {"entropy.mean": 0.25 * 1.3**n}) for n in range(1, 11)]
    assert said(rows)["high-entropy"][0] == 5 + 4 + 2


def test_a_recorded_run_that_was_lost_is_told_four_iterations_before():
    rows = recorded(LOST)
    assert [r["success"] for r in rows].index(0.0) + 1 == 9
    found = said(rows)
    assert {name: seen[0] for name, seen in found.items()} == {
        "update-kl": 5, "reference-kl": 7, "equal-groups": 10, "repetition": 15,
    }  # fmt: skip


# -- 2 -----------------------------------------------------------------------------------------------------------------


def test_a_flat_run_is_silent():
    assert said(healthy(100)) == {}


@pytest.mark.parametrize("seed", range(20))
def test_a_noisy_run_is_silent(seed):
    assert said(healthy(45, np.random.default_rng(seed), 0.3)) == {}


def test_a_slowly_improving_run_is_silent():
    rng = np.random.default_rng(1)
    rows = []
    for i in range(60):
        part = i / 59
        better = {
            "entropy.mean": 0.6 * (1 - part) + 0.15 * part,
            "update.ref_kl": 0.01 + 0.25 * part,
            "update.old_kl": 0.002 + 0.01 * part,
            "repeated_actions": 0.2 - 0.17 * part,
            "response_tokens": 40 + 15 * part,
            "truncated_responses": 0.05 * (1 - part),
            "equal_reward_groups": 0.2 + 0.4 * part,
            "success": 0.2 + 0.6 * part,
        }
        rows.append(row(i + 1, **{k: v * math.exp(0.1 * rng.standard_normal()) for k, v in better.items()}))
    assert said(rows) == {}


def recorded(text):
    names = ("entropy.mean", "update.ref_kl", "update.old_kl", "repeated_actions", "equal_reward_groups", "success")
    return [
        row(i, **dict(zip(names, map(float, part.split()), strict=True)), response_tokens=3.5, truncated_responses=0.0)
        for i, part in enumerate(text.strip().replace("\n", "|").split("|"), start=1)
    ]


def test_a_recorded_run_of_45_iterations_is_silent():
    rows = recorded(RECORDED)
    assert len(rows) == 45
    assert said(rows) == {}


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("length", [1, 2])
def test_one_or_two_odd_iterations_are_silent(name, length):
    rows = healthy(40)
    rows[20 : 20 + length] = [row(21 + i, **HEALTHY | COLLAPSES[name]) for i in range(length)]
    assert said(rows) == {}


@pytest.mark.parametrize("name", SIGNALS)
def test_what_has_recovered_is_no_longer_told(name):
    rows = healthy(15) + [row(16 + i, **HEALTHY | COLLAPSES[name]) for i in range(5)]
    assert name in said(rows)
    assert early_warnings([*rows, row(21, **HEALTHY)]) == []


def test_a_policy_that_wins_has_reason_to_be_sure():
    collapsed = healthy(15) + [row(16 + i, **HEALTHY | {"entropy.mean": 0.03}) for i in range(5)]
    solved = healthy(15) + [row(16 + i, **HEALTHY | {"entropy.mean": 0.03, "success": 0.95}) for i in range(5)]
    assert [len(early_warnings(rows)) for rows in (collapsed, solved)] == [1, 0]


def test_a_reference_that_was_left_long_ago_is_not_told_for_ever():
    """High, but no longer rising: a run with a far reference would else be told in every iteration."""
    rows = healthy(10) + [row(11 + i, **HEALTHY | {"update.ref_kl": 0.9}) for i in range(20)]
    assert said(rows) == {"reference-kl": [13, 14, 15, 16, 17]}


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIGNALS)
def test_nothing_is_said_in_the_first_iterations(name):
    """Where a run begins collapsed there is nothing to compare it with, but three bounds hold for every run."""
    rows = [row(1 + i, **HEALTHY | COLLAPSES[name]) for i in range(12)]
    found = said(rows)
    if name in ("update-kl", "equal-groups", "sampler-gap"):
        assert found == {name: list(range(FIRST[name], 13))}
    else:
        assert found == {}


@pytest.mark.parametrize("gone", [None, float("nan"), float("inf"), "much", True, [1.0], {}])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_number_that_is_missing_now_is_not_warned_of(name, gone):
    rows = healthy(15) + [row(16 + i, **HEALTHY | COLLAPSES[name]) for i in range(5)]
    assert [text.partition(":")[0] for text in early_warnings(rows)] == [name]
    rows[-1] = row(20, **HEALTHY | dict.fromkeys(COLLAPSES[name], gone))
    assert early_warnings(rows) == []


def test_rows_without_a_number_in_between_are_passed_over():
    rows = healthy(15) + [row(16 + i, **HEALTHY | COLLAPSES["low-entropy"]) for i in range(5)]
    for i in (2, 7, 17):
        rows[i] = {"iteration": i + 1, "entropy": None}
    assert len(early_warnings(rows)) == 1


_VALUES = st.none() | st.floats() | st.integers() | st.booleans() | st.text(max_size=3) | st.just(10**400)
_ROWS = st.dictionaries(
    st.sampled_from([*HEALTHY, "entropy", "update", "iteration"]),
    _VALUES | st.dictionaries(st.sampled_from(["mean", "ref_kl", "old_kl"]), _VALUES),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_ROWS, max_size=40), st.integers(0, 2**32 - 1))
def test_no_rows_raise(rows, seed):
    """The rows as they are, and spread over a run that has numbers otherwise."""
    mixed = [given | {k: v for k, v in usual.items() if k not in given}
             for given, usual in zip(rows, healthy(len(rows), np.random.default_rng(seed)), strict=True)]  # fmt: skip
    for run in (rows, mixed, healthy(12) + rows):
        for text in early_warnings(run):
            assert text.partition(":")[0] in SIGNALS


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIGNALS)
def test_all_but_the_numbers_is_fixed(name):
    texts = set()
    for factor in (1.0, 1.07):
        worse = {k: v * (factor if v > HEALTHY[k] else 1 / factor) for k, v in COLLAPSES[name].items()}
        for missing in ((), ("truncated_responses", "success")):
            rows = healthy(15) + [row(16 + i, **HEALTHY | worse) for i in range(5)]
            if name == "long-responses" and missing:
                rows = healthy(15) + [row(16 + i, **HEALTHY | {"response_tokens": 12.0}) for i in range(5)]
            for changed in rows:
                for key in missing:
                    changed.pop(key, None)
            (text,) = early_warnings(rows)
            texts.add(re.sub(r"\d+(\.\d+)?%?|–", "#", text))
    assert len(texts) == 1
    text = texts.pop()
    assert text.startswith(f"{name}: ")
    assert "Usually" in text
    # What to try is a setting by its name.
    assert re.search(r"\b(optim|algorithm|rollout|agent|env|model)\.[a-z_.]+", text)


def test_the_numbers_are_those_of_both_ends():
    rows = healthy(15) + [row(16 + i, **HEALTHY | {"entropy.mean": 0.03}) for i in range(5)]
    assert "went from 0.350 to 0.030 nats" in early_warnings(rows)[0]
    rows = healthy(15) + [row(16 + i, **HEALTHY | COLLAPSES["long-responses"]) for i in range(5)]
    assert "went from 3.5 to 6.0 tokens (cut off at the limit: 40%)" in early_warnings(rows)[0]


def test_settings_that_are_named_exist():
    from stapo.config.run_config import RunConfig
    from stapo.config.schema import setting_paths, to_data

    known = set(setting_paths(to_data(RunConfig())))
    for name in SIGNALS:
        rows = healthy(15) + [row(16 + i, **HEALTHY | COLLAPSES[name]) for i in range(5)]
        for setting in re.findall(r"\b(?:optim|algorithm|rollout|agent|env)(?:\.[a-z_]+)+", early_warnings(rows)[0]):
            assert setting in known, setting


# -- the gap between sampler and trainer: no comparison with what was usual, but a bound -------------------------------


def test_a_gap_that_is_there_from_the_start_is_told_at_once():
    gap = {"update.logprob_gap_mean": 0.02}
    assert said([row(1, **HEALTHY | gap)]) == {"sampler-gap": [1]}


def test_what_is_rounding_depends_on_the_type_of_the_weights():
    rows = [row(1, **HEALTHY | {"update.logprob_gap_mean": 0.02})]
    assert early_warnings(rows, gap_limit=gap_limit("bfloat16", 10**6)) == []
    (text,) = early_warnings(rows, gap_limit=gap_limit("float32", 10**6))
    assert "differ by 0.02 nats per token on average, and up to 0.001 is rounding" in text


@pytest.mark.parametrize(
    ("dtype", "weights", "healthy", "faulty"),
    [
        ("float32", 400_000, 3e-6, 0.01),
        ("float32", 135_000_000, 6e-6, 0.01),
        ("bfloat16", 400_000, 0.01, 0.1),
        ("bfloat16", 135_000_000, 0.052, 0.13),
    ],
)
def test_healthy_models_are_below_the_limit_of_their_size(dtype, weights, healthy, faulty):
    """As measured (docs/results/engines.md); what is a fault in a small model is rounding in a pretrained one."""
    usual = gap_limit(dtype, weights)
    assert early_warnings([row(1, **HEALTHY | {"update.logprob_gap_mean": healthy})], gap_limit=usual) == []
    assert len(early_warnings([row(1, **HEALTHY | {"update.logprob_gap_mean": faulty})], gap_limit=usual)) == 1
