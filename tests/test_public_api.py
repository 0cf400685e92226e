"""What users lean on: the verbs exist, are documented, quick to import, and say nothing."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import cellwright

VERBS = [
    "annotate",
    "compare_modes",
    "convert",
    "denoise",
    "drug_response",
    "embed",
    "finetune",
    "gene_contexts",
    "generate",
    "grn",
    "index_reference",
    "inspect",
    "integrate",
    "load",
    "map_reference",
    "multiome",
    "perturb",
    "predict_perturbation",
    "predict_response",
    "pretrain",
    "reverse_perturb",
    "score",
    "transfer_response",
]


def test_all_names_are_there():
    assert set(VERBS) <= set(cellwright.__all__)
    for name in cellwright.__all__:
        assert getattr(cellwright, name) is not None
    assert set(dir(cellwright)) == set(cellwright.__all__)
    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        cellwright.embedd


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_documented_and_calls_are_readable(name):
    function = getattr(cellwright, name)
    parameters = inspect.signature(function).parameters
    positional = [p for p in parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert len(positional) <= 3
    text = inspect.getdoc(function)
    assert text
    for parameter in parameters:
        assert parameter in text, f"{name}: parameter {parameter!r} is not documented"


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_import_loads_nothing_heavy_and_is_silent():
    heavy = ["torch", "anndata", "lightning", "matplotlib", "sklearn", "scanpy", "umap", "pandas", "numba"]
    code = f"import sys, cellwright; print([m for m in {heavy!r} if m in sys.modules])"
    done = run(code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_core_runs_without_the_edges():
    """A machine with only torch, numpy, scipy, pydantic and safetensors can build and run a network."""
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"anndata", "pandas", "lightning", "matplotlib", "sklearn", "umap", "numba", "h5py"}:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Absent())
import numpy as np, torch
from cellwright.models import FAMILIES, new_model
from cellwright.types import CellBatch, Draw
from cellwright.vocab import GeneVocab
cells = CellBatch(indptr_n1=np.array([0, 3, 5]), gene_z=np.array([1, 4, 9, 2, 3], np.int32),
    value_z=np.array([1, 2, 3, 1, 5], np.float32), row_n=np.arange(2), total_n=np.array([6.0, 6.0]))
for name, family in FAMILIES.items():
    vocab = GeneVocab.from_genes([f"G{i}" for i in range(50)], family.specials)
    model = new_model(name, vocab, family.sizes["tiny"])
    with torch.inference_mode():
        print(model.network.eval()(model.tokenizer()(cells, Draw())).cell_nd.shape == (2, model.network.width))
"""
    done = run(code)
    assert set(done.stdout.splitlines()) == {"True"}, done.stderr
