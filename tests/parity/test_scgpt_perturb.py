"""Predicting perturbed cells: the published ``pred_perturb``, and where we depart from it on purpose."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from parity.cases import OUTPUT_ATOL, OUTPUT_RTOL, Case
from scipy import sparse

from cellwright.tasks.perturb_cells import CellPerturbConfig, FittedCells
from cellwright.tasks.perturb_tokens import Feed

CASES = ["plain", "softplus_adaptive", "mvc"]
UNKNOWN = 7
"""Column of the gene that the published code feeds as a pad that is attended."""


def fitted(case: Case, *, is_published: bool) -> tuple[FittedCells, list[tuple[str, ...]]]:
    """Return the recorded network as a fitted model, and what is perturbed in each recorded cell."""
    model = case.model()
    ids = case.arrays["in/gene_ids"]
    names = {i: name for name, i in zip(model.vocab.genes, model.vocab.ids(model.vocab.genes).tolist(), strict=True)}
    genes = tuple(names.get(i, "NOT_IN_THE_VOCABULARY") for i in ids.tolist())
    feed = Feed(model, genes)
    if is_published:
        feed.__dict__.update(id_g=ids, fed_k=np.arange(len(ids)))
    flags = case.arrays["in/pert_flags"]
    parts = [tuple(genes[g] for g in np.flatnonzero(row)) for row in flags]
    config = CellPerturbConfig(device="cpu", cells_kept=0)
    nothing = sparse.csr_matrix((0, len(genes)), dtype=np.float32)
    return FittedCells(feed=feed, config=config, seed=0, control_cg=nothing, context_c=np.zeros(0, np.int64)), parts


def recorded(case: Case, value_ng: np.ndarray, *, is_published: bool) -> np.ndarray:
    """Predict the recorded cells, each with its own perturbation."""
    model, parts = fitted(case, is_published=is_published)
    with torch.inference_mode():
        rows = [model.predict_cells(value_ng[[n]], those)[0] for n, those in enumerate(parts)]
    return np.array(rows)


@pytest.mark.parametrize("name", CASES)
def test_all_genes_as_published(name):
    case = Case("scgpt", f"perturb_generator/{name}")
    made = recorded(case, case.arrays["in/values"], is_published=True)
    assert made == pytest.approx(case.arrays["out/pred_perturb_all"], abs=OUTPUT_ATOL, rel=OUTPUT_RTOL)


@pytest.mark.parametrize("name", CASES)
def test_expressed_genes_of_the_minibatch_as_published(name):
    case = Case("scgpt", f"perturb_generator/{name}")
    value_ng = case.arrays["in/values_bw"]
    model, parts = fitted(case, is_published=True)
    columns = np.flatnonzero(value_ng.any(0))
    with torch.inference_mode():
        out = model.run(value_ng[:, columns], columns, parts, "cpu")
    told = case.arrays["out/pred_perturb_batchwise"]
    assert out.value_nt[:, : len(columns)].numpy() == pytest.approx(told[:, columns], abs=OUTPUT_ATOL, rel=OUTPUT_RTOL)
    assert not np.delete(told, columns, axis=1).any()  # published: what is not fed becomes 0; here it stays


def test_genes_outside_the_vocabulary_are_left_out_and_stay_as_they_are():
    case = Case("scgpt", "perturb_generator/plain")
    value_ng = case.arrays["in/values"]
    published, ours = (recorded(case, value_ng, is_published=how) for how in (True, False))
    assert (ours[:, UNKNOWN] == value_ng[:, UNKNOWN]).all()
    fed = np.delete(np.arange(value_ng.shape[1]), UNKNOWN)
    assert np.abs(ours[:, fed] - published[:, fed]).max() > 1e-3  # an attended pad moves every answer
    other_ng = value_ng.copy()
    other_ng[:, UNKNOWN] += 5
    again = recorded(case, other_ng, is_published=False)
    assert (again[:, fed] == ours[:, fed]).all()


def test_parts_of_bounded_size_depart_from_all_at_once():
    case = Case("scgpt", "perturb_generator/plain")
    model, parts = fitted(case, is_published=True)
    in_parts = replace(model, config=model.config.model_copy(update={"max_genes": 12}))
    value_ng = case.arrays["in/values"]
    with torch.inference_mode():
        whole, some = (m.predict_cells(value_ng[:1], parts[0]) for m in (model, in_parts))
    assert np.abs(whole - some).max() > 1e-4
    assert np.corrcoef(whole[0], some[0])[0, 1] > 0.9
