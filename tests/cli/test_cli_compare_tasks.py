"""Ways of fine-tuning for tasks with verbs of their own: every run is the verb's, means and intervals over all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from cli.command_line import SIZE, made_up_cells, made_up_model, refused, works, write
from matplotlib.figure import Figure

import cellwright
from cellwright.baselines.integration import INTEGRATION_BASELINES
from cellwright.data import make_multimodal
from cellwright.data.synthetic import ScreenPlan, make_perturbed_cells
from cellwright.evaluate import integration_sections, projection, report
from cellwright.evaluate import multiome as multiome_record
from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.modes import mode_name
from cellwright.models import FAMILIES, load, new_model
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.perturb_graph import GraphConfig
from cellwright.verbs import CompareOptions, PerturbConfig, PerturbOptions, ReadOptions, finetuned_tasks, mode_tasks
from cellwright.verbs.comparing import config_of, configs_of
from cellwright.verbs.mode_runs import USUAL
from cellwright.vocab import GeneVocab

QUIET = InferenceOptions(progress=False, device="cpu")
TWO = CompareOptions(modes=("full", "scratch"), seeds=2)
TRAIN = ["train.max_epochs=1", "train.accelerator=cpu", "num_genes=30", "optim.lr=0.002"]
QUICK = {
    "integrate": [*TRAIN, "batch_size=16"],
    "multiome": [*TRAIN, "batch_size=32"],
    "perturb": ["max_epochs=1", "cells_per_profile=4", "pool=16", "valid_pool=8", "lr=0.005", "device=cpu"],
}
READ = ReadOptions(tech_batch="tech_batch")
LABEL = {"integrate": "cell_type", "multiome": "cell_type", "perturb": "perturbation"}
WRITE = report.write_report
MAIN = {"integrate": None, "multiome": "scGPT multi-omic", "perturb": "cells"}


def quick_options(**given):
    return PerturbOptions(**given, folds=2, cell_scores=False)


def quick_methods():
    return PerturbConfig(graph=GraphConfig(max_epochs=1, width=8))


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """UMAP takes long to compile, scVI to train, a dozen reports to draw; the rest is no matter here."""
    patch = pytest.MonkeyPatch()
    for module in (integration_sections, multiome_record):
        patch.setattr(module, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd))
    patch.setattr(Figure, "savefig", lambda figure, file, **_: file.write(b"<svg xmlns='http://www.w3.org/2000/svg'/>"))
    patch.setattr(report, "write_report", lambda evaluation, path: Path(path).write_text(evaluation.title))
    patch.delitem(INTEGRATION_BASELINES, "scvi")
    patch.setattr(finetuned_tasks, "PerturbOptions", quick_options)
    patch.setattr(finetuned_tasks, "PerturbConfig", quick_methods)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def given():
    """Task -> (cells, model)."""
    both = make_multimodal(60, 40, num_proteins=6, num_peaks=2)
    both = both[:, both.var["feature_types"] != "Peaks"].copy()
    screen = make_perturbed_cells(40, ScreenPlan(num_modules=2, genes_per_module=2, cells_each=22), seed=2)
    names = dict.fromkeys([*screen.var_names, *(f"P0{i}" for i in range(4))])
    return {
        "integrate": (made_up_cells(40), made_up_model()),
        "multiome": (both, network(both.var_names[:40])),
        "perturb": (screen, network(names)),
    }


def network(genes):
    return new_model("scgpt", GeneVocab.from_genes(list(genes), FAMILIES["scgpt"].specials), SIZE)


def compare(given, task, out, *, how=TWO, changes=(), **options):
    cells, model = given[task]
    options = {"label": LABEL[task], "read": READ if task == "integrate" else None, "run": QUIET} | options
    return cellwright.compare_modes(
        cells, model, task=task, out=out, how=how, changes=[*QUICK[task], *changes], **options
    )


@pytest.fixture(scope="module")
def compared(given, tmp_path_factory):
    """Task -> comparison of two ways with two seeds; not to be changed."""
    home, found = tmp_path_factory.mktemp("compared"), {}

    def of(task):
        if task not in found:
            before = given[task][1].sha256()
            found[task] = compare(given, task, home / task)
            assert given[task][1].sha256() == before
        return found[task]

    return of


@pytest.fixture
def copied(compared, tmp_path):
    return shutil.copytree(compared("integrate").folder, tmp_path / "copy")


def of_run(folder, task):
    """Return the evaluation of a run and the method that was trained in it."""
    evaluation = Evaluation.load(folder)
    return evaluation, next(m for m in evaluation.methods if m.name == (MAIN[task] or evaluation.methods[0].name))


@pytest.mark.parametrize("task", QUICK)
def test_every_way_is_the_mean_of_the_verbs_runs(compared, task):
    evaluation = compared(task).evaluation
    assert (evaluation.task, [m.name for m in evaluation.methods[:2]]) == (task, ["scGPT, full", "scGPT, from scratch"])
    splits = set()
    for mode in TWO.modes:
        runs = [of_run(compared(task).folder / mode / f"seed_{seed}", task) for seed in (0, 1)]
        splits |= {(e.provenance.split_sha256, e.provenance.data_sha256) for e, _ in runs}
        way = next(m for m in evaluation.methods if m.name == mode_name("scGPT", mode))
        for metric, score in way.scores.items():
            values = [method.scores[metric].value for _, method in runs]
            assert score.value == pytest.approx(np.mean(values))
            if score.low is not None:
                assert score.low <= score.value <= score.high
        primary = [method.scores[evaluation.primary_metric].value for _, method in runs]
        assert primary[0] != primary[1]  # the seed is that of training
        assert way.scores[evaluation.primary_metric].high > way.scores[evaluation.primary_metric].low
    assert len(splits) == 1


@pytest.mark.parametrize("task", QUICK)
def test_baselines_are_those_of_one_run_and_differences_are_paired(compared, task):
    evaluation, folder = compared(task).evaluation, compared(task).folder
    first, main = of_run(folder / "full" / "seed_0", task)
    rivals = {m.name: m for m in first.methods if m.name != main.name}
    beside = {m.name: m for m in evaluation.methods[2:]}
    assert beside.keys() == rivals.keys()
    for name, method in beside.items():
        assert method.scores == {m: rivals[name].scores[m] for m in method.scores}
    worth = evaluation.differences[0]
    assert (worth.method, worth.other) == ("scGPT, full", "scGPT, from scratch")
    values = {m.name: m.scores[evaluation.primary_metric].value for m in evaluation.methods}
    for found in evaluation.differences:
        assert found.value == pytest.approx(values[found.method] - values[found.other])
        assert found.low <= found.value <= found.high
    assert f"Pre-training was worth {worth.value:+.3f}" in evaluation.headline
    assert all(0 < m.trained_parameters < 100_000 for m in evaluation.methods[:2])
    assert "seed" in evaluation.limitations[0]
    assert not any("ne training seed" in line or "one seed" in line for line in evaluation.limitations)


def test_what_takes_long_and_is_no_way_is_run_once_a_way(compared):
    graphs = [
        "graph" in {m.name for m in of_run(compared("perturb").folder / mode / f"seed_{seed}", "perturb")[0].methods}
        for mode in TWO.modes
        for seed in (0, 1)
    ]
    assert graphs == [True, False, True, False]
    names = {m.name for m in compared("integrate").evaluation.methods}
    assert {"harmony", "labels", "shuffled", "scGPT, zero-shot"} <= names


def test_the_second_thing_that_runs_score_has_a_section(compared):
    evaluation = compared("multiome").evaluation
    assert evaluation.primary_metric == "avg_bio"
    table = next(s for s in evaluation.sections if s.heading == "Proteins told from RNA").tables[""]
    assert [row[0] for row in table.rows][:3] == ["full", "from scratch", "kNN"] or table.rows[2][0] in (
        "ridge",
        "mean",
    )
    told = [
        of_run(compared("multiome").folder / "full" / f"seed_{seed}" / "proteins", "multiome")[1]
        .scores["feature_pearson"]
        .value
        for seed in (0, 1)
    ]
    assert table.rows[0][1] == f"{np.mean(told):.3f} ({min(told):.3f} to {max(told):.3f})"


def test_runs_are_the_verbs_own_and_models(compared):
    assert load(compared("integrate").folder / "full" / "seed_0" / "model").tech_batches
    assert load(compared("multiome").folder / "scratch" / "seed_1").inputs.modalities
    assert (compared("perturb").folder / "full" / "seed_1" / "model" / "network" / "config.json").is_file()


def test_the_report_shows_ways_runs_and_what_was_told(compared, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "write_report", WRITE)
    works("report", compared("multiome").folder, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for text in ("What pre-training is worth", "Every run", "trained parameters", "seed_&lt;seed&gt;", "Proteins told"):
        assert text in page


def test_one_seed_says_that_it_knows_nothing_of_others(compared, given, monkeypatch, tmp_path):
    """And finished runs are not made again."""
    folder = shutil.copytree(compared("perturb").folder, tmp_path / "copy")
    never(monkeypatch, "perturb")
    found = compare(given, "perturb", folder, how=TWO.model_copy(update={"seeds": 1})).evaluation
    assert "no training seeds, since there is one" in found.interval_note
    way, (_, run) = found.methods[0], of_run(folder / "full" / "seed_0", "perturb")
    for metric, score in run.scores.items():  # the interval is that of the run itself
        assert (way.scores[metric].low, way.scores[metric].high) == pytest.approx((score.low, score.high))


def never(monkeypatch, task):
    def verb(_):
        raise AssertionError("a finished run was made again")

    monkeypatch.setitem(mode_tasks._TASKS, task, replace(mode_tasks._TASKS[task], verb=verb))


def test_the_usual_ways_are_those_that_the_task_has():
    for task in ("annotate", *QUICK):
        known = get_args(config_of(task).model_fields["mode"].annotation)
        assert set(configs_of(None, [], task=task)) == set(USUAL) & set(known)
    with pytest.raises(ValueError, match="perturb has no way 'zero_shot'; it has full"):
        configs_of(("full", "zero_shot"), [], task="perturb")


def test_finished_runs_give_the_same_record(copied, compared, given, monkeypatch):
    never(monkeypatch, "integrate")
    again = compare(given, "integrate", copied)
    before, after = (c.evaluation.record() for c in (compared("integrate"), again))
    for record in (before, after):
        del record["created"]
    assert before == after


def test_a_run_that_was_cut_short_is_made_again(copied, given, monkeypatch):
    (copied / "scratch" / "seed_1" / "run.json").unlink()
    made = []

    def verb(asked):
        made.append(asked.folder)
        assert not asked.folder.exists()
        return finetuned_tasks.finetune_integrate(asked)

    monkeypatch.setitem(mode_tasks._TASKS, "integrate", replace(mode_tasks._TASKS["integrate"], verb=verb))
    compare(given, "integrate", copied)
    assert made == [copied / "scratch" / "seed_1"]


def test_an_error_leaves_finished_runs(given, tmp_path, monkeypatch):
    def verb(asked):
        if "mode=scratch" in asked.changes:
            raise ValueError("no such weights")
        return finetuned_tasks.finetune_perturb(asked)

    monkeypatch.setitem(mode_tasks._TASKS, "perturb", replace(mode_tasks._TASKS["perturb"], verb=verb))
    with pytest.raises(ValueError, match="no such weights"):
        compare(given, "perturb", tmp_path / "out")
    assert [path.parent.name for path in (tmp_path / "out").rglob("run.json")] == ["seed_0"]


def test_there_must_be_something_to_score_by(given, tmp_path):
    cells = make_multimodal(60, 40, num_proteins=2, num_peaks=20)
    cells = cells[:, cells.var["feature_types"] != "Antibody Capture"].copy()
    with pytest.raises(ValueError, match="nothing to score ways by: neither labels"):
        compare({"multiome": (cells, given["multiome"][1])}, "multiome", tmp_path / "out", label=None)
    assert not (tmp_path / "out").exists()


def test_runs_of_another_recipe_or_of_other_cells_are_refused(copied, compared, given):
    with pytest.raises(ValueError, match=r"full.seed_0 was made with batch_size = 16, not 8; choose another folder"):
        compare(given, "integrate", copied, changes=["batch_size=8"])
    with pytest.raises(ValueError, match=r"was made with prediction.seed = 0, not 3"):
        compare(given, "integrate", copied, run=QUIET.model_copy(update={"seed": 3}))
    with pytest.raises(ValueError, match=r"was made with columns.label = 'cell_type', not None"):
        compare(given, "integrate", copied, label=None)
    for task in QUICK:
        cells, model = given[task]
        other = cells.copy()
        other.X[0, 0] += 1
        with pytest.raises(ValueError, match="was made with data_sha256"):
            compare({task: (other, model)}, task, compared(task).folder)
    other = given["integrate"][0].copy()
    other.obs["cell_type"] = other.obs["cell_type"].to_numpy()[::-1]
    with pytest.raises(ValueError, match="was made with data_sha256"):
        compare({"integrate": (other, given["integrate"][1])}, "integrate", copied)


@pytest.mark.parametrize(
    ("task", "words", "says"),
    [
        ("integrat", [], ["'integrat'", "did you mean 'integrate'?"]),
        ("integrate", [], ["--tech-batch"]),
        ("integrate", ["--tech-batch", "lane"], ["no column 'lane'"]),
        ("integrate", ["--tech-batch", "tech_batch", "--held-out", "a"], ["held_out names 'a'", "not for integrate"]),
        ("integrate", ["--tech-batch", "tech_batch", "--split-by", "donor"], ["split_by = 'donor'", "leave it out"]),
        ("integrate", ["--tech-batch", "tech_batch", "--set", "weights.gate=1"], ["weights.gate: no such term"]),
        ("integrate", ["--set", "full:train.seed=1"], ["choose them with modes and seeds"]),
        ("multiome", [], ["there is RNA and nothing beside it"]),
        ("perturb", ["--label", "cell_type"], ["no control"]),
        ("perturb", ["--set", "full:seed=1"], ["choose them with modes and seeds"]),
        ("annotate", [], ["name their column of obs (label, --label)"]),
    ],
)
def test_bad_options_leave_nothing_behind(task, words, says, own, data, tmp_path):
    line = ["finetune", "compare", own, data, "--task", task, "-o", tmp_path / "out", "--no-progress", *words]
    refused(tmp_path, *line, says=says)


def test_the_command_says_what_came_out(compared, given, own, tmp_path):
    """Taken up: all runs are there."""
    folder = shutil.copytree(compared("integrate").folder, tmp_path / "copy")
    path = write(given["integrate"][0].copy(), tmp_path / "cells.h5ad")
    changes = [word for change in QUICK["integrate"] for word in ("--set", change)]
    words = ["--task", "integrate", "--label", "cell_type", "--tech-batch", "tech_batch", "--modes", "full,scratch"]
    said = works("finetune", "compare", own, path, "-o", folder, "--seeds", 2, *words, *changes, "--no-progress")
    assert "scGPT, from scratch" in said
    assert f"runs: {folder}" in said
    assert json.loads((folder / "recipe.json").read_text())["task"] == "integrate"
