"""The network of drug response: what it learns, what it must not know, and that it comes back from disk."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from cellwright.data.drug_splits import split_pairs
from cellwright.data.drugs import LineFeatures, Responses
from cellwright.data.molecules import MoleculeGraphs
from cellwright.metrics.drugs import pearson, within_drug_pearson
from cellwright.tasks.drug import DrugConfig, DrugPredictor, PairLoader, PairSource, train_drug_model
from cellwright.tasks.drug_model import DrugNet, DrugNetConfig, PairTokens
from cellwright.types import Draw

SMALL = ("net.cell_hidden=16", "net.cell_width=8", "net.drug_width=8", "net.head_width=16", "net.dropout=0")
SHORT = (*SMALL, "batch_size=32", "optim.lr=0.01", "train.accelerator=cpu")
QUICK = ("optim.lr=0.02", "train.keep=last")
"""A checkpoint for every better validation takes longer than these trainings."""


def planted(num_lines=60, num_drugs=8, seed=0):
    """Each drug has a level and reads one feature of the line, up or down."""
    rng = np.random.default_rng(seed)
    value_lf = rng.normal(size=(num_lines, 4)).astype(np.float32)
    level_u, slope_u = np.linspace(-4, 4, num_drugs), np.where(np.arange(num_drugs) % 2, 1.5, -1.5)
    line_p, drug_p = (part.ravel() for part in np.indices((num_lines, num_drugs)))
    value_p = level_u[drug_p] + slope_u[drug_p] * value_lf[line_p, 0] + rng.normal(0, 0.1, len(line_p))
    lines, drugs = tuple(f"L{i}" for i in range(num_lines)), tuple(f"D{i}" for i in range(num_drugs))
    return Responses(line_p, drug_p, value_p, lines, drugs), LineFeatures(lines, value_lf, ("a", "b", "c", "d"))


def chains(drugs):
    """A graph each: a chain of as many atoms as the drug's place says, plus two."""
    sizes = [k + 2 for k in range(len(drugs))]
    edges = [
        [*zip(range(n - 1), range(1, n), strict=True), *zip(range(1, n), range(n - 1), strict=True)] for n in sizes
    ]
    atom_af = np.concatenate([np.column_stack([np.arange(n) % 2, np.ones(n), np.full(n, n)]) for n in sizes])
    return MoleculeGraphs(
        tuple(drugs),
        atom_af.astype(np.float32),
        np.r_[0, np.cumsum(sizes)],
        np.array([edge for part in edges for edge in part]).T,
        np.r_[0, np.cumsum([len(part) for part in edges])],
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drug") / "run"
    pairs, lines = planted()
    split = split_pairs(pairs, by="line", valid=0.1)
    config = DrugConfig().override([*SHORT, *QUICK, "net.drug=identity", "train.max_epochs=14"])
    predictor, fit = train_drug_model(pairs, lines, None, split, config=config, folder=folder)
    return folder, pairs, lines, split, predictor, fit


def test_it_learns_what_a_line_does_to_a_drug(trained):
    _, pairs, lines, split, predictor, fit = trained
    test = pairs.take(split.test)
    found_p = predictor.predict(test, lines)
    assert within_drug_pearson(test.value_p, found_p, test.drug_p) > 0.8
    assert pearson(test.value_p, found_p, test.drug_p) > 0.9
    assert fit.best_step is not None


def test_it_comes_back_from_disk_and_asks_for_names(trained):
    folder, pairs, lines, _, predictor, _ = trained
    again = DrugPredictor.load(folder)
    assert (again.predict(pairs, lines) == predictor.predict(pairs, lines)).all()
    assert again.config == predictor.config
    assert again.record["split"]["by"] == "line"
    order = ["d", "b", "a", "c"]
    moved = LineFeatures(lines.lines[::-1], lines.ordered(order)[::-1].copy(), tuple(order))
    asked = Responses(len(lines.lines) - 1 - pairs.line_p, pairs.drug_p, pairs.value_p, lines.lines[::-1], pairs.drugs)
    assert np.allclose(again.predict(asked, moved), predictor.predict(pairs, lines), atol=1e-5)
    with pytest.raises(ValueError, match="1 of 4 features that the model was trained on are missing"):
        again.predict(pairs, LineFeatures(lines.lines, lines.value_lf, ("a", "b", "c", "x")))
    new = Responses(np.zeros(1, int), np.zeros(1, int), np.full(1, np.nan), lines.lines, ("aspirin",))
    with pytest.raises(ValueError, match="drug 'aspirin' was not in training"):
        again.predict(new, lines)
    with pytest.raises(FileNotFoundError, match="holds no model of drug response"):
        DrugPredictor.load(folder.parent)


def test_an_answer_depends_on_its_own_pair_alone(trained):
    _, pairs, lines, _, predictor, _ = trained
    together = predictor.predict(pairs, lines)
    alone = [predictor.predict(pairs.take(np.array([p])), lines)[0] for p in (0, 17, 401)]
    assert np.allclose(together[[0, 17, 401]], alone, atol=1e-5)


def test_held_out_values_never_reach_training(tmp_path):
    """Other values of the test pairs change nothing; the features' scale is that of training lines."""
    pairs, lines = planted(20, 4)
    split = split_pairs(pairs, by="line", valid=0.2)
    config = DrugConfig().override([*SHORT, "net.drug=identity", "train.max_epochs=1"])
    other_p, other_lf = pairs.value_p.copy(), lines.value_lf.copy()
    other_p[split.test] = 99
    other_lf[np.unique(pairs.line_p[split.test])] = -50
    other = Responses(pairs.line_p, pairs.drug_p, other_p, pairs.lines, pairs.drugs)
    one, _ = train_drug_model(pairs, lines, None, split, config=config, folder=tmp_path / "one")
    two, _ = train_drug_model(
        other, LineFeatures(lines.lines, other_lf, lines.names), None, split, config=config, folder=tmp_path / "two"
    )
    assert all(torch.equal(a, b) for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True))
    assert (one.mean_f == two.mean_f).all()
    assert one.value_mean == two.value_mean


def test_too_little_to_learn_from_is_said(tmp_path):
    pairs, lines = planted(20, 4)
    split = split_pairs(pairs, by="line")
    config = DrugConfig().override(["net.drug=identity", "train.max_epochs=1"])
    flat = Responses(pairs.line_p, pairs.drug_p, np.ones(len(pairs)), pairs.lines, pairs.drugs)
    with pytest.raises(ValueError, match=r"all training pairs have the response 1\.0"):
        train_drug_model(flat, lines, None, split, config=config, folder=tmp_path / "a")
    wide, wide_lines = planted(2, 12)
    one = wide.take(np.arange(12))
    alone = split_pairs(one, by="pair", valid=0)
    with pytest.raises(ValueError, match="training pairs of 1 cell lines"):
        train_drug_model(one, wide_lines, None, alone, config=config, folder=tmp_path / "b")
    with pytest.raises(ValueError, match=r"net\.drug=graph needs structures"):
        train_drug_model(pairs, lines, None, split, config=DrugConfig(), folder=tmp_path / "c")


def test_minibatches_share_the_drugs_out_and_see_every_pair_once():
    pairs, _ = planted(40, 8)
    loader = PairLoader(PairSource(pairs), np.arange(320), 40, group=4, seed=0)
    batches = list(loader)
    seen = np.sort(np.concatenate([b.line_p * 8 + b.drug_p for b in batches]))
    assert (seen == np.arange(320)).all()
    assert max(len(np.unique(b.drug_p)) for b in batches) <= 4
    assert len(np.unique(next(iter(PairLoader(PairSource(pairs), np.arange(320), 40, group=1, seed=0))).drug_p)) == 8
    loader.set_epoch(1)
    assert not (next(iter(loader)).line_p == batches[0].line_p).all()


@pytest.mark.parametrize("head", ["dense", "convolution"])
def test_published_sizes(head):
    net = DrugNet(DrugNetConfig(drug="identity", head=head), num_features=697, num_drugs=223, num_atom_features=0)
    sizes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert sizes["drug.vector.weight"] == (223, 100)
    assert sizes["cell.0.weight"] == (256, 697)
    assert sizes["cell.4.weight"] == (100, 256)
    assert sizes["head.0.weight"] == (300, 200)
    if head == "convolution":
        kernels = [shape for name, shape in sizes.items() if name.startswith("head") and len(shape) == 3]
        assert kernels == [(30, 1, 150), (10, 30, 5), (5, 10, 5)]
        assert [shape for name, shape in sizes.items() if name.startswith("head")][-2] == (1, 30)
        with pytest.raises(ValueError, match="head_width 150 is too narrow"):
            DrugNet(
                DrugNetConfig(drug="identity", head=head, head_width=150), num_features=3, num_drugs=2,
                num_atom_features=0,
            )  # fmt: skip


def test_without_torch_geometric_the_user_is_told_how(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    monkeypatch.setitem(sys.modules, "torch_geometric.nn", None)
    with pytest.raises(ValueError, match=r"need PyTorch Geometric: pip install cellwright\[drugs\]"):
        DrugNet(DrugNetConfig(), num_features=3, num_drugs=2, num_atom_features=3)


@pytest.fixture
def graph_net():
    pytest.importorskip("torch_geometric")
    config = DrugNetConfig(graph_widths=(6,), drug_width=5, cell_hidden=4, cell_width=3, head_width=7)
    return DrugNet(config, num_features=4, num_drugs=0, num_atom_features=3).eval()


def test_a_drug_is_the_mean_of_atoms_after_normalised_convolutions(graph_net):
    graphs = chains(["x", "y", "z"])
    tokens = PairTokens(np.zeros((1, 4)), graphs.drugs, graphs=graphs)
    pairs = Responses(np.zeros(3, int), np.arange(3), np.zeros(3), ("A",), graphs.drugs)
    found_ud = graph_net.drug(tokens(pairs, Draw()))
    for drug in range(3):
        atom_af, edge_2e, _ = graphs.take(np.array([drug]))
        link_aa = np.eye(len(atom_af))
        link_aa[edge_2e[0], edge_2e[1]] = 1
        scale_a = 1 / np.sqrt(link_aa.sum(0))
        link_aa = torch.tensor(scale_a[:, None] * link_aa * scale_a, dtype=torch.float32)
        hidden_ad = torch.from_numpy(atom_af)
        for layer, norm in zip(graph_net.drug.layers, graph_net.drug.norms, strict=True):
            hidden_ad = norm(torch.relu(link_aa @ layer.lin(hidden_ad) + layer.bias))
        assert torch.allclose(found_ud[drug], hidden_ad.mean(0), atol=1e-5)


def test_the_order_of_atoms_and_other_drugs_do_not_matter(graph_net):
    graphs = chains(["x", "y", "z"])
    flipped_atoms = graphs.atom_af.copy()
    flipped_atoms[2:5] = flipped_atoms[2:5][::-1]
    edge_2e = graphs.edge_2e.copy()
    at = slice(graphs.edge_offset[1], graphs.edge_offset[2])
    edge_2e[:, at] = 2 - edge_2e[:, at]
    flipped = MoleculeGraphs(graphs.drugs, flipped_atoms, graphs.atom_offset, edge_2e, graphs.edge_offset)
    feature_lf = np.random.default_rng(0).normal(size=(2, 4))
    pairs = Responses(np.array([0, 1, 1]), np.array([1, 0, 2]), np.zeros(3), ("A", "B"), graphs.drugs)
    one = graph_net(PairTokens(feature_lf, graphs.drugs, graphs=graphs)(pairs, Draw()))
    two = graph_net(PairTokens(feature_lf, graphs.drugs, graphs=flipped)(pairs, Draw()))
    alone = graph_net(PairTokens(feature_lf, graphs.drugs, graphs=graphs)(pairs.take(np.array([0])), Draw()))
    assert torch.allclose(one, two, atol=1e-5)
    assert torch.allclose(one[:1], alone, atol=1e-5)


def test_structures_answer_for_new_drugs(tmp_path):
    """The planted level rises with the size of the molecule, so that drugs between known ones can be guessed."""
    pytest.importorskip("torch_geometric")
    pairs, lines = planted(20, 12)
    graphs = chains(pairs.drugs)
    fold_k = np.where(np.isin(np.arange(12), [4, 7]), 0, 1)
    split = split_pairs(pairs, by="drug", fold=0, fold_k=fold_k, valid=0)
    changes = ("net.graph_widths=[16]", "train.max_epochs=15", "optim.lr=0.03", "batch_size=40", "group=1")
    config = DrugConfig().override([*SHORT, *changes])
    predictor, _ = train_drug_model(pairs, lines, graphs, split, config=config, folder=tmp_path / "run")
    test = pairs.take(split.test)
    found_p = DrugPredictor.load(tmp_path / "run").predict(test, lines, graphs)
    assert (found_p == predictor.predict(test, lines, graphs)).all()
    level = [found_p[test.drug_p == k].mean() for k in (4, 7)]
    assert level[0] < 0 < level[1]
    with pytest.raises(ValueError, match="reads drug structures"):
        predictor.predict(test, lines)
    wide = MoleculeGraphs(
        graphs.drugs, np.ones((len(graphs.atom_af), 75), np.float32), graphs.atom_offset, graphs.edge_2e,
        graphs.edge_offset,
    )  # fmt: skip
    with pytest.raises(ValueError, match="atoms have 75 features, the model was trained on 3"):
        predictor.predict(test, lines, wide)
