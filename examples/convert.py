"""Look into a published scGPT checkpoint, and convert it in both directions.

    python examples/convert.py
    python examples/convert.py --model path/to/scGPT_human --out converted

Without --model, an untrained tiny network is written in the published format first, so that there is something to
look at: no published weights ship with cellwright. Converting is not needed to use a checkpoint. What it is for: the
cellwright form opens faster and holds no pickle; the published form is read by other tools. The same on the command
line:

    cellwright inspect path/to/scGPT_human
    cellwright convert path/to/scGPT_human converted/cellwright
    cellwright convert converted/cellwright converted/released --to released
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import cellwright
from cellwright.data import load_dataset
from cellwright.models import FAMILIES, new_model


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="official scGPT folder (default: make one)")
    parser.add_argument("--out", type=Path, default=Path("converted"), help="folder to make")
    given = parser.parse_args(argv)

    released = given.model or made_up_release(given.out / "made_up")

    # Opening is strict: a tensor that is missing or of another shape is an error that names it, never a random number.
    # Pickled files are opened so that no code in them can run.
    record, lines = cellwright.inspect(released)
    print("\n".join(lines))

    # Genes are found by name in the checkpoint's own vocabulary; ids differ between released models.
    model = cellwright.load(released)
    some = ["CD3D", "MS4A1", "NKG7"]
    print("ids:", dict(zip(some, model.vocab.ids(some).tolist(), strict=True)), "(-1 = not in the vocabulary)")

    # There and back again: the tensors that come out are the ones that went in, under the same names.
    cellwright.convert(released, given.out / "cellwright")
    cellwright.convert(given.out / "cellwright", given.out / "released", to="released")
    again = cellwright.load(given.out / "released").tensors()
    tensors = model.tensors()
    is_same = tensors.keys() == again.keys() and all(torch.equal(again[name], value) for name, value in tensors.items())
    print(f"{len(tensors)} tensors, {record['num_parameters']:,} parameters; equal after the round trip: {is_same}")


def made_up_release(folder: Path) -> Path:
    """Write an untrained network of the tiny size as a published folder."""
    family = FAMILIES["scgpt"]
    genes = load_dataset("pbmc3k").var_names[:1000]
    vocab = cellwright.GeneVocab.from_genes(genes, family.specials)
    cellwright.convert(new_model("scgpt", vocab, family.sizes["tiny"]), folder, to="released")
    return folder


if __name__ == "__main__":
    main()
