"""Drugs as graphs: atoms with features, bonds between them. From SMILES through RDKit, or from a file.

RDKit is needed for SMILES only (``pip install cellwright[drugs]``). Hydrogens are counted, not drawn; the pieces of a
salt stay pieces of one graph. Bonds carry no features: the graph network of DeepCDR (Liu et al., Bioinformatics 2020)
reads neighbourhoods alone.

Features of an atom, 34 numbers: element, one of ``ELEMENTS`` or other (13); number of neighbours 0 .. 6 (7), hydrogens
0 .. 4 (5), hybridisation sp, sp2, sp3, other (4): one-hot, larger counts at the last place; aromatic, in a ring,
clockwise and anticlockwise stereo centre: 0 or 1; formal charge. The 75 features of published graphs (DeepChem's
ConvMol) are another set: a model knows only the one that it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellwright.config import did_you_mean

ELEMENTS = ("B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I")
INSTALL = "pip install cellwright[drugs]"
NUM_ATOM_FEATURES = len(ELEMENTS) + 1 + 7 + 5 + 4 + 5


@dataclass(frozen=True, slots=True, eq=False)
class MoleculeGraphs:
    """Graphs of drugs, one after another."""

    drugs: tuple[str, ...]
    atom_af: np.ndarray
    """float32: features of all atoms."""
    atom_offset: np.ndarray
    """int64 ``[drugs + 1]``: drug i has the atoms ``atom_offset[i]:atom_offset[i + 1]``."""
    edge_2e: np.ndarray
    """int64: from and to, as places among the drug's own atoms; every bond in both directions, no loops."""
    edge_offset: np.ndarray

    def __post_init__(self):
        if len(set(self.drugs)) != len(self.drugs):
            raise ValueError("a drug has two graphs; give each name once")
        for name, offset, num in (
            ("atom_offset", self.atom_offset, len(self.atom_af)),
            ("edge_offset", self.edge_offset, self.edge_2e.shape[1]),
        ):
            if len(offset) != len(self.drugs) + 1 or offset[0] != 0 or offset[-1] != num or (np.diff(offset) < 0).any():
                raise ValueError(f"{name} does not divide {num} entries among {len(self.drugs)} drugs")
        size_u = np.diff(self.atom_offset)
        if len(size_u) and not size_u.min():
            raise ValueError(f"the graph of drug {self.drugs[int(size_u.argmin())]!r} has no atoms")
        limit_e = np.repeat(size_u, np.diff(self.edge_offset))
        if (self.edge_2e < 0).any() or (self.edge_2e >= limit_e).any():
            raise ValueError("a bond points outside of its own drug; edges count the atoms of each drug from 0")

    def take(self, at_u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the graphs of these drugs as one: atom features, edges ``[2, e]`` and the drug of each atom.

        Edges and drugs count among what is returned.
        """
        size_u, degree_u = np.diff(self.atom_offset)[at_u], np.diff(self.edge_offset)[at_u]
        atom_at = _spans(self.atom_offset[at_u], size_u)
        edge_at = _spans(self.edge_offset[at_u], degree_u)
        start_u = np.cumsum(size_u) - size_u
        edge_2e = self.edge_2e[:, edge_at] + np.repeat(start_u, degree_u)
        return self.atom_af[atom_at], edge_2e, np.repeat(np.arange(len(at_u)), size_u)

    def ordered(self, drugs: Sequence[str]) -> MoleculeGraphs:
        """Return the graphs of these drugs, in this order.

        Raises
        ------
        ValueError
            When a drug has no graph.
        """
        place = {name: i for i, name in enumerate(self.drugs)}
        if lost := [name for name in drugs if name not in place]:
            raise ValueError(
                f"{len(lost)} drugs have no structure, for instance {lost[0]!r}{did_you_mean(lost[0], place)}; add "
                "their SMILES, or leave their pairs out"
            )
        at_u = np.array([place[name] for name in drugs], np.int64)
        size_u, degree_u = np.diff(self.atom_offset)[at_u], np.diff(self.edge_offset)[at_u]
        return MoleculeGraphs(
            tuple(drugs),
            self.atom_af[_spans(self.atom_offset[at_u], size_u)],
            np.concatenate([[0], np.cumsum(size_u)]).astype(np.int64),
            self.edge_2e[:, _spans(self.edge_offset[at_u], degree_u)],
            np.concatenate([[0], np.cumsum(degree_u)]).astype(np.int64),
        )


def _spans(start_u: np.ndarray, size_u: np.ndarray) -> np.ndarray:
    """Return the positions ``start .. start + size`` of each, joined."""
    first_u = np.cumsum(size_u) - size_u
    return np.arange(size_u.sum()) + np.repeat(start_u - first_u, size_u)


def graphs_from_smiles(smiles: Mapping[str, str]) -> MoleculeGraphs:
    """Read drug -> SMILES into graphs; see the module's text for the features.

    Raises
    ------
    ValueError
        RDKit is not installed (the message says how), or it cannot read a SMILES (the message names the drug).
    """
    try:
        from rdkit import Chem, RDLogger
    except ImportError:
        raise ValueError(f"reading SMILES needs RDKit: {INSTALL}; or give graphs as an .npz file") from None
    if not smiles:
        raise ValueError("there are no drugs to read")
    RDLogger.DisableLog("rdApp.error")  # the message below says the same, in one line
    atoms, edges = [], []
    try:
        for drug, text in smiles.items():
            molecule = Chem.MolFromSmiles(text)
            if molecule is None or not molecule.GetNumAtoms():
                raise ValueError(f"the SMILES of drug {drug!r} cannot be read: {text!r}")
            atoms.append(np.array([_atom_features(atom) for atom in molecule.GetAtoms()], np.float32))
            pairs = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
            both = np.array([*pairs, *((b, a) for a, b in pairs)], np.int64).reshape(-1, 2)
            edges.append(both.T)
    finally:
        RDLogger.EnableLog("rdApp.error")
    return MoleculeGraphs(
        tuple(smiles),
        np.concatenate(atoms),
        np.concatenate([[0], np.cumsum([len(part) for part in atoms])]).astype(np.int64),
        np.concatenate(edges, axis=1),
        np.concatenate([[0], np.cumsum([part.shape[1] for part in edges])]).astype(np.int64),
    )


def _atom_features(atom) -> list[float]:
    symbol = atom.GetSymbol()
    element = ELEMENTS.index(symbol) if symbol in ELEMENTS else len(ELEMENTS)
    hybrid = {"SP": 0, "SP2": 1, "SP3": 2}.get(str(atom.GetHybridization()), 3)
    turn = str(atom.GetChiralTag())
    return [
        *_one_hot(element, len(ELEMENTS) + 1),
        *_one_hot(atom.GetDegree(), 7),
        *_one_hot(atom.GetTotalNumHs(), 5),
        *_one_hot(hybrid, 4),
        float(atom.GetIsAromatic()),
        float(atom.IsInRing()),
        float(turn == "CHI_TETRAHEDRAL_CW"),
        float(turn == "CHI_TETRAHEDRAL_CCW"),
        float(atom.GetFormalCharge()),
    ]


def _one_hot(at: int, width: int) -> list[float]:
    return [float(i == min(at, width - 1)) for i in range(width)]


def read_graphs(path: str | Path) -> MoleculeGraphs:
    """Read graphs from an .npz: ``drug`` (or ``pubchem_id``), ``atom_features``, ``atom_offset``, ``edge_index``,
    ``edge_offset``, as in `MoleculeGraphs`.

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ValueError
        If it is no such file, or an array is missing or does not fit the others.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is no .npz file of arrays ({error})") from None
    named = found.get("drug", found.get("pubchem_id"))
    missing = [n for n in ("atom_features", "atom_offset", "edge_index", "edge_offset") if n not in found]
    if named is None or missing:
        raise ValueError(f"{path} lacks {missing[0] if missing else 'drug'!r}; it holds {sorted(found)}")
    return MoleculeGraphs(
        tuple(map(str, named.tolist())),
        found["atom_features"].astype(np.float32),
        found["atom_offset"].astype(np.int64),
        found["edge_index"].astype(np.int64),
        found["edge_offset"].astype(np.int64),
    )


def write_graphs(graphs: MoleculeGraphs, path: str | Path) -> None:
    """Write what `read_graphs` reads; parent folders are made."""
    from cellwright.files import atomic_path

    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path} must end in .npz")
    with atomic_path(path) as draft:
        np.savez_compressed(
            draft,
            drug=np.array(graphs.drugs, dtype=str),
            atom_features=graphs.atom_af,
            atom_offset=graphs.atom_offset,
            edge_index=graphs.edge_2e,
            edge_offset=graphs.edge_offset,
        )
