"""The data room: from whatever a user has to `CellBatch`, with a contract that says what was found and done."""

from cellwright.data.cells import Cells, open_cells
from cellwright.data.contract import Contract, choose_matrix
from cellwright.data.datasets import DATASETS, dataset_path, load_dataset
from cellwright.data.genes import GeneMatch, match_genes
from cellwright.data.loader import CellLoader
from cellwright.data.panel import select_genes, select_genes_of_groups
from cellwright.data.splits import Split, hold_out, label_codes, split_cells
from cellwright.data.state import MatrixState, inspect_matrix
from cellwright.data.synthetic import make_cells, make_multimodal
from cellwright.data.write import write_h5ad

__all__ = [
    "DATASETS",
    "CellLoader",
    "Cells",
    "Contract",
    "GeneMatch",
    "MatrixState",
    "Split",
    "choose_matrix",
    "dataset_path",
    "hold_out",
    "inspect_matrix",
    "label_codes",
    "load_dataset",
    "make_cells",
    "make_multimodal",
    "match_genes",
    "open_cells",
    "select_genes",
    "select_genes_of_groups",
    "split_cells",
    "write_h5ad",
]
