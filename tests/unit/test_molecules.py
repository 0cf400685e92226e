"""Structures of drugs as graphs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cellwright.data.molecules import (
    ELEMENTS,
    NUM_ATOM_FEATURES,
    MoleculeGraphs,
    graphs_from_smiles,
    read_graphs,
    write_graphs,
)


def toy_graphs():
    """Three drugs of 2, 3 and 1 atoms; an atom's first feature is its number."""
    atom_af = np.column_stack([np.arange(6), np.ones(6)]).astype(np.float32)
    edge_2e = np.array([[0, 1, 0, 1, 1, 2], [1, 0, 1, 0, 2, 1]])
    return MoleculeGraphs(("x", "y", "z"), atom_af, np.array([0, 2, 5, 6]), edge_2e, np.array([0, 2, 6, 6]))


def test_taken_graphs_are_joined_with_their_own_bonds():
    atom_af, edge_2e, drug_a = toy_graphs().take(np.array([1, 0]))
    assert atom_af[:, 0].tolist() == [2, 3, 4, 0, 1]
    assert drug_a.tolist() == [0, 0, 0, 1, 1]
    assert edge_2e.tolist() == [[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]]


def test_graphs_are_found_by_name():
    found = toy_graphs().ordered(["z", "y"])
    assert found.drugs == ("z", "y")
    assert found.atom_af[:, 0].tolist() == [5, 2, 3, 4]
    assert found.edge_2e.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    with pytest.raises(ValueError, match="1 drugs have no structure, for instance 'w'"):
        found.ordered(["z", "w"])


def test_a_file_holds_them_exactly(tmp_path):
    graphs = toy_graphs()
    write_graphs(graphs, tmp_path / "graphs.npz")
    found = read_graphs(tmp_path / "graphs.npz")
    assert found.drugs == graphs.drugs
    for name in ("atom_af", "atom_offset", "edge_2e", "edge_offset"):
        assert (getattr(found, name) == getattr(graphs, name)).all()
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        write_graphs(graphs, tmp_path / "graphs.zip")


def test_damaged_graphs_are_refused(tmp_path):
    graphs = toy_graphs()
    parts = [graphs.drugs, graphs.atom_af, graphs.atom_offset, graphs.edge_2e, graphs.edge_offset]
    for place, value, words in (
        (0, ("x", "x", "z"), "a drug has two graphs"),
        (2, np.array([0, 2, 5, 7]), "atom_offset does not divide 6"),
        (2, np.array([0, 2, 6, 6]), "'z' has no atoms"),
        (3, graphs.edge_2e + 1, "points outside of its own drug"),
    ):
        with pytest.raises(ValueError, match=words):
            MoleculeGraphs(*[value if i == place else part for i, part in enumerate(parts)])
    with pytest.raises(FileNotFoundError, match="no file"):
        read_graphs(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("drug")
    with pytest.raises(ValueError, match=r"is no \.npz file"):
        read_graphs(tmp_path / "text.npz")
    np.savez(tmp_path / "half.npz", drug=np.array(["x"]))
    with pytest.raises(ValueError, match="lacks 'atom_features'"):
        read_graphs(tmp_path / "half.npz")


def test_without_rdkit_the_user_is_told_how(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ValueError, match=r"needs RDKit: pip install cellwright\[drugs\]"):
        graphs_from_smiles({"ethanol": "CCO"})


def test_smiles_become_atoms_and_bonds():
    pytest.importorskip("rdkit")
    graphs = graphs_from_smiles({"ethanol": "CCO", "salt": "[NH4+].[Cl-]", "benzene": "c1ccccc1", "odd": "[Au]C"})
    assert np.diff(graphs.atom_offset).tolist() == [3, 2, 6, 2]
    assert np.diff(graphs.edge_offset).tolist() == [4, 0, 12, 2]
    assert graphs.atom_af.shape[1] == NUM_ATOM_FEATURES
    element_a = graphs.atom_af[:, : len(ELEMENTS) + 1].argmax(1)
    assert [(*ELEMENTS, "other")[k] for k in element_a[:5]] == ["C", "C", "O", "N", "Cl"]
    assert element_a[-2] == len(ELEMENTS)  # gold is "other"
    assert graphs.atom_af[3:5, -1].tolist() == [1, -1]  # charges
    assert (graphs.atom_af[5:11, -5] == 1).all()  # aromatic
    assert not graphs.atom_af[:5, -5].any()
    edges = {tuple(edge) for edge in graphs.take(np.array([0]))[1].T.tolist()}
    assert edges == {(0, 1), (1, 0), (1, 2), (2, 1)}


def test_stereo_tells_mirror_images_apart():
    pytest.importorskip("rdkit")
    left, right, flat = (graphs_from_smiles({"d": s}).atom_af for s in ("C[C@H](N)O", "C[C@@H](N)O", "CC(N)O"))
    assert (left != right).any()
    assert (left != flat).any()


def test_a_smiles_that_is_none_is_named():
    pytest.importorskip("rdkit")
    with pytest.raises(ValueError, match="SMILES of drug 'bad' cannot be read: 'C1CC'"):
        graphs_from_smiles({"good": "CC", "bad": "C1CC"})
    with pytest.raises(ValueError, match="there are no drugs"):
        graphs_from_smiles({})
