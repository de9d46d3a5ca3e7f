"""Figures: smoothing, labels, and SVG that fits into a page."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from stapo.documents import lookup, number
from stapo.html.drawing import bar_width, legend, plain, render, smoothed, smoothing_window


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


@pytest.mark.parametrize(
    "value, expected",
    [
        (np.float32(0.5), 0.5), (np.float64(-2.0), -2.0), (np.int16(3), 3.0), (np.bool_(True), 1.0),
        (np.array(1.5), 1.5), (np.array(7, dtype=np.uint8), 7.0), (torch.tensor(0.25), 0.25),
        (torch.tensor(2, dtype=torch.int64), 2.0), (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    ],
)  # fmt: skip
def test_numbers_of_other_kinds_are_numbers(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize("value", [np.array([1.0]), np.str_("1"), np.complex64(1), "nan", {}, 10**400, torch.ones(2)])
def test_what_is_no_number(value):
    assert np.isnan(number(value))


@pytest.mark.parametrize("size", [5.5, 14.0])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_markers_and_bars_at_the_edge_are_drawn_whole(size, scale):
    found = []

    def draw(figure, axes):
        ax = axes[0]
        ax.errorbar([1.0, 100.0], [1.0, 50.0], [0.1, 0.1], fmt="s", markersize=size, capsize=3)
        ax.bar([1.0, 100.0], [1.0, 1.0], 0.9)
        ax.set_xscale(scale)
        ax.set_xlim(1.0, 100.0)
        ax.set_ylim(1.0, 50.0)
        found.append((figure, ax))

    render("edge", "edge", draw)
    figure, ax = found[0]
    figure.canvas.draw()
    box, points = ax.get_window_extent(), figure.dpi / 72
    for x, y in ((1.0, 1.0), (100.0, 50.0)):
        at = ax.transData.transform((x, y))
        room = min(*(at - box.min), *(box.max - at))
        assert room >= size / 2 * points
    assert ax.get_xlim()[1] >= 100.45


def test_limits_stay_where_nothing_is_cut():
    found = []

    def draw(figure, axes):
        axes[0].plot([1, 2, 500], [0.5, 0.6, 0.7], "o")
        axes[0].set_xlim(0, 10)
        axes[0].set_ylim(0, 1)
        axes[0].axhline(1.0)
        found.append(axes[0])

    render("kept", "kept", draw)
    assert (found[0].get_xlim(), found[0].get_ylim()) == ((0, 10), (0, 1))


def test_a_legend_of_long_labels_takes_more_rows():
    found = []

    def draw(figure, axes):
        for n in range(4):
            axes[0].plot([0, 1], [n, n], label=f"{n} " + "long label " * 3)
        legend(figure, columns=4)
        found.append(figure)

    render("legend", "legend", draw)
    figure = found[0]
    figure.canvas.draw()
    box, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert box.x0 >= whole.x0
    assert box.x1 <= whole.x1


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
