"""Do gene vectors of a small scGPT, pre-trained here, name known targets? Blood, against ChIP and literature tables.

    python studies/gene_network.py --data FOLDER -o studies/results

FOLDER holds ``pbmc3k.h5ad``, ``pbmc_facs_zheng.h5ad`` and, under ``reference``, the tables of targets.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cellwright
from cellwright.evaluate.comparison import table_text
from cellwright.evaluate.results import write_results
from cellwright.verbs import InferenceOptions, NetworkOptions

TABLES = {"chip": "encode_tfchip_targets.json.gz", "literature": "omnipath_transcriptional.tsv.gz"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    options.add_argument("-o", "--out", type=Path, required=True, help="folder for the rows")
    options.add_argument("--steps", type=int, default=240, help="of pre-training")
    asked = options.parse_args()
    run = InferenceOptions(progress=False, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        changes = ["data.num_genes=2000", f"train.max_steps={asked.steps}", "train.max_epochs=null"]
        changes += ["train.accelerator=cpu"]
        made = cellwright.pretrain(asked.data / "pbmc_facs_zheng.h5ad", out=Path(folder) / "run", changes=changes)
        for name, table in TABLES.items():
            for embedding in ("context", "table"):
                network = cellwright.grn(
                    asked.data / "pbmc3k.h5ad",
                    made.model,
                    targets=asked.data / "reference" / table,
                    config=NetworkOptions(embedding=embedding, min_cells=30),
                    run=run,
                )
                print(f"\n{name}, {embedding}: {network.evaluation.headline}\n{table_text(network.evaluation)}")
                path = asked.out / f"gene_network_{name}_{embedding}.jsonl"
                write_results(network.evaluation, path)
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                path.write_text("".join(line for line in lines if '"part": null' in line), encoding="utf-8")


if __name__ == "__main__":
    main()
