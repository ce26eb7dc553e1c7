"""Scales, ticks and lines of the pictures on a page."""

import itertools
import math

import pytest

from erase.report.axes import Scale, limits, log_ticks, round_ticks, spans_decades, spread_apart, tick_texts
from erase.report.run_figures import POINTS, curves, signed, smooth, thin
from erase.report.svg import Svg


@pytest.mark.parametrize(
    ("low", "high"), [(0, 100), (80, 100), (-1.03, -0.05), (0.0031, 0.0032), (0, 1e-7), (1.3, 250000), (-5, 17)]
)
def test_round_ticks_are_few_even_round_and_inside(low, high):
    ticks = round_ticks(low, high)
    assert 3 <= len(ticks) <= 6
    assert low <= ticks[0] + 1e-12
    assert ticks[-1] <= high + 1e-12
    (step,) = {float(f"{b - a:.6g}") for a, b in itertools.pairwise(ticks)}
    assert f"{step:e}"[0] in "125"
    assert all(abs(tick / step - round(tick / step)) < 1e-6 for tick in ticks)


@pytest.mark.parametrize(("low", "high"), [(1, 100), (1e-8, 1e-2), (3e-3, 1.9), (1.4, 271), (1.41, 1.43)])
def test_log_ticks_are_few_and_inside(low, high):
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)


def test_tick_texts():
    assert tick_texts([0.1, 0.15, 0.2]) == ["0.10", "0.15", "0.20"]
    assert tick_texts([0.01, 0.1, 1.0, 10.0]) == ["0.01", "0.1", "1", "10"]
    assert tick_texts([-1.0, -0.5]) == ["−1.0", "−0.5"]
    assert tick_texts([1e-7, 1e-5]) == ["1e−7", "1e−5"]


def test_scales():
    assert [Scale(0, 10, 100, 200)(v) for v in (0, 5, 10)] == [100, 150, 200]
    assert [Scale(1, 100, 0, 10, log=True)(v) for v in (1, 10, 100)] == pytest.approx([0, 5, 10])
    assert limits([3.0]) == (2.7, 3.3)
    assert limits([0.0]) == (-1.0, 1.0)
    assert limits([2.0], log=True) == (1.0, 4.0)
    assert spans_decades([0.01, 1])
    assert not spans_decades([0.0, 1])
    assert not spans_decades([-1, 100])


@pytest.mark.parametrize("places", [[5, 5, 5], [1, 2, 90], [99, 100, 98, 97], [50]])
def test_labels_are_apart_in_their_order_and_inside(places):
    found = spread_apart(places, 10, 0, 100)
    ordered = [found[i] for i in sorted(range(len(places)), key=lambda i: places[i])]
    assert all(b - a >= 10 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert min(found) >= 0
    assert max(found) <= 100


def test_a_mean_over_steps_leaves_a_slope_straight():
    line = [(i, 2.0 * i + 1) for i in range(300)]
    assert smooth(line) == line[5:-5]  # a window cut off at the ends would bend it there
    assert smooth(line[:20]) == []
    noise = [(i, (-1.0) ** i) for i in range(300)]
    assert max(abs(value) for _, value in smooth(noise)) < 0.2


def test_thinning_keeps_peaks_and_order():
    points = [(i, math.sin(i / 50)) for i in range(5000)]
    points[3217] = (3217, 40.0)
    points[1111] = (1111, -40.0)
    found = thin(points)
    assert len(found) <= POINTS
    assert {points[3217], points[1111]} <= set(found)
    assert found == sorted(found)
    assert thin(points[:POINTS]) == points[:POINTS]


def row(step, objective, **values):
    return {"step": step, "round": step, "objective": objective, **values}


def test_curves_are_those_that_the_steps_report():
    rows = [
        row(i, side, loss=i, grad_norm=1 + i, lr=1.0, weight=1.0) for i in range(4) for side in ("forget", "retain")
    ]
    rows += [row(4, "joint", loss=1, retain_weight=0.5), row(5, "joint", loss=1, retain_weight=0.6)]
    found = curves(rows)
    assert list(found) == [
        "forget loss", "retain loss", "joint loss", "gradient norm", "learning rate", "retain weight",
    ]  # fmt: skip
    assert "weight of the objective" not in found, "it never changes"
    assert 'text-anchor="start">retain</text>' in found["gradient norm"]
    assert curves([]) == {}


def test_one_step_is_a_curve_of_no_length():
    assert "NaN" not in curves([row(0, "forget", loss=0.0, lr=0.0)])["forget loss"]


def test_text_is_escaped_and_signs_are_of_what_is_shown():
    svg = Svg(10, 10, 'a "b"')
    svg.write(1, 1, "<b>&", class_='x" onload="y')
    text = svg.markup()
    assert "&lt;b&gt;&amp;" in text
    assert 'class="x&quot; onload=&quot;y"' in text
    assert [signed(v) for v in (-0.04, 0.04, 0.06, -98.0)] == ["0.0", "0.0", "+0.1", "−98.0"]
