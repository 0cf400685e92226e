"""``grn`` ranks targets, finds modules, scores both beside baselines, and leaves tables and a report."""

import csv
import json

import anndata
import numpy as np
import pytest
from cli.command_line import gene_names, refused, works

import cellwright
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
    words = ["--targets", targets, "--gene-sets", gene_sets, "--resolution", 0.5, "--num-targets", 7, *SMALL]
    printed = works("grn", own, data, "-o", tmp_path / "net", *words)
    assert "regulators" in printed
    assert "pearson" in printed
    names = {path.name for path in (tmp_path / "net").iterdir()}
    assert {"targets.tsv", "modules.tsv", "module_scores.tsv", "enrichment.tsv", "grn.json", "report.html"} <= names
    rows = table(tmp_path / "net" / "targets.tsv")
    by_regulator = {row["regulator"] for row in rows}
    assert len(rows) == 7 * len(by_regulator)
    assert all(row["regulator"] != row["target"] for row in rows)
    assert len(table(tmp_path / "net" / "module_scores.tsv")) == 40
    record = json.loads((tmp_path / "net" / "grn.json").read_text())
    assert record["network"]["embedding"] == "context"
    assert str(targets) in record["files"]
    report = (tmp_path / "net" / "report.html").read_text()
    assert "Nearest genes" in report
    assert "Gene modules" in report


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
    assert set(methods) == {"scGPT context", "random", "mean_expression", "pearson", "spearman"}
    assert all(len(method.parts) == len(network.ranked.regulators) for method in methods.values())


def test_bad_input_is_refused_in_one_line(own, data, targets, tmp_path):
    out = ["-o", tmp_path / "net", *SMALL]
    refused(tmp_path, "grn", own, data, *out, says=["nothing is asked for"])
    refused(tmp_path, "grn", own, data, *out, "--regulators", tmp_path / "no.txt", says=["no file of regulators"])
    (tmp_path / "tf.txt").write_text("NOTAGENE\n")
    refused(tmp_path, "grn", own, data, *out, "--regulators", tmp_path / "tf.txt", says=["none of the 1 regulators"])
    refused(tmp_path, "grn", own, data, *out, "--targets", targets, "--min-targets", 50, says=["none has 50 targets"])
    refused(tmp_path, "grn", own, data, "-o", tmp_path, *SMALL, "--targets", targets, says=["holds files"])
    words = ["grn", own, data, "-o", tmp_path / "net", "--min-cells", 1000, "--targets", targets, "--no-progress"]
    refused(tmp_path, *words, says=["expressed in 1000 cells"])
