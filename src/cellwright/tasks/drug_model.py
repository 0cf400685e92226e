"""The network of drug response: a branch for the drug, a branch for the cell line, and a head over both.

Sizes are those of DeepCDR (Liu et al., Bioinformatics 2020, 36:i911): a graph convolution network of 256, 256, 256 and
100 over the drug's atoms, each layer followed by ReLU, batch norm and dropout; 256 (tanh, batch norm) and 100 (ReLU)
for the cell line; 300 (tanh) over both. The graph layers are PyTorch Geometric's, which add self loops and scale by
degrees as DeepCDR does.

Departures: a drug is the mean of its own atoms (published: of 100 places, empty ones included, which mixes its size
into every feature); atom features are ours; the default head is two dense layers (published: three convolutions over
the 300 numbers, whose order means nothing; ``head="convolution"``). Mutation and methylation branches are not here:
join features instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from cellwright.config import Config
from cellwright.data.drugs import Responses
from cellwright.data.molecules import INSTALL, MoleculeGraphs
from cellwright.layout import taken_rows
from cellwright.types import Draw


class DrugNetConfig(Config):
    """Architecture."""

    drug: Literal["graph", "identity"] = "graph"
    """graph: from the structure, so that new drugs can be asked for. identity: a learned vector a training drug."""
    graph_widths: tuple[PositiveInt, ...] = Field((256, 256, 256), min_length=1)
    """Graph layers before the last, whose width is ``drug_width``."""
    drug_width: int = Field(100, ge=1)
    """Numbers that describe a drug."""
    cell_hidden: int = Field(256, ge=1)
    """First layer of the cell branch."""
    cell_width: int = Field(100, ge=1)
    """Numbers that describe a cell line."""
    head: Literal["dense", "convolution"] = "dense"
    """What stands over the joint layer; convolution = as published, four times slower."""
    head_width: int = Field(300, ge=1)
    """Joint layer; the published convolutions need 300."""
    dropout: float = Field(0.1, ge=0, lt=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairTensors:
    """What the network receives of a minibatch: no value that is to be predicted.

    Each branch runs once for each drug (line) of the minibatch, however many pairs it is in.
    """

    feature_lf: Tensor
    """float32: standardised features of each cell line."""
    line_p: Tensor
    """int64: place of each pair's line among the lines of the minibatch."""
    drug_p: Tensor
    """int64: place of each pair's drug among the drugs of the minibatch."""
    identity_u: Tensor | None = None
    """int64: which training drug each drug is."""
    atom_af: Tensor | None = None
    edge_2e: Tensor | None = None
    drug_a: Tensor | None = None
    """int64: the drug of each atom."""

    def to(self, device: torch.device | str) -> PairTensors:
        """Return a copy on ``device``."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in given.items() if value is not None})


class PairTokens:
    """Turns pairs into tensors; what a tokeniser is to cells.

    Parameters
    ----------
    feature_lf
        Standardised features; rows are the lines that pairs count in.
    drugs
        Names of the drugs that pairs count in.
    graphs
        Their structures in the same order, or ``None`` when drugs are known by name.
    known
        The training drugs, in the order of the learned vectors (for drugs known by name).
    """

    def __init__(
        self,
        feature_lf: np.ndarray,
        drugs: Sequence[str],
        *,
        graphs: MoleculeGraphs | None = None,
        known: Sequence[str] = (),
    ):
        self.feature_lf = torch.as_tensor(feature_lf, dtype=torch.float32)
        self.graphs = graphs
        place = {name: i for i, name in enumerate(known)}
        self.identity_u = np.array([place.get(name, -1) for name in drugs], np.int64)
        self.drugs = tuple(drugs)

    def __call__(self, pairs: Responses, draw: Draw) -> PairTensors:
        """Encode pairs; nothing is drawn. A drug without a learned vector is a ``ValueError``."""
        drug_u, drug_p = np.unique(pairs.drug_p, return_inverse=True)
        line_l, line_p = np.unique(pairs.line_p, return_inverse=True)
        if len(line_l) == 1:  # batch norm has no statistic of one line
            line_l = np.repeat(line_l, 2)
        places = {
            "feature_lf": self.feature_lf[torch.from_numpy(line_l)],
            "line_p": torch.from_numpy(line_p.reshape(-1)),
            "drug_p": torch.from_numpy(drug_p.reshape(-1)),
        }
        if self.graphs is None:
            identity_u = self.identity_u[drug_u]
            if (identity_u < 0).any():
                name = self.drugs[int(drug_u[np.argmax(identity_u < 0)])]
                raise ValueError(
                    f"drug {name!r} was not in training, and this model knows drugs by name only; train one with "
                    "structures (net.drug=graph) to ask for new drugs"
                )
            return PairTensors(**places, identity_u=torch.from_numpy(identity_u))
        atom_af, edge_2e, drug_a = (torch.from_numpy(part) for part in self.graphs.take(drug_u))
        return PairTensors(**places, atom_af=atom_af, edge_2e=edge_2e, drug_a=drug_a)


class GraphBranch(nn.Module):
    """Drug structures to vectors: graph convolutions, then the mean over each drug's atoms."""

    def __init__(self, num_features: int, widths: Sequence[int], dropout: float):
        super().__init__()
        self._mean = _geometric().global_mean_pool
        sizes = [num_features, *widths]
        self.layers = nn.ModuleList(_geometric().GCNConv(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tensors: PairTensors) -> Tensor:
        """Return ``[u, d]``."""
        hidden_ad = tensors.atom_af
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden_ad = self.dropout(norm(torch.relu(layer(hidden_ad, tensors.edge_2e))))
        return self._mean(hidden_ad, tensors.drug_a)


class IdentityBranch(nn.Module):
    """A learned vector for each training drug."""

    def __init__(self, num_drugs: int, width: int):
        super().__init__()
        self.vector = nn.Embedding(num_drugs, width)

    def forward(self, tensors: PairTensors) -> Tensor:
        """Return ``[u, d]``."""
        return self.vector(tensors.identity_u)


class DrugNet(nn.Module):
    """Predicts the (standardised) response of each pair.

    Parameters
    ----------
    num_features
        Features of a cell line.
    num_drugs
        Training drugs, for drugs known by name.
    num_atom_features
        Features of an atom, for structures.

    Raises
    ------
    ValueError
        When structures are wanted and PyTorch Geometric is not installed.
    """

    def __init__(self, config: DrugNetConfig, *, num_features: int, num_drugs: int, num_atom_features: int):
        super().__init__()
        if config.drug == "graph":
            widths = (*config.graph_widths, config.drug_width)
            self.drug = GraphBranch(num_atom_features, widths, config.dropout)
        else:
            self.drug = IdentityBranch(num_drugs, config.drug_width)
        self.cell = nn.Sequential(
            nn.Linear(num_features, config.cell_hidden),
            nn.Tanh(),
            nn.BatchNorm1d(config.cell_hidden),
            nn.Dropout(config.dropout),
            nn.Linear(config.cell_hidden, config.cell_width),
            nn.ReLU(),
        )
        self.head = _head(config)

    def forward(self, tensors: PairTensors) -> Tensor:
        """Return ``[p]``."""
        drug_pd = taken_rows(self.drug(tensors), tensors.drug_p)
        cell_pd = taken_rows(self.cell(tensors.feature_lf), tensors.line_p)
        return self.head(torch.cat([drug_pd, cell_pd], dim=1))[:, 0]


def _head(config: DrugNetConfig) -> nn.Sequential:
    joint = [nn.Linear(config.drug_width + config.cell_width, config.head_width), nn.Tanh(), nn.Dropout(config.dropout)]
    if config.head == "dense":
        return nn.Sequential(*joint, nn.Linear(config.head_width, 100), nn.ReLU(), nn.Linear(100, 1))
    parts, length = [nn.Unflatten(1, (1, config.head_width))], config.head_width
    for channels, (num_in, size, pool) in zip((30, 10, 5), ((1, 150, 2), (30, 5, 3), (10, 5, 3)), strict=True):
        parts += [nn.Conv1d(num_in, channels, size), nn.ReLU(), nn.MaxPool1d(pool)]
        length = (length - size + 1) // pool
        if length < 1:
            raise ValueError(f"head_width {config.head_width} is too narrow for the published convolutions; use 300")
    last = [nn.Dropout(config.dropout), nn.Flatten(), nn.Dropout(2 * config.dropout), nn.Linear(5 * length, 1)]
    return nn.Sequential(*joint, *parts, *last)


def _geometric() -> Any:
    try:
        with warnings.catch_warnings():  # its import uses a part of torch that is to go
            warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
            import torch_geometric.nn
    except ImportError:
        raise ValueError(f"drug structures need PyTorch Geometric: {INSTALL}; or use net.drug=identity") from None
    return torch_geometric.nn
