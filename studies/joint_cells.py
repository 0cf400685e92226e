"""The cells of the studies: blood, retina and lung cell lines on one panel of genes, with words of one vocabulary.

Everything is decided here and nowhere else: which files, which genes, which words, and which cells are held out.

- Genes: those that all files have by approved symbol. The Kang files hold the variable genes of their study alone, so
  the panel is theirs for the most part (955 genes).
- Words: explicit tables below. Fine types are those that studies of blood share; the sorted sub-types of the Zheng
  cells are rolled up, since each is its own sequencing run and no other study tells them apart.
- Held out: two of the eight Kang donors with all their cells (all Kang files are one experiment), one study of blood
  as a whole (``pbmc3k``), and a fifth of the cells of the files that have one donor or none; the last is the weak kind.
  Interferon cells have labels for two donors only: one is trained on, the other is held out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

HELD_OUT_DONORS = ("107", "1016")
UNSEEN_STUDY = "pbmc3k"
CELLS_A_DONOR = 500
"""Most control cells of a Kang donor that are trained on, so that no file outweighs the rest."""
RANDOM_SHARE = 0.2
PARTS = ("train", "donors", "study", "random")
"""train; held-out donors; held-out study; random cells held out of files without donors."""
CATEGORIES = ("organ", "tech", "status", "coarse_type", "cell_type")

LINEAGES = {
    "CD4 T": "T cell", "CD8 T": "T cell", "NK": "NK cell", "B": "B cell", "CD14 Mono": "myeloid cell",
    "FCGR3A Mono": "myeloid cell", "DC": "myeloid cell", "Megakaryocyte": "platelet lineage", "HSPC": "progenitor",
    "retinal rod cell": "photoreceptor", "retinal cone cell": "photoreceptor",
    "rod bipolar cell": "retinal neuron", "ON-bipolar cell": "retinal neuron", "OFF-bipolar cell": "retinal neuron",
    "amacrine cell": "retinal neuron", "retinal ganglion cell": "retinal neuron",
    "retina horizontal cell": "retinal neuron", "Mueller cell": "retinal glia", "astrocyte": "retinal glia",
    "microglial cell": "myeloid cell",
    "H1975": "lung cancer line", "H2228": "lung cancer line", "HCC827": "lung cancer line",
    "A549": "lung cancer line", "H838": "lung cancer line",
}  # fmt: skip
"""Fine type -> coarse type."""
ORGANS = {"blood": "blood", "retina": "retina", "lung cancer cell lines": "lung"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JointCells:
    """All cells with their words, and which are for what."""

    adata: AnnData
    """Raw counts over the panel; obs: the words, ``study``, ``donor``, ``part``."""
    hashes: dict[str, str]
    """File name -> SHA-256."""

    def part(self, name: str) -> AnnData:
        """Return the cells of one part."""
        return self.adata[self.adata.obs["part"] == name].copy()

    def record(self) -> dict[str, Any]:
        """Return sizes and hashes (JSON form)."""
        sizes = self.adata.obs["part"].value_counts()
        return {
            "num_genes": self.adata.n_vars,
            "sizes": {name: int(sizes[name]) for name in PARTS},
            "held_out_donors": list(HELD_OUT_DONORS),
            "hashes": self.hashes,
        }


def joint_cells(folder: str | Path, *, seed: int = 0) -> JointCells:
    """Read the files in ``folder`` and put them together; ``seed`` draws training cells and random held-out ones.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    """
    import anndata

    folder, rng = Path(folder), np.random.default_rng(seed)
    parts = [
        _kang_control(_read(folder, "kang2018_ctrl_8donors"), rng),
        _kang_interferon(_read(folder, "kang2018_ifnb_labelled")),
        _plain(_read(folder, "pbmc_facs_zheng"), "zheng2017", rng, types="cell_type_coarse"),
        _plain(_read(folder, "retina_1k"), "retina", rng, types="cell_type"),
        _plain(_read(folder, "celllines_sc_mixology"), "sc_mixology", rng, types="cell_type"),
        _plain(_read(folder, UNSEEN_STUDY), UNSEEN_STUDY, rng, types="cell_type_coarse"),
    ]
    parts[-1].obs["part"] = "study"
    genes = sorted(set.intersection(*(set(part.var_names) for part in parts)))
    joined = anndata.concat([part[:, genes] for part in parts], index_unique="-", keys=range(len(parts)))
    joined.obs["coarse_type"] = [LINEAGES[name] for name in joined.obs["cell_type"]]
    names = ("kang2018_ctrl_8donors", "kang2018_ifnb_labelled", "pbmc_facs_zheng", "retina_1k")
    names += ("celllines_sc_mixology", UNSEEN_STUDY)
    hashes = {f"{name}.h5ad": hashlib.sha256((folder / f"{name}.h5ad").read_bytes()).hexdigest() for name in names}
    return JointCells(adata=joined, hashes=hashes)


def _read(folder: Path, name: str) -> AnnData:
    """Read a file with approved symbols as names; of genes that share one, the first stays."""
    import anndata

    path = folder / f"{name}.h5ad"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; --data names the folder that holds it")
    adata = anndata.read_h5ad(path)
    symbol_g = adata.var["hgnc_symbol"].astype(str).to_numpy()
    adata.var_names = np.where(np.isin(symbol_g, ("", "nan")), adata.var_names.astype(str), symbol_g)
    return adata[:, ~adata.var_names.duplicated()].copy()


def _with_words(adata: AnnData, study: str, *, types: str, status: str) -> AnnData:
    """Keep the words alone in obs."""
    import pandas as pd

    obs = adata.obs
    tech = obs["assay"].astype(str).str.split(" \\(| plate| v").str[0]
    adata.obs = pd.DataFrame(
        {
            "organ": obs["tissue"].astype(str).map(ORGANS).to_numpy(),
            "tech": tech.to_numpy(),
            "status": status,
            "cell_type": obs[types].astype(str).to_numpy(),
            "study": study,
            "donor": obs["donor"].astype(str).to_numpy() if "donor" in obs else "unknown",
            "part": "train",
        },
        index=adata.obs_names,
    )
    return adata


def _kang_control(adata: AnnData, rng: np.random.Generator) -> AnnData:
    """Hold two donors out whole, and draw as many cells of each other one."""
    adata = _with_words(adata, "kang2018", types="cell_type_coarse", status="untreated")
    donor_n = adata.obs["donor"].to_numpy()
    is_held_n = np.isin(donor_n, HELD_OUT_DONORS)
    rows = [np.flatnonzero(is_held_n)]
    for donor in sorted(set(donor_n[~is_held_n])):
        rows.append(rng.permutation(np.flatnonzero(donor_n == donor))[:CELLS_A_DONOR])
    adata.obs.loc[is_held_n, "part"] = "donors"
    return adata[np.sort(np.concatenate(rows))].copy()


def _kang_interferon(adata: AnnData) -> AnnData:
    """Take the treated cells alone: its control cells are those of the other file."""
    adata = adata[adata.obs["condition"] == "stim"].copy()
    adata = _with_words(adata, "kang2018", types="cell_type_coarse", status="interferon beta")
    adata.obs.loc[adata.obs["donor"].isin(HELD_OUT_DONORS), "part"] = "donors"
    return adata


def _plain(adata: AnnData, study: str, rng: np.random.Generator, *, types: str) -> AnnData:
    """Hold random cells out, as many of each type as its share says."""
    adata = _with_words(adata, study, types=types, status="untreated")
    type_n = adata.obs["cell_type"].to_numpy()
    for name in sorted(set(type_n)):
        rows = rng.permutation(np.flatnonzero(type_n == name))
        adata.obs.iloc[rows[: round(RANDOM_SHARE * len(rows))], adata.obs.columns.get_loc("part")] = "random"
    return adata
