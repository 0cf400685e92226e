"""The parts of a report on made cells: what is drawn, what is counted, what is told apart from training."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import scipy.sparse as sp
from unit.evaluate.made_up import made_up_evaluation

from cellwright import baselines, evaluate
from cellwright.data import make_cells
from cellwright.data.cells import open_cells
from cellwright.evaluate import Cells, LevelCells, Method, Picture, Score, Section, made_figures, made_sections
from cellwright.evaluate.answers import spread_words
from cellwright.evaluate.apart import check_apart
from cellwright.evaluate.generation import score_methods
from cellwright.evaluate.making import Compared
from cellwright.evaluate.projection import _principal_components
from cellwright.evaluate.scored_types import count_types, left_out_lines
from cellwright.metrics import GENERATION_METRICS
from cellwright.verbs.scoring_made import shares
from cellwright.vocab import GeneVocab

CLASSES = ("<script>B", "$T$ cell", "NK", "never")
GENES = [f"G{i:02}" for i in range(40)]


def levels(num, seed, lift=6):
    """Cells of three types, each with genes of its own."""
    rng = np.random.default_rng(seed)
    code_n = np.arange(num) % 3
    rate_kg = np.full((3, 40), 0.5)
    for k in range(3):
        rate_kg[k, 10 * k : 10 * k + 10] *= lift
    level_ng = np.minimum(rng.poisson(rate_kg[code_n]), 10) / np.float32(10)
    return LevelCells(sp.csr_matrix(level_ng.astype(np.float32)), code_n)


@pytest.fixture(scope="module")
def compared():
    methods = {"net": levels(60, 1, lift=3), "any": levels(60, 2, lift=1), "copies": levels(60, 3)}
    return Compared(
        methods=methods,
        train=levels(90, 4),
        held_out=levels(75, 5),
        seconds=dict.fromkeys(methods),
        num_genes=40,
    )


@pytest.fixture(scope="module")
def scores(compared):
    parts = (compared.methods, compared.train, compared.held_out)
    return score_methods(*parts, classes=CLASSES, seed=0, num_resamples=100)


@pytest.fixture(scope="module")
def methods(scores):
    def method(name, bound):
        parts = {
            kind: {
                m: Score(value=(row := scores.row(name, m, kind)).value, low=row.low, high=row.high)
                for m in GENERATION_METRICS
            }
            for kind in CLASSES[:3]
        }
        total = {m: Score(value=scores.row(name, m).value) for m in GENERATION_METRICS}
        return Method(name=name, what="", is_baseline=name != "net", scores=total, parts=parts, bound=bound)

    return [method("net", None), method("any", "floor"), method("copies", "roof")]


@pytest.fixture(scope="module")
def sections(methods, compared):
    patch = pytest.MonkeyPatch()
    patch.setattr(made_sections, "umap_embedding", lambda x_nd, seed: _principal_components(x_nd))
    found = (
        made_sections.made_sections(methods, compared, CLASSES, 0),
        made_sections.made_sections(methods, compared, CLASSES, 0),
    )
    patch.undo()
    assert [[p.svg for p in s.pictures] for s in found[0]] == [[p.svg for p in s.pictures] for s in found[1]]
    return found[0]


def texts(content):
    root = ElementTree.fromstring(content)
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_difference_is_that_of_the_means(scores):
    value, low, high = scores.difference("any", "copies", "e_distance")
    assert value == pytest.approx(scores.row("any", "e_distance").value - scores.row("copies", "e_distance").value)
    assert 0 < low < value < high
    turned = scores.difference("copies", "any", "e_distance")
    assert turned == pytest.approx((-value, -high, -low))
    assert scores.difference("net", "net", "mmd") == (0.0, 0.0, 0.0)


def test_sections_hold_readable_pictures_and_tables(sections):
    assert [section.heading for section in sections] == ["Score by type", "Cells", "Genes", "Detected genes"]
    for section in sections:
        [picture] = section.pictures
        assert picture.alt
        assert len(picture.svg) < 250_000
        sizes = [float(size) for size in re.findall(rb"font(?:-size)?:[^;\"]*?([\d.]+)px", picture.svg)]
        assert min(sizes) >= 9
        assert b"<script" not in picture.svg
    tables = sections[0].tables
    assert list(tables) == [
        "net, all scores",
        *(f"{name} of all methods" for name in ("E-distance", "C2ST AUROC", "marker recall")),
    ]
    assert {row[0] for row in tables["net, all scores"].rows} == set(CLASSES[:3])
    assert len(tables["net, all scores"].columns) == 1 + len(GENERATION_METRICS)


def test_types_have_one_number_in_all_pictures(sections):
    by_type, cells, _, detected = (texts(section.pictures[0].svg) for section in sections)
    for code, name in enumerate(CLASSES[:3]):
        assert f"{name}  {code + 1}" in by_type
        assert f"{code + 1}  {name}" in cells
        assert f"{code + 1}  {name}" in detected
    assert not any("never" in text for text in by_type + cells + detected)
    assert {"net", "any", "copies", made_sections.REAL} <= set(cells)


def test_the_figure_of_means_tells_their_correlation(compared):
    mean_p = np.linspace(0, 1, 30)
    words = texts(made_figures.gene_means_figure({"same": mean_p, "none": np.zeros(30)}, mean_p))
    assert "r = 1.000" in words
    assert "r = not defined" in words


def test_types_that_cannot_be_scored_are_counted(compared):
    train = compared.train
    held_code_n = np.array([0] * 12 + [1] * 9 + [3] * 20)
    found = count_types(train, held_code_n, classes=CLASSES, words=CLASSES[:3])
    assert [bool(count.reason) for count in found] == [False, True, True]
    assert left_out_lines(found) == [
        "not scored: '$T$ cell', 9 held-out cells (too few held-out cells: 9, at least 10 are needed)",
        "not scored: 'never', 20 held-out cells (the model has no word for it)",
    ]
    silent = LevelCells(sp.csr_matrix((30, 40), dtype=np.float32), np.arange(30) % 3)
    with pytest.raises(ValueError, match="no gene stands out"):
        count_types(silent, held_code_n[:12], classes=CLASSES, words=CLASSES)
    with pytest.raises(ValueError, match="no type can be scored: 'never': too few training cells: 0"):
        count_types(train, held_code_n[21:], classes=CLASSES, words=CLASSES)


def opened(adata, rows):
    return open_cells(adata[rows].copy(), GeneVocab.from_genes(GENES, {}))


def test_cells_on_both_sides_are_counted_and_many_are_refused():
    adata = make_cells(60, 40, gene_names=GENES, depth=300, seed=3)
    adata.obs["donor"] = [f"d{n // 10}" for n in range(60)]
    train, held_out = opened(adata, range(30)), opened(adata, range(30, 60))
    found = check_apart(train, held_out, "donor")
    assert found.notes == ("Held out by donor: 3 groups, none of them among the 3 trained on.",)
    few = check_apart(train, opened(adata, range(28, 60)))
    assert few.notes[1] == "2 of 32 held-out cells have the same values as a training cell."
    assert few.sha256 != found.sha256
    with pytest.raises(ValueError, match="5 of 35 held-out cells are training cells too"):
        check_apart(train, opened(adata, range(25, 60)))
    with pytest.raises(ValueError, match=r"donor 'd2' is in the training and in the held-out cells \(1 such\)"):
        check_apart(train, opened(adata, range(25, 60)), "donor")


def test_told_words_become_probabilities():
    prob_nk = spread_words(np.array(["b", "a"]), np.array([0.4, 1.0]), ("a", "b", "c"))
    np.testing.assert_allclose(prob_nk, [[0.3, 0.4, 0.3], [1, 0, 0]])
    assert spread_words(np.array(["a"]), np.array([0.7]), ("a",)).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("num_k", "total", "wanted"), [([1, 1], 5, [3, 2]), ([90, 9, 1], 10, [9, 1, 0]), ([3], 7, [7])]
)
def test_shares_add_up(num_k, total, wanted):
    assert shares(np.array(num_k), total).tolist() == wanted


def test_sections_and_pictures_need_names_of_their_own():
    picture = Picture(name="one", alt="a", svg=b"<svg/>")
    twice = (Section(heading="A", pictures=(picture,)), Section(heading="B", pictures=(picture,)))
    for sections, words in (
        ((Section(heading="Cells"), Section(heading="cells")), "two of 'cells'"),
        ((Section(heading="Cost"),), "two of 'cost'"),
        ((Section(heading="?"),), "two of ''"),
        (twice, "two of 'one'"),
    ):
        with pytest.raises(ValueError, match=words):
            made_up_evaluation(cells=Cells(), curves=(), sections=sections)
    with pytest.raises(ValueError, match="pattern"):
        Picture(name="../up", alt="")


def test_what_scores_made_cells_is_exported_when_asked_for():
    for room in (evaluate, baselines):
        for name in room.__all__:
            assert getattr(room, name) is not None
        with pytest.raises(AttributeError, match="no attribute 'zap'"):
            room.zap
    assert evaluate.score_generated.__module__ == "cellwright.evaluate.generation"
    assert set(baselines.GENERATION_BASELINES) == {"any_type", "class_nb", "class_gaussian", "training_cells"}
