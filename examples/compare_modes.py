"""Ways of fine-tuning: probe, low-rank, full and from scratch on the same cells, and what pre-training was worth.

    python examples/compare_modes.py
    python examples/compare_modes.py --model path/to/scGPT_human --data labelled.h5ad --label cell_type \
        --seeds 3 --epochs 10 --out runs/ways

Without arguments, every fourth of the shipped sorted blood cells (Zheng et al. 2017) is used, and a tiny model is
pre-trained on the spot, since no published weights ship. The same on the command line:

    cellwright finetune compare path/to/scGPT_human labelled.h5ad --label cell_type --seeds 3 -o runs/ways

Other tasks are compared in the same way; the second example here is integration of sequencing batches:

    python examples/compare_modes.py --task integrate --data cells.h5ad --tech-batch batch --label cell_type
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata

import cellwright
from cellwright.data import load_dataset
from cellwright.evaluate import table_text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="official scGPT folder, or a cellwright model (default: make one)")
    parser.add_argument("--data", type=Path, help="labelled cells, .h5ad (default: shipped cells)")
    parser.add_argument("--task", choices=("annotate", "integrate"), default="annotate", help="what is fine-tuned for")
    parser.add_argument("--tech-batch", help="integrate: column of obs with the sequencing batches, in --data")
    parser.add_argument("--label", default="cell_type_coarse", help="column of obs with the cell types")
    parser.add_argument("--modes", nargs="+", default=["probe", "lora", "full", "scratch"], help="ways of fine-tuning")
    parser.add_argument("--seeds", type=int, default=2, help="training seeds of each way")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the training cells")
    parser.add_argument("--steps", type=int, default=100, help="length of the pre-training without --model")
    parser.add_argument("--out", type=Path, default=Path("runs/example-ways"), help="folder to make")
    given = parser.parse_args(argv)

    adata = anndata.read_h5ad(given.data) if given.data else load_dataset("pbmc_facs_zheng")[::4].copy()
    model = given.model
    if model is None:
        changes = ["data.num_genes=600", f"train.max_steps={given.steps}"]
        model = cellwright.pretrain(adata, out=given.out / "pretrained", changes=changes).model

    # One split for all. A change can be for one way alone: what little a probe trains wants a higher rate.
    changes = [f"train.max_epochs={given.epochs}", "optim.lr=0.001"]
    changes += ["probe:optim.lr=0.01"] * ("probe" in given.modes)
    changes += ["class_weight=balanced"] if given.task == "annotate" else ["num_genes=600"]
    result = cellwright.compare_modes(
        adata,
        model,
        task=given.task,
        label=given.label,
        out=given.out / "ways",
        how=cellwright.CompareOptions(modes=tuple(given.modes), seeds=given.seeds),
        changes=changes,
        read=cellwright.ReadOptions(tech_batch=given.tech_batch),
        run=cellwright.InferenceOptions(progress=False),
    )
    print(table_text(result.evaluation))

    # Differences are paired: the same cells, the same seeds. The first is full - scratch where both were run.
    for difference in result.evaluation.differences[:3]:
        interval = f"[{difference.low:+.3f}, {difference.high:+.3f}]"
        print(f"{difference.method} - {difference.other}: {difference.value:+.3f} {interval}")
    print(f"report: {result.report}")


if __name__ == "__main__":
    main()
