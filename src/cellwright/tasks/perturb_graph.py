"""A graph model of perturbations in the GEARS manner, fed by context gene embeddings of any family or none.

It learns the mean effect of each training perturbation from its controls (`cellwright.nn.gene_graph`), by full passes
over the training profiles. When to stop is chosen on validation profiles, which are held out of training as test
profiles are; test profiles are not in the lesson at all. With per-cell context embeddings each pass draws controls
anew, paired with perturbed cells within context and sequencing batch, and a profile's effect is the mean over them.

Departures from GEARS: means in place of single cells, since these are what is scored; and no direction term in the
loss, whose published form (squared difference of signs) has no gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cellwright.baselines.perturbation import Asked, Profiles
from cellwright.config import Config
from cellwright.data.gene_graphs import GeneGraph, coexpression_graph
from cellwright.data.pairs import pair_controls
from cellwright.nn.gene_graph import GeneGraphNetwork, GeneGraphShape
from cellwright.tasks.gene_features import CellContexts, GeneTable
from cellwright.tasks.lessons import Lesson
from cellwright.tasks.perturb import Predicted

_CHUNK_VALUES = 20_000_000
"""States held at once in prediction: profiles x genes x width; 80 MB, however many genes there are."""


class GraphConfig(Config):
    """How the graph model is built and trained."""

    width: int = Field(64, ge=1)
    """Size of all states (GEARS: 64)."""
    hops: int = Field(1, ge=1)
    """Steps over the graphs (GEARS: 1)."""
    num_neighbors: int = Field(20, ge=1)
    """Neighbours of each gene in the co-expression graph (GEARS: 20)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of the layers between states."""
    lr: float = Field(3e-3, gt=0)
    """Learning rate (GEARS: 1e-3)."""
    weight_decay: float = Field(1e-2, ge=0)
    """AdamW's (GEARS: 5e-4 in Adam)."""
    power: float = Field(2.0, ge=1)
    """Exponent of errors in the loss (GEARS: 4, which attends to the largest ones)."""
    max_epochs: int = Field(200, ge=1)
    """Passes over the training profiles."""
    patience: int = Field(30, ge=1)
    """Passes without a better validation error after which training stops."""
    epochs_without_valid: int = Field(40, ge=1)
    """Passes where there is no validation profile to choose by."""
    batch_size: int = Field(32, ge=1)
    """Profiles a step."""
    cells_per_profile: int = Field(4, ge=1)
    """Controls a profile and step, with per-cell context embeddings."""
    cells_to_predict: int = Field(32, ge=1)
    """Controls that a prediction is the mean over, with per-cell context embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPerturb:
    """The graph model (a `PerturbModel`)."""

    name: str = "graph"
    what: str = "graph model in the GEARS manner, learned gene embeddings"
    config: GraphConfig = GraphConfig()
    node_graph: GeneGraph
    """Over everything that can be perturbed, and their neighbours: shared gene sets or co-expression."""
    node_features: GeneTable | None = None
    """Features of these nodes."""
    gene_features: GeneTable | None = None
    """Context gene embedding, the same for all cells."""
    contexts: CellContexts | None = None
    """Context gene embeddings cell by cell; not together with ``gene_features``."""
    history: dict[int, list[dict[str, float]]] = field(default_factory=dict)
    """Lesson number -> errors after each pass, filled in by `fit`; for looking at."""

    def fit(self, lesson: Lesson) -> FittedGraph:
        """Learn a lesson. The same lesson and seed give the same model."""
        if self.gene_features is not None and self.contexts is not None:
            raise ValueError("give gene_features or contexts, not both")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(lesson.seed)
            model = self._build(lesson)
            history = _train(model, lesson, self.config)
        self.history[len(self.history)] = history
        return model

    def _build(self, lesson: Lesson) -> FittedGraph:
        controls = np.flatnonzero(lesson.profile_n < 0)
        gene_graph = coexpression_graph(lesson.genes, lesson.log_ng[controls], num_neighbors=self.config.num_neighbors)
        table = self.gene_features
        gene_gd = None if table is None else _scaled(table.aligned(lesson.genes)[0])
        node = self.node_features
        node_pd = None if node is None else _scaled(node.aligned(self.node_graph.genes)[0])
        train = lesson.train
        scale = float(train.effect_ug.std()) or 1.0
        width = self.contexts.width if self.contexts is not None else 0 if gene_gd is None else gene_gd.shape[1]
        shape = GeneGraphShape(
            num_genes=len(lesson.genes),
            num_nodes=len(self.node_graph.genes),
            width=self.config.width,
            gene_width=width,
            node_width=0 if node_pd is None else node_pd.shape[1],
            hops=self.config.hops,
            dropout=self.config.dropout,
        )
        network = GeneGraphNetwork(
            shape, gene_graph.smoother(), self.node_graph.smoother(), node_pd, train.effect_ug.mean(0) / scale
        )
        return FittedGraph(
            network=network,
            place={name: at for at, name in enumerate(self.node_graph.genes)},
            scale=scale,
            gene_gd=None if gene_gd is None else torch.from_numpy(gene_gd),
            genes=lesson.genes,
            contexts=self.contexts,
            lesson=None if self.contexts is None else lesson,
            cells_to_predict=self.config.cells_to_predict,
        )


def joined_tables(tables: Sequence[GeneTable], genes: Sequence[str]) -> GeneTable | None:
    """Put gene tables side by side, each brought to the same size; ``None`` without any."""
    if not tables:
        return None
    value_gd = np.concatenate([_scaled(table.aligned(genes)[0]) for table in tables], axis=1)
    return GeneTable(tuple(genes), value_gd, " and ".join(table.what for table in tables))


@dataclass(slots=True, kw_only=True, eq=False)
class FittedGraph:
    """A trained graph model (a `FittedPerturb`)."""

    network: GeneGraphNetwork
    place: Mapping[str, int]
    """Name -> node."""
    scale: float
    """Unit of effects: their standard deviation in training."""
    gene_gd: Tensor | None
    genes: tuple[str, ...]
    contexts: CellContexts | None = None
    lesson: Lesson | None = None
    """Cells that ``contexts`` are read for."""

    @property
    def num_trained(self) -> int:
        """Parameters that were trained."""
        return sum(weight.numel() for weight in self.network.parameters())

    cells_to_predict: int = 32

    def predict(self, asked: Asked) -> Predicted:
        """Predict effects, few profiles at a time, so that memory does not grow with what is asked.

        A part that is no node of the graph is unknown to the model: it counts as nothing beside the other parts.
        """
        node_um = self.nodes(asked)
        values = len(self.genes) * self.network.shape.width
        step = max(1, _CHUNK_VALUES // max(values, 1))
        rows = []
        self.network.eval()
        with torch.inference_mode():
            for u in range(len(asked)) if self.contexts is not None else ():
                rows.append(self._of_cells(asked.take([u]), node_um[u], step))
            for first in range(0, len(asked), step) if self.contexts is None else ():
                some = slice(first, first + step)
                control_ug = torch.from_numpy(asked.control_ug[some].astype(np.float32))
                rows.append(self.network(control_ug, node_um[some], self.gene_gd))
        effect_ug = torch.cat(rows).double().numpy() * self.scale if rows else np.zeros(asked.control_ug.shape)
        return Predicted(effect_ug)

    def nodes(self, asked: Asked) -> Tensor:
        """Return int64 ``[u, m]``: nodes of the parts, -1 = none."""
        most = max((len(parts) for parts in asked.parts), default=1)
        rows = [[*(self.place.get(part, -1) for part in parts), *[-1] * (most - len(parts))] for parts in asked.parts]
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), most)

    def _of_cells(self, asked: Asked, node_m: Tensor, step: int) -> Tensor:
        """Return the mean effect over controls of the context, ``[1, g]``; always the same ones."""
        lesson = self.lesson
        controls = np.flatnonzero((lesson.profile_n < 0) & (lesson.context_n == asked.context_u[0]))
        controls = np.random.default_rng(lesson.seed).permutation(controls)[: self.cells_to_predict]
        total_g, step = torch.zeros(len(self.genes)), max(1, step // 4)
        for first in range(0, len(controls), step):
            some = controls[first : first + step]
            total_g += self.of_cells(some, node_m.expand(len(some), -1)).sum(0)
        return total_g[None] / len(controls)

    def of_cells(self, at_n: np.ndarray, node_nm: Tensor) -> Tensor:
        """Return effects on single cells of the lesson, ``[n, g]``, in units of ``scale``."""
        control_ng = torch.from_numpy(self.lesson.log_ng[at_n].toarray())
        found_ngd = self.contexts.read(self.lesson.row_n[at_n])
        order = [self.contexts.genes.index(gene) for gene in self.genes] if _differ(self) else slice(None)
        return self.network(control_ng, node_nm, torch.from_numpy(found_ngd[:, order]))


def _differ(model: FittedGraph) -> bool:
    return model.contexts.genes != model.genes


def _scaled(value_gd: np.ndarray) -> np.ndarray:
    """Bring an embedding to a mean square of 1, whatever its origin; genes without one stay at 0."""
    is_there_g = value_gd.any(1)
    size = np.sqrt((value_gd[is_there_g] ** 2).mean()) if is_there_g.any() else 1.0
    return (value_gd / max(size, 1e-12)).astype(np.float32)


def _train(model: FittedGraph, lesson: Lesson, config: GraphConfig) -> list[dict[str, float]]:
    """Train in place and keep the weights of the lowest validation error."""
    train, valid = lesson.train, lesson.valid
    network = model.network
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    rng = np.random.default_rng(lesson.seed)
    best, best_error, best_epoch, history = copy.deepcopy(network.state_dict()), np.inf, 0, []
    if len(valid):  # the untrained network, which says the mean effect, is a candidate
        best_error = _valid_error(model, valid)
        history.append({"epoch": 0, "valid_mse": best_error})
    for epoch in range(1, (config.max_epochs if len(valid) else config.epochs_without_valid) + 1):
        network.train()
        order, losses = rng.permutation(len(train)), []
        for first in range(0, len(order), config.batch_size):
            some = train.take(order[first : first + config.batch_size])
            target_ug = torch.from_numpy((some.effect_ug / model.scale).astype(np.float32))
            off_ug = (_effects(model, some, lesson, config, rng) - target_ug).abs()
            loss = (off_ug**config.power).mean()
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss of the graph model is not finite in pass {epoch}; lower lr")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
        history.append({"epoch": epoch, "train_loss": float(np.mean(losses))})
        if not len(valid):
            continue
        error = _valid_error(model, valid)
        history[-1]["valid_mse"] = error
        if error < best_error:
            best, best_error, best_epoch = copy.deepcopy(network.state_dict()), error, epoch
        elif epoch - best_epoch >= config.patience:
            break
    if len(valid):
        network.load_state_dict(best)
    network.eval()
    return history


def _valid_error(model: FittedGraph, valid: Profiles) -> float:
    return float(((model.predict(valid.asked).effect_ug - valid.effect_ug) ** 2).mean())


def _effects(
    model: FittedGraph, some: Profiles, lesson: Lesson, config: GraphConfig, rng: np.random.Generator
) -> Tensor:
    """Predict the effects of training profiles with gradients, in units of ``scale``."""
    node_um = model.nodes(some.asked)
    if model.contexts is None:
        control_ug = torch.from_numpy(some.asked.control_ug.astype(np.float32))
        return model.network(control_ug, node_um, model.gene_gd)
    controls = np.flatnonzero(lesson.profile_n < 0)
    at_n, row_n = [], []
    for u, parts in enumerate(some.asked.parts):
        is_of_u = [parts == other for other in lesson.profiles.asked.parts]
        is_of_u &= lesson.profiles.asked.context_u == some.asked.context_u[u]
        cells = np.flatnonzero(np.isin(lesson.profile_n, np.flatnonzero(is_of_u)))
        drawn = rng.choice(cells, config.cells_per_profile, replace=len(cells) < config.cells_per_profile)
        pairs = pair_controls(
            drawn,
            controls,
            context_n=lesson.context_n,
            tech_batch_n=lesson.tech_batch_n,
            seed=int(rng.integers(2**31)),
        )
        at_n.append(pairs.control_n)
        row_n += [u] * len(drawn)
    effect_ng = model.of_cells(np.concatenate(at_n), node_um[row_n])
    return effect_ng.reshape(len(some), config.cells_per_profile, -1).mean(1)
