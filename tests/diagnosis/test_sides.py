"""Outliers by side: what is flagged as uncertain, what as certain, and what neither is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from random_episodes import conversation
from stapo.algo import get_algorithm
from stapo.diagnosis.judging import Judgment
from stapo.diagnosis.measure import Measured
from stapo.diagnosis.numbers import summarize
from stapo.diagnosis.scoring import MASKS, Attribution
from stapo.diagnosis.tables import side_table
from stapo.training.batch import build_batch


def measured_of(lam: float) -> Measured:
    """Six episodes of two tasks whose steps have made-up entropies, divergences and faults."""
    rng = np.random.default_rng(0)
    trajectories = [conversation(rng, j // 3, j % 3, 8) for j in range(6)]
    stapo = get_algorithm("stapo")
    batch = build_batch(trajectories, replace(stapo, outlier=replace(stapo.outlier, lam=lam)))
    faults = [[frozenset({"odd"}) if rng.random() < 0.4 else frozenset() for _ in t.steps] for t in trajectories]
    return Measured(
        batch=batch,
        attribution=Attribution(rng.random(len(batch)), {mask: rng.random(len(batch)) for mask in MASKS}),
        judgment=Judgment({"odd": "made up"}, faults, judge=True),
        clusters=2,
        cluster_b=batch.group_b,
        score_b={name: rng.random(len(batch)) for name in ("normalized", "shannon", "abs-normalized", "low-kl")},
        faults=[fault for found in faults for fault in found],
    )


def test_each_side_by_itself():
    measured = measured_of(lam=0.1)
    document, outliers = summarize(measured, 0, 10).document, measured.batch.outliers
    bad, kl = measured.has_fault("odd"), measured.attribution.kl_b
    for side, rows in (("high", outliers.high_b), ("low", outliers.low_b)):
        assert 3 < rows.sum() < outliers.flagged
        assert document["faults"]["odd"][f"share_of_{side}"].value == pytest.approx(bad[rows].mean())
        assert document["kl"][side].value == pytest.approx(kl[rows].mean())
    shares = document["faults"]["any"]
    cells = next(row for row in side_table(document).rows if row[0] == "share of bad steps")
    for cell, name in zip(cells[1:], ("high", "low", "unflagged"), strict=True):
        assert cell.startswith(f"{100 * shares[f'share_of_{name}'].value:.1f} %")


def test_a_side_without_outliers_has_no_numbers():
    document = summarize(measured_of(lam=50.0), 0, 10).document
    assert [row[1:3] for row in side_table(document).rows] == [["–", "–"]] * 3
