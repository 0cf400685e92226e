"""Published containers: the same file out as in, wrapped or not, and nothing loaded when something is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from parity.cases import DATA, Case, assert_close
from parity.sentences import sentence_tokens

from cellwright.models import FAMILIES, load
from cellwright.models.scmulan.weights import from_released

FOLDERS = sorted(p.parent.name for p in (DATA / "scmulan").glob("*/ckpt.pt"))
SOURCE = Case("scmulan", "forward_nobias")


def rewrite(target: Path, change=None, change_meta=None) -> Path:
    """Copy a published folder with its container or vocabulary changed."""
    shutil.copytree(SOURCE.folder, target)
    for name, edit in (("ckpt.pt", change), ("meta_info.pt", change_meta)):
        if edit is not None:
            torch.save(edit(torch.load(target / name, weights_only=True)), target / name)
    return target


def assert_same_container(before: Path, after: Path) -> None:
    one, two = (torch.load(path, weights_only=True) for path in (before, after))
    assert list(one) == list(two)
    assert {k: v for k, v in one.items() if k != "model"} == {k: v for k, v in two.items() if k != "model"}
    assert one["model"].keys() == two["model"].keys()
    for key, value in one["model"].items():
        assert torch.equal(value, two["model"][key]), key
        assert value.dtype == two["model"][key].dtype, key


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("is_by_way_of_ours", [False, True])
def test_written_back_exactly(name, is_by_way_of_ours, tmp_path):
    folder = Case("scmulan", name).folder
    model = load(folder)
    if is_by_way_of_ours:
        model.save(tmp_path / "ours")
        model = load(tmp_path / "ours")
        assert model.sha256() == load(folder).sha256()
    model.release(tmp_path / "out")
    assert_same_container(folder / "ckpt.pt", tmp_path / "out" / "ckpt.pt")
    before, after = (torch.load(f / "meta_info.pt", weights_only=True) for f in (folder, tmp_path / "out"))
    assert before == after


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_saves(prefix, tmp_path):
    folder = rewrite(tmp_path / "m", lambda c: c | {"model": {prefix + k: v for k, v in c["model"].items()}})
    model = load(folder)
    assert model.report.layout == f"wrapped {prefix}"
    with torch.inference_mode():
        assert_close(model.network(sentence_tokens(SOURCE["idx"], SOURCE["x_expr"])).hidden_ntd, SOURCE["hidden"])
    model.release(tmp_path / "out")
    assert_same_container(folder / "ckpt.pt", tmp_path / "out" / "ckpt.pt")


def test_what_is_beside_the_weights_is_kept_or_named(tmp_path):
    def change(container):
        args = container["model_args"] | {"beta": 200}
        extra = {"transformer.h.0.attn.bias": torch.ones(3)}
        return {
            "iter_num": 245000,
            "model": container["model"] | extra,
            "model_args": args,
            "optimizer": {"state": {0: torch.ones(2)}},
        }

    folder = rewrite(tmp_path / "m", change)
    report = load(folder).report
    assert report.unused == ("transformer.h.0.attn.bias",)
    assert any("ignored: beta" in note for note in report.notes)
    assert any("left out: optimizer" in note for note in report.notes)
    assert report.record()["notes"] == list(report.notes)
    load(folder).release(tmp_path / "out")
    before, after = (torch.load(f / "ckpt.pt", weights_only=True) for f in (folder, tmp_path / "out"))
    assert list(after) == ["iter_num", "model", "model_args"]
    assert after["model_args"] == before["model_args"]
    assert after["model"].keys() == before["model"].keys()


def test_half_precision_comes_back_as_it_was(tmp_path):
    folder = rewrite(tmp_path / "m", lambda c: c | {"model": {k: v.bfloat16() for k, v in c["model"].items()}})
    model = load(folder)
    assert all(p.dtype == torch.float32 for p in model.network.parameters())
    model.release(tmp_path / "out")
    assert_same_container(folder / "ckpt.pt", tmp_path / "out" / "ckpt.pt")


def test_vocabulary_given_from_elsewhere(tmp_path):
    shutil.copyfile(SOURCE.folder / "ckpt.pt", tmp_path / "any.pt")
    with pytest.raises(ValueError, match=r"needs a weights file with meta_info.pt beside it"):
        from_released(tmp_path / "any.pt")
    found = from_released(tmp_path / "any.pt", vocab_file=SOURCE.folder / "meta_info.pt")
    network = FAMILIES["scmulan"].build(found.config, found.vocab)
    network.load_state_dict(found.network)
    assert found.config.width == 32


def edited(key, value):
    return lambda c: c | {"model_args": {k: v for k, v in (c["model_args"] | {key: value}).items() if v is not None}}


def tensors(change):
    return lambda c: c | {"model": change(c["model"])}


WRONG = {
    "a missing tensor": (tensors(lambda s: {k: v for k, v in s.items() if "h.1.ln_2" not in k}), "h.1.ln_2.weight"),
    "a cut head": (tensors(lambda s: s | {"epx_head.weight": s["epx_head.weight"][:-1]}), r"epx_head.weight is \(99"),
    "another depth": (edited("n_layer", 3), "6 tensors missing"),
    "no heads known": (edited("n_head", None), "lack 'n_head'"),
    "heads that do not divide": (edited("n_head", 5), "must be a multiple"),
    "biases that are not there": (edited("bias", True), "tensors missing"),
    "another value input": (edited("ele", 2), "ele = 2"),
    "another vocabulary": (edited("vocab_size", 2222), "made for 2222 vocabulary entries, meta_info.pt holds 100"),
    "no sizes": (lambda c: {"model": c["model"]}, "holds no 'model_args'"),
    "no weights": (lambda c: {"model_args": c["model_args"]}, "holds no state dict"),
    "a bare state dict": (lambda c: c["model"], "holds no state dict"),
}


@pytest.mark.parametrize("what", WRONG)
def test_gaps_are_refused_by_name(what, tmp_path):
    change, words = WRONG[what]
    with pytest.raises(ValueError, match=words):
        load(rewrite(tmp_path / "m", change))


WRONG_META = {
    "no tokens": (lambda m: {"gene_set": m["gene_set"]}, "needs token_set and gene_set"),
    "no end": (lambda m: m | {"token_set": ["end", *m["token_set"][1:]]}, "no word '<E>'"),
    "a word of nowhere": (lambda m: m | {"organ": {"Liver", "Kidney"}}, "'Kidney' of organ is not in token_set"),
    "genes out of order": (lambda m: m | {"gene_set": m["gene_set"][::-1]}, "in their order"),
    "a token twice": (lambda m: m | {"token_set": [*m["token_set"][:-1], "GENE00"]}, "occurs twice"),
}


@pytest.mark.parametrize("what", WRONG_META)
def test_vocabularies_that_cannot_be_are_refused(what, tmp_path):
    change, words = WRONG_META[what]
    with pytest.raises(ValueError, match=words):
        load(rewrite(tmp_path / "m", change_meta=change))


def test_words_of_no_category_are_kept_and_named(tmp_path):
    model = load(rewrite(tmp_path / "m", change_meta=lambda m: {k: v for k, v in m.items() if k != "organ"}))
    assert model.vocab.categories["other"] == ("Liver", "Brain")
    assert "2 tokens of no known category" in model.report.notes[0]
    assert "Liver" not in model.vocab.genes


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("was_run"),))


@pytest.mark.parametrize("name", ["ckpt.pt", "meta_info.pt"])
def test_a_pickle_with_code_is_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = rewrite(tmp_path / "m")
    torch.save({"a": Evil()}, folder / name)
    with pytest.raises(ValueError, match="refused: it holds more than tensors"):
        load(folder)
    assert not (tmp_path / "was_run").exists()


def test_the_released_size():
    vocab = load(Case("scmulan", "pipeline_realvocab").folder).vocab
    sizes = FAMILIES["scmulan"].sizes
    with torch.device("meta"):
        networks = {name: FAMILIES["scmulan"].build(sizes[name], vocab) for name in ("released", "preprint")}
    assert sum(p.numel() for p in networks["released"].parameters()) == 368_800_320
    assert len(networks["released"].state_dict()) == 149
    assert len(networks["preprint"].blocks) == 20
    assert json.dumps(sizes["released"].record())
