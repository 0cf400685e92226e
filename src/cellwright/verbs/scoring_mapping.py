"""Scoring of a mapping, the half of `cellwright.score` that opens reference and query and embeds both."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cellwright.evaluate.mapping import MappingStudy, evaluate_mapping
from cellwright.verbs.depths import open_deep
from cellwright.verbs.using import embedding

if TYPE_CHECKING:
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.verbs.scoring import Asked


def evaluate_map_reference(asked: Asked) -> tuple[Evaluation, None]:
    """Map held-out cells onto the training cells; return the record."""
    if asked.train is None:
        raise ValueError("mapping needs the labelled cells of a reference; give them as the training cells (train)")
    if asked.made is not None:
        raise ValueError("made cells belong to the task generate; map_reference places real ones")
    model, config = asked.model, asked.config
    reference, query = (open_deep(data, model, config.reading, run=asked.run) for data in (asked.train, asked.held_out))
    start = time.perf_counter()
    embedded = [embedding(model, cells, asked.run) for cells in (reference, query)]
    study = MappingStudy(
        model=model,
        reference=reference,
        query=query,
        reference_nd=embedded[0],
        query_nd=embedded[1],
        label=asked.label,
        group=config.group,
        config=config.index,
        seed=config.seed,
        seconds={"embedding": time.perf_counter() - start},
    )
    return evaluate_mapping(study), None
