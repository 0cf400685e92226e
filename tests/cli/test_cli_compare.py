"""Ways of fine-tuning beside each other: one split, runs that are models, a report, and no run made twice."""

import json
import shutil

import numpy as np
import pytest
from cli.command_line import listing, made_up_cells, refused, works, write

import cellwright
from cellwright.tasks import annotate as annotate_task
from cellwright.verbs import ModeComparison
from cellwright.verbs.comparing import configs_of

QUIET = cellwright.InferenceOptions(progress=False, device="cpu")
CHANGES = ["train.accelerator=cpu", "train.max_epochs=1", "batch_size=8", "optim.lr=0.005", "num_layers=1"]
MODES = ("probe", "lora", "full", "scratch")


def compare(cells, model, out, *, modes=MODES, seeds=2, changes=CHANGES, run=QUIET) -> ModeComparison:
    how = cellwright.CompareOptions(modes=modes, seeds=seeds)
    return cellwright.compare_modes(cells, model, label="cell_type", out=out, how=how, changes=changes, run=run)


@pytest.fixture(scope="module")
def cells():
    return made_up_cells(48, num_types=3)


@pytest.fixture(scope="module")
def compared(cells, model, tmp_path_factory):
    """Four ways, two seeds; not to be changed."""
    before = model.sha256()
    found = compare(cells, model, tmp_path_factory.mktemp("compared") / "out")
    assert model.sha256() == before
    return found


@pytest.fixture
def copied(compared, tmp_path):
    return shutil.copytree(compared.folder, tmp_path / "copy")


def test_every_run_is_a_model_of_its_way_on_one_split(compared, cells, model):
    base, splits = model.network.state_dict(), set()
    for mode in MODES:
        for seed in (0, 1):
            folder = compared.folder / mode / f"seed_{seed}"
            recipe = json.loads((folder / "recipe.json").read_text())
            assert (recipe["mode"], recipe["train"]["seed"]) == (mode, seed)
            splits.add(recipe["split"]["sha256"])
            tuned = cellwright.load(folder)
            same = {name for name, value in tuned.network.state_dict().items() if bool((value == base[name]).all())}
            assert (same == base.keys()) == (mode == "probe")
            found = cellwright.annotate(cells, folder, run=QUIET)
            held_out = np.flatnonzero(cells.obs["donor"].isin(recipe["split"]["groups"]["test"]))
            run = compared.runs[mode][seed]
            assert np.allclose(found.prob_nk[held_out], run.answers["prob_nk"], atol=1e-6)
    assert len(splits) == 1


def test_the_record_has_means_intervals_and_the_worth_of_pre_training(compared):
    evaluation = compared.evaluation
    methods = {method.name: method for method in evaluation.methods}
    assert list(methods)[:4] == ["scGPT, probe", "scGPT, LoRA", "scGPT, full", "scGPT, from scratch"]
    assert methods["majority"].bound == "floor"
    assert methods["gene_logistic"].is_baseline
    for method in methods.values():
        for score in method.scores.values():
            assert score.low <= score.value <= score.high
    trained = [methods[name].trained_parameters for name in list(methods)[:4]]
    assert trained[0] < trained[1] < trained[2] == trained[3]
    worth = evaluation.differences[0]
    assert (worth.method, worth.other) == ("scGPT, full", "scGPT, from scratch")
    full, scratch = (methods[name].scores["macro_f1_present"].value for name in (worth.method, worth.other))
    assert worth.value == pytest.approx(full - scratch)
    assert worth.low <= worth.value <= worth.high
    assert {(d.method, d.other) for d in evaluation.differences} >= {("scGPT, LoRA", "pca_knn")}
    assert f"Pre-training was worth {worth.value:+.3f}" in evaluation.headline
    assert "training seeds (1 of the 2 runs a resample" in evaluation.interval_note


def test_the_mean_is_over_the_runs(compared):
    method = next(m for m in compared.evaluation.methods if m.name == "scGPT, full")
    table = next(s for s in compared.evaluation.sections if s.heading == "Runs").tables["Every run"]
    scores = [row[2] for row in table.rows if row[0] == "full"]
    assert len(scores) == 2
    assert method.scores["macro_f1_present"].value == pytest.approx(np.mean(scores))
    assert len(table.rows) == 8


def test_the_report_is_whole_and_can_be_written_again(compared, tmp_path):
    page = compared.report.read_text()
    for text in ("What pre-training is worth", "Every run", "F1 of each class", "trained parameters", "Calibration"):
        assert text in page
    assert {"evaluation.json", "results.jsonl", "report.html", "recipe.json", *MODES} <= {
        path.name for path in compared.folder.iterdir()
    }
    rows = [json.loads(line) for line in (compared.folder / "results.jsonl").read_text().splitlines()]
    floors = {row["floor"] for row in rows if row["metric"] == "macro_f1_present"}
    assert len(floors) == 1
    assert None not in floors
    works("report", compared.folder, "-o", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page


def test_finished_runs_are_not_made_again_and_give_the_same_record(copied, compared, cells, model, monkeypatch):
    def train(*_, **__):
        raise AssertionError("a finished run was made again")

    with monkeypatch.context() as patched:
        patched.setattr(annotate_task, "train_annotator", train)
        again = compare(cells, model, copied)
    before, after = (c.evaluation.record() for c in (compared, again))
    for record in (before, after):
        del record["created"], record["cost"]
        for method in record["methods"]:
            if method["is_baseline"]:
                del method["seconds"]
    assert before == after


def test_a_run_that_was_cut_short_and_a_further_seed_are_made(copied, cells, model, monkeypatch):
    (copied / "lora" / "seed_1" / "run.json").unlink()
    made, train = [], annotate_task.train_annotator

    def counted(*given, config, **options):
        made.append((config.mode, config.train.seed))
        return train(*given, config=config, **options)

    monkeypatch.setattr(annotate_task, "train_annotator", counted)
    found = compare(cells, model, copied, modes=("lora", "full"), seeds=3)
    assert made == [("lora", 1), ("lora", 2), ("full", 2)]
    assert [run.seed for run in found.runs["full"]] == [0, 1, 2]
    assert [d.other for d in found.evaluation.differences[:1]] == ["scGPT, LoRA"]  # no scratch: no worth is told


def test_a_run_of_another_recipe_is_refused(copied, cells, model):
    before = listing(copied)
    says = r"the run in .*probe.seed_0 was made with batch_size = 8, not 4; choose another folder"
    with pytest.raises(ValueError, match=says):
        compare(cells, model, copied, changes=[*CHANGES, "batch_size=4"])
    other = cells.copy()
    other.X[0, 0] += 1
    with pytest.raises(ValueError, match="was made with data_sha256"):
        compare(other, model, copied)
    with pytest.raises(ValueError, match="was made with prediction.ties = None, not 'random'"):
        compare(cells, model, copied, run=QUIET.model_copy(update={"ties": "random"}))
    assert listing(copied) == before


def test_a_damaged_run_is_refused(copied, cells, model):
    (copied / "full" / "seed_0" / "answers.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"answers.npz is missing or damaged; remove .*seed_0"):
        compare(cells, model, copied)


def test_a_change_can_be_for_one_way_alone():
    configs = configs_of(("probe", "full"), ["probe:optim.lr=0.01", "train.max_epochs=3", "lora.rank=2"])
    assert (configs["probe"].optim.lr, configs["full"].optim.lr) == (0.01, 1e-4)
    assert {config.train.max_epochs for config in configs.values()} == {3}
    assert [config.mode for config in configs.values()] == ["probe", "full"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--modes", "probe,prob"], ["modes.1 = 'prob'"]),
        (["--modes", "full,full"], ["modes", "name each way once"]),
        (["--modes", "full,"], ["--modes 'full,'", "is empty"]),
        (["--seeds", "0"], ["seeds = 0"]),
        (["--set", "mode=full"], ["'mode=full'", "choose them with modes and seeds"]),
        (["--set", "full:train.seed=3"], ["'full:train.seed=3'", "choose them with modes and seeds"]),
        (["--set", "prob:optim.lr=1"], ["'prob:optim.lr=1'", "not compared; compared: probe, lora, full, scratch"]),
        (["--set", "full:optim.rate=1"], ["no option 'optim.rate'"]),
        (["--label", "celltype"], ["no column 'celltype'", "did you mean 'cell_type'?"]),
        (["--held-out", "donor 3"], ["held_out names 'donor 3'", "name it with split_by"]),
        (["--split-by", "donor", "--held-out", "donor 99"], ["no 'donor 99' in column 'donor'"]),
        (["--split-by", "dnor"], ["no column 'dnor'", "did you mean 'donor'?"]),
    ],
)
def test_bad_options_leave_nothing_behind(words, says, official, data, tmp_path):
    label = [] if "--label" in words else ["--label", "cell_type"]
    given = ["finetune", "compare", official, data, *label, "-o", tmp_path / "out", "--no-progress", *words]
    refused(tmp_path, *given, says=says)


def test_a_folder_of_other_files_is_refused(official, data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    words = ["--label", "cell_type", "-o", tmp_path, "--no-progress"]
    refused(tmp_path, "finetune", "compare", official, data, *words, says=["holds other files than a comparison"])


def test_the_command_says_what_came_out(official, cells, tmp_path):
    path = write(cells.copy(), tmp_path / "cells.h5ad")
    changes = [word for change in [*CHANGES, "probe:train.max_epochs=2"] for word in ("--set", change)]
    words = ["--label", "cell_type", "--modes", "probe,full", "--seeds", "1", "--no-progress", *changes]
    words += ["--split-by", "donor", "--held-out", "donor 3, donor 4"]
    said = works("finetune", "compare", official, path, "-o", tmp_path / "out", *words)
    assert "scGPT, probe" in said
    assert "majority" in said
    assert f"runs: {tmp_path / 'out'}" in said
    probe, full = (
        json.loads((tmp_path / "out" / mode / "seed_0" / "recipe.json").read_text()) for mode in ("probe", "full")
    )
    assert full["split"]["groups"]["test"] == ["donor 3", "donor 4"]
    assert "whole groups of 'donor': donor 3, donor 4" in said
    assert (probe["train"]["max_epochs"], full["train"]["max_epochs"]) == (2, 1)
