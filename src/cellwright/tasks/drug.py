"""Drug response of cell lines: train a network on measured ln IC50, predict other pairs.

Source: DeepCDR (Liu et al. 2020) as scFoundation uses it (Hao et al., Nature Methods 2024): the line's features are
its expression, or the embedding of its expression by any model. Published training chose its epoch by the test set;
here whole lines (or drugs, or pairs) are held out for that, and the test part is never looked at.

The loop is `cellwright.train.run.fit`, as for any model: pairs take the place of cells, `PairTokens` that of the
tokeniser, and `SquaredError` that of the objective. So seeds, checkpoints, resume and early stopping are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from cellwright.config import Config, versions
from cellwright.data.drugs import LineFeatures, Responses
from cellwright.data.loader import CellLoader
from cellwright.data.molecules import MoleculeGraphs
from cellwright.data.splits import Split
from cellwright.tasks.drug_model import DrugNet, DrugNetConfig, PairTokens
from cellwright.tasks.inference import choose_device, in_use
from cellwright.train.config import TrainConfig
from cellwright.train.optim import OptimConfig
from cellwright.types import Draw, LossReport

FOLDER, FORMAT = "drug_model", "cellwright drug response 1"
_PREDICTED_AT_ONCE = 8192
_LEAST_PAIRS = 8


class DrugConfig(Config):
    """How a network of drug response is trained."""

    net: DrugNetConfig = DrugNetConfig()
    """Architecture."""
    batch_size: int = Field(512, ge=8)
    """Pairs a step (published: 64)."""
    group: int = Field(4, ge=1)
    """Minibatches that share the drugs out among them: a step runs the drug branch once for each of its drugs, so that
    fewer drugs a step cost less. 1 = any drug in any minibatch."""
    optim: OptimConfig = OptimConfig(lr=1e-3, schedule="cosine")
    """Optimiser (published: Adam, 1e-3, constant)."""
    train: TrainConfig = TrainConfig(max_epochs=20, keep="best", log_every=50, checkpoint_every=100_000)
    """Length; the weights of the lowest validation error are kept."""
    num_seeds: int = Field(1, ge=1)
    """Networks a fold, trained with the seed and those after it: how much a score owes to the seed."""


@dataclass(frozen=True, slots=True, eq=False)
class PairSource:
    """Pairs that can be read by position."""

    pairs: Responses

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, rows: np.ndarray) -> Responses:
        """Return the pairs at these positions, in this order."""
        return self.pairs.take(rows)


class PairLoader(CellLoader):
    """Minibatches of pairs; within ``group`` minibatches, pairs of the same drug come together.

    Which pairs are in a group, and the order of the drugs in it, is drawn anew each epoch.
    """

    def __init__(self, source: PairSource, rows: np.ndarray, batch_size: int, *, group: int, seed: int):
        # a small last minibatch would give batch norm a statistic of a few pairs
        super().__init__(source, rows, batch_size, seed=seed, drop_last=len(rows) >= batch_size)
        self.group = group

    def order(self) -> np.ndarray:
        """Return all rows in the order of the current epoch."""
        rows = super().order()
        if self.group == 1:
            return rows
        drug_p = self.source.pairs.drug_p[rows]
        generator = np.random.default_rng([self.seed, self._epoch, 1])
        out, size = [], self.group * self.batch_size
        for start in range(0, len(rows), size):
            rank_u = generator.permutation(len(self.source.pairs.drugs))
            out.append(rows[start : start + size][np.argsort(rank_u[drug_p[start : start + size]], kind="stable")])
        return np.concatenate(out)


class SquaredError(nn.Module):
    """Mean square error of the standardised response (an objective, as `TrainPlan` takes it)."""

    def __init__(self, mean: float, sd: float):
        super().__init__()
        self.mean, self.sd = mean, sd
        self.terms: Mapping[str, Any] = {}

    def check(self, model: nn.Module) -> None:
        """Accept any network that answers with one number a pair."""

    def step(self, model: nn.Module, pairs: Responses, *, tokenize: PairTokens, draw: Draw) -> LossReport:
        """Return the loss of a minibatch of pairs.

        Raises
        ------
        FloatingPointError
            If it is not finite.
        """
        device = next(model.parameters()).device
        found_p = model(tokenize(pairs, draw).to(device))
        wanted_p = torch.as_tensor((pairs.value_p - self.mean) / self.sd, dtype=torch.float32, device=device)
        loss = nn.functional.mse_loss(found_p.float(), wanted_p)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the error is {loss.item()} at epoch {draw.epoch}, step {draw.step} (seed {draw.seed}); lower the "
                "learning rate"
            )
        return LossReport(loss=loss, parts={})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrugPredictor:
    """A trained network and what it needs to be asked."""

    network: DrugNet
    config: DrugConfig
    features: tuple[str, ...]
    """Names of the cell line features, in order."""
    mean_f: np.ndarray
    sd_f: np.ndarray
    """Of the training lines; 0 = constant there, the feature is not used."""
    drugs: tuple[str, ...]
    """Drugs in training."""
    num_atom_features: int
    value_mean: float
    value_sd: float
    record: dict[str, Any] = field(default_factory=dict)
    """Split, data and versions of the training."""

    def tokens(self, lines: LineFeatures, drugs: tuple[str, ...], graphs: MoleculeGraphs | None) -> PairTokens:
        """Return the encoder of pairs that count in these lines and drugs.

        Raises
        ------
        ValueError
            A feature is missing, structures are missing or have other atom features.
        """
        if self.config.net.drug == "graph":
            if graphs is None:
                raise ValueError("this model reads drug structures; give SMILES or graphs of the drugs")
            graphs = graphs.ordered(drugs)
            if graphs.atom_af.shape[1] != self.num_atom_features:
                raise ValueError(
                    f"atoms have {graphs.atom_af.shape[1]} features, the model was trained on {self.num_atom_features};"
                    " make the graphs the same way as for training"
                )
        unit_lf = standardise(lines.ordered(self.features), self.mean_f, self.sd_f)
        return PairTokens(unit_lf, drugs, graphs=graphs if self.config.net.drug == "graph" else None, known=self.drugs)

    def predict(
        self, pairs: Responses, lines: LineFeatures, graphs: MoleculeGraphs | None = None, *, device: str = "auto"
    ) -> np.ndarray:
        """Return the predicted ln IC50 of each pair, float64 ``[p]``; values of ``pairs`` are not looked at.

        Raises
        ------
        ValueError
            When a line has no features, or a drug has no structure or was not in training (for drugs known by name).
        """
        pairs = pairs.renamed(lines.lines, pairs.drugs)
        tokens = self.tokens(lines, pairs.drugs, graphs)
        out_p = np.empty(len(pairs))
        place = choose_device(device)
        with in_use([self.network], place), torch.inference_mode():
            for start in range(0, len(pairs), _PREDICTED_AT_ONCE):
                at_p = np.arange(start, min(start + _PREDICTED_AT_ONCE, len(pairs)))
                out_p[at_p] = self.network(tokens(pairs.take(at_p), Draw()).to(place)).double().cpu().numpy()
        if not np.isfinite(out_p).all():
            raise ValueError("predictions are not finite; the model is damaged, or features are far out of range")
        return out_p * self.value_sd + self.value_mean

    def save(self, folder: str | Path) -> None:
        """Write into ``folder``/drug_model, atomically."""
        from cellwright.train.checkpoint import write_tree

        write_tree(
            Path(folder) / FOLDER,
            {
                "format": FORMAT,
                "config": self.config.record(),
                "features": list(self.features),
                "drugs": list(self.drugs),
                "num_atom_features": self.num_atom_features,
                "value": [self.value_mean, self.value_sd],
                "scale": {"mean": torch.from_numpy(self.mean_f), "sd": torch.from_numpy(self.sd_f)},
                "network": self.network.state_dict(),
                "record": self.record,
            },
        )

    @classmethod
    def load(cls, folder: str | Path) -> DrugPredictor:
        """Read what `save` wrote; a folder without a model is a ``FileNotFoundError``."""
        from cellwright.train.checkpoint import read_tree

        place = Path(folder) / FOLDER
        if not place.is_dir():
            raise FileNotFoundError(
                f"{folder} holds no model of drug response ({FOLDER} is not there); train one first"
            )
        tree = read_tree(place)
        if tree.get("format") != FORMAT:
            raise ValueError(f"{place} is no {FORMAT!r}; was it written by another version?")
        config = DrugConfig.read(tree["config"], str(place))
        network = _new_network(config, len(tree["features"]), len(tree["drugs"]), tree["num_atom_features"])
        network.load_state_dict(tree["network"])
        return cls(
            network=network.eval(),
            config=config,
            features=tuple(tree["features"]),
            mean_f=tree["scale"]["mean"].numpy(),
            sd_f=tree["scale"]["sd"].numpy(),
            drugs=tuple(tree["drugs"]),
            num_atom_features=tree["num_atom_features"],
            value_mean=tree["value"][0],
            value_sd=tree["value"][1],
            record=tree["record"],
        )


def standardise(feature_lf: np.ndarray, mean_f: np.ndarray, sd_f: np.ndarray) -> np.ndarray:
    """Bring features to mean 0 and variance 1 of the training lines; where those are constant, to 0."""
    return np.where(sd_f > 0, (feature_lf - mean_f) / np.where(sd_f > 0, sd_f, 1), 0).astype(np.float32)


def train_drug_model(
    responses: Responses,
    lines: LineFeatures,
    graphs: MoleculeGraphs | None,
    split: Split,
    *,
    config: DrugConfig,
    folder: str | Path,
    resume: bool = False,
    is_progress_shown: bool = False,
) -> tuple[DrugPredictor, Any]:
    """Train on the pairs of ``split.train``, choose by ``split.valid``, and save into ``folder``.

    Parameters
    ----------
    responses
        Measured pairs; every line has features, and with ``net.drug="graph"`` every drug a structure.
    split
        Over the pairs. Without a valid part the last weights are kept, and nothing is stopped early.
    resume
        Go on with an interrupted run in ``folder``, from its last checkpoint.

    Returns
    -------
    The predictor, and the `cellwright.train.run.FitResult`.

    Raises
    ------
    ValueError
        Too few pairs or lines to train on, a constant response, or a name that is not known.
    """
    from cellwright.train.plan import TrainPlan
    from cellwright.train.run import fit

    pairs = responses.renamed(lines.lines, responses.drugs)
    train = pairs.take(split.train)
    is_graph = config.net.drug == "graph"
    predictor = _untrained(train, lines, graphs if is_graph else None, config, _record(pairs, train, split))
    objective = SquaredError(predictor.value_mean, predictor.value_sd)
    tokens = predictor.tokens(lines, pairs.drugs, graphs)
    seed = config.train.seed
    plan = TrainPlan(predictor.network, objective, tokens, optim=config.optim, seed=seed)
    source = PairSource(pairs)
    loaders: list[CellLoader] = [PairLoader(source, split.train, config.batch_size, group=config.group, seed=seed)]
    run = config.train
    if len(split.valid):
        loaders.append(CellLoader(source, split.valid, _PREDICTED_AT_ONCE, seed=seed, shuffle=False))
    else:
        run = TrainConfig.read(run.record() | {"keep": "last", "patience": None}, "train")
    result = fit(plan, *loaders, config=run, folder=folder, resume=resume, is_progress_shown=is_progress_shown)
    predictor.network.to("cpu").eval()
    predictor.save(folder)
    return predictor, result


def _untrained(
    train: Responses,
    lines: LineFeatures,
    graphs: MoleculeGraphs | None,
    config: DrugConfig,
    record: dict[str, Any],
) -> DrugPredictor:
    seen = np.unique(train.line_p)
    if len(train) < _LEAST_PAIRS or len(seen) < 2:
        raise ValueError(
            f"{len(train)} training pairs of {len(seen)} cell lines; {_LEAST_PAIRS} pairs of 2 lines are the least"
        )
    if not train.value_p.std() > 0:
        raise ValueError(f"all training pairs have the response {train.value_p[0]}; there is nothing to learn")
    if config.net.drug == "graph" and graphs is None:
        raise ValueError("net.drug=graph needs structures; give SMILES or graphs, or use net.drug=identity")
    drugs = tuple(train.drugs[k] for k in np.unique(train.drug_p))
    seen_lf = lines.value_lf[seen].astype(np.float64)
    sd_f = seen_lf.std(0)
    num_atom_features = 0 if graphs is None else graphs.atom_af.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        network = _new_network(config, len(lines.names), len(drugs), num_atom_features)
    return DrugPredictor(
        network=network,
        config=config,
        features=lines.names,
        mean_f=seen_lf.mean(0),
        sd_f=np.where(sd_f > 1e-8, sd_f, 0.0),
        drugs=drugs,
        num_atom_features=num_atom_features,
        value_mean=float(train.value_p.mean()),
        value_sd=float(train.value_p.std()),
        record=record,
    )


def _new_network(config: DrugConfig, num_features: int, num_drugs: int, num_atom_features: int) -> DrugNet:
    return DrugNet(config.net, num_features=num_features, num_drugs=num_drugs, num_atom_features=num_atom_features)


def _record(pairs: Responses, train: Responses, split: Split) -> dict[str, Any]:
    count_u = np.bincount(train.drug_p, minlength=len(train.drugs))
    sum_u = np.bincount(train.drug_p, train.value_p, minlength=len(train.drugs))
    return {
        "drug_means": {train.drugs[k]: float(sum_u[k] / count_u[k]) for k in np.flatnonzero(count_u)},
        "train_lines": [train.lines[k] for k in np.unique(train.line_p)],
        "num_pairs": len(pairs),
        "num_lines": len(np.unique(pairs.line_p)),
        "num_drugs": len(np.unique(pairs.drug_p)),
        "split": {name: value for name, value in split.record().items() if name != "groups"},
        "versions": versions(),
    }
