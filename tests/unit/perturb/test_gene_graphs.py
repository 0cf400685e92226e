"""Graphs and features of genes, and the network over them."""

import gzip

import numpy as np
import pytest
import torch
from scipy import sparse

from cellwright.data.gene_graphs import (
    coexpression_graph,
    gene_set_features,
    gene_set_graph,
    graph_sha256,
    membership,
    read_gene_sets,
)
from cellwright.nn.gene_graph import GeneGraphNetwork, GeneGraphShape
from cellwright.tasks.gene_features import GeneTable, read_gene_table

SETS = {"one": ["A", "B", "C"], "two": ["A", "B"], "three": ["C", "D"], "alone": ["E"]}
GENES = ("A", "B", "C", "D", "E", "F")


def test_gene_sets_are_read_and_bad_files_refused(tmp_path):
    text = "one\thttps://x\tA\tB,1.0\tA\n\ntwo\t\tC\tD\n"
    (tmp_path / "s.gmt").write_text(text)
    (tmp_path / "s.gmt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("s.gmt", "s.gmt.gz"):
        assert read_gene_sets(tmp_path / name) == {"one": ("A", "B"), "two": ("C", "D")}
    (tmp_path / "bad.gmt").write_text("one\tx\tA\njust words\n")
    with pytest.raises(ValueError, match=r"bad.gmt, line 2: not a gene set"):
        read_gene_sets(tmp_path / "bad.gmt")
    (tmp_path / "empty.gmt").write_text("\n")
    with pytest.raises(ValueError, match="holds no gene set"):
        read_gene_sets(tmp_path / "empty.gmt")
    (tmp_path / "cut.gmt").write_bytes(gzip.compress(text.encode())[:-9])
    with pytest.raises(ValueError, match="not a readable file"):
        read_gene_sets(tmp_path / "cut.gmt")
    with pytest.raises(FileNotFoundError, match="no file of gene sets"):
        read_gene_sets(tmp_path / "none.gmt")


def test_the_weight_of_an_edge_is_the_jaccard_index():
    graph = gene_set_graph(GENES, SETS)
    weight_gg = graph.weight_gg.toarray()
    expected = {("A", "B"): 1.0, ("A", "C"): 1 / 3, ("B", "C"): 1 / 3, ("C", "D"): 1 / 2}
    for i, a in enumerate(GENES):
        for j, b in enumerate(GENES):
            assert weight_gg[i, j] == pytest.approx(expected.get((min(a, b), max(a, b)), 0)), (a, b)
    assert graph.isolated == ("E", "F")
    nearest = gene_set_graph(GENES, SETS, num_neighbors=1).weight_gg.toarray()
    assert (nearest > 0).sum(1).tolist() == [1, 1, 1, 1, 0, 0]
    assert nearest[2, 3] > 0


def test_sets_know_a_gene_by_its_other_names_and_large_sets_say_nothing():
    member = membership(
        ["MARCHF8", "KLF1"], {"s": ["MARCH8", "KLF1"], "big": ["KLF1", "MARCH8", *map(str, range(600))]}
    )
    assert member.toarray().tolist() == [[1.0], [1.0]]


def test_smoothing_averages_over_neighbours_and_keeps_the_isolated():
    graph = gene_set_graph(GENES, SETS)
    smooth_gg = graph.smoother().toarray()
    assert smooth_gg.sum(1) == pytest.approx(np.ones(6))
    assert smooth_gg[4, 4] == smooth_gg[5, 5] == 1
    assert smooth_gg[0, 0] == pytest.approx(1 / (1 + 1 + 1 / 3))


def test_coexpressed_genes_are_neighbours():
    rng = np.random.default_rng(0)
    value_ng = rng.normal(0, 1, (300, 40))
    value_ng[:, 7] = -value_ng[:, 3] + 0.1 * rng.normal(0, 1, 300)
    genes = [f"g{i}" for i in range(40)]
    graph = coexpression_graph(genes, sparse.csr_matrix(value_ng), num_neighbors=1, least=0.3)
    weight_gg = graph.weight_gg.toarray()
    assert weight_gg[3, 7] == weight_gg[7, 3] > 0.9
    assert weight_gg.sum() == weight_gg[3, 7] * 2
    wider = graph.over((*genes, "new", "alias"), {"alias": "g3"})
    assert wider.weight_gg.shape == (42, 42)
    assert wider.weight_gg.toarray()[41, 7] == weight_gg[3, 7]
    assert "new" in wider.isolated
    assert graph_sha256(graph) != graph_sha256(wider)


def test_features_put_genes_of_the_same_sets_together():
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(60)]
    sets = {f"s{j}": [genes[i] for i in range(60) if i % 6 == j % 6 and rng.random() < 0.8] for j in range(40)}
    for width in (4, 100):
        value_gd = gene_set_features([*genes, "none"], sets, width=width)
        assert not value_gd[-1].any()
        close = value_gd[:60] @ value_gd[:60].T
        same = np.arange(60)[:, None] % 6 == np.arange(60) % 6
        assert close[same].mean() > 5 * abs(close[~same].mean())
        assert (gene_set_features([*genes, "none"], sets, width=width) == value_gd).all()
    assert gene_set_features(["x"], {}).shape == (1, 0)


def test_gene_tables_are_aligned_by_name(tmp_path):
    table = GeneTable(("KLF1", "MARCHF8"), np.array([[1.0, 2], [3, 4]], np.float32), "here")
    value_gd, is_there_g = table.aligned(["MARCH8", "x", "KLF1"])
    assert value_gd.tolist() == [[3, 4], [0, 0], [1, 2]]
    assert is_there_g.tolist() == [True, False, True]
    np.savez(tmp_path / "t.npz", genes=np.array(table.genes), values=table.value_gd)
    assert (read_gene_table(tmp_path / "t.npz").value_gd == table.value_gd).all()
    np.savez(tmp_path / "other.npz", names=np.array(table.genes))
    with pytest.raises(ValueError, match="not a .npz of genes"):
        read_gene_table(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="shape .* for 1 gene names"):
        GeneTable(("KLF1",), table.value_gd, "here")
    with pytest.raises(ValueError, match="stands twice"):
        GeneTable(("KLF1", "KLF1"), table.value_gd, "here")


def network(node_features=None, gene_width=0):
    graph = gene_set_graph(GENES, SETS)
    shape = GeneGraphShape(
        num_genes=4, num_nodes=6, width=8, gene_width=gene_width, node_width=3 if node_features else 0
    )
    rng = np.random.default_rng(0)
    node_pd = rng.normal(0, 1, (6, 3)) if node_features else None
    torch.manual_seed(0)
    return GeneGraphNetwork(shape, sparse.eye_array(4, format="csr"), graph.smoother(), node_pd, np.arange(4.0))


def test_an_untrained_network_predicts_its_start():
    net = network(node_features=True)
    change_ng = net(torch.rand(3, 4), torch.tensor([[0, -1], [1, 2], [5, -1]]))
    assert change_ng.detach().numpy() == pytest.approx(np.tile(np.arange(4.0), (3, 1)))


def test_what_is_perturbed_is_a_set_and_rows_do_not_see_each_other():
    net = network(node_features=True)
    with torch.no_grad():
        for part in (net.node, net.weight_gd, net.cross_gd):
            part.normal_()
        control_ng = torch.rand(3, 4)
        node_nm = torch.tensor([[0, 2], [2, 0], [3, -1]])
        first = net(control_ng, node_nm)
        assert torch.allclose(
            net(control_ng[[0, 0]], node_nm[:2])[0], net(control_ng[[0, 0]], node_nm[:2])[1], atol=1e-6
        )
        assert torch.allclose(net(control_ng[2:], node_nm[2:, :1]), first[2:], atol=1e-6)
        assert not torch.allclose(first[2], net(control_ng[2:], torch.tensor([[4]]))[0])


def test_training_one_gene_moves_its_neighbours_and_nobody_else():
    net = network()
    with torch.no_grad():
        net.weight_gd.normal_()
    net(torch.rand(1, 4), torch.tensor([[0]])).square().sum().backward()
    moved = net.node.grad.abs().sum(1) > 0
    assert moved.tolist() == [True, True, True, False, False, False]


def test_context_embeddings_are_needed_where_built_for():
    net = network(gene_width=5)
    with pytest.raises(ValueError, match="takes context gene embeddings"):
        net(torch.rand(1, 4), torch.tensor([[0]]))
    with torch.no_grad():
        net.weight_gd.normal_()
        one, two = torch.rand(4, 5), torch.rand(2, 4, 5)
        same = net(torch.rand(1, 4).expand(2, 4), torch.tensor([[0], [0]]), one)
        assert torch.allclose(same[0], same[1], atol=1e-6)
        assert not torch.allclose(*net(torch.rand(1, 4).expand(2, 4), torch.tensor([[0], [0]]), two))
