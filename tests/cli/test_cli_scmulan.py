"""scMulan through the verbs of every family: pre-train on metadata, annotate, embed, make cells."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from cli.command_line import made_up_cells, refused, works, write

import cellwright
from cellwright.tasks.generate import GenerateConfig

RECORDED = Path(__file__).parents[1] / "parity" / "data" / "scmulan"
QUIET = cellwright.InferenceOptions(progress=False, device="cpu")
SMALL = [
    "--no-progress", "--recipe", "scmulan_tiny", "--set", "train.accelerator=cpu", "--set", "model.width=32",
    "--set", "model.num_layers=1", "--set", "batch_size=16", "--set", "optim.lr=0.005", "--set", "optim.warmup_steps=2",
    "--set", "train.max_epochs=null", "--set", "data.min_cells=1", "--set", "data.valid_fraction=0",
]  # fmt: skip
COLUMNS = ["--set", "data.metadata.coarse_type=lineage", "--set", "data.metadata.organ=tissue"]
STEPS = ["--set", "train.max_steps=60", "--set", "train.checkpoint_every=30"]


def cells(num_cells=48, *, seed=0):
    """Cells of three types; ``lineage`` is their coarse type, ``tissue`` follows from it."""
    adata = made_up_cells(num_cells, seed=seed, num_types=3)
    is_first = (adata.obs["cell_type"] == "type 0").to_numpy()
    adata.obs["lineage"] = pd.Categorical(np.where(is_first, "myeloid", "lymphoid"))
    adata.obs["tissue"] = pd.Categorical(np.where(is_first, "Lung", "Blood"))
    return adata


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write(cells(), tmp_path_factory.mktemp("mulan_data") / "labelled.h5ad")


@pytest.fixture(scope="module")
def mulan(labelled, tmp_path_factory):
    """A run folder of 60 steps on the labelled cells."""
    folder = tmp_path_factory.mktemp("mulan_run") / "run"
    said = works("pretrain", labelled, "-o", folder, *SMALL, *COLUMNS, *STEPS)
    assert "sentences of annotate: genes -> coarse_type, cell_type" in said
    assert "sentences of place: genes -> organ\n" in said
    assert "sentences of generate: organ, cell_type -> genes" in said
    return folder


@pytest.fixture(scope="module")
def query(tmp_path_factory):
    return write(cells(24, seed=5), tmp_path_factory.mktemp("mulan_query") / "query.h5ad")


def test_the_vocabulary_is_made_of_genes_and_metadata(mulan):
    model = cellwright.load(mulan)
    assert model.vocab.categories == {
        "cell_type": ("type 0", "type 1", "type 2"),
        "coarse_type": ("lymphoid", "myeloid"),
        "organ": ("Blood", "Lung"),
    }
    assert set(model.vocab.genes) <= set(cells().var_names)
    record = json.loads((mulan / "recipe.json").read_text())
    assert record["data"]["metadata"]["organ"] == "tissue"
    assert record["optim"]["undecayed"] == ["network.entity_head"]
    assert "words of organ: 2 (Blood, Lung)" in works("inspect", mulan)


def test_resume_ends_where_a_straight_run_ends(mulan, labelled, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(mulan, run)
    shutil.rmtree(run / "checkpoints" / "step-000000060")
    for name in ("model.safetensors", "config.json", "vocab.json"):
        (run / name).unlink()
    works("pretrain", labelled, "-o", run, *SMALL, *COLUMNS, *STEPS, "--resume")
    assert cellwright.load(run).sha256() == cellwright.load(mulan).sha256()


@pytest.fixture(scope="module")
def teller(labelled, tmp_path_factory):
    """A run folder that was trained to tell types and nothing else."""
    folder = tmp_path_factory.mktemp("mulan_teller") / "run"
    tasks = json.dumps({"tasks": [{"word": "annotate", "asked": ["coarse_type", "cell_type"]}]})
    changes = (
        "model.width=64", "model.num_layers=2", "batch_size=48", "optim.lr=0.001", "optim.schedule=constant",
        f"objective.view_options={tasks}", 'objective.terms={"next_entity": 1}', "train.max_steps=80",
        "data.metadata.coarse_type=lineage",
    )  # fmt: skip
    works("pretrain", labelled, "-o", folder, *SMALL, *(word for change in changes for word in ("--set", change)))
    return folder


def test_annotate_tells_types(teller, query, tmp_path):
    said = works("annotate", teller, query, "-o", tmp_path / "out.h5ad")
    obs = anndata.read_h5ad(tmp_path / "out.h5ad").obs
    assert (obs["cell_type_pred"].astype(str) == obs["cell_type"].astype(str)).mean() > 0.8
    assert (obs["cell_type_coarse_pred"].astype(str) == obs["lineage"].astype(str)).mean() > 0.8
    assert obs["cell_type_prob"].between(1 / 3, 1).all()  # the likeliest of three
    assert 'obs["cell_type_pred"]' in said
    found = cellwright.annotate(cells(24, seed=5), teller, run=QUIET)
    assert found.words["cell_type"].tolist() == obs["cell_type_pred"].tolist()
    assert np.allclose(found.probs["cell_type"], obs["cell_type_prob"], atol=1e-5)


def test_a_task_that_was_never_trained_is_refused(teller, tmp_path):
    words = ["generate", teller, "--prompt", "cell_type=type 0", "-o", tmp_path / "out.h5ad"]
    refused(tmp_path, *words, says=["never trained on the task 'generate'", "annotate: genes -> coarse_type"])


def test_other_categories_are_told_on_request(mulan, query, tmp_path):
    works("annotate", mulan, query, "-o", tmp_path / "out.h5ad", "--tell", "organ,MCT")
    obs = anndata.read_h5ad(tmp_path / "out.h5ad").obs
    assert {"organ_pred", "organ_prob", "cell_type_coarse_pred"} <= set(obs)
    assert "cell_type_pred" not in obs
    assert set(obs["organ_pred"]) <= {"Blood", "Lung"}
    assert set(obs["cell_type_coarse_pred"]) <= {"lymphoid", "myeloid"}
    both = cellwright.annotate(query, mulan, tell=["organ"], run=QUIET)
    assert both.words["organ"].tolist() == obs["organ_pred"].tolist()
    words = ["annotate", mulan, query, "-o", tmp_path / "not.h5ad"]
    refused(tmp_path, *words, "--tell", "orgn", says=["'orgn'", "did you mean 'organ'?"])
    refused(tmp_path, *words, "--tell", "region", says=["cannot be asked for 'region'"])
    refused(tmp_path, *words, "--tell", "organ,", says=["--tell", "empty"])


def test_cells_below_the_threshold_are_unassigned(mulan):
    adata = cells(24, seed=5)
    prob_n = cellwright.annotate(adata, mulan, run=QUIET).probs["cell_type"]
    threshold = float(np.median(prob_n))
    cellwright.annotate(adata, mulan, threshold=threshold, key_added="ct", run=QUIET)
    assert ((adata.obs["ct_pred"] == "unassigned").to_numpy() == (prob_n < threshold)).all()
    assert adata.uns["cellwright"]["ct"]["threshold"] == threshold
    with pytest.raises(ValueError, match=r"threshold is 1\.5"):
        cellwright.annotate(adata, mulan, threshold=1.5, run=QUIET)


def test_a_trained_head_is_used_before_words(mulan, labelled, query, tmp_path):
    changes = ("train.accelerator=cpu", "train.max_epochs=1", "inputs={}")
    words = [word for change in changes for word in ("--set", change)]
    works(
        "finetune", "annotate", mulan, labelled, "--label", "cell_type", "--mode", "probe", "-o", tmp_path / "tuned",
        "--no-progress", *words,
    )  # fmt: skip
    works("annotate", tmp_path / "tuned", query, "-o", tmp_path / "head.h5ad")
    head = anndata.read_h5ad(tmp_path / "head.h5ad").obs
    assert "cell_type_coarse_pred" not in head
    works("annotate", tmp_path / "tuned", query, "-o", tmp_path / "told.h5ad", "--tell", "cell_type")
    told = anndata.read_h5ad(tmp_path / "told.h5ad").obs
    assert told["cell_type_pred"].tolist() == cellwright.annotate(query, mulan, run=QUIET).words["cell_type"].tolist()


def test_embed_at_each_position(mulan, query, tmp_path):
    works("embed", mulan, query, "-o", tmp_path / "own.h5ad")
    own_nd = anndata.read_h5ad(tmp_path / "own.h5ad").obsm["X_scMulan"]
    adata = cells(24, seed=5)
    task_nd = cellwright.embed(adata, mulan, position="task", run=QUIET)
    coarse_nd = cellwright.embed(adata, mulan, position="coarse", key_added="X_said", run=QUIET)
    np.testing.assert_allclose(own_nd, task_nd, atol=1e-5)
    assert np.abs(coarse_nd - task_nd).max() > 0.01
    assert adata.uns["cellwright"]["X_said"]["position"] == "coarse"
    words = ["embed", mulan, query, "-o", tmp_path / "not.h5ad"]
    refused(tmp_path, *words, "--position", "tsk", says=["'tsk'", "did you mean 'task'?"])


def test_a_model_that_does_not_write_is_refused(official, data, tmp_path):
    out = ["-o", tmp_path / "out.h5ad"]
    for words in (["embed", "--position", "task"], ["embed", "--faithful"], ["annotate", "--tell", "organ"]):
        refused(tmp_path, words[0], official, data, *out, *words[1:], says=["scGPT writes no sentences"])
    words = ["generate", official, "--prompt", "organ=Lung", *out]
    refused(tmp_path, *words, says=["scGPT fills in the genes of cells", "give the data"])


@pytest.mark.parametrize("name", ["pipeline_tiny", "pipeline_realvocab"])
def test_faithful_is_the_published_pipeline(name, tmp_path):
    with np.load(RECORDED / name / "io.npz") as arrays:
        recorded = {key: arrays[key] for key in arrays.files}
    var = pd.DataFrame(index=recorded["gene_names"].astype(str))
    path = write(anndata.AnnData(recorded["counts"].astype(np.float32), var=var), tmp_path / "counts.h5ad")
    apart = tmp_path / "apart"
    apart.mkdir()
    shutil.copy(RECORDED / name / "ckpt.pt", apart)
    model = [apart / "ckpt.pt", path, "--vocab", RECORDED / name / "meta_info.pt"]
    works("annotate", *model, "-o", tmp_path / "told.h5ad", "--faithful", "--assume", "raw")
    obs = anndata.read_h5ad(tmp_path / "told.h5ad").obs
    assert obs["cell_type_pred"].tolist() == recorded["cell_type_from_scMulan"].tolist()
    assert obs["cell_type_coarse_pred"].tolist() == recorded["coarse"].tolist()
    assert ((obs["cell_type_prob"] == 0) == (obs["cell_type_pred"] == "Unclassified")).all()
    works("embed", *model, "-o", tmp_path / "embedded.h5ad", "--faithful", "--assume", "raw")
    embedding_nd = anndata.read_h5ad(tmp_path / "embedded.h5ad").obsm["X_scMulan"]
    np.testing.assert_allclose(embedding_nd, recorded["X_scMulan"], atol=1e-5, rtol=1e-5)
    # beside the weights the vocabulary is found
    works("embed", RECORDED / name / "ckpt.pt", path, "-o", tmp_path / "beside.h5ad", "--assume", "raw")


def test_a_vocabulary_must_be_one(mulan, data, tmp_path):
    case = RECORDED / "pipeline_tiny"
    out = ["-o", tmp_path / "out.h5ad", "--vocab"]
    refused(tmp_path, "embed", case / "ckpt.pt", data, *out, tmp_path / "no.pt", says=["no vocabulary file at"])
    refused(tmp_path, "embed", mulan, data, *out, case / "meta_info.pt", says=["only published checkpoints"])
    refused(tmp_path, "embed", case / "ckpt.pt", data, *out, data, says=["takes no vocabulary from"])
    refused(tmp_path, "embed", case / "ckpt.pt", data, *out, RECORDED / "pipeline_realvocab" / "meta_info.pt")


def test_generate_makes_cells_of_the_kind(mulan, tmp_path):
    words = ["generate", mulan, "-n", 6, "--seed", 3, "--max-genes", 20, "--device", "cpu", "--batch-size", 4]
    said = works(*words, "--prompt", "cell_type=type 1, organ=Blood", "-o", tmp_path / "one.h5ad")
    assert "6 cells" in said
    made = anndata.read_h5ad(tmp_path / "one.h5ad")
    assert made.shape == (6, len(cellwright.load(mulan).vocab.genes))
    assert list(made.obs.columns[:2]) == ["organ", "cell_type"]  # as in training
    assert (made.obs["cell_type"] == "type 1").all()
    assert 0 < made.X.max() <= 1
    record = made.uns["cellwright"]["generated"]
    assert record["options"]["seed"] == 3
    assert record["model"]["family"] == "scmulan"
    place = cells().var_names.get_indexer(made.var_names)
    is_own = (place < 20) | (place % 3 == 1)  # genes of other types are silent in this type
    assert made.X[:, np.flatnonzero(is_own)].sum() / made.X.sum() > is_own.mean() + 0.1
    again = cellwright.generate(
        mulan, prompt={"organ": "Blood", "cell_type": "type 1"}, num_cells=6, seed=3, max_genes=20, run=QUIET
    )
    assert (again.X != made.X).nnz == 0
    other = cellwright.generate(mulan, prompt={"organ": "Blood"}, num_cells=6, seed=4, max_genes=20, run=QUIET)
    assert (other.X != made.X).nnz > 0


def test_genes_can_be_forced_and_kinds_mixed(mulan, tmp_path):
    gene, silent = cellwright.load(mulan).vocab.genes[:2]
    words = ["--force", f"{gene}=10,{silent}=0", "--top-k", 20, "--gamma", 1, "--max-genes", 15, "--no-restricted"]
    kinds = ["--prompt", "cell_type=type 0", "--prompt", "organ=Lung,cell_type=type 2"]
    works("generate", mulan, *kinds, "-n", 2, *words, "-o", tmp_path / "out.h5ad", "--device", "cpu")
    made = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert made.obs["cell_type"].tolist() == ["type 0", "type 0", "type 2", "type 2"]
    assert made.obs["organ"].isna().tolist() == [True, True, False, False]
    assert (made[:, gene].X.toarray() == 1).all()
    assert made[:, silent].X.nnz == 0
    config = GenerateConfig(top_k=20, gamma=1, is_restricted=False)
    prompt = [{"cell_type": "type 0"}, {"organ": "Lung", "cell_type": "type 2"}]
    same = cellwright.generate(
        mulan, prompt=prompt, num_cells=2, force={gene: 10, silent: 0}, config=config, max_genes=15, run=QUIET
    )
    assert (same.X != made.X).nnz == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--prompt", "orgn=Lung"], ["no category 'orgn'", "did you mean 'organ'?"]),
        (["--prompt", "organ=Lungs"], ["'Lungs' is no organ", "did you mean 'Lung'?"]),
        (["--prompt", "organ"], ["--prompt 'organ' is not of the form name=value"]),
        (["--prompt", "organ=Lung,organ=Blood"], ["names 'organ' twice"]),
        (["--prompt", "organ=Lung", "--force", "NOGENE=3"], ["gene 'NOGENE' is not in the model's vocabulary"]),
        (["--prompt", "organ=Lung", "--force", "CD3D=high"], ["CD3D", "'high'", "not a whole number"]),
        (["--prompt", "organ=Lung", "-n", "0"], ["num_cells = 0"]),
        (["--prompt", "organ=Lung", "--max-genes", "0"], ["max_genes"]),
        (["--prompt", "organ=Lung", "--top-p", "2"], ["top_p"]),
        (["--prompt", "organ=Lung", "--word", "annotat"], ["annotat"]),
        (["--prompt", "organ=Lung", "--batch-size", "0"], ["batch_size = 0"]),
        (["--prompt", "organ=Lung", "--precision", "int8"], ["precision = 'int8'"]),
    ],
)
def test_a_bad_prompt_is_refused(words, says, mulan, tmp_path):
    refused(tmp_path, "generate", mulan, *words, "-o", tmp_path / "out.h5ad", "--device", "cpu", says=says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["data.metadata.cell_type=cell_typ"], ["no column 'cell_typ'", "did you mean 'cell_type'?"]),
        (["data.metadata.cell_type=null"], ["no column is named", "data.metadata.cell_type=COLUMN"]),
        (['data.metadata={"cell_tpe": "cell_type"}'], ["nothing of 'cell_tpe'", "did you mean 'cell_type'?"]),
        (["data.metadata.organs=tissue"], ["data.metadata", "says nothing of 'organs'", "did you mean 'organ'?"]),
        (["objective.view=clean", 'objective.terms={"next_entity": 1}'], ["Clean says nothing of 'cell_type'"]),
    ],
)
def test_metadata_that_cannot_be_read_are_refused(changes, says, labelled, tmp_path):
    words = [word for change in changes for word in ("--set", change)]
    refused(tmp_path, "pretrain", labelled, "-o", tmp_path / "run", *SMALL, *STEPS, *words, says=says)


def test_cells_without_words_are_named_before_training(tmp_path):
    adata = cells(20)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[[3, 7], adata.obs.columns.get_loc("cell_type")] = None
    path = write(adata, tmp_path / "gaps.h5ad")
    refused(tmp_path, "pretrain", path, "-o", tmp_path / "run", *SMALL, *STEPS, says=["2 of 20 cells", "row 3"])


def test_published_names_of_categories_and_several_files(tmp_path):
    first, second = cells(20), cells(16, seed=2)
    second.obs["cell_type"] = second.obs["cell_type"].astype(str).replace({"type 0": "type 9"})
    paths = [write(first, tmp_path / "a.h5ad"), write(second, tmp_path / "b.h5ad")]
    metadata = json.dumps({"MCT": "lineage", "cell_type": "cell_type"})
    words = [*SMALL, "--set", "train.max_steps=1", "--set", f"data.metadata={metadata}"]
    works("pretrain", *paths, "-o", tmp_path / "run", *words)
    model = cellwright.load(tmp_path / "run")
    assert model.vocab.categories["cell_type"] == ("type 0", "type 1", "type 2", "type 9")
    assert model.vocab.categories["coarse_type"] == ("lymphoid", "myeloid")
    lines = model.origin["pretraining"]["sentences"]
    assert lines == ["annotate: genes -> coarse_type, cell_type", "generate: cell_type -> genes"]


def test_any_column_can_become_words_that_are_told(labelled, query, tmp_path):
    tasks = json.dumps({"tasks": [{"word": "place", "asked": ["organ", "tech"]}]})
    changes = (f"objective.view_options={tasks}", 'objective.terms={"next_entity": 1}', "train.max_steps=60")
    columns = ('data.metadata={"organ": "tissue", "tech": "lineage"}', "optim.lr=0.01")
    words = [word for change in (*changes, *columns) for word in ("--set", change)]
    works("pretrain", labelled, "-o", tmp_path / "run", *SMALL, *words)
    works("annotate", tmp_path / "run", query, "-o", tmp_path / "told.h5ad", "--tell", "tech", "--no-progress")
    told = anndata.read_h5ad(tmp_path / "told.h5ad").obs
    assert set(told["tech_pred"]) <= {"myeloid", "lymphoid"}
    assert (told["tech_pred"].astype(str) == told["lineage"].astype(str)).mean() > 0.8
    assert "organ_pred" not in told
