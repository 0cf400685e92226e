"""Golden runs: every ``*_tiny`` recipe, 30 steps of 8 synthetic cells, one thread, float32, on the CPU.

A change of the numbers is a change of behaviour. When it is meant, record them again and say why in the change log:

    python tests/golden/record.py               all recipes
    python tests/golden/record.py scgpt_tiny    these ones

Each recipe has one JSON file beside this one: its losses step by step, and the versions that made them. A new family
is covered by recording its recipe.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cellwright.config import versions
from cellwright.data.synthetic import make_cells
from cellwright.files import write_json
from cellwright.recipes import RECIPES, pretrain_model, recipe

HERE = Path(__file__).parent
NUM_STEPS = 30
TINY = tuple(name for name in RECIPES if name.endswith("_tiny"))
SETTINGS = (
    "batch_size=8",  # keeps the test at seconds
    f"train.max_steps={NUM_STEPS}",
    "train.max_epochs=null",
    "train.accelerator=cpu",
    "train.devices=1",
    "train.precision=32-true",
    "train.log_every=1",
    f"train.checkpoint_every={NUM_STEPS // 2}",
)
OWN_SETTINGS = {
    "scmulan_tiny": ("data.metadata.coarse_type=lineage", "data.metadata.organ=tissue"),
    "scfoundation_tiny": ('objective.view_options={"least_molecules": 50}', "optim.warmup_steps=5"),
}
"""Settings of single recipes: where one that reads metadata finds them in these cells; which of these shallow cells
are thinned, and a rate that is reached in 30 steps."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside: sums of several are added in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cells() -> Any:
    """Make the cells of all golden runs: 120 of three types in two organs, about 45 expressed genes each."""
    adata = make_cells(120, 80, depth=150.0, seed=7)
    adata.obs["lineage"] = ["even" if name == "type 1" else "odd" for name in adata.obs["cell_type"]]
    adata.obs["tissue"] = ["lung" if name == "batch 0" else "liver" for name in adata.obs["tech_batch"]]
    return adata


def run(name: str, folder: Path, *, resume: bool = False) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Train a recipe; return its rows of losses (without times) and the weights."""
    with one_thread():
        chosen = recipe(name).override([*SETTINGS, *OWN_SETTINGS.get(name, ())])
        model, result = pretrain_model(chosen, [cells()], folder, resume=resume)
    assert result.num_steps == NUM_STEPS
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in result.history]
    return rows, model.tensors()


def golden_path(name: str) -> Path:
    """Return where the numbers of a recipe are stored."""
    return HERE / f"{name}.json"


def main(names: list[str]) -> None:
    """Record the golden numbers of these recipes."""
    from tempfile import TemporaryDirectory

    for name in names or TINY:
        with TemporaryDirectory() as folder:
            rows, _ = run(name, Path(folder) / "run")
        made_by = {package: number for package, number in versions().items() if package != "platform"}
        write_json(golden_path(name), {"recipe": name, "versions": made_by, "rows": rows})
        print(f"{name}: first loss {rows[0]['train/loss']:.6g}, wrote {golden_path(name)}")


if __name__ == "__main__":
    main(sys.argv[1:])
