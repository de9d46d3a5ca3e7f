"""Every number of a run has a name at the trackers, or is named as left out."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from tracked import rows, train

from stapo.trackers.names import (
    Histogram,
    eval_scalars,
    match,
    metric_histograms,
    metric_scalars,
    numbers,
    table,
)

METRICS, EVALS, HISTOGRAMS, LEFT_OUT, SFT = (
    table(name) for name in ("metrics", "evals", "histograms", "left_out", "sft")
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trackers.md"


def unnamed(row, table):
    return [".".join(path) for path, _ in numbers(row) if match(path, table) is None and match(path, LEFT_OUT) is None]


def test_every_number_of_a_run_is_named(finished):
    metrics, evals = rows(finished, "metrics"), rows(finished, "evals")
    assert len(metrics) == 4
    assert any("r_ta" in row["update"] for row in metrics), "no row was flagged"
    assert [unnamed(row, METRICS) for row in metrics] == [[]] * 4
    assert {tuple(unnamed(row, EVALS)) for row in evals} == {()}


def test_every_number_with_a_critic_and_with_dynamic_sampling_is_named(tmp_path, toy_model):
    short = {"optim__iterations": 1, "eval__at_start": False, "eval__greedy": False, "eval__episodes": 2}
    critic, sampled = (
        rows(train(tmp_path / name, toy_model, algorithm={"name": name}, **short), "metrics")[0]
        for name in ("ppo", "stapo-dynamic")
    )
    assert {"explained_variance", "mean_value"} <= critic["critic"].keys()
    assert "kept_groups" in sampled["sampling"]
    assert unnamed(critic, METRICS) == unnamed(sampled, METRICS) == []


def test_values_arrive_under_the_names_of_the_field(finished):
    row = rows(finished, "metrics")[1]
    found = metric_scalars(row)
    assert found["episode/success_rate"] == row["success"]
    assert {name: found[f"episode/success_rate/{name}"] for name in row["success_by_type"]} == row["success_by_type"]
    assert found["actor/pg_loss"] == row["update"]["loss"]
    assert found["actor/pg_clipfrac"] == row["update"]["clip_low"] + row["update"]["clip_high"]
    assert found["rollout/entropy/p95"] == row["entropy"]["quantiles"][4]
    assert found["stapo/flagged_share"] == row["outlier"]["flagged_share"]
    assert found["timing_s/gen"] == row["seconds"]["generation"]
    assert found["anchor/rows_by_size/32_or_more"] == row["anchor"]["rows_by_size"]["32+"]
    first = rows(finished, "evals")[0]
    assert eval_scalars(first, "heldout")["val/heldout/sampled/success_rate"] == first["success"]
    assert (
        eval_scalars(first, "heldout")["val/heldout/sampled/success_rate/cold"] == first["by_type"]["cold"]["success"]
    )


def test_histograms_count_the_steps(finished):
    row = rows(finished, "metrics")[0]
    found = metric_histograms(row)
    assert set(found) == set(HISTOGRAMS.values())
    entropy = found["rollout/entropy_histogram"]
    assert list(entropy.counts) == row["entropy"]["histogram"]["counts"]
    assert sum(entropy.counts) == row["rows"]
    assert len(entropy.edges) == len(entropy.counts) + 1
    assert (entropy.edges[0], entropy.edges[-1]) == (0.0, 3.0)


def test_no_two_fields_share_a_name():
    names = [*METRICS.values(), *HISTOGRAMS.values(), "actor/pg_clipfrac"]
    assert len(names) == len(set(names))
    assert len(set(EVALS.values())) == len(EVALS)


@pytest.mark.parametrize(
    "row",
    [
        {"success": math.nan, "score": 10**400, "update": {"loss": True}, "entropy": {"mean": "1"}},
        {"success_by_type": 1, "entropy": {"histogram": {"low": 0, "high": 0, "counts": [1]}}, "update": 3},
        {"entropy": {"histogram": {"low": 0, "high": 1, "counts": [-1]}}, "normalized_entropy": {"histogram": 5}},
        {"entropy": {"histogram": {"low": 0, "high": 1, "counts": [1] * 10_000}}},
        {"entropy": [], "normalized_entropy": None},
    ],
)
def test_what_is_no_number_or_histogram_is_left_out(row):
    assert metric_scalars(row).keys() <= {"episode/success_rate"}
    assert not metric_histograms(row)
    assert all(map(math.isfinite, metric_scalars(row).values()))


def test_names_from_a_strangers_row_are_plain():
    found = metric_scalars({"success_by_type": {"../a\x1b[2J\nb" * 50: 1.0, "": 0.5, "★": 0.1}})
    assert len(found) == 2  # two become "_"
    assert all(re.fullmatch(r"[A-Za-z0-9_. /-]{1,120}", name) for name in found)
    deep = {"x": 1.0}
    for _ in range(2000):
        deep = {"success": deep}
    assert metric_scalars(deep) == {}
    assert len(metric_scalars({"success_by_type": {str(i): 1.0 for i in range(10_000)}})) <= 2000


def test_edges_of_a_histogram():
    assert Histogram(-1.0, 1.0, (1, 2, 3, 4)).edges == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_the_page_names_them_all():
    listed = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", PAGE.read_text(), re.MULTILINE)
    expected = {**METRICS, **HISTOGRAMS} | {f"evals: {k}": f"val/SPLIT/MODE/{v}" for k, v in EVALS.items()}
    expected |= {f"sft: {k}": v for k, v in SFT.items()}
    assert dict(listed) == expected
