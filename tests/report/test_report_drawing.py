"""Figures: smoothing, labels, and SVG that fits into a page."""

from __future__ import annotations

import re

import numpy as np
import pytest

from stapo.report.data import lookup, number, smoothed, smoothing_window
from stapo.report.drawing import bar_width, plain, render


def test_moving_mean_by_hand():
    values = np.array([1.0, 3.0, np.nan, 5.0, 9.0])
    np.testing.assert_allclose(smoothed(values, 3), [2.0, 2.0, 4.0, 7.0, 7.0])
    assert np.isnan(smoothed(np.array([np.nan, np.nan]), 3)).all()
    np.testing.assert_allclose(smoothed(values[:2], 1), values[:2])


@pytest.mark.parametrize("rows, window", [(1, 1), (5, 1), (6, 3), (40, 5), (60, 7), (150, 15)])
def test_smoothing_window(rows, window):
    assert smoothing_window(rows) == window


def test_labels_are_drawn_as_they_stand():
    assert plain("_x") == "x"
    assert plain("$x$") == r"\$x\$"
    assert plain("a\nb\x00") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert len(plain("x" * 99)) == 34


def test_lookup_and_number():
    assert lookup({"a": {"b": 1}}, "a.b") == 1
    assert lookup({"a": [1]}, "a.b") is None
    assert np.isnan([number(None), number("1"), number([])]).all()


def test_bars_leave_a_gap():
    assert bar_width(np.array([3.0])) == pytest.approx(0.88)
    assert bar_width(np.array([1.0, 5.0, 9.0])) == pytest.approx(3.52)


def test_svg_follows_the_page_and_repeats_no_identifier():
    def draw(figure, axes):
        axes[0].plot([0, 1], [0, 1], "o-", label="a & <b>")
        axes[0].legend()

    first, second = render("one", 'a "label"', draw), render("two", "label", draw)
    assert first == render("one", 'a "label"', draw)
    assert 'aria-label="a &#34;label&#34;"' in first
    assert "a &amp; &lt;b&gt;" in first
    assert "var(--ink)" in first
    assert "#010203" not in first
    assert not re.search(r"<\?xml|<!DOCTYPE|<metadata|DejaVu", first)
    names = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, second)]
    assert names[0]
    assert not names[0] & names[1]
