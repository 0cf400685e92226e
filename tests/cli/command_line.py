"""Runs the command line inside the test process, and makes the small cells and models that its tests share."""

import hashlib
import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cellwright.cli import run
from cellwright.data import make_cells
from cellwright.data.gene_table import human_genes
from cellwright.models import FAMILIES, new_model
from cellwright.vocab import GeneVocab

NUM_GENES = 60
SIZE = (
    FAMILIES["scgpt"]
    .sizes["tiny"]
    .model_copy(update={"width": 16, "num_heads": 2, "num_layers": 1, "feed_forward": 16, "max_length": 80})
)
"""One layer of width 16: enough to tell right from wrong, milliseconds to run."""


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str


def cellwright(*words) -> Result:
    """Run ``cellwright WORDS...`` and return exit code and texts."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(word) for word in words])
    return Result(code, out.getvalue(), err.getvalue())


def works(*words) -> str:
    """Run a command that must succeed; return what it printed."""
    result = cellwright(*words)
    assert result.code == 0, result.err
    assert "Traceback" not in result.err
    return result.out


def listing(folder: Path) -> dict[str, str]:
    """Return every path under a folder with the hash of its content; hidden files count."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def refused(folder: Path, *words, says=()) -> str:
    """Run a command that must be refused with one line and leave ``folder`` as it was; return the line."""
    before = listing(folder)
    result = cellwright(*words)
    assert result.code == 2, (result.code, result.out, result.err)
    assert result.out == ""
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for text in says:
        assert str(text) in lines[0], lines[0]
    assert listing(folder) == before
    return lines[0]


def gene_names() -> list[str]:
    """Return approved symbols that have an Ensembl id."""
    table = human_genes()
    return [name for name in sorted(table.id_of) if table.id_of[name] and name.isalnum()][1000 : 1000 + NUM_GENES]


def made_up_cells(num_cells: int = 40, *, seed: int = 0, num_types: int = 2):
    """Return counts of planted types over human genes; obs has types, sequencing batches and donors of four cells.

    A type expresses no gene of the last 40 but those of its own share, so that a few steps of training tell types.
    """
    adata = make_cells(num_cells, NUM_GENES, num_types=num_types, gene_names=gene_names(), depth=400, seed=seed)
    is_own_ng = (np.arange(NUM_GENES) % num_types) == (np.arange(num_cells) % num_types)[:, None]
    adata.X = adata.X.multiply(is_own_ng | (np.arange(NUM_GENES) < 20)).tocsr().astype(np.float32)
    del adata.uns["planted"]
    adata.obs["donor"] = pd.Categorical([f"donor {n // 4}" for n in range(num_cells)])
    return adata


def made_up_model(seed: int = 0):
    """Return an untrained tiny scGPT that knows the made-up cells' genes."""
    vocab = GeneVocab.from_genes(gene_names(), FAMILIES["scgpt"].specials)
    return new_model("scgpt", vocab, SIZE, seed=seed)


def write(adata, path: Path) -> Path:
    """Write an .h5ad and return its path; repeated names are allowed here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique")
        adata.write_h5ad(path)
    return path


def in_ensembl(adata, *, seed: int = 5):
    """Return the same cells with genes in another order, named by versioned Ensembl ids only."""
    table = human_genes()
    order = np.random.default_rng(seed).permutation(adata.n_vars)
    twin = adata[:, order].copy()
    twin.var_names = [f"{table.id_of[name]}.{1 + at % 3}" for at, name in enumerate(twin.var_names)]
    return twin
