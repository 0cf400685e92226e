"""The recipe of integration: its terms, its minibatches, what is saved, and that it takes batches away."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from cli.command_line import NUM_GENES, SIZE, gene_names

import cellwright
from cellwright.data import make_cells, open_cells
from cellwright.data.tech_batches import tech_batch_codes
from cellwright.evaluate import integration_sections, projection
from cellwright.metrics import INTEGRATION_METRICS, embedded_cells
from cellwright.models import FAMILIES, load, new_model
from cellwright.models.adapt import adapted
from cellwright.nn.heads import ClassHead
from cellwright.tasks.finetuning import to_finetune
from cellwright.tasks.integrate import (
    IntegrateConfig,
    architecture_changes,
    batch_loaders,
    batch_rows,
    check_batches,
    integration_objective,
    joined_names,
    settle_norms,
)
from cellwright.types import Draw
from cellwright.verbs import IntegrateOptions
from cellwright.vocab import GeneVocab

QUIET = cellwright.InferenceOptions(progress=False, device="cpu", seed=1)
FEW = IntegrateOptions(baselines=("pca", "centred_pca"), num_resamples=100)
SMALL = ["num_genes=40", "batch_size=16", "train.accelerator=cpu", "optim.lr=0.003"]


@pytest.fixture(autouse=True)
def _quick_drawing(monkeypatch):
    monkeypatch.setattr(
        integration_sections, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd)
    )


def planted(num=90, *, num_batches=3, seed=0):
    return make_cells(
        num, NUM_GENES, num_types=3, num_batches=num_batches, gene_names=gene_names(), depth=500, seed=seed
    )


def tiny(family="scgpt"):
    chosen = FAMILIES[family]
    vocab = GeneVocab.from_genes(gene_names(), chosen.specials)
    return new_model(family, vocab, SIZE if family == "scgpt" else chosen.sizes["tiny"])


def coded(model, adata):
    source = open_cells(adata, model.vocab, accepts=model.family.accepts)
    return source.with_obs({"tech_batch": tech_batch_codes(adata.obs, "tech_batch", ["batch 0", "batch 1", "batch 2"])})


def test_the_defaults_are_the_published_recipe():
    config = IntegrateConfig()
    model = tiny()
    made = adapted(model, architecture_changes(model, 3, config))
    head = ClassHead(16, 3, kind="domain")
    objective = integration_objective(made.model.network, head, config)
    assert {name: weight for name, (weight, _) in objective.terms.items()} == {
        "masked_value": 1, "zero_gate": 1, "cell_value": 1, "cell_zero_gate": 1, "similarity": 10, "domain": 1,
    }  # fmt: skip
    assert objective.view.fraction == 0.4
    assert objective.terms["similarity"][1].threshold == 0.8
    assert (config.batch_size, config.train.max_epochs, config.num_genes, config.optim.lr) == (64, 15, 1200, 1e-4)
    assert config.optim.decay_per_epoch == 0.9
    assert config.inputs == {"cls_value": 0.0}
    assert made.model.config.num_domains == made.model.config.num_tech_batches == 3
    redrawn = adapted(
        model, architecture_changes(model, 3, config), redraw=("value_head.net.0.weight", "cell_value_head.project")
    )
    assert set(redrawn.fresh) - set(made.fresh) == {"value_head.net.0.weight", "cell_value_head.project.weight"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_on_what_it_can_answer(family):
    model, config = tiny(family), IntegrateConfig(batch_size=8)
    changes = architecture_changes(model, 3, config)
    tuned = to_finetune(adapted(model, changes).model if changes else model, config)
    silent = {"genes": "panel"} if model.family.has_silent_genes else {}
    tuned = tuned.with_inputs(panel=tuple(gene_names()[:30]), **silent)
    objective = integration_objective(tuned.network, ClassHead(tuned.network.width, 3, kind="domain"), config)
    objective.check(tuned.network)
    expected = {"similarity", "domain"}
    expected |= {"masked_value"} if "value_nt" in tuned.network.produces else set()
    assert expected <= set(objective.terms)
    cells = next(iter(batch_loaders(tuned.network, coded(model, planted()), config)[0]))
    report = objective.step(tuned.network.train(), cells, tokenize=tuned.tokenizer(), draw=Draw(0))
    report.loss.backward()
    assert np.isfinite(report.loss.item())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in tuned.network.parameters())


@pytest.mark.parametrize("has_parts", [True, False])
def test_minibatches_are_of_one_batch_where_the_network_normalises_by_batch(has_parts):
    model, config = tiny(), IntegrateConfig(batch_size=16)
    network = adapted(model, architecture_changes(model, 3, config)).model.network if has_parts else model.network
    train, valid = batch_loaders(network, coded(model, planted(98)), config)
    for loader in (train, valid):
        nums = [len(np.unique(cells.obs["tech_batch"])) for cells in loader]
        assert (max(nums) == 1) == has_parts
        assert min(len(cells) for cells in loader) >= 2


def test_a_part_of_each_batch_is_watched_and_never_a_lone_cell():
    code_n = np.repeat([0, 1, 2], [100, 30, 12])
    rows = batch_rows(code_n, 0.1, seed=0)
    assert np.bincount(code_n[rows.valid], minlength=3).tolist() == [10, 3, 0]
    assert sorted([*rows.train, *rows.valid]) == list(range(142))
    assert not len(batch_rows(code_n, 0.0, seed=0).valid)


def test_what_cannot_be_integrated_is_refused():
    with pytest.raises(ValueError, match="all cells are of the sequencing batch 'b'"):
        check_batches(np.ones(20, int), ["a", "b"])
    with pytest.raises(ValueError, match=r"fewer than 10 cells: 'b' \(9\)"):
        check_batches(np.repeat([0, 1], [20, 9]), ["a", "b"])
    assert joined_names(("b", "x"), ("a", "b")) == ("b", "x", "a")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    adata = planted(120, num_batches=3, seed=2)
    rng = np.random.default_rng(0)  # a batch effect that cannot be overlooked
    factor_bg = rng.lognormal(0, 1.2, (3, NUM_GENES))
    counts_ng = adata.X.toarray() * factor_bg[adata.obs["tech_batch"].cat.codes.to_numpy()]
    adata.X = np.floor(counts_ng).astype(np.float32)
    out = tmp_path_factory.mktemp("integrated") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integration_sections, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd))
        found = cellwright.integrate(
            adata, tiny(), tech_batch="tech_batch", label="cell_type", mode="full", out=out,
            changes=[*SMALL, "train.max_epochs=6"], config=FEW, run=QUIET,
        )  # fmt: skip
    return adata, found, out


def test_fine_tuning_is_scored_beside_what_it_began_from(done):
    adata, found, _ = done
    methods = {method.name: method for method in found.evaluation.methods}
    assert list(methods)[:2] == ["scGPT, fine-tuned", "scGPT, zero-shot"]
    assert {"scGPT, untrained", "pca", "centred_pca"} < set(methods)
    tuned = methods["scGPT, fine-tuned"].scores
    losses = [row["valid/masked_value"] for row in found.fit.history if row.get("valid/masked_value")]
    assert losses[-1] < 0.9 * losses[0]
    code_n = adata.obs["tech_batch"].cat.codes.to_numpy(np.int64)
    cells = embedded_cells(found.embedding_nd, code_n, adata.obs["cell_type"].cat.codes.to_numpy(np.int64))
    assert tuned["bras"].value == pytest.approx(INTEGRATION_METRICS["bras"].function(cells))
    assert methods["scGPT, fine-tuned"].trained_parameters > 0
    assert set(methods["pca"].parts) == {"type 0", "type 1", "type 2"}


def test_settled_norms_are_those_of_the_cells_as_they_are_embedded():
    """Half a dozen steps leave much of mean 0, variance 1 in running statistics; settled ones are exact."""
    model, config, adata = tiny(), IntegrateConfig(batch_size=8, valid_fraction=0), planted(96)
    network = adapted(model, architecture_changes(model, 3, config)).model
    network = network.with_inputs(genes="panel", panel=tuple(gene_names()[:40]))  # no pads, which would count
    source = coded(model, adata)
    [loader] = batch_loaders(network.network, source, config)
    settle_norms(network, loader)
    norm, momentum = network.network.input_norm, network.network.input_norm.domains[0].momentum
    assert momentum == 0.1
    assert not network.network.training
    seen = []
    handle = norm.register_forward_hook(lambda module, given, out: seen.append(out))
    cells = source.read(np.flatnonzero(source.codes("tech_batch") == 1))
    tokens = network.tokenizer()(cells, Draw(0))
    with torch.no_grad():
        network.network(tokens, ())
    handle.remove()
    assert seen[0].flatten(0, 1).mean(0).abs().max() < 0.01  # minibatches of 7 and 6 cells weigh alike
    assert (seen[0].flatten(0, 1).var(0) - 1).abs().max() < 0.1  # a mean of minibatches, not of the batch


def test_the_saved_model_knows_its_batches(done):
    adata, found, out = done
    model = load(out / "model")
    assert model.tech_batches == ("batch 0", "batch 1", "batch 2")
    assert model.inputs.genes == "panel"
    assert len(model.inputs.panel) == 40
    again = cellwright.embed(adata, model, read=cellwright.ReadOptions(tech_batch="tech_batch"), run=QUIET)
    assert np.allclose(again, found.embedding_nd, atol=1e-6)
    turned = adata[::-1].copy()
    turned = cellwright.embed(turned, model, read=cellwright.ReadOptions(tech_batch="tech_batch"), run=QUIET)
    assert np.allclose(turned[::-1], found.embedding_nd, atol=1e-5), "a cell is normalised by its own batch"


def test_batches_that_it_does_not_know_are_refused_or_mapped(done):
    adata, found, out = done
    with pytest.raises(
        ValueError, match=r"needs each cell's sequencing batch \('batch 0', .* 'tech_batch' in training"
    ):
        cellwright.embed(adata, out / "model", run=QUIET)
    other = adata.copy()
    other.obs["tech_batch"] = other.obs["tech_batch"].cat.rename_categories({"batch 2": "site X"})
    with pytest.raises(
        ValueError, match=r"not trained on the sequencing batches 'site X'.*--tech-batch-as site X=batch 0"
    ):
        cellwright.embed(other, out / "model", read=cellwright.ReadOptions(tech_batch="tech_batch"), run=QUIET)
    read = cellwright.ReadOptions(tech_batch="tech_batch", tech_batch_as="site X=batch 2")
    assert np.allclose(cellwright.embed(other, out / "model", read=read, run=QUIET), found.embedding_nd, atol=1e-6)
    read = cellwright.ReadOptions(tech_batch="tech_batch", tech_batch_as={"site X": "batch 9"})
    with pytest.raises(ValueError, match="'batch 9' is no sequencing batch that the model knows"):
        cellwright.embed(other, out / "model", read=read, run=QUIET)
    with pytest.raises(ValueError, match="takes no sequencing batches"):
        cellwright.embed(other, tiny(), read=read, run=QUIET)


def test_further_batches_are_learnt_beside_the_known_ones(done, tmp_path):
    adata, _, out = done
    other = adata[adata.obs["tech_batch"] != "batch 0"].copy()
    other.obs["tech_batch"] = other.obs["tech_batch"].astype(str).replace({"batch 2": "another"})
    again = cellwright.integrate(
        other, out / "model", tech_batch="tech_batch", label="cell_type", mode="full", out=tmp_path / "again",
        changes=[*SMALL, "train.max_epochs=1"], config=FEW, run=QUIET,
    )  # fmt: skip
    assert again.model.tech_batches == ("batch 0", "batch 1", "batch 2", "another")
    assert again.model.config.num_domains == 4
    assert "scGPT, zero-shot" not in {method.name for method in again.evaluation.methods}


def test_training_is_repeatable_and_changes_nothing_that_was_lent(tmp_path):
    adata, model = planted(60, num_batches=2), tiny()
    before, counts = model.sha256(), adata.X.copy()
    runs = [
        cellwright.integrate(
            adata, model, tech_batch="tech_batch", mode="full", out=tmp_path / str(n),
            changes=[*SMALL, "train.max_epochs=1"], config=FEW, run=QUIET,
        )
        for n in (0, 1)
    ]  # fmt: skip
    assert np.array_equal(runs[0].embedding_nd, runs[1].embedding_nd)
    assert model.sha256() == before
    assert (adata.X != counts).nnz == 0
    assert "X_scGPT" not in adata.obsm
    evaluation = runs[0].evaluation
    assert evaluation.primary_metric == "ilisi"
    assert set(evaluation.measures) == {"ilisi", "pcr_comparison"}
    assert any("Without labels" in line for line in evaluation.summary)


def test_zero_shot_leaves_cells_without_a_type_out_of_scores_only():
    adata = planted(90, num_batches=2)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[:20, adata.obs.columns.get_loc("cell_type")] = "?"
    adata.obs.iloc[20:25, adata.obs.columns.get_loc("cell_type")] = np.nan
    config = FEW.model_copy(update={"unlabelled": "?", "baselines": ("harmony", "shuffled", "labels")})
    if not pytest.importorskip("harmonypy"):
        return
    found = cellwright.integrate(adata, tiny(), tech_batch="tech_batch", label="cell_type", config=config, run=QUIET)
    assert found.embedding_nd.shape == (90, 16)
    methods = {method.name: method for method in found.evaluation.methods}
    assert set(methods) == {"scGPT, zero-shot", "scGPT, untrained", "harmony", "shuffled", "labels"}
    assert (methods["shuffled"].bound, methods["labels"].bound) == ("floor", "roof")
    assert methods["labels"].scores["clisi"].value > 0.95
    assert any("25 cells without a label" in line for line in found.evaluation.summary)
    assert "65 cells" in found.evaluation.headline
    assert found.fit is None


def test_scoring_options_are_checked_before_anything_runs(monkeypatch):
    from cellwright.tasks import integration_options

    call = {"tech_batch": "tech_batch", "run": QUIET}
    with pytest.raises(ValueError, match="no baseline 'harmny'; did you mean 'harmony'"):
        IntegrateOptions(baselines="pca, harmny")
    with pytest.raises(ValueError, match="'labels' needs labels"):
        cellwright.integrate(planted(), tiny(), config=IntegrateOptions(baselines="labels"), **call)
    monkeypatch.setattr(integration_options, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"'scvi' needs scvi; leave it out, or install it: .*cellwright\[scvi\]"):
        cellwright.integrate(planted(), tiny(), config=IntegrateOptions(baselines="scvi"), **call)
    with pytest.raises(ValueError, match="needs leidenalg"):
        cellwright.integrate(planted(), tiny(), label="cell_type", config=IntegrateOptions(clusters="leiden"), **call)


def test_what_a_family_gets_for_batches_fits_its_networks():
    for family in FAMILIES.values():
        if family.tech_batch_parts is None:
            continue
        for config in family.sizes.values():
            changed = family.config.read(config.record() | dict(family.tech_batch_parts(5)), "here")
            assert changed.num_known_batches == 5
    assert dataclasses.is_dataclass(FAMILIES["scgpt"])
