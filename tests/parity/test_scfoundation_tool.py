"""Tokeniser and network equal the published tool, ``get_embedding.py``, from matrix to embedding."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from parity.cases import Case, assert_close
from parity.depths import close, real_vocab, recorded_cells

from cellwright.data.cells import open_cells
from cellwright.tasks.embed import embed_cells
from cellwright.tasks.inference import InferenceOptions
from cellwright.types import CellBatch, Draw

QUIET = InferenceOptions(progress=False, device="cpu")
KEY_OF = {"ce": "cell", "rde": "rde"}
NUM_GENES = 19264


def case_of(name):
    return Case("scfoundation", name)


def outputs(model, cells, wanted=(), **inputs):
    with torch.inference_mode():
        return model.network(model.tokenizer(**inputs)(cells, Draw()), wanted)


class Given:
    """Cells in memory, as a source."""

    def __init__(self, model, cells: CellBatch):
        self.vocab, self.state, self.cells = model.vocab, cells.state, cells

    def __len__(self):
        return len(self.cells)

    def read(self, rows):
        return self.cells.take(rows)


@pytest.mark.parametrize(
    ("name", "version", "depth"),
    [(f"cli_cell_rde_{depth}", "rde", depth) for depth in ("a5", "f1", "f2.5", "t4", "t4.5")]
    + [("cli_cell_ce_t4_F", "ce", "t4")],
)
def test_counts(name, version, depth):
    case = case_of(name)
    model, cells = real_vocab(KEY_OF[version]), recorded_cells(case)
    theirs = case["out"]
    for genes in ("expressed", "panel"):
        close(outputs(model, cells, depth=depth, genes=genes).cell_nd, theirs)


def test_generic_embedding():
    """The task that knows no family: cells in any minibatch, the family's own depth (t4)."""
    case, model = case_of("cli_cell_ce_t4_F"), real_vocab("cell")
    found = embed_cells(model, Given(model, recorded_cells(case)), QUIET)
    close(torch.from_numpy(found), case["out"])
    one = embed_cells(model, Given(model, recorded_cells(case)), QUIET.model_copy(update={"batch_size": 1}))
    close(torch.from_numpy(one), case["out"])


def test_log_values_as_given():
    """Published T mode: the source depth is the logarithm of a sum of logarithms, and no depth."""
    case = case_of("cli_cell_ce_t4_T")
    close(outputs(real_vocab("cell"), recorded_cells(case, state="log1p")).cell_nd, case["out"])


def test_log_values_with_totals():
    case = case_of("cli_cell_ce_f1_A_max")
    model, cells = real_vocab("cell", "pooling=max"), recorded_cells(case, state="log1p")
    close(outputs(model, cells, depth="f1", depth_from="given").cell_nd, case["out"])


def test_bulk():
    """F: scaled to the median total of the file, log1p, both depths of the result. T: both depths the plain sum."""
    case = case_of("cli_bulk_F_all")
    cells = recorded_cells(case)
    scale_n = np.median(cells.total_n) / cells.total_n
    value_z = np.log1p(cells.value_z * np.repeat(scale_n, cells.num_genes_n)).astype(np.float32)
    bulk = CellBatch(**{f: getattr(cells, f) for f in ("indptr_n1", "gene_z", "row_n", "total_n")}, value_z=value_z,
                     state="log1p")  # fmt: skip
    close(outputs(real_vocab("cell"), bulk, depth="f1").cell_nd, case["out"])
    case = case_of("cli_bulk_T_max")
    model, cells = real_vocab("cell", "pooling=max"), recorded_cells(case, state="log1p")
    close(outputs(model, cells, depth_from="plain").cell_nd, case["out"])


def test_genes_in_another_order_and_unknown_ones():
    """Published alignment by exact name: unknown genes do not count in the total."""
    case, model = case_of("cli_cell_unaligned"), real_vocab("cell")
    parts = tuple(case.arrays[f"x_{part}"] for part in ("data", "indices", "indptr"))
    adata = ad.AnnData(sp.csr_matrix(parts, shape=case.arrays["x_shape"]).astype(np.float32))
    adata.var_names = case.arrays["columns"]
    source = open_cells(adata, model.vocab, genes="exact")
    close(torch.from_numpy(embed_cells(model, source, QUIET)), case["out"])


def test_a_depth_of_one_molecule_is_a_depth():
    """Published: T = log10(1) = 0 is lost among the silent genes, and the last gene stands in for it."""
    case, model = case_of("cli_cell_ce_t0"), real_vocab("cell")
    tokens = model.tokenizer(depth="t0")(recorded_cells(case), Draw())
    target_id = model.vocab.special_id("target_depth")
    network, width = model.network, model.config.encoder_width
    with torch.inference_mode():
        ours = network(tokens, ()).cell_nd
        start = 0
        for length, theirs in zip(tokens.layout.lengths, case["out"], strict=True):
            at = torch.arange(start, start + length)
            at = at[tokens.gene_nt[0, at] != target_id]  # what the published encoder got
            value_s, gene_s = tokens.value_nt[0, at], tokens.gene_nt[0, at]
            x_sd = network.value_encoder(value_s, torch.zeros_like(value_s, dtype=torch.bool))
            layout = type(tokens.layout)((len(at),))
            hidden_sd = network.encoder_norm(network.blocks((x_sd + network.gene_encoder(gene_s))[None], layout))[0]
            parts = [hidden_sd[-1], hidden_sd[-2], hidden_sd[:-2].amax(0), hidden_sd[:-2].mean(0)]
            close(torch.cat(parts), theirs)
            start += length
    assert (ours - case["out"])[:, width : 2 * width].abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "key_maximum", "inputs", "state"),
    [
        ("cli_gene_f1_F", "cell", {}, "raw"),
        ("cli_gene_f1_A", "cell", {"depth_from": "given"}, "log1p"),
        ("cli_gene_batch_f1_A", "batch", {"depth_from": "given"}, "log1p"),
        ("gears_maeautobinencoder", "batch", {"depth_from": "given"}, "log1p"),
    ],
)
def test_genes_in_context(name, key_maximum, inputs, state):
    """Sums over 19,266 tokens: both our float32 numbers and the published ones are 1.3e-5 from those in float64."""
    case, model = case_of(name), real_vocab("gene", f"key_maximum={key_maximum}")
    source = case_of("cli_gene_batch_f1_A") if name.startswith("gears") else case
    cells = recorded_cells(source, state=state)
    out = outputs(model, cells, {"context_ntd"}, depth="f1", genes="panel", **inputs)
    context_ngd = out.context_ntd.view(3, NUM_GENES + 2, -1)[:, :NUM_GENES]
    assert_close(context_ngd[:, ::19], case["out_strided"])
    close(context_ngd.double().mean(1), case["out_sum_over_genes"] / NUM_GENES)
    if name.startswith("gears"):
        tokens = model.tokenizer(depth="f1", **inputs)(cells, Draw())
        total_n = case["total"]
        assert torch.equal(torch.from_numpy(cells.total_n).float(), total_n)
        depth_n2 = torch.stack([part[-2:] for part in tokens.value_nt[0].split(tokens.layout.lengths)])
        close(depth_n2, case["T_S"])


def test_expression():
    case, model = case_of("cli_gene_expression_f1_F"), real_vocab("gene")
    out = outputs(model, recorded_cells(case), {"value_nt"}, depth="f1", genes="panel")
    value_ng = out.value_nt.view(3, NUM_GENES + 2)[:, :NUM_GENES]
    assert_close(value_ng[:, ::7], case["out_strided"])
    close(value_ng.double().mean(1), case["out_sum_over_genes"] / NUM_GENES)
