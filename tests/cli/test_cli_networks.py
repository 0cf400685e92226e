"""``grn`` ranks targets, finds modules, scores both beside baselines, and leaves tables and a report."""

import csv
import json

import anndata
import numpy as np
import pytest
from cli.command_line import gene_names, refused, works, write

import cellwright
from cellwright.evaluate import Evaluation
from cellwright.verbs import InferenceOptions, NetworkOptions

QUIET = InferenceOptions(progress=False, device="cpu")
SMALL = ["--min-cells", 3, "--no-progress"]


@pytest.fixture(scope="module")
def targets(home):
    """Each regulator has every third gene."""
    genes = gene_names()
    rows = [(genes[r], genes[g]) for r in range(6) for g in range(r % 3, 60, 3) if g != r]
    path = home / "targets.tsv"
    path.write_text("regulator\ttarget\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    return path


@pytest.fixture(scope="module")
def gene_sets(home):
    genes = gene_names()
    path = home / "sets.gmt"
    path.write_text("".join(f"third {k}\tabout\t" + "\t".join(genes[k::3]) + "\n" for k in range(3)))
    return path


def table(path):
    with open(path, encoding="utf-8") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_tables_scores_and_report_are_left(own, data, targets, gene_sets, tmp_path):
    pytest.importorskip("leidenalg")
    words = ["--targets", targets, "--gene-sets", gene_sets, "--resolution", 0.5, "--num-targets", 7, "--cells", *SMALL]
    printed = works("grn", own, data, "-o", tmp_path / "net", *words)
    assert "regulators" in printed
    assert "pearson" in printed
    names = {path.name for path in (tmp_path / "net").iterdir()}
    assert {"targets.tsv", "modules.tsv", "module_scores.tsv", "enrichment.tsv", "grn.json", "report.html"} <= names
    rows = table(tmp_path / "net" / "targets.tsv")
    by_regulator = {row["regulator"] for row in rows}
    assert len(rows) == 7 * len(by_regulator)
    assert all(row["regulator"] != row["target"] for row in rows)
    scores = table(tmp_path / "net" / "module_scores.tsv")
    assert len(scores) == 40
    cells = anndata.read_h5ad(tmp_path / "net" / "cells.h5ad")
    listed = [[float(row[name]) for name in row if name != "cell"] for row in scores]
    np.testing.assert_allclose(cells.obsm["module_scores"], listed, atol=1e-4)
    modules = table(tmp_path / "net" / "modules.tsv")
    first = [row["gene"] for row in modules if row["module"] == "0"]
    assert list(cells.uns["cellwright"]["module_scores"]["module 0"]) == first
    assert {"cell_type", "donor"} <= set(cells.obs)
    record = json.loads((tmp_path / "net" / "grn.json").read_text())
    assert record["network"]["embedding"] == "context"
    assert str(targets) in record["files"]
    report = (tmp_path / "net" / "report.html").read_text()
    assert "Nearest genes" in report
    assert "Gene modules" in report


def test_module_scores_can_be_put_beside_the_cells(own, data):
    pytest.importorskip("leidenalg")
    config = NetworkOptions(modules=True, min_cells=3, resolution=0.5)
    network = cellwright.grn(data, own, config=config, run=QUIET)
    adata = anndata.read_h5ad(data)
    network.fill(adata)
    np.testing.assert_array_equal(adata.obsm["module_scores"], network.module_score_nm)
    with pytest.raises(ValueError, match="modules in 40 cells"):
        network.fill(adata[:9].copy())


def test_each_regulator_has_targets_of_its_own(own, data):
    """The notebook published with scFoundation gives every regulator the targets of the first."""
    names = gene_names()[:4]
    network = cellwright.grn(data, own, regulators=names, config=NetworkOptions(min_cells=1), run=QUIET)
    assert network.ranked.regulators == tuple(names)
    assert len({tuple(gene for gene, _ in found) for found in network.ranked.top(10).values()}) == 4
    assert network.evaluation is None


def test_contexts_depend_on_the_cells_and_the_table_does_not(own, data):
    adata = anndata.read_h5ad(data)
    half = adata[:20].copy()
    names = gene_names()[:3]
    for embedding, is_same in (("context", False), ("table", True)):
        config = NetworkOptions(embedding=embedding, min_cells=1)
        found = [cellwright.grn(some, own, regulators=names, config=config, run=QUIET).ranked for some in (adata, half)]
        shared = [gene for gene in found[1].genes if gene in found[0].genes][:20]
        scores = [some.score_rg[:, [some.genes.index(gene) for gene in shared]] for some in found]
        assert np.allclose(*scores, atol=1e-6) == is_same, embedding


def test_a_planted_network_in_the_cells_is_found_by_correlation(own, data, targets):
    network = cellwright.grn(data, own, targets=targets, config=NetworkOptions(min_cells=3), run=QUIET)
    methods = {method.name: method for method in network.evaluation.methods}
    assert methods["random"].bound == "floor"
    baselines = {"random", "random_degree", "mean_expression", "pearson", "spearman"}
    assert set(methods) == {"scGPT context", *baselines}
    assert all(len(method.parts) == len(network.ranked.regulators) for method in methods.values())


@pytest.fixture(scope="module")
def screen(home, data):
    """The cells, every fourth a control, every fourth with each of two genes perturbed, alone or both."""
    adata = anndata.read_h5ad(data)
    first, second = gene_names()[:2]
    adata.obs["guide"] = [("ctrl", f"{first}+ctrl", second, f"{first}+{second}")[n % 4] for n in range(adata.n_obs)]
    return write(adata, home / "screen.h5ad")


def test_attention_is_compared_between_conditions(own, screen, targets, tmp_path):
    first, second = gene_names()[:2]
    words = ["--from", "attention", "--condition", "guide", "--targets", targets, "--num-genes", 50, *SMALL]
    printed = works("grn", own, screen, "-o", tmp_path / "net", *words)
    assert "scGPT attention difference" in printed
    names = {path.name for path in (tmp_path / "net").iterdir()}
    assert {"targets.tsv", "targets_control.tsv", "targets_perturbed.tsv", "grn.json", "report.html"} <= names
    tables = {name: table(tmp_path / "net" / f"targets{name}.tsv") for name in ("", "_control", "_perturbed")}
    scores = {
        name: {(row["regulator"], row["target"]): float(row["score"]) for row in rows} for name, rows in tables.items()
    }
    assert {regulator for regulator, _ in scores[""]} == {first, second}
    for pair, value in scores[""].items():
        assert value == pytest.approx(scores["_perturbed"][pair] - scores["_control"][pair], abs=2e-5)
    evaluation = Evaluation.load(tmp_path / "net")
    assert {"response", "random_degree", "pearson"} <= {method.name for method in evaluation.methods}
    assert "fed the same 50 genes" in evaluation.summary[0]
    assert "First genes" in (tmp_path / "net" / "report.html").read_text()


def test_one_condition_can_be_named_and_so_can_none(own, screen):
    first, second = gene_names()[:2]
    named = NetworkOptions(from_="attention", condition="guide", perturbed=f"{second}+{first}", setting="perturbed")
    network = cellwright.grn(screen, own, config=named.model_copy(update={"min_cells": 3}), run=QUIET)
    assert list(network.rankings) == ["perturbed", "difference", "control"]
    assert network.ranked.regulators == tuple(sorted([first, second]))
    plain = NetworkOptions(from_="attention", min_cells=3, num_cells=12)
    both = [cellwright.grn(screen, own, regulators=[first], config=plain, run=QUIET).ranked for _ in range(2)]
    np.testing.assert_array_equal(both[0].score_rg, both[1].score_rg)
    other = cellwright.grn(
        screen, own, regulators=[first], config=plain, run=QUIET.model_copy(update={"seed": 5})
    ).ranked  # fmt: skip
    assert (other.score_rg != both[0].score_rg).any()  # other cells are drawn
    assert cellwright.grn(screen, own, regulators=[first], config=plain, run=QUIET).evaluation is None


def test_what_attention_cannot_do_is_refused_in_one_line(own, screen, data, targets, tmp_path):
    words = ["grn", own, screen, "-o", tmp_path / "net", *SMALL]
    attention = [*words, "--from", "attention"]
    refused(tmp_path, *attention, says=["nothing is asked for"])
    refused(tmp_path, *attention, "--modules", says=["modules are made of vectors"])
    refused(tmp_path, *words, "--targets", targets, "--condition", "guide", says=["--from attention"])
    refused(tmp_path, *attention, "--condition", "guid", says=["no column 'guid'", "did you mean 'guide'"])
    refused(tmp_path, *attention, "--condition", "guide", "--control", "none", says=["no control 'none'"])
    refused(tmp_path, *attention, "--condition", "guide", "--perturbed", "XYZ", says=["no perturbed cells 'XYZ'"])
    (tmp_path / "tf.txt").write_text("NOTAGENE\n")
    refused(tmp_path, *attention, "--regulators", tmp_path / "tf.txt", says=["'NOTAGENE' is not in the model's"])
    (tmp_path / "tf.txt").write_text(gene_names()[5] + "\n")
    only = ["--regulators", tmp_path / "tf.txt", "--condition", "guide"]
    refused(tmp_path, *attention, *only, says=["none of the 1 regulators was perturbed alone"])
    refused(tmp_path, *attention, "--condition", "guide", "--attention-layer", 3, says=["layer = 3"])


def test_bad_input_is_refused_in_one_line(own, data, targets, tmp_path):
    out = ["-o", tmp_path / "net", *SMALL]
    refused(tmp_path, "grn", own, data, *out, says=["nothing is asked for"])
    refused(tmp_path, "grn", own, data, *out, "--targets", targets, "--cells", says=["ask for modules too"])
    refused(tmp_path, "grn", own, data, *out, "--regulators", tmp_path / "no.txt", says=["no file of regulators"])
    (tmp_path / "tf.txt").write_text("NOTAGENE\n")
    refused(tmp_path, "grn", own, data, *out, "--regulators", tmp_path / "tf.txt", says=["none of the 1 regulators"])
    refused(tmp_path, "grn", own, data, *out, "--targets", targets, "--min-targets", 50, says=["none has 50 targets"])
    refused(tmp_path, "grn", own, data, "-o", tmp_path, *SMALL, "--targets", targets, says=["holds files"])
    words = ["grn", own, data, "-o", tmp_path / "net", "--min-cells", 1000, "--targets", targets, "--no-progress"]
    refused(tmp_path, *words, says=["expressed in 1000 cells"])
