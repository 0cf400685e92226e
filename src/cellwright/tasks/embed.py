"""Zero-shot cell embeddings.

Source: scGPT's published ``tasks.embed_data`` (spec: in-vocabulary expressed genes, ``<cls>`` first, position 0 of the
last layer, scaled to length 1). Where the published function sub-samples genes and breaks ties with global random
numbers, ours is keyed by the seed and the cell, so the same cell always embeds the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cellwright.protocols import CellSource
from cellwright.tasks.inference import InferenceOptions, choose_device, in_use, run_network


def embed_cells(model: Any, source: CellSource, options: InferenceOptions | None = None) -> np.ndarray:
    """Embed every cell of ``source``.

    Parameters
    ----------
    model
        A `cellwright.models.Model`.
    source
        Cells mapped onto the model's vocabulary.
    options
        How to run.

    Returns
    -------
    float32 ``[n, d]``, rows in the order of ``source``. A cell without any gene of the vocabulary gets the embedding
    of its special tokens alone.

    Raises
    ------
    ValueError
        When the source was mapped onto another vocabulary, or the network returns numbers that are not finite.
    """
    options = options or InferenceOptions()
    check_vocab(model, source)
    out_nd = np.empty((len(source), model.network.width), np.float32)
    with in_use([model.network], choose_device(options.device)):
        for at_n, out in run_network(model, source, options, what="embed"):
            cell_nd = out.cell_nd.float()
            if model.family.is_embedding_normalised:
                cell_nd = torch.nn.functional.normalize(cell_nd, dim=1)
            out_nd[at_n] = cell_nd.cpu().numpy()
    if not np.isfinite(out_nd).all():
        cell = int(np.flatnonzero(~np.isfinite(out_nd).all(1))[0])
        raise ValueError(f"the embedding of cell {cell} is not finite; the checkpoint is damaged or precision too low")
    return out_nd


def check_vocab(model: Any, source: CellSource) -> None:
    """Refuse cells that were mapped onto another vocabulary than the model's."""
    if source.vocab.sha256 != model.vocab.sha256:
        raise ValueError(
            f"the cells were mapped onto another vocabulary ({source.vocab!r}) than the model's ({model.vocab!r}); "
            "open them with the model's vocabulary"
        )
