"""Several modalities in one model: train on genes beside proteins or peaks, embed cells by all of them, and tell the
proteins of cells from RNA.

Source: scGPT's multi-omic recipe (Nature Methods 21:1470, Methods "scMultiomic integration"; published tutorial):
features as tokens beside the pre-trained genes, modality told to the heads, 40 % of values hidden, losses GEP + GEPC,
and DAR where there are sequencing batches; 25 epochs of Adam, rate 1e-3 falling by 0.95, minibatches of 16. A cell
that lacks a modality has no tokens of it, so mosaics of studies need nothing more. Departures, each an option: all
learnt weights are kept, not gene vectors alone; proteins are fed as centred log ratios rather than as bins; in half of
the cells that have proteins all of them are withheld at once, which is what telling them from RNA asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat

from cellwright.data.multimodal import Multimodal
from cellwright.data.panel import select_genes
from cellwright.objectives import Objective
from cellwright.objectives.cell import Domain
from cellwright.objectives.modalities import ModalityMask
from cellwright.objectives.published import scgpt_multiome
from cellwright.objectives.value import CellValue, MaskedValue
from cellwright.protocols import CellSource
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.finetuning import FinetuneConfig, Rows, cell_loaders, fit_objective, new_class_head, to_finetune
from cellwright.tasks.inference import InferenceOptions, choose_device, in_precision, in_use, run_tokenizer
from cellwright.tokens.modalities import UNBINNED_SCALE, with_asked
from cellwright.train.config import TrainConfig
from cellwright.train.optim import OptimConfig
from cellwright.types import CellEnd
from cellwright.vocab import modality_of

PROTEIN = "protein"
_PUBLISHED = scgpt_multiome()


class MultiomeConfig(FinetuneConfig):
    """How a model is trained on several modalities."""

    num_genes: int = Field(1200, ge=2)
    """Most variable genes that are fed, chosen on the training cells."""
    num_peaks: int = Field(4000, ge=1)
    """Peaks open in most cells; they and all proteins are fed beside the genes."""
    hidden_fraction: float = Field(_PUBLISHED.view_options["fraction"], gt=0, lt=1)
    """Part of each cell's values hidden in training."""
    whole_fraction: float = Field(0.5, ge=0, le=1)
    """Part of the cells with proteins in which all of these are hidden, and nothing else (published: 0)."""
    proteins: Literal["clr", "bins"] = "clr"
    """Values that proteins are fed and told as: centred log ratios, or bins within the cell (published)."""
    domain_weight: NonNegativeFloat = _PUBLISHED.terms["domain"]
    """Weight of hiding the sequencing batch (DAR), where batches are given."""
    batch_size: int = Field(16, ge=1)
    """Cells a step."""
    inputs: dict[str, Any] = {"cls_value": 0.0, "max_length": 4001}
    """Changes to how cells are prepared (published: ``<cls>`` of value 0, 4,001 tokens at most)."""
    optim: OptimConfig = OptimConfig(lr=1e-3, schedule="step", decay_per_epoch=0.95)
    """Optimiser."""
    train: TrainConfig = TrainConfig(max_epochs=25, keep="best")
    """Length, precision, checkpoints."""


def modality_changes(model: Any, modalities: Sequence[str], num_tech_batches: int) -> dict[str, Any]:
    """Return the changes to a model's architecture record under which it tells these modalities apart.

    Parameters
    ----------
    modalities
        Names, sorted; the place is the id, those of ``<pad>`` and ``<cls>`` come after.
    num_tech_batches
        Sequencing batches told to the heads; 0 or 1 = none.

    Raises
    ------
    ValueError
        The family cannot tell modalities apart, or the model was made for others.
    """
    if "num_modalities" not in type(model.config).model_fields:
        raise ValueError(
            f"{model.family.title} does not tell modalities apart; take a model of a family that does (scGPT)"
        )
    known = model.inputs.modalities
    if known and tuple(known) != tuple(modalities):
        raise ValueError(f"{model.report.source} knows {', '.join(known)}; the cells have {', '.join(modalities)}")
    changes: dict[str, Any] = {"num_modalities": len(modalities) + 2, "modality_pad": len(modalities)}
    changes["is_gene_conditioned"] = True
    if num_tech_batches > 1:
        changes["num_tech_batches"] = num_tech_batches
    return changes


def train_multiome(
    model: Any,
    data: Multimodal,
    rows: Rows,
    *,
    config: MultiomeConfig,
    folder: Path,
    unlearnt: Sequence[str] = (),
    is_progress_shown: bool = False,
) -> tuple[Any, Any]:
    """Train a copy of ``model`` on the cells of ``rows.train``.

    Parameters
    ----------
    model
        A `cellwright.models.Model` that tells modalities apart (see `modality_changes`); it is not changed.
    data
        Cells on its vocabulary, with codes under ``tech_batch`` where there are several.
    folder
        Run folder.
    unlearnt
        Tensors that hold no learnt numbers, see `fit_objective`.

    Returns
    -------
    The trained model, not saved yet, and the `cellwright.train.run.FitResult`.
    """
    check_vocab(model, data.cells)
    tuned = to_finetune(model, config)
    tuned = tuned.with_inputs(
        panel=panel_tokens(data, rows.train, config),
        modalities=data.modalities,
        unbinned=[PROTEIN] if config.proteins == "clr" and PROTEIN in data.modalities else [],
    )
    whole = (data.modalities.index(PROTEIN),) if PROTEIN in data.modalities else ()
    view = ModalityMask(fraction=config.hidden_fraction, whole=whole, whole_fraction=config.whole_fraction)
    weights = _PUBLISHED.terms
    terms: dict[str, Any] = {
        "masked_value": (weights["masked_value"], MaskedValue()),
        "cell_value": (weights["cell_value"], CellValue()),
    }
    num_tech_batches = getattr(tuned.config, "num_tech_batches", 0)
    if num_tech_batches > 1 and config.domain_weight:
        head = new_class_head(tuned.network.width, num_tech_batches, seed=config.train.seed, kind="domain")
        terms["domain"] = (config.domain_weight, Domain(head))
    result = fit_objective(
        tuned,
        Objective(view, terms),
        cell_loaders(data.cells, rows, config),
        config=config,
        folder=folder,
        unlearnt=unlearnt,
        is_progress_shown=is_progress_shown,
    )
    return tuned, result


def panel_tokens(data: Multimodal, rows: np.ndarray, config: MultiomeConfig) -> list[str]:
    """Return the tokens that are fed: the most variable genes of these cells, and all features that cells have.

    Genes are those that every study with RNA has.
    """
    genes, with_rna = data.only(data.gene_ids), rows[data.measured("rna")[rows]]
    num_expressed = len(np.unique(genes.read(with_rna).gene_z))
    gene_ids = select_genes(genes, min(config.num_genes, num_expressed), rows=with_rna)
    ids = np.concatenate([gene_ids, *(data.ids(name) for name in data.modalities if name != "rna")])
    return [data.cells.vocab.tokens[i] for i in ids]


def told_tokens(model: Any, modality: str = PROTEIN) -> tuple[str, ...]:
    """Return the features that a model can be asked for: those of this modality that it was trained on."""
    return tuple(token for token in model.inputs.panel or () if modality_of(token) == modality)


def tell_features(
    model: Any,
    source: CellSource,
    tokens: Sequence[str],
    options: InferenceOptions | None = None,
) -> np.ndarray:
    """Tell features of cells from everything else that was measured in them: float32 ``[n, f]``.

    All features of the same modality are withheld, whether or not the cells have them. Values are centred log ratios
    where the model was trained on these, else bins.

    Raises
    ------
    ValueError
        A feature that the model was not trained on, features of several modalities, or numbers that are not finite.
    """
    options = options or InferenceOptions()
    check_vocab(model, source)
    kinds = {modality_of(token) for token in tokens}
    if len(kinds) != 1 or (absent := set(tokens) - set(told_tokens(model, next(iter(kinds))))):
        what = f"{sorted(absent)[0]!r} is not" if len(kinds) == 1 else "features of one modality are not"
        raise ValueError(f"{what} among what {model.report.source} was trained on; ask for some of its own")
    [modality] = kinds
    asked_p = model.vocab.ids(tokens)
    modality_p = np.full(len(tokens), model.inputs.modalities.index(modality))
    limit = options.max_length or model.inputs.max_length or model.config.max_length
    inputs = {
        "panel": [token for token in model.inputs.panel if modality_of(token) != modality],
        "max_length": max(limit - len(tokens), 2),
    }
    out_np = np.empty((len(source), len(tokens)), np.float32)
    last = CellEnd("last", len(tokens))
    pad_gene = model.vocab.special_id("pad")
    with in_use([model.network], choose_device(options.device)):
        for at_n, given in run_tokenizer(model, source, options, what="tell", inputs=inputs):
            asked = with_asked(given.to("cpu"), asked_p, modality_p, pad_gene=pad_gene).to(given.gene_nt.device)
            with in_precision(options, given.gene_nt.device):
                value_nt = model.network(asked, ("value_nt",)).value_nt
            place_t = asked.layout.end(last, value_nt.device)[1]
            out_np[at_n] = value_nt.float().flatten()[place_t].view(len(at_n), -1).cpu().numpy()
    if not np.isfinite(out_np).all():
        raise ValueError("told features are not finite; the checkpoint is damaged or precision too low")
    return out_np / UNBINNED_SCALE if modality in model.inputs.unbinned else out_np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """A straight line a feature from what a network says to the scale of measured values."""

    slope_f: np.ndarray
    shift_f: np.ndarray

    @classmethod
    def fit(cls, said_nf: np.ndarray, measured_nf: np.ndarray) -> Calibration:
        """Fit by least squares on cells that the network was not trained on; no line falls.

        Cells whose measured value is NaN do not count. A feature with fewer than 20 of them has its mean set right and
        nothing else; one without any stays as it is said.
        """
        num_features = said_nf.shape[1]
        slope_f, shift_f = np.ones(num_features), np.zeros(num_features)
        for f in range(num_features):
            is_there_n = np.isfinite(measured_nf[:, f])
            said_n, measured_n = said_nf[is_there_n, f].astype(np.float64), measured_nf[is_there_n, f]
            if not len(said_n):
                continue
            if len(said_n) >= 20:
                spread, shared = said_n.var(), ((said_n - said_n.mean()) * (measured_n - measured_n.mean())).mean()
                slope_f[f] = max(shared, 0.0) / spread if spread > 1e-12 else 0.0
            shift_f[f] = measured_n.mean() - slope_f[f] * said_n.mean()
        return cls(slope_f=slope_f, shift_f=shift_f)

    def __call__(self, said_nf: np.ndarray) -> np.ndarray:
        """Return the calibrated values, float32, not below 0 (the smallest centred log ratio)."""
        return np.maximum(said_nf * self.slope_f + self.shift_f, 0.0).astype(np.float32)

    def record(self, tokens: Sequence[str]) -> dict[str, list[float]]:
        """Return the JSON form: feature -> (slope, shift)."""
        return {
            token: [float(slope), float(shift)]
            for token, slope, shift in zip(tokens, self.slope_f, self.shift_f, strict=True)
        }
