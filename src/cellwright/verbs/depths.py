"""What families that know read depth are told of it, for every verb that runs them. Nothing is printed.

Read depth is counted, so these families want raw counts: from log values it is told only by totals that come with the
cells. Source of the other modes: scFoundation's published ``get_embedding.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from cellwright.config import Config, did_you_mean
from cellwright.models import Model
from cellwright.protocols import CellSource, DepthTokenizer
from cellwright.verbs.opening import ReadOptions, open_data

if TYPE_CHECKING:
    from cellwright.data.cells import Cells
    from cellwright.tasks.inference import InferenceOptions

_LOGS = ("log1p",)
_LINEAR = ("raw", "normalised")
"""Of bulk samples, expected counts and TPM too: only shares count."""


class DepthOptions(Config):
    """What a model of a family that knows read depth is told of it (scFoundation)."""

    depth: str | None = None
    """Read depth to ask for (families that know it): t4 or total=4 (10^4 molecules a cell), f2 or fold=2 (twice the
    cell's own), a1 or added=1 (10^1 times it); unset = as the model was made for (t4)."""
    total: str | None = None
    """For log1p values: column of obs with each cell's total of counts (published pre_normalized A)."""
    log_sum: bool = False
    """For log1p values without totals: take their own sum for the total, which is no depth (published T)."""
    bulk: bool = False
    """Bulk samples, both depths their own: counts scaled to the median total; with --log-sum values as they are."""

    @property
    def is_asked(self) -> bool:
        """Whether any of these was given."""
        return self != DepthOptions()

    def asked(self) -> dict[str, Any]:
        """Return what was given, for a record."""
        return {name: value for name, value in self.record().items() if value not in (None, False)}


def depth_options(depth: DepthOptions | str | None) -> DepthOptions:
    """Return the options that a plain target such as ``"t4"`` stands for; the options themselves as they are."""
    return depth if isinstance(depth, DepthOptions) else DepthOptions(depth=depth)


def knows_depth(model: Model) -> bool:
    """Return whether the model's family is told read depth."""
    return isinstance(model.tokenizer(), DepthTokenizer)


def open_deep(
    data: Any,
    model: Model,
    read: ReadOptions | None,
    how: DepthOptions | None = None,
    *,
    run: InferenceOptions | None = None,
) -> Cells:
    """Open cells for a model as `open_data` does, with values that its read depth can be told from.

    Raises
    ------
    ValueError
        Options contradict each other or the family knows no depth; the values are no counts, counts cannot be computed
        back from them, and no totals were given.
    """
    how = how or DepthOptions()
    if not knows_depth(model):
        if how.is_asked:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in how.asked())
            raise ValueError(f"{model.family.title} knows no read depth; leave out {names}")
        return open_data(data, model, read, run=run)
    _check(how)
    if how.total is not None or how.log_sum:
        return open_data(data, model, read, accepts=_LOGS, run=run)
    if how.bulk:
        return open_data(data, model, read, accepts=_LINEAR, run=run)
    source = open_data(data, model, read, run=run)
    if source.state == "raw":
        return source
    try:
        return open_data(data, model, read, accepts=("raw",), run=run)
    except ValueError as error:
        raise ValueError(
            f"read depth cannot be told from {source.state} values: {error}; or, for log1p values, name the column of "
            "obs with each cell's total of counts (total=, --total)"
        ) from None


def prepared(
    model: Model, source: Cells, how: DepthOptions, *, may_be_silent: bool = False
) -> tuple[Model, CellSource]:
    """Return the model and the cells as they are to be run, both sharing what they came from.

    ``may_be_silent`` = cells without any expressed gene are the caller's to deal with.

    Raises
    ------
    ValueError
        A cell has no depth: it expresses no gene of the vocabulary, or its total is missing or not positive.
    """
    from cellwright.data.depths import BulkSamples, GivenTotals, totals_column

    if not knows_depth(model):
        return model, source
    if not may_be_silent:
        _refuse_silent(source)
    target = {} if how.depth is None else {"depth": how.depth}
    if how.bulk:
        if how.log_sum:
            return model.with_inputs(depth_from="plain"), source
        return model.with_inputs(depth="f1", depth_from="listed"), BulkSamples(source)
    if how.total is not None:
        total_n = totals_column(source.obs, how.total)
        return model.with_inputs(**target, depth_from="given"), GivenTotals(source, total_n)
    changes = target | ({"depth_from": "listed"} if how.log_sum else {})
    return (model.with_inputs(**changes) if changes else model), source


def with_pool(model: Model, pool: str | None) -> Model:
    """Return the same weights with another pooling of tokens into the cell embedding; ``None`` = as it is.

    Raises
    ------
    ValueError
        The family has no choice of poolings, or not this one.
    """
    if pool is None:
        return model
    field = type(model.config).model_fields.get("pooling")
    if field is None:
        raise ValueError(f"{model.family.title} has no choice of poolings; leave out pool (--pool)")
    known = get_args(field.annotation)
    if pool not in known:
        near = did_you_mean(pool, known)
        raise ValueError(f"{model.family.title} has no pooling {pool!r}{near}; it has {', '.join(known)}")
    return model.with_config([f"pooling={pool}"])


def _check(how: DepthOptions) -> None:
    from cellwright.tokens.depth import DepthTarget

    if how.depth is not None:
        DepthTarget.parse(how.depth)
    if how.total is not None and how.log_sum:
        raise ValueError(
            "a cell's total is either given (--total) or the sum of its log values (--log-sum); choose one"
        )
    if how.bulk and (how.depth is not None or how.total is not None):
        raise ValueError("bulk samples (--bulk) have both depths of their own; leave out --depth and --total")


def _refuse_silent(source: Cells) -> None:
    """Refuse cells that have no depth before any of them is run; left on disk they are met one by one."""
    import numpy as np

    from cellwright.data.depths import listed_totals

    if source.contract.num_empty_cells:
        empty = np.flatnonzero(listed_totals(source) == 0)
        raise ValueError(
            f"{len(empty)} of {len(source)} cells express no gene of the model's, so they have no read depth (the "
            f"first is {str(source.obs_names[empty[0]])!r} at row {source.row_n[empty[0]]}); leave such cells out"
        )
