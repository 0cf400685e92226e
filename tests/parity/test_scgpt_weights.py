"""Published checkpoints: four key layouts in, the same file out, and nothing loaded when something is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from parity.cases import DATA, Case, assert_close

from cellwright.models import load
from cellwright.models.scgpt.names import ATTENTION_LAYOUTS

FOLDERS = sorted(p.parent.relative_to(DATA / "scgpt").as_posix() for p in (DATA / "scgpt").rglob("best_model.pt"))


def rewrite(folder: Path, target: Path, change) -> Path:
    """Copy a published folder with its state dict changed."""
    shutil.copytree(folder, target)
    state = change(torch.load(folder / "best_model.pt", weights_only=True))
    torch.save(state, target / "best_model.pt")
    return target


@pytest.mark.parametrize("name", FOLDERS)
def test_written_back_exactly(name, tmp_path):
    case = Case("scgpt", name)
    model = load(case.folder)
    model.release(tmp_path / "out")
    before = torch.load(case.folder / "best_model.pt", weights_only=True)
    after = torch.load(tmp_path / "out" / "best_model.pt", weights_only=True)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
    for record in ("vocab.json", "args.json"):
        assert json.loads((case.folder / record).read_text()) == json.loads((tmp_path / "out" / record).read_text())


@pytest.mark.parametrize("name", ["integration_dsbn_dab_zero", "multiomic/mod_batch_zero", "perturb_generator/zero"])
def test_by_way_of_a_cellwright_checkpoint(name, tmp_path):
    case = Case("scgpt", name)
    load(case.folder).save(tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert again.sha256() == load(case.folder).sha256()
    again.release(tmp_path / "back")
    before = torch.load(case.folder / "best_model.pt", weights_only=True)
    after = torch.load(tmp_path / "back" / "best_model.pt", weights_only=True)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("layout", list(ATTENTION_LAYOUTS))
@pytest.mark.parametrize("is_distributed", [False, True])
def test_every_key_layout_gives_the_same_numbers(layout, is_distributed, tmp_path):
    case = Case("scgpt", "released_layout")
    qkv, out = ATTENTION_LAYOUTS[layout]

    def rename(state):
        prefix = "module." if is_distributed else ""
        swap = {"self_attn.Wqkv.": qkv, "self_attn.out_proj.": out}
        for old, new in swap.items():
            state = {k.replace(old, new): v for k, v in state.items()}
        return {prefix + k: v for k, v in state.items()}

    model = load(rewrite(case.folder, tmp_path / "m", rename))
    assert model.report.layout == ("distributed " if is_distributed else "") + layout
    with torch.no_grad():
        tokens = case.tokens()
        assert_close(model.network(tokens).cell_nd, case["out/all/cell_emb"])
    model.release(tmp_path / "back")
    written = torch.load(tmp_path / "back" / "best_model.pt", weights_only=True)
    assert written.keys() == torch.load(tmp_path / "m" / "best_model.pt", weights_only=True).keys()


def test_half_precision_comes_back_as_it_was(tmp_path):
    case = Case("scgpt", "released_layout")
    folder = rewrite(case.folder, tmp_path / "m", lambda s: {k: v.half() for k, v in s.items()})
    model = load(folder)
    assert all(p.dtype == torch.float32 for p in model.network.parameters())
    model.release(tmp_path / "back")
    before, after = (torch.load(f / "best_model.pt", weights_only=True) for f in (folder, tmp_path / "back"))
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_foreign_class_head_is_kept_aside(tmp_path):
    case = Case("scgpt", "released_layout")
    extra = {"cls_decoder.cls_token_matrix": torch.randn(4, 32), "sim.weight": torch.ones(3)}
    model = load(rewrite(case.folder, tmp_path / "m", lambda s: s | extra))
    assert set(model.report.unused) == set(extra)
    assert "label" not in model.heads
    model.release(tmp_path / "back")
    assert extra.keys() <= torch.load(tmp_path / "back" / "best_model.pt", weights_only=True).keys()


def without(key):
    return lambda state: {k: v for k, v in state.items() if key not in k}


def reshaped(key):
    return lambda state: {k: v[:-1] if key in k else v for k, v in state.items()}


WRONG = {
    "a missing tensor": (without("layers.1.norm1.bias"), "layers.1.norm1.bias"),
    "a missing layer": (without("layers.1."), "tensors missing"),
    "no attention": (without("self_attn"), "no attention weights"),
    "a cut embedding": (reshaped("encoder.embedding"), "of another shape"),
    "a mis-shaped head": (reshaped("decoder.fc.2.weight"), "decoder.fc.2.weight"),
}


@pytest.mark.parametrize("what", WRONG)
def test_gaps_are_refused_by_name(what, tmp_path):
    change, words = WRONG[what]
    folder = rewrite(Case("scgpt", "released_layout").folder, tmp_path / "m", change)
    with pytest.raises(ValueError, match=words):
        load(folder)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("was_run"),))


def test_a_pickle_with_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "m"
    shutil.copytree(Case("scgpt", "released_layout").folder, folder)
    torch.save({"a": Evil()}, folder / "best_model.pt")
    with pytest.raises(ValueError, match="refused: it holds more than tensors"):
        load(folder)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_broken_weights_file_is_one_clear_error(content, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(Case("scgpt", "released_layout").folder, folder)
    whole = (folder / "best_model.pt").read_bytes()
    (folder / "best_model.pt").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match="best_model.pt"):
        load(folder)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model at"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a model"):
        load(tmp_path)
    shutil.copytree(Case("scgpt", "released_layout").folder, tmp_path / "m")
    (tmp_path / "m" / "args.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks 'embsize'"):
        load(tmp_path / "m")
    (tmp_path / "m" / "args.json").write_text("{'")
    with pytest.raises(ValueError, match="not valid JSON"):
        load(tmp_path / "m")


def test_own_checkpoint_notices_damage(tmp_path):
    load(Case("scgpt", "released_layout").folder).save(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match="damaged or was exchanged"):
        load(tmp_path / "m")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors is missing"):
        load(tmp_path / "m")
