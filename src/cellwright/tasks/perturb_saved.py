"""Keep a model of perturbations, and ask it of conditions that nobody measured: in another process, without the screen.

A folder holds the trained network and what it starts from: the panel, the mean controls of every context and, for a
fine-tuned cell model, the control cells of its predictions and the cell model itself (a model folder like any other).
Nothing in it is a pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from cellwright.baselines.perturbation import Asked
from cellwright.data.perturbations import parse_condition
from cellwright.nn.gene_graph import GeneGraphNetwork, GeneGraphShape
from cellwright.tasks.lessons import Screen
from cellwright.tasks.perturb import FittedPerturb
from cellwright.tasks.perturb_cells import CellPerturbConfig, FittedCells
from cellwright.tasks.perturb_graph import FittedGraph
from cellwright.tasks.perturb_tokens import Feed

FORMAT = "cellwright perturbation model 1"
STATE, NETWORK = "perturbation", "network"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedPerturb:
    """A trained model of perturbations and what it is asked with."""

    fitted: FittedPerturb
    genes: tuple[str, ...]
    contexts: tuple[str, ...]
    control: str
    """Name of the controls in names of conditions."""
    kind: str
    """genes | labels: what names of conditions hold."""
    control_cg: np.ndarray
    """float64 ``[contexts, g]``: mean log expression of the controls that were seen."""
    what: str
    """The method, in one line."""

    @classmethod
    def of(cls, fitted: FittedPerturb, screen: Screen, what: str) -> SavedPerturb:
        """Put a model that learnt from a screen together with what it starts from."""
        return cls(
            fitted=fitted,
            genes=screen.genes,
            contexts=screen.contexts,
            control=screen.perturbations.control,
            kind=screen.perturbations.kind,
            control_cg=np.nan_to_num(screen.control_means(screen.is_seen_n)),
            what=what,
        )

    def asked(self, condition: str) -> Asked:
        """Return the question what a condition (``A`` or ``A+B``) would do in every context.

        Raises
        ------
        ValueError
            The condition is the control, or has an empty part.
        """
        parts = parse_condition(condition, self.control)
        if self.kind == "labels" and any(not self._is_known(part) for part in parts):
            parts = (condition.strip(),)  # a plus in the name of a drug
        if not parts:
            raise ValueError(f"{condition!r} is the control; name a perturbation to predict (predict=, --predict)")
        num = len(self.contexts)
        return Asked(parts=(parts,) * num, context_u=np.arange(num), control_ug=self.control_cg)

    def predict(self, conditions: Sequence[str]) -> dict[str, np.ndarray]:
        """Return condition -> change of mean log expression in every context, float64 ``[contexts, g]``."""
        asked = {name: self.asked(name) for name in conditions}
        return {name: self.fitted.predict(question).effect_ug for name, question in asked.items()}

    def unknown(self, condition: str) -> tuple[str, ...]:
        """Return those parts of a condition that the model knows nothing of: they have no effect in its answer."""
        return tuple(part for part in self.asked(condition).parts[0] if not self._is_known(part))

    def _is_known(self, part: str) -> bool:
        if isinstance(self.fitted, FittedCells):
            return self.fitted.feed.token(part) >= 0
        return part in self.fitted.place

    def save(self, folder: str | Path) -> None:
        """Write into ``folder``.

        Raises
        ------
        ValueError
            A graph model that is fed context embeddings cell by cell: it needs the cell model and the cells as well.
        """
        from cellwright.train.checkpoint import write_tree

        folder = Path(folder)
        is_cells = isinstance(self.fitted, FittedCells)
        tree = {
            "format": FORMAT,
            "method": "cells" if is_cells else "graph",
            "genes": list(self.genes),
            "contexts": list(self.contexts),
            "control": self.control,
            "kind": self.kind,
            "what": self.what,
            "control_cg": torch.from_numpy(self.control_cg),
            "state": _cells_tree(self.fitted) if is_cells else _graph_tree(self.fitted),
        }
        folder.mkdir(parents=True, exist_ok=True)
        if is_cells:
            self.fitted.feed.model.save(folder / NETWORK)
        write_tree(folder / STATE, tree)

    @classmethod
    def load(cls, folder: str | Path, open_model: Callable[[Path], Any]) -> SavedPerturb:
        """Read what `save` wrote; ``open_model`` opens a model folder (`cellwright.models.load`).

        Raises
        ------
        FileNotFoundError, ValueError
            No such model in the folder, or one of another version.
        """
        from cellwright.train.checkpoint import read_tree

        folder = Path(folder)
        if not (folder / STATE).is_dir():
            raise FileNotFoundError(
                f"{folder} holds no model of perturbations ({STATE} is not there); make one: perturb --keep-model"
            )
        tree = read_tree(folder / STATE)
        if tree.get("format") != FORMAT:
            raise ValueError(f"{folder / STATE} is no {FORMAT!r}; was it written by another version?")
        genes, state = tuple(tree["genes"]), tree["state"]
        is_cells = tree["method"] == "cells"
        fitted = _cells_of(state, genes, open_model(folder / NETWORK)) if is_cells else _graph_of(state, genes)
        return cls(
            fitted=fitted,
            genes=genes,
            contexts=tuple(tree["contexts"]),
            control=tree["control"],
            kind=tree["kind"],
            control_cg=tree["control_cg"].numpy(),
            what=tree["what"],
        )


def _cells_tree(fitted: FittedCells) -> dict[str, Any]:
    control_cg = fitted.control_cg.tocsr()
    return {
        "config": fitted.config.record(),
        "seed": fitted.seed,
        "context_c": torch.from_numpy(np.asarray(fitted.context_c, np.int64)),
        "indptr": torch.from_numpy(control_cg.indptr.astype(np.int64)),
        "indices": torch.from_numpy(control_cg.indices.astype(np.int64)),
        "values": torch.from_numpy(control_cg.data.astype(np.float32)),
    }


def _cells_of(state: dict[str, Any], genes: tuple[str, ...], model: Any) -> FittedCells:
    config = CellPerturbConfig.read(state["config"], STATE)
    stored = tuple(state[name].numpy() for name in ("values", "indices", "indptr"))
    context_c = state["context_c"].numpy()
    return FittedCells(
        feed=Feed(model, genes, config.flag),
        config=config,
        seed=state["seed"],
        control_cg=sparse.csr_matrix(stored, shape=(len(context_c), len(genes))),
        context_c=context_c,
    )


def _graph_tree(fitted: FittedGraph) -> dict[str, Any]:
    if fitted.contexts is not None:
        raise ValueError("a graph model fed cell by cell cannot be kept without the cells; leave out per_cell")
    network = fitted.network
    return {
        "shape": asdict(network.shape),
        "nodes": list(fitted.place),
        "scale": fitted.scale,
        "gene_gd": fitted.gene_gd,
        "network": network.state_dict(),
        "gene_graph": {"edge": network.gene_smooth.edge, "weight": network.gene_smooth.weight},
        "node_graph": {"edge": network.node_smooth.edge, "weight": network.node_smooth.weight},
    }


def _graph_of(state: dict[str, Any], genes: tuple[str, ...]) -> FittedGraph:
    shape = GeneGraphShape(**state["shape"])
    network = GeneGraphNetwork(
        shape,
        _matrix(state["gene_graph"], shape.num_genes),
        _matrix(state["node_graph"], shape.num_nodes),
        np.zeros((shape.num_nodes, shape.node_width)) if shape.node_width else None,
        np.zeros(shape.num_genes),
    )
    network.load_state_dict(state["network"])
    return FittedGraph(
        network=network.eval(),
        place={name: at for at, name in enumerate(state["nodes"])},
        scale=state["scale"],
        gene_gd=state["gene_gd"],
        genes=genes,
    )


def _matrix(graph: dict[str, torch.Tensor], size: int) -> sparse.csr_array:
    weight, edge = graph["weight"].numpy(), graph["edge"].numpy()
    return sparse.coo_array((weight, (edge[0], edge[1])), shape=(size, size)).tocsr()
