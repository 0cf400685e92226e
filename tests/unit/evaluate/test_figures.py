"""Figures: well-formed, small, readable sizes, repeatable, safe with any name, and what they draw."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from unit.evaluate.made_up import CLASSES, METHODS, made_up_cells, made_up_evaluation

from cellwright.evaluate import Cells, Score, charts, figures, measures_of, style

MACRO_F1 = measures_of(["macro_f1"])

ODD = (
    "<script>alert(1)</script>",
    'a & b "c"',
    "$\\frac{x$ cell_{",
    "_hidden",
    "細胞",
    "x" * 90,
    "B",
    " two\n lines ",
)
SVG = "{http://www.w3.org/2000/svg}"


def drawings(classes=CLASSES, cells=None):
    cells = cells or made_up_cells(300, len(classes))
    curves = made_up_evaluation().curves
    return {
        "umap": figures.umap_figure(cells, classes),
        "confusion": figures.confusion_figure(cells.truth_n, cells.pred_n, classes),
        "comparison": charts.comparison_figure(METHODS, measures_of(["macro_f1", "accuracy", "ece"])),
        "curves": charts.curves_figure(curves),
        "reliability": charts.reliability_figure(cells.truth_n == cells.pred_n, cells.confidence_n),
    }


@pytest.fixture(scope="module")
def drawn():
    return drawings()


def texts(content):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(content).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", ["umap", "confusion", "comparison", "curves", "reliability"])
def test_figures_are_small_readable_and_load_nothing(name, drawn):
    content = drawn[name]
    root = ElementTree.fromstring(content)
    assert root.tag == f"{SVG}svg"
    assert len(content) < 250_000
    sizes = [float(size) for size in re.findall(rb"font(?:-size)?:[^;\"]*?([\d.]+)px", content)]
    assert sizes
    assert min(sizes) >= 9
    for node in root.iter():
        assert node.tag != f"{SVG}script"
        for key, value in node.attrib.items():
            if key.endswith("href"):
                assert value.startswith(("#", "data:image/png"))


def test_drawing_is_repeatable_and_leaves_matplotlib_alone(drawn, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 33.0)
    before = dict(matplotlib.rcParams)
    assert drawings() == drawn  # the user's settings do not show either
    assert dict(matplotlib.rcParams) == before


def test_any_class_name_is_text():
    again = drawings(ODD)
    words = texts(again["confusion"])
    assert any(word.startswith("<script>") for word in words)
    assert any("$\\frac{x$ cell_{" in word for word in words)
    assert any("細胞" in word for word in words)
    assert b"<script" not in again["umap"] + again["confusion"]
    assert max(len(word) for word in words) < 50


@pytest.mark.parametrize("num_classes", [1, 70])
def test_any_number_of_classes(num_classes):
    names = tuple(f"cell type with a rather long name, number {i}" for i in range(num_classes))
    cells = made_up_cells(900, num_classes, group_names=[f"study {i}" for i in range(40)])
    drawn = figures.umap_figure(cells, names), figures.confusion_figure(cells.truth_n, cells.pred_n, names)
    assert max(len(content) for content in drawn) < 250_000
    words = texts(drawn[0])
    if num_classes == 70:
        assert any("smaller classes" in word for word in words)
    assert "28 smaller groups" in words


def test_confusion_shows_every_cell_once():
    truth_n, pred_n = np.array([0, 0, 0, 1, 1, -1]), np.array([0, 0, 2, 1, -1, 1])
    words = texts(figures.confusion_figure(truth_n, pred_n, ("a", "b", "c", "never")))
    assert [word for word in words if word.isdigit()] == ["2", "1", "1", "1"]
    assert "unassigned" in words
    assert not any(word.startswith("never") for word in words)
    counts, rows, columns = figures._confusion_table(truth_n, pred_n, ("a", "b", "c", "never"))
    assert counts.tolist() == [[2, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    assert len(rows) == 3
    assert len(columns) == 4


def test_pooled_confusion_keeps_all_cells():
    cells = made_up_cells(3000, 70)
    counts, rows, _ = figures._confusion_table(cells.truth_n, cells.pred_n, [str(i) for i in range(70)])
    assert counts.sum() == 3000
    assert len(rows) == 41


def test_large_counts_fit_their_cell():
    truth_n = np.repeat(np.arange(20), 12_345)
    words = texts(figures.confusion_figure(truth_n, truth_n, [str(i) for i in range(20)]))
    assert words.count("12k") == 20


def test_parts_that_are_missing_are_not_drawn():
    cells = made_up_cells(300)
    only = Cells(umap_n2=cells.umap_n2, pred_n=cells.pred_n)
    assert "True class" not in texts(figures.umap_figure(only, CLASSES))
    assert "All cells" in texts(figures.umap_figure(Cells(umap_n2=cells.umap_n2), ()))
    few = replace(made_up_cells(6), groupings={})
    assert "PCA 1" in texts(figures.umap_figure(few, CLASSES))


def test_one_hopeless_method_does_not_squeeze_the_others():
    words = texts(charts.comparison_figure(METHODS, MACRO_F1))
    assert "arrow: off the scale" in words
    low, high = charts._scale([method.scores["macro_f1"] for method in METHODS], MACRO_F1["macro_f1"])
    assert low > 0.6
    assert high < 0.9
    low, high = charts._scale([method.scores["ece"] for method in METHODS], measures_of(["ece"])["ece"])
    assert high < 0.2
    assert "arrow: off the scale" not in texts(charts.comparison_figure(METHODS[:3], MACRO_F1))


def test_equal_scores_have_an_axis_whose_marks_fit_beside_each_other():
    for value in (1.0, -0.2, 87.3):
        low, high = charts._scale([Score(value=value)] * 4, MACRO_F1["macro_f1"])
        assert high - low == pytest.approx(0.04 * abs(value))
        assert low < value < high
    low, high = charts._scale([Score(value=0.0)] * 4, MACRO_F1["macro_f1"])
    assert (low, high) == (-1e-3, 1e-3)


def test_reliability_shows_the_calibration_error():
    confidence_n = np.repeat([0.9, 0.6], 100)
    is_right_n = np.arange(200) % 2 == 0
    words = texts(charts.reliability_figure(is_right_n, confidence_n))
    assert "Calibration (ECE 0.250)" in words


def test_colours_can_be_told_apart_without_red_or_green():
    """Vienot, Brettel and Mollon's picture of deutan and protan sight, distances in CIELAB."""
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in style.PALETTE]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    deutan = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    protan = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    for loss in (np.eye(3), deutan, protan):
        seen = np.clip(linear @ (np.linalg.inv(to_lms) @ loss @ to_lms).T, 0, 1)
        xyz = seen @ to_xyz.T / to_xyz.sum(axis=1)
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.eye(len(lab)) * 1e9
        assert apart[:8, :8].min() > 15
        assert apart.min() > 7


def test_shorten_keeps_both_ends():
    assert style.shorten("CD4-positive, alpha-beta memory T cell", 20) == "CD4-positi…ry T cell"
    assert style.shorten("short", 20) == "short"
    assert len(style.shorten("y" * 100, 33)) == 33
