"""A network of gene graphs that predicts what a perturbation changes, in the manner of GEARS.

Source: Roohani, Huang and Leskovec, Nature Biotechnology 42:927 (2024), and its use with context gene embeddings in
scFoundation (Hao et al. 2024). Genes are smoothed over a graph of co-expression, perturbed genes over a graph of shared
function (simplified graph convolution: powers of one fixed matrix, then a linear layer); a gene's state and the sum of
what is perturbed give its change, and a vector of the whole predicted change corrects it.

Departures: the state of a gene also holds its control expression; layer norms in place of batch norms, so that a
prediction does not depend on what stands beside it; outputs start from a given effect in place of 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from cellwright.layout import taken_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneGraphShape:
    """Sizes of the network."""

    num_genes: int
    """Genes whose change is predicted."""
    num_nodes: int
    """Things that can be perturbed, and their neighbours."""
    width: int = 64
    gene_width: int = 0
    """Size of the context gene embedding, 0 = none."""
    node_width: int = 0
    """Size of the features of perturbed genes, 0 = none."""
    hops: int = 1
    """Steps over the graphs."""
    dropout: float = 0.0


class Smooth(nn.Module):
    """Average over neighbours, ``hops`` times: a fixed sparse matrix."""

    def __init__(self, smoother_gg: sparse.csr_array, hops: int):
        super().__init__()
        found = smoother_gg.tocoo()
        self.size, self.hops = smoother_gg.shape[0], hops
        edge = torch.from_numpy(np.stack(found.coords).astype(np.int64))
        self.register_buffer("edge", edge, persistent=False)
        self.register_buffer("weight", torch.from_numpy(found.data.astype(np.float32)), persistent=False)

    def forward(self, x_gd: Tensor) -> Tensor:
        """Smooth over the first axis."""
        shape = (self.size, self.size)
        matrix = torch.sparse_coo_tensor(self.edge, self.weight, shape, is_coalesced=True, check_invariants=False)
        for _ in range(self.hops):
            x_gd = torch.sparse.mm(matrix, x_gd)
        return x_gd


class GeneGraphNetwork(nn.Module):
    """Control expression and what is perturbed in, change of expression out; see the module's text.

    Parameters
    ----------
    gene_smoother, node_smoother
        Rows sum to 1, see `cellwright.data.gene_graphs.GeneGraph.smoother`.
    node_features_pd
        float32 ``[nodes, node_width]``: what is known of perturbed genes. A node without features and neighbours that
        was never trained is described by zeros: the network then says what it says of any perturbation.
    start_g
        Effect that an untrained network predicts (the mean effect of training perturbations).
    """

    def __init__(
        self,
        shape: GeneGraphShape,
        gene_smoother: sparse.csr_array,
        node_smoother: sparse.csr_array,
        node_features_pd: np.ndarray | None,
        start_g: np.ndarray,
    ):
        super().__init__()
        width = shape.width
        self.shape = shape
        self.gene = nn.Parameter(0.1 * torch.randn(shape.num_genes, width))
        self.gene_context = nn.Linear(shape.gene_width, width, bias=False) if shape.gene_width else None
        self.value = nn.Parameter(0.1 * torch.randn(width))
        self.gene_smooth, self.gene_mix = Smooth(gene_smoother, shape.hops), nn.Linear(width, width, bias=False)
        self.gene_mlp = _mlp(width, width, width, shape.dropout)
        self.node = nn.Parameter(torch.zeros(shape.num_nodes, width))
        self.node_context = nn.Linear(shape.node_width, width, bias=False) if shape.node_width else None
        features_pd = np.zeros((shape.num_nodes, 0)) if node_features_pd is None else node_features_pd
        self.register_buffer("node_features_pd", torch.from_numpy(features_pd.astype(np.float32)))
        self.node_smooth, self.node_mlp = Smooth(node_smoother, shape.hops), _mlp(width, width, width, shape.dropout)
        self.joint = _mlp(width, width, width, shape.dropout)
        self.weight_gd = nn.Parameter(torch.zeros(shape.num_genes, width))
        self.bias_g = nn.Parameter(torch.from_numpy(np.asarray(start_g, np.float32)).clone())
        self.cross = _mlp(shape.num_genes, width, width, shape.dropout)
        self.cross_gd = nn.Parameter(torch.zeros(shape.num_genes, width))

    def forward(self, control_ng: Tensor, node_nm: Tensor, context_ngd: Tensor | None = None) -> Tensor:
        """Predict changes.

        Parameters
        ----------
        control_ng
            Log expression before.
        node_nm
            int64 nodes that are perturbed, -1 = none (rows may perturb different numbers).
        context_ngd
            Context gene embeddings of these cells, or ``[g, d]`` the same for all; needed when ``gene_width`` > 0.

        Returns
        -------
        float ``[n, g]``: change of log expression.
        """
        gene_ngd = self.gene + control_ng[..., None] * self.value
        if self.gene_context is not None:
            if context_ngd is None:
                raise ValueError("this network takes context gene embeddings, and none were given")
            gene_ngd = gene_ngd + self.gene_context(context_ngd)
        num, size, width = gene_ngd.shape
        smooth_gd = self.gene_smooth(gene_ngd.transpose(0, 1).reshape(size, num * width))
        smooth_ngd = smooth_gd.reshape(size, num, width).transpose(0, 1)
        gene_ngd = self.gene_mlp(gene_ngd + 0.2 * self.gene_mix(smooth_ngd))
        joint_ngd = self.joint(gene_ngd + self.perturbed(node_nm)[:, None])
        change_ng = (joint_ngd * self.weight_gd).sum(-1) + self.bias_g
        return change_ng + self.cross(change_ng) @ self.cross_gd.T

    def perturbed(self, node_nm: Tensor) -> Tensor:
        """Return what is perturbed as one vector a row, ``[n, d]``."""
        node_pd = self.node
        if self.node_context is not None:
            node_pd = node_pd + self.node_context(self.node_features_pd)
        node_pd = self.node_smooth(node_pd)
        is_there_nm1 = (node_nm >= 0)[..., None]
        return self.node_mlp((taken_rows(node_pd, node_nm.clamp(min=0)) * is_there_nm1).sum(1))


def _mlp(width_in: int, width: int, width_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width_in), nn.Linear(width_in, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width_out)
    )
