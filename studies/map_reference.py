"""Mapping blood onto a reference: a small scGPT as it starts, pre-trained, and fine-tuned, beside simple ways.

    python studies/map_reference.py --data FOLDER -o studies/results

Case ``studies``: sorted PBMC of Zheng et al. 2017 are the reference, PBMC 3k the query (another study and chemistry; it
has three types that the reference lacks). Case ``donors``: four donors of Kang et al. 2018 are the reference, the other
four the query. FOLDER holds ``pbmc_facs_zheng``, ``pbmc3k`` and ``kang2018_ctrl_8donors`` (``.h5ad``).

The network (recipe ``scgpt_tiny``) is built for the most variable genes of the reference. ``untrained``: as it starts.
``pretrained``: on the reference cells, without labels. ``finetuned``: then told the labels of the reference, which the
classifiers are told too. Nothing is chosen by the query. With ``--reports FOLDER``, each gets its report.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np

import cellwright
from cellwright.config import versions
from cellwright.data.cells import open_cells
from cellwright.data.splits import label_codes
from cellwright.evaluate.comparison import table_text
from cellwright.files import atomic_path
from cellwright.models import Model
from cellwright.tasks.annotate import HEAD, AnnotateConfig, Rows, train_annotator
from cellwright.verbs import InferenceOptions

LABEL = "cell_type_coarse"
CASES = ("studies", "donors")
WAYS = ("untrained", "pretrained", "finetuned")
COLUMNS = ("macro_f1_present", "accuracy", "ece", "outside_auroc", "unknown_auroc")
QUIET = InferenceOptions(progress=False, device="cpu")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    options.add_argument("-o", "--out", type=Path, required=True, help="folder for the rows and the table")
    options.add_argument("--reports", type=Path, help="folder for the reports; none without it")
    options.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which are run")
    options.add_argument("--genes", type=int, default=1000, help="most variable genes of the reference")
    options.add_argument("--steps", type=int, default=400, help="of pre-training")
    options.add_argument("--epochs", type=int, default=4, help="of fine-tuning")
    options.add_argument("--cells", type=int, default=2500, help="most cells of a reference or query")
    asked = options.parse_args()
    for case in asked.cases:
        rows = []
        reference, query = (some(cells, asked.cells) for cells in pair(case, asked.data))
        is_first = True
        for way, model in models(reference, asked):
            with tempfile.TemporaryDirectory() as folder:
                out = (asked.reports or Path(folder)) / f"map_{case}_{way}"
                found = cellwright.score(
                    query, model, task="map_reference", label=LABEL, train=reference, out=out, run=QUIET
                ).evaluation
            print(f"\n{case}, {way}: {found.headline}\n{table_text(found)}", flush=True)
            for method in found.methods:
                if is_first or not method.is_baseline:  # the baselines are the same beside every model
                    name = method.name if method.is_baseline else way
                    scores = {metric: score.record() for metric, score in method.scores.items()}
                    rows.append({"case": case, "method": name, "kind": method.kind, "scores": scores})
            is_first = False
        keep = {name: value for name, value in vars(asked).items() if name not in ("data", "out", "reports", "cases")}
        save(asked.out, [{"study": f"map_reference_{case}", "options": keep, "versions": versions()}, *rows])


def pair(case: str, data: Path) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Return reference and query."""
    if case == "studies":
        return tuple(anndata.read_h5ad(data / f"{name}.h5ad") for name in ("pbmc_facs_zheng", "pbmc3k"))
    cells = anndata.read_h5ad(data / "kang2018_ctrl_8donors.h5ad")
    is_query_n = np.isin(cells.obs["donor"].astype(str), sorted(cells.obs["donor"].astype(str).unique())[::2])
    return cells[~is_query_n].copy(), cells[is_query_n].copy()


def some(cells: anndata.AnnData, most: int) -> anndata.AnnData:
    """Return at most so many cells, drawn at random, in their order."""
    return cells[np.sort(np.random.default_rng(0).permutation(cells.n_obs)[:most])].copy()


def models(reference: anndata.AnnData, asked: argparse.Namespace) -> Iterator[tuple[str, Model]]:
    """Yield the network in its three states."""
    changes = [f"data.num_genes={asked.genes}", f"train.max_steps={asked.steps}", "train.max_epochs=null"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        made = cellwright.pretrain(reference, out=run / "pre", changes=[*changes, "train.accelerator=cpu"])
        yield "untrained", made.model.fresh(0)
        yield "pretrained", made.model
        code_n, classes = label_codes(reference.obs, LABEL)
        source = open_cells(reference, made.model.vocab, accepts=made.model.family.accepts).with_obs({HEAD: code_n})
        order = np.random.default_rng(0).permutation(len(source))
        split = Rows(train=np.sort(order[len(order) // 10 :]), valid=np.sort(order[: len(order) // 10]))
        config = AnnotateConfig().override([f"train.max_epochs={asked.epochs}", "optim.lr=1e-3"])
        config = config.override(["train.accelerator=cpu"])
        tuned, _ = train_annotator(made.model, source, split, classes, config=config, folder=run / "tuned")
        yield "finetuned", tuned


def save(folder: Path, lines: list[dict]) -> None:
    """Write the rows of a case, the conditions first, and a table of them."""
    folder.mkdir(parents=True, exist_ok=True)
    head = ["case", "method", *COLUMNS]
    table = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in lines[1:]:
        cells = [cell(row["scores"].get(metric)) for metric in COLUMNS]
        table.append("| " + " | ".join([row["case"], row["method"], *cells]) + " |")
    for suffix, text in ((".jsonl", "\n".join(map(json.dumps, lines))), (".md", "\n".join(table))):
        with atomic_path(folder / f"{lines[0]['study']}{suffix}") as draft:
            draft.write_text(text + "\n", encoding="utf-8")
    print("\n" + "\n".join(table))


def cell(score: dict | None) -> str:
    """Return a score with its interval."""
    return "-" if score is None else f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


if __name__ == "__main__":
    main()
