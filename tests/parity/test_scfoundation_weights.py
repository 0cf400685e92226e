"""Published files: each of their models out as in, and nothing loaded when something is wrong."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from parity.cases import DATA, Case
from parity.depths import all_tokens, close

from cellwright.models import FAMILIES, load, new_model
from cellwright.models.scfoundation.genes import list_text, published_genes, vocab_of
from cellwright.models.scfoundation.weights import published_names
from cellwright.vocab import GeneVocab

FAMILY = FAMILIES["scfoundation"]
TINY = Case("scfoundation", "tiny_checkpoint").folder
FOLDERS = {"tiny_checkpoint": 60, "cli_tiny19264_checkpoint": 19264}


def container_of(folder: Path) -> dict:
    return torch.load(folder / "models.ckpt", weights_only=True)


def rewrite(target: Path, change=None) -> Path:
    """Copy the small published folder with its container changed."""
    shutil.copytree(TINY, target)
    if change is not None:
        torch.save(change(container_of(target)), target / "models.ckpt")
    return target


def assert_same_entry(before: dict, after: dict) -> None:
    assert before["config"] == after["config"]
    assert list(before["state_dict"]) == list(after["state_dict"])
    for name, value in before["state_dict"].items():
        assert torch.equal(value, after["state_dict"][name]), name
        assert value.dtype == after["state_dict"][name].dtype, name


@pytest.mark.parametrize("key", ["cell", "rde", "gene"])
@pytest.mark.parametrize("name", FOLDERS)
def test_written_back_exactly(name, key, tmp_path):
    folder = DATA / "scfoundation" / name
    model = load(folder, key=key)
    assert len(model.vocab.genes) == FOLDERS[name]
    model.save(tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert again.sha256() == model.sha256()
    for i, one in enumerate((model, again)):
        one.release(tmp_path / f"out{i}")
        written = container_of(tmp_path / f"out{i}")
        assert list(written) == [key]
        assert_same_entry(container_of(folder)[key], written[key])
    assert load(tmp_path / "out0").sha256() == model.sha256()  # the only model of a file needs no key
    assert load(tmp_path / "out0").vocab == model.vocab


def test_which_model_is_opened(tmp_path):
    hashes = {key: load(TINY, key=key).sha256() for key in ("cell", "rde", "gene")}
    assert len(set(hashes.values())) == 3
    model = load(TINY / "models.ckpt")
    assert model.sha256() == hashes["cell"] == load(TINY, key="ce").sha256()
    assert model.report.layout == "key cell"
    assert "the file also holds 'gene', 'rde'" in model.report.notes[1]
    with pytest.raises(ValueError, match="no model 'rce'; did you mean 'rde'.* it holds gene, cell, rde"):
        load(TINY, key="rce")
    two = rewrite(tmp_path / "m", lambda c: {key: c[key] for key in ("gene", "rde")})
    with pytest.raises(ValueError, match="no model 'cell'; it holds gene, rde"):
        load(two)
    model.save(tmp_path / "ours")
    with pytest.raises(ValueError, match="holds one model; leave key = 'cell' out"):
        load(tmp_path / "ours", key="cell")
    with pytest.raises(ValueError, match="of one model; leave key = 'cell' out"):
        load(Case("scmulan", "forward_nobias").folder, key="cell")


def test_terms_of_the_weights_are_told():
    report = load(TINY).report
    assert "scFoundation License" in report.notes[0]
    assert "not commercial" in report.notes[0]
    assert report.notes[0] == FAMILY.weights_terms
    assert set(report.unused) == {"decoder.performer.calls_since_last_redraw", "token_emb.emb_pad.weight"}


def test_the_released_size():
    shapes = json.loads((DATA / "scfoundation" / "full_model_state_dict_shapes.json").read_text())
    assert len(shapes) == 265
    with torch.device("meta"):
        network = FAMILY.build(FAMILY.sizes["released"], vocab_of(published_genes()))
    ours = {}
    for key, value in network.state_dict().items():
        names = published_names(key)
        ours |= {name: list(part.shape) for name, part in zip(names, value.chunk(len(names)), strict=True)}
    ours |= {"decoder.performer.calls_since_last_redraw": [], "token_emb.emb_pad.weight": [1, 768]}
    assert ours == {name: shape for name, (shape, _) in shapes.items()}
    assert sum(p.numel() for p in network.parameters()) + 768 == 119_252_285


def test_the_published_gene_list():
    genes = published_genes()
    assert len(genes) == len(set(genes)) == 19264
    assert hashlib.md5(list_text(genes).encode()).hexdigest() == "631077feeb2452af70b0258765118c87"
    vocab = vocab_of(genes)
    assert vocab.tokens[19264:] == ("<T>", "<S>", "<pad>")
    assert vocab.id("A1BG") == 0
    assert genes.index("AMDHD2") < genes.index("AMD1")


def test_other_genes_need_their_list(tmp_path):
    shutil.copy(TINY / "models.ckpt", tmp_path)
    with pytest.raises(
        ValueError, match=r"63 rows, that is 60 genes, T, S and pad; the published list has 19264 genes"
    ):
        load(tmp_path)
    beside = TINY / "OS_scRNA_gene_index.60.tsv"
    given = tmp_path / "mine.tsv"
    shutil.copy(beside, given)
    assert load(tmp_path, vocab=given).sha256() == load(TINY).sha256()
    assert load(tmp_path, vocab=given, key="rde").sha256() == load(TINY, key="rde").sha256()
    lines = beside.read_text().splitlines()
    for text in ("\n".join(lines[:-1]), "\n".join(lines[1:]), "\n".join([*lines[:3], lines[4], lines[3]]), "", "x"):
        given.write_text(text)
        with pytest.raises(ValueError, match=r"59 genes|no scFoundation gene list"):
            load(tmp_path, vocab=given)
    given.write_bytes(b"gene_name\tindex\n\xff\xfe\t0")
    with pytest.raises(ValueError, match="no scFoundation gene list"):
        load(tmp_path, vocab=given)


def test_half_precision_comes_back_as_it_was(tmp_path):
    def change(container):
        state = {k: v.bfloat16() if v.is_floating_point() else v for k, v in container["cell"]["state_dict"].items()}
        return {"cell": container["cell"] | {"state_dict": state}}

    folder = rewrite(tmp_path / "m", change)
    model = load(folder)
    assert all(p.dtype == torch.float32 for p in model.network.parameters())
    model.release(tmp_path / "out")
    assert_same_entry(container_of(folder)["cell"], container_of(tmp_path / "out")["cell"])


def test_what_is_beside_the_weights_is_named(tmp_path):
    folder = rewrite(tmp_path / "m", lambda c: {"cell": c["cell"] | {"epoch": 3, "optimizer": {"a": torch.ones(2)}}})
    assert "left out: epoch, optimizer" in load(folder).report.notes[1]


def edited(**changes):
    """Change the configuration of the model ``cell``; of the encoder where the name says so."""

    def change(container):
        config = json.loads(json.dumps(container["cell"]["config"]))
        fields = config["model_config"]["mae_autobin"]
        for name, value in changes.items():
            part, _, field = name.partition("__")
            if field:
                fields[part][field] = value
            else:
                config["dataset_config"]["rnaseq"][name] = value
        return container | {"cell": container["cell"] | {"config": config}}

    return change


def tensors(change):
    return lambda c: {"cell": c["cell"] | {"state_dict": change(c["cell"]["state_dict"])}}


WRONG = {
    "a missing tensor": (tensors(lambda s: {k: v for k, v in s.items() if "to_final" not in k}), "to_final.weight"),
    "a missing counter": (tensors(lambda s: {k: v for k, v in s.items() if "calls" not in k}), "1 tensors missing"),
    "a missing table": (tensors(lambda s: {k: v for k, v in s.items() if "pos_emb" not in k}), "pos_emb.weight is"),
    "no projection": (tensors(lambda s: {k: v for k, v in s.items() if "projection" not in k}), "2 tensors missing"),
    "a cut key": (tensors(lambda s: {k: v[:-1] if "to_k.bias" in k else v for k, v in s.items()}), "of another shape"),
    "a tensor too many": (tensors(lambda s: s | {"model.conv.weight": torch.ones(2)}), "architecture .conv.weight"),
    "another prefix": (tensors(lambda s: {k[6:]: v for k, v in s.items()}), "not named model"),
    "another depth": (edited(encoder__depth=3), "12 tensors missing"),
    "more bins": (edited(bin_num=50), "of another shape"),
    "an unknown encoder": (edited(encoder__module_type="performer"), "only 'transformer' is known"),
    "heads that do not add up": (edited(decoder__dim_head=64), "3 heads of 64 is not its"),
    "no heads": (edited(decoder__heads=None), "cannot be read as a published scFoundation"),
    "another model": (lambda c: {"cell": c["cell"] | {"config": {"model": "mae"}}}, "'mae_autobin' model, but 'mae'"),
    "no configuration": (lambda c: {"cell": {"state_dict": c["cell"]["state_dict"]}}, "no table of models"),
    "a bare state dict": (lambda c: c["cell"]["state_dict"], "no table of models"),
    "nothing": (lambda c: {}, "no model 'cell'|no table of models"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_gaps_are_refused_by_name(what, tmp_path):
    change, words = WRONG[what]
    with pytest.raises(ValueError, match=words):
        load(rewrite(tmp_path / "m", change))


def test_the_data_part_of_a_configuration_wins(tmp_path):
    """As in the published loader: the model part may say another number of bins."""
    change = edited(bin_num=100)

    def both(container):
        container = change(container)
        container["cell"]["config"]["model_config"]["mae_autobin"]["bin_num"] = 7
        return container

    assert load(rewrite(tmp_path / "m", both)).config.num_bins == 100


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("was_run"),))


def test_a_pickle_with_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = rewrite(tmp_path / "m")
    torch.save({"cell": Evil()}, folder / "models.ckpt")
    with pytest.raises(ValueError, match="refused: it holds more than tensors"):
        load(folder)
    assert not (tmp_path / "was_run").exists()
    (folder / "models.ckpt").write_bytes((TINY / "models.ckpt").read_bytes()[:5000])
    with pytest.raises(ValueError, match="is it complete"):
        load(folder)


def test_a_model_outlives_its_file(tmp_path):
    """Large files are read as they are used; what is kept must not change with them."""
    folder = rewrite(tmp_path / "m")
    model = load(folder)
    before = model.sha256()
    (folder / "models.ckpt").write_bytes(bytes((folder / "models.ckpt").stat().st_size))
    assert model.sha256() == before


def test_a_model_of_ones_own_in_the_published_format(tmp_path):
    vocab = vocab_of([f"G{i}" for i in range(12)])
    model = new_model("scfoundation", vocab, FAMILY.sizes["tiny"], seed=2)
    model.release(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.vocab == vocab
    assert again.config == model.config
    full = torch.rand(2, 14, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        close(again.network(all_tokens(full)).value_nt, model.network.eval()(all_tokens(full)).value_nt)
    for config in (["decoder_attention=exact"], ["feed_forward_scale=2"]):
        other = new_model("scfoundation", vocab, FAMILY.sizes["tiny"].override(config))
        with pytest.raises(ValueError, match="write this one as cellwright"):
            other.release(tmp_path / "other")
    turned = GeneVocab(vocab.tokens[::-1], vocab.specials)
    with pytest.raises(ValueError, match="in this order"):
        new_model("scfoundation", turned, FAMILY.sizes["tiny"]).release(tmp_path / "other")
    assert not (tmp_path / "other").exists()
