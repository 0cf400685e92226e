"""Checkpoints that do not fit are refused in one line, and nothing in them runs."""

import json
import pickle
import shutil

import pytest
import torch
from cli.command_line import refused, works


def tensors(change):
    """Return a change of the published weights file."""

    def apply(folder):
        state = torch.load(folder / "best_model.pt", weights_only=True)
        torch.save(change(state), folder / "best_model.pt")

    return apply


def record(name, change):
    """Return a change of a JSON file."""

    def apply(folder):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(change(found)))

    return apply


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def cut(name, share):
    def apply(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return apply


def without(name):
    return lambda folder: (folder / name).unlink()


NORM = "encoder.enc_norm.weight"
PUBLISHED = {
    "a tensor missing": (tensors(lambda s: {k: v for k, v in s.items() if k != NORM}), ["1 tensors missing", NORM]),
    "a tensor of another shape": (tensors(lambda s: s | {NORM: torch.ones(7)}), [f"{NORM} is (7,), needed (16,)"]),
    "a tensor of integers": (tensors(lambda s: s | {NORM: torch.ones(16, dtype=torch.int64)}), ["cannot be read"]),
    "a number for a matrix": (tensors(lambda s: s | {"encoder.embedding.weight": torch.ones(())}), ["cannot be read"]),
    "numbers that are not finite": (tensors(lambda s: s | {NORM: torch.full((16,), torch.nan)}), ["not finite"]),
    "no attention": (tensors(lambda s: {k: v for k, v in s.items() if "attn" not in k}), ["no attention weights"]),
    "no tensor": (tensors(lambda s: {}), ["is not a state dict"]),
    "a training state": (tensors(lambda s: {"model_state_dict": s, "epoch": 3}), ["is not a state dict"]),
    "no weights": (cut("best_model.pt", 0), ["best_model.pt cannot be read"]),
    "a tenth of the weights": (cut("best_model.pt", 0.1), ["best_model.pt cannot be read", "is it complete?"]),
    "most of the weights": (cut("best_model.pt", 0.99), ["best_model.pt cannot be read"]),
    "args cut": (cut("args.json", 0.5), ["args.json is not valid JSON"]),
    "args of no kind": (text("args.json", "{}"), ["args.json lacks 'embsize'"]),
    "args a number": (text("args.json", "3"), ["cannot be read as a published scGPT checkpoint"]),
    "args null": (text("args.json", "null"), ["cannot be read as a published scGPT checkpoint"]),
    "args without a width": (record("args.json", lambda r: r | {"embsize": None}), ["cannot be read"]),
    "args of another size": (record("args.json", lambda r: r | {"embsize": 32}), ["of another shape"]),
    "args with more layers": (record("args.json", lambda r: r | {"nlayers": 2}), ["12 tensors missing"]),
    "args with a word": (record("args.json", lambda r: r | {"nlayers": "two"}), ["num_layers = 'two'"]),
    "heads that do not divide": (record("args.json", lambda r: r | {"nheads": 3}), ["multiple of num_heads 3"]),
    "vocab cut": (cut("vocab.json", 0.5), ["vocab.json is not valid JSON"]),
    "vocab a list": (record("vocab.json", list), ["vocab.json is not a published scGPT vocabulary"]),
    "vocab shorter": (record("vocab.json", lambda r: dict(list(r.items())[:20])), ["(63, 16), needed (23, 16)"]),
    "vocab longer": (record("vocab.json", lambda r: r | {"MORE": len(r)}), ["(63, 16), needed (64, 16)"]),
    "vocab with an id twice": (record("vocab.json", lambda r: r | {next(iter(r)): 4}), ["each once"]),
    "vocab of words": (record("vocab.json", lambda r: {k: str(v) for k, v in r.items()}), ["is '0'; ids must be 0 .."]),
    "no args": (without("args.json"), ["is not a model", "args.json, vocab.json, best_model.pt"]),
    "no vocab": (without("vocab.json"), ["is not a model"]),
    "no weights file": (without("best_model.pt"), ["is not a model"]),
}


def config(**changes):
    return record("config.json", lambda found: found | changes)


def inside(part, **changes):
    return record("config.json", lambda found: found | {part: found[part] | changes})


OWN = {
    "weights cut": (cut("model.safetensors", 0.7), ["model.safetensors is damaged or was exchanged"]),
    "vocab exchanged": (text("vocab.json", "{}"), ["vocab.json is damaged or was exchanged"]),
    "config cut": (cut("config.json", 0.5), ["config.json is not valid JSON"]),
    "config of no kind": (text("config.json", "[]"), ["is not of a cellwright checkpoint"]),
    "no weights": (without("model.safetensors"), ["model.safetensors is missing"]),
    "no vocab": (without("vocab.json"), ["vocab.json is missing"]),
    "a part missing": (record("config.json", lambda r: {k: v for k, v in r.items() if k != "inputs"}), ["['inputs']"]),
    "an unknown family": (config(family="scgtp"), ["unknown model family 'scgtp'", "did you mean 'scgpt'?"]),
    "a family of no kind": (config(family=[]), ["unknown model family"]),
    "a newer format": (config(format_version=99), ["written by a newer cellwright (format 99)"]),
    "a format of no kind": (config(format_version="x"), ["'format_version' is of another kind"]),
    "hashes of no kind": (config(sha256="x"), ["'sha256' is of another kind"]),
    "heads of no kind": (config(heads=[]), ["'heads' is of another kind"]),
    "a head without parts": (config(heads={"label": {}}), ["head 'label' cannot be built", "was it edited?"]),
    "a head of three": (
        config(heads={"label": {"options": {"num_classes": 3}, "classes": ["a", "b"]}}),
        ["head 'label' has 3 classes and 2 names"],
    ),
    "a head without tensors": (
        config(heads={"label": {"options": {"num_classes": 2}, "classes": ["a", "b"]}}),
        ["tensors do not fit", "missing (trunk"],
    ),
    "another width": (inside("config", width=32), ["tensors do not fit", "is (63, 16) torch.float32, needed (63, 32)"]),
    "more layers": (inside("config", num_layers=2), ["12 missing (blocks.1."]),
    "a misspelt field": (inside("config", widht=16), ["no option 'widht'", "did you mean 'width'?"]),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_folders_that_do_not_fit(case, official, data, tmp_path):
    change, says = PUBLISHED[case]
    change(shutil.copytree(official, tmp_path / "model"))
    words = ["embed", tmp_path / "model", data, "-o", tmp_path / "out.h5ad", "--no-progress"]
    line = refused(tmp_path, *words, says=says)
    assert str(tmp_path / "model") in line or "embedding of cell 0" in line or "vocabulary id" in line
    assert len(line) < 700


@pytest.mark.parametrize("case", OWN)
def test_own_folders_that_do_not_fit(case, own, data, tmp_path):
    change, says = OWN[case]
    change(shutil.copytree(own, tmp_path / "model"))
    words = ["annotate", tmp_path / "model", data, "-o", tmp_path / "out.h5ad"]
    line = refused(tmp_path, *words, says=[tmp_path / "model", *says])
    assert len(line) < 700


def test_extra_tensors_are_kept_and_told(official, data, tmp_path):
    folder = shutil.copytree(official, tmp_path / "model")
    tensors(lambda s: s | {"spare.weight": torch.arange(3.0)})(folder)
    assert "1 unused (spare.weight)" in works("inspect", folder)
    works("embed", folder, data, "-o", tmp_path / "out.h5ad")
    works("convert", folder, tmp_path / "own")
    works("convert", tmp_path / "own", tmp_path / "back", "--to", "released")
    back = torch.load(tmp_path / "back" / "best_model.pt", weights_only=True)
    assert back["spare.weight"].tolist() == [0, 1, 2]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["zip", "plain pickle", "old pickle"])
@pytest.mark.parametrize("verb", ["embed", "inspect", "convert"])
def test_code_in_a_pickle_does_not_run(kind, verb, official, data, tmp_path):
    folder, sprung = shutil.copytree(official, tmp_path / "model"), tmp_path / "sprung"
    content = {NORM: Trap(sprung)}
    if kind == "zip":
        torch.save(content, folder / "best_model.pt")
    else:
        protocol = 4 if kind == "plain pickle" else 2
        (folder / "best_model.pt").write_bytes(pickle.dumps(content, protocol=protocol))
    words = {
        "embed": [folder, data, "-o", tmp_path / "out.h5ad"],
        "inspect": [folder],
        "convert": [folder, tmp_path / "own"],
    }[verb]
    line = refused(tmp_path, verb, *words, says=["best_model.pt", "refused", "may run code"])
    assert not sprung.exists()
    assert "\x1b" not in line


def test_what_is_no_model_is_told_from_what_is(official, own, data, tmp_path):
    (tmp_path / "empty").mkdir()
    out = ["-o", tmp_path / "out.h5ad"]
    refused(tmp_path, "embed", tmp_path / "absent", data, *out, says=["no model at", tmp_path / "absent"])
    refused(tmp_path, "embed", tmp_path / "empty", data, *out, says=["is not a model", tmp_path / "empty"])
    refused(tmp_path, "embed", data, data, *out, says=["is not a model", data])
    refused(tmp_path, "embed", own, own, *out, says=["neither an AnnData .zarr store nor a 10x folder"])
    says = ["has no trained label head", "cellwright finetune annotate MODEL DATA --label COLUMN -o RUN"]
    refused(tmp_path, "annotate", official, data, *out, says=says)
