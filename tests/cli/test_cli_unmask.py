"""Models that fill in unknown genes: `generate` from known genes, embeddings and cells of a kind; `evaluate unmask`."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from cli.command_line import made_up_cells, refused, works, write

import cellwright
from cellwright.models import FAMILIES, new_model
from cellwright.tasks.generate import GenerateConfig
from cellwright.verbs import FillConfig, FillScoring, ScoreConfig
from cellwright.vocab import GeneVocab

QUIET = cellwright.InferenceOptions(progress=False, device="cpu")
CHANGES = [
    "data.min_cells=1", "data.valid_fraction=0", "inputs.genes=panel", "objective.terms.expected_error=1",
    "train.max_steps=25", "train.max_epochs=null", "train.accelerator=cpu", "model.width=16", "model.num_heads=2",
    "model.num_layers=1", "model.feed_forward=16", "batch_size=16", "optim.lr=0.01", "optim.warmup_steps=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("unmask")


@pytest.fixture(scope="module")
def train(place):
    return write(made_up_cells(48), place / "train.h5ad")


@pytest.fixture(scope="module")
def held_out(place):
    """Other cells of other donors."""
    adata = made_up_cells(24, seed=7)
    adata.obs["donor"] = pd.Categorical([f"other {n % 6}" for n in range(24)])
    return write(adata, place / "held_out.h5ad")


@pytest.fixture(scope="module")
def gpt(place, train):
    """A run folder of 25 steps on the panel with its silent genes."""
    words = [word for change in CHANGES for word in ("--set", change)]
    works("pretrain", train, "-o", place / "run", "--no-progress", *words)
    return place / "run"


def test_from_known_genes(gpt, held_out, tmp_path):
    names = cellwright.load(gpt).vocab.genes
    (tmp_path / "known.txt").write_text("\n".join(["# first genes", *names[:20]]))
    ways = {"file": str(tmp_path / "known.txt"), "list": ",".join(names[:20])}
    for name, known in ways.items():
        said = works(
            "generate", gpt, held_out, "--known-genes", known, "--steps", 3, "-o", tmp_path / f"{name}.h5ad",
            "--device", "cpu",
        )  # fmt: skip
        assert f"24 cells, {24 * (len(names) - 20):,} values of {len(names)} genes filled in" in said
    made, same = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ways)
    np.testing.assert_array_equal(made.X, same.X)
    source = anndata.read_h5ad(held_out)
    assert made.obs_names.tolist() == source.obs_names.tolist()
    assert made.obs["donor"].tolist() == source.obs["donor"].tolist()
    is_known_ng = made.layers["is_known"].astype(bool)
    assert is_known_ng[:, made.var_names.isin(names[:20])].all()
    assert (is_known_ng.sum(1) == 20).all()
    assert set(np.unique(made.layers["step"])) == {0, 1, 2, 3}
    # known values are the ranks among the known genes, and order as the counts do
    for cell in range(3):
        count_g = np.asarray(source[cell, names[:20]].X.todense()).ravel()
        bin_g = made[cell, names[:20]].X.ravel()
        assert ((count_g == 0) == (bin_g == 0)).all()
        assert (np.diff(bin_g[np.argsort(count_g, kind="stable")]) >= 0).all()
    assert made.X.min() >= 0
    assert made.X.max() <= 50
    assert np.isnan(made.layers["expected_error"][is_known_ng]).all()
    assert (made.layers["expected_error"][~is_known_ng] > 0).all()
    record = made.uns["cellwright"]["generated"]
    assert record["how"] == {"steps": 3, "order": "confident", "seed": 0}
    assert record["start"]["from"] == "known genes"
    assert record["values"].startswith("bins 0 .. 50")


def test_hidden_counts_change_nothing(gpt, held_out):
    names = cellwright.load(gpt).vocab.genes
    config = FillConfig(known_genes=tuple(names[:30]), steps=2, order="agreement")
    adata = anndata.read_h5ad(held_out)
    other = adata.copy()
    is_hidden_g = ~other.var_names.isin(names[:30])
    count_ng = np.asarray(other.X.todense())
    count_ng[:, is_hidden_g] = np.random.default_rng(0).integers(0, 90, (24, is_hidden_g.sum()))
    other.X = count_ng
    made = [cellwright.generate(gpt, cells, config=config, run=QUIET) for cells in (adata, other)]
    np.testing.assert_array_equal(made[0].X, made[1].X)


def test_a_random_part_is_known(gpt, held_out):
    made = [
        cellwright.generate(gpt, held_out, seed=seed, config=FillConfig(known_fraction=0.25), run=QUIET)
        for seed in (0, 0, 1)
    ]
    num_known = round(0.25 * made[0].n_vars)
    assert (made[0].layers["is_known"].sum(1) == num_known).all()
    np.testing.assert_array_equal(made[0].X, made[1].X)
    assert not np.array_equal(made[0].layers["is_known"], made[2].layers["is_known"])


def test_genes_that_the_data_lack_are_filled_in(gpt, held_out):
    adata = anndata.read_h5ad(held_out)[:, 10:].copy()
    gone = set(made_up_cells(2).var_names[:10]) & set(cellwright.load(gpt).vocab.genes)
    made = cellwright.generate(gpt, adata, config=FillConfig(known_fraction=0.9), run=QUIET)
    assert gone
    assert not made[:, sorted(gone)].layers["is_known"].any()
    with pytest.raises(ValueError, match=r"1 known genes are not in AnnData: .*; their values are not known"):
        cellwright.generate(gpt, adata, config=FillConfig(known_genes=(sorted(gone)[0],)), run=QUIET)


def test_from_embeddings_and_from_cells_of_a_kind(gpt, held_out, tmp_path):
    works("generate", gpt, held_out, "--from-embedding", "-o", tmp_path / "own.h5ad", "--device", "cpu")
    own = anndata.read_h5ad(tmp_path / "own.h5ad")
    assert not own.layers["is_known"].any()
    assert own.n_obs == 24
    kinds = ["--prompt", "cell_type=type 0", "--prompt", "cell_type=type 1,tech_batch=batch 0"]
    works("generate", gpt, held_out, *kinds, "--steps", 2, "-o", tmp_path / "kinds.h5ad", "--device", "cpu")
    made = anndata.read_h5ad(tmp_path / "kinds.h5ad")
    assert made.obs_names.tolist() == ["made_0", "made_1"]
    assert made.obs["cell_type"].tolist() == ["type 0", "type 1"]
    assert made.obs["tech_batch"].tolist()[1] == "batch 0"
    assert np.abs(made.X[0] - made.X[1]).max() > 1e-4
    words = ["--prompt", "cell_type=type 1", "-n", 5, "--start", "cells", "--seed", 3, "--force"]
    gene, other = made.var_names[:2]
    works(
        "generate", gpt, held_out, *words, f"{gene}=40,{other}=0", "-o", tmp_path / "cells.h5ad", "--device", "cpu"
    )  # fmt: skip
    cells = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert cells.n_obs == 5
    assert (cells[:, gene].X == 40).all()
    assert (cells[:, other].X == 0).all()
    assert cells[:, [gene, other]].layers["is_known"].all()
    assert len(np.unique(cells.X, axis=0)) == 5
    same = cellwright.generate(
        gpt, held_out, prompt={"cell_type": "type 1"}, num_cells=5, seed=3, force={gene: 40, other: 0},
        config=FillConfig(start="cells"), run=QUIET,
    )  # fmt: skip
    np.testing.assert_allclose(same.X, cells.X, atol=1e-4)
    few = cellwright.generate(
        gpt, held_out, config=FillConfig(from_embedding=True, only=tuple(made.var_names[3:6])), run=QUIET
    )
    assert few.var_names.tolist() == made.var_names[3:6].tolist()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], ["it is not said what cells start from", "known_fraction"]),
        (["--known-fraction", 0.5, "--from-embedding"], ["known_fraction and from_embedding do not go together"]),
        (["--known-fraction", 1], ["known_fraction = 1.0 leaves none of"]),
        (["--known-fraction", 0.5, "-n", 3], ["num_cells = 3", "filled in once"]),
        (["--known-fraction", 0.5, "--start", "cells"], ["start = 'cells' is for cells of a kind"]),
        (["--known-fraction", 0.5, "--start", "median"], ["start", "'median'"]),
        (["--known-fraction", 0.5, "--steps", 0], ["steps", "1"]),
        (["--known-fraction", 0.5, "--steps", 2, "--order", "randm"], ["no order 'randm'", "'random'"]),
        (["--known-fraction", 0.5, "--steps", 2, "--order", "gate"], ["reads expressed_nt"]),
        (["--known-fraction", 0.5, "--top-p", 0.5], ["--top-p is for a model that writes sentences", "scGPT"]),
        (["--known-fraction", 0.5, "--max-genes", 5], ["--max-genes is for a model that writes sentences"]),
        (["--known-genes", "NOPE"], ["1 of 1 known genes are none of the model's: NOPE"]),
        (["--known-genes", ","], ["--known-genes ',' names no gene"]),
        (["--prompt", "cell_type=type 9"], ["no cell of", "cell_type = 'type 9'", "did you mean"]),
        (["--prompt", "cel_type=type 1"], ["has no column 'cel_type'", "'cell_type'"]),
        (["--prompt", "cell_type=type 1", "-n", 4], ["num_cells = 4", "all the same", "start = cells"]),
        (["--known-fraction", 0.5, "--force", "NOPE=3"], ["none of the model's: NOPE"]),
    ],
)
def test_bad_wishes_are_refused_in_one_line(gpt, held_out, tmp_path, words, says):
    refused(tmp_path, "generate", gpt, held_out, *words, "-o", tmp_path / "out.h5ad", "--device", "cpu", says=says)


def test_what_is_not_for_this_model_is_refused(gpt, official, held_out, train, tmp_path):
    out = ["-o", tmp_path / "out.h5ad", "--device", "cpu"]
    refused(
        tmp_path, "generate", gpt, "--known-fraction", 0.5, *out, says=["fills in the genes of cells", "give the data"]
    )
    words = ["--known-fraction", 0.5, "--steps", 2]
    refused(tmp_path, "generate", official, held_out, *words, *out, says=["not trained to say how sure it is"])
    gene = cellwright.load(gpt).vocab.genes[0]
    with pytest.raises(ValueError, match=rf"{gene} is given the value 51; values are bins, 0 .. 50"):
        cellwright.generate(gpt, held_out, force={gene: 51}, config=FillConfig(known_fraction=0.5), run=QUIET)
    masked = cellwright.load(gpt)
    masked.origin["pretraining"]["recipe"]["objective"]["view"] = "random_mask"
    with pytest.raises(ValueError, match="trained with the view 'random_mask' and never on unknown genes"):
        cellwright.generate(masked, held_out, config=FillConfig(known_fraction=0.5), run=QUIET)
    with pytest.raises(ValueError, match=r"a GenerateConfig is for models of sentences; scGPT fills in genes"):
        cellwright.generate(gpt, held_out, config=GenerateConfig(), run=QUIET)


def test_a_model_of_sentences_takes_no_data(held_out, tmp_path):
    family = FAMILIES["scmulan"]
    vocab = GeneVocab.from_genes(["CD3D", "CD19"], family.specials, {"cell_type": ["B"]})
    mulan = new_model("scmulan", vocab, family.sizes["tiny"])
    with pytest.raises(ValueError, match="data is for models that fill in genes; scMulan writes cells from a prompt"):
        cellwright.generate(mulan, held_out, prompt={"cell_type": "B"}, run=QUIET)
    with pytest.raises(ValueError, match="a FillConfig is for models that fill in genes"):
        cellwright.generate(mulan, prompt={"cell_type": "B"}, config=FillConfig(), run=QUIET)
    mulan.save(tmp_path / "mulan")
    words = ["generate", tmp_path / "mulan", "--prompt", "cell_type=B", "-o", tmp_path / "out.h5ad"]
    refused(tmp_path, *words, "--steps", 3, says=["--steps is for a model that fills in unknown genes", "scMulan"])
    refused(tmp_path, *words, "--from-embedding", says=["--from-embedding is for a model that fills in"])
    words.insert(2, held_out)
    refused(tmp_path, *words, says=["DATA is for a model that fills in unknown genes"])


def test_a_published_model_fills_in_by_agreement(official, held_out, tmp_path):
    """It has no head that says how sure it is; its two predictions of a value can agree or not."""
    words = ["--known-fraction", 0.5, "--steps", 3, "--order", "agreement", "-o", tmp_path / "out.h5ad"]
    works("generate", official, held_out, *words, "--device", "cpu")
    made = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert "expected_error" not in made.layers
    is_silent_ng = made.layers["is_known"].astype(bool) & (made.X == 0)
    assert is_silent_ng.any()


def test_evaluate_unmask_writes_a_report(gpt, train, held_out, tmp_path):
    words = ["--label", "cell_type", "--group", "donor", "--steps", "2,4", "--shown", 2, "--num-resamples", 100]
    said = works(
        "evaluate", "unmask", gpt, train, held_out, *words, "--orders", "confident,random", "-o", tmp_path / "out",
        "--device", "cpu", "--no-progress",
    )  # fmt: skip
    for name in (
        "one pass",
        "confident",
        "random",
        "by mean",
        "oracle",
        "ridge",
        "neighbors",
        "type_mean",
        "gene_mean",
    ):
        assert name in said
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows if row["method"] == "confident"} == {None, "2 steps", "4 steps"}
    assert {row["metric"] for row in rows} == {
        "filled_mse", "filled_mae", "filled_gene_pearson", "filled_cell_spearman",
    }  # fmt: skip
    kinds = {row["method"]: row["kind"] for row in rows}
    assert (kinds["oracle"], kinds["gene_mean"], kinds["one pass"]) == ("roof", "floor", "model")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Does the model know its errors" in page
    assert "6 whole groups of cells" in page
    assert (tmp_path / "out" / "figures" / "gaps.svg").is_file()
    for start in ("embedding", "type"):
        config = ScoreConfig(
            num_resamples=100, filling=FillScoring(start=start, steps=(2,), shown=2, orders=("random",))
        )
        result = cellwright.score(
            held_out, gpt, task="unmask", label="cell_type", train=train, out=tmp_path / start, config=config, run=QUIET
        )
        names = {method.name for method in result.evaluation.methods}
        assert "type_mean" in names
        assert not names & {"ridge", "neighbors"}  # there is no known gene to go by


def test_a_model_of_expressed_genes_is_asked_for_these_alone(official, train, held_out, tmp_path):
    config = ScoreConfig(num_resamples=100, filling=FillScoring(steps=(2,), shown=2, orders=("agreement",)))
    result = cellwright.score(
        held_out, official, task="unmask", train=train, out=tmp_path / "out", config=config, run=QUIET
    )
    assert any("which they are was told" in line for line in result.evaluation.limitations)
    one_pass = result.evaluation.methods[0].scores["filled_mse"]
    num_expressed = int((anndata.read_h5ad(held_out).X > 0).sum())
    assert 0 < one_pass.cells["values"] < num_expressed
    assert not any(section.heading.startswith("Does the model know") for section in result.evaluation.sections)


def test_the_head_is_named_and_does_not_fit_the_published_format(gpt, tmp_path):
    assert "head expected_error\n" in works("inspect", gpt)
    said = works("convert", gpt, tmp_path / "out", "--to", "released")
    assert "left out: the head expected_error" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", "2,x"], ["--steps", "'x' is no number of steps"]),
        (["--steps", "2,4"], ["steps = 2, 4", "with 3 (shown)"]),
        (["--orders", "confident,best"], ["no order 'best'"]),
        (["--start", "type"], ["a start from the type needs the types"]),
        (["--start", "cells"], ["filling.start", "'cells'"]),
        (["--label", "cel_type"], ["'cel_type'", "did you mean 'cell_type'?"]),
    ],
)
def test_bad_scoring_is_refused_in_one_line(gpt, train, held_out, tmp_path, words, says):
    refused(
        tmp_path, "evaluate", "unmask", gpt, train, held_out, *words, "-o", tmp_path / "out", "--device", "cpu",
        "--no-progress", says=says,
    )  # fmt: skip


def test_scoring_needs_training_cells_and_real_ones(gpt, train, held_out, tmp_path):
    with pytest.raises(ValueError, match="need training cells; give train"):
        cellwright.score(held_out, gpt, task="unmask", out=tmp_path / "out", run=QUIET)
    with pytest.raises(ValueError, match="made cells belong to the task generate"):
        cellwright.score(held_out, gpt, task="unmask", out=tmp_path / "out", train=train, made=held_out, run=QUIET)
    with pytest.raises(ValueError, match="name their column of obs"):
        cellwright.score(held_out, gpt, task="annotate", out=tmp_path / "out", run=QUIET)
    assert not (tmp_path / "out").exists()
