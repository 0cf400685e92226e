"""Real data sets that ship with the package. `DATASETS` is the table: name -> where it comes from and what it holds.

They are small on purpose (examples, tests, honest first benchmarks); ``scripts/build_demo_data.py`` made them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cellwright.config import did_you_mean
from cellwright.files import sha256_file

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One data set."""

    name: str
    file: str
    """File name among the package's resources."""
    title: str
    source: str
    licence: str
    citation: str
    sha256: str
    num_cells: int
    num_genes: int
    label: str
    """Column of cell types."""
    note: str
    """What to know before trusting a score on it."""

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {
        "pbmc3k": Dataset(
            name="pbmc3k",
            file="pbmc3k.h5ad",
            title="3k peripheral blood cells of a healthy donor",
            source="10x Genomics public data sets, as carried by rnabioco/clustifyr (MIT)",
            licence="CC BY 4.0",
            citation="10x Genomics, 3k PBMCs from a Healthy Donor (2016); labels: Satija lab, Seurat tutorial",
            sha256="911a0d562572c331faeabbee36659a51c31435413c86e1a066fb29f5df579f1c",
            num_cells=2638,
            num_genes=13714,
            label="cell_type",
            note="one donor; labels come from clustering the same values, so they are not independent of them",
        ),
        "pbmc_facs_zheng": Dataset(
            name="pbmc_facs_zheng",
            file="pbmc_facs_zheng.h5ad",
            title="blood cells sorted into ten populations",
            source="10x Genomics public data sets, as carried by stephenslab/fastTopics (BSD-2-Clause)",
            licence="CC BY 4.0",
            citation="Zheng et al. 2017, Nature Communications 8:14049, doi 10.1038/ncomms14049",
            sha256="852142c1fa491d0dab21bd8c2bdb2619144f170fdbbfc148f731c2c1642b2662",
            num_cells=3874,
            num_genes=21952,
            label="cell_type",
            note="labels are sorted populations, independent of expression; each is its own run, so part of a high "
            "score within this set can be run effect: the honest figure is the transfer to another study",
        ),
    }
)


def dataset_path(name: str) -> Path:
    """Return the path of a data set's .h5ad; a changed file or an unknown name is a ``ValueError``."""
    if name not in DATASETS:
        raise ValueError(f"no data set {name!r}{did_you_mean(name, DATASETS)}; there are {', '.join(DATASETS)}")
    path = Path(str(files("cellwright.data").joinpath("resources", DATASETS[name].file)))
    if sha256_file(path) != DATASETS[name].sha256:
        raise ValueError(f"{path} is not the file that was shipped (its SHA-256 differs); install cellwright again")
    return path


def load_dataset(name: str) -> AnnData:
    """Return a data set as AnnData: raw counts in X, cell types in ``obs``, Ensembl ids in ``var``."""
    import anndata

    return anndata.read_h5ad(dataset_path(name))
