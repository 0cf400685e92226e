"""Training on several modalities, telling proteins from RNA, and the simple ways that stand beside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cli.command_line import SIZE

from cellwright.baselines.modalities import FEATURE_BASELINES, canonical_variates, joint_embeddings
from cellwright.data import make_multimodal
from cellwright.data.multimodal import feature_tokens, open_multimodal, read_studies
from cellwright.metrics.modalities import MODALITY_METRICS, feature_pearson, feature_rmse, feature_spearman
from cellwright.models import FAMILIES, new_model
from cellwright.models.adapt import adapted
from cellwright.tasks.finetuning import Rows
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.multiome import (
    Calibration,
    MultiomeConfig,
    modality_changes,
    tell_features,
    told_tokens,
    train_multiome,
)
from cellwright.tokens.modalities import with_asked
from cellwright.types import CellEnd, Draw
from cellwright.vocab import GeneVocab

QUIET = InferenceOptions(progress=False, device="cpu")
QUICK = [
    "train.max_epochs=1",
    "train.accelerator=cpu",
    "train.keep=last",
    "num_genes=40",
    "train.checkpoint_every=1000",
]


def base(genes, **changes):
    vocab = GeneVocab.from_genes(genes, FAMILIES["scgpt"].specials)
    return new_model("scgpt", vocab, SIZE.model_copy(update=changes))


def prepared(num_cells=60, seed=0):
    """Cells on a model's vocabulary, and the model made ready for them."""
    studies = read_studies(make_multimodal(num_cells, 50, num_proteins=6, num_peaks=20, seed=seed))
    model = base(studies[0].rna.var_names)
    data = open_multimodal(studies, model.vocab.extended(feature_tokens(studies)))
    made = adapted(model, modality_changes(model, data.modalities, 0), vocab=data.cells.vocab)
    return made, data


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    made, data = prepared()
    config = MultiomeConfig().override(QUICK)
    rows = Rows(train=np.arange(40))
    folder = tmp_path_factory.mktemp("multiome") / "run"
    model, fit = train_multiome(made.model, data, rows, config=config, folder=folder, unlearnt=made.unlearnt)
    return model, data, fit


def test_learnt_weights_stay_and_new_parts_are_told():
    made, _ = prepared()
    assert "gene_encoder.embedding.weight" in made.grown
    assert any(name.startswith("modality.") for name in made.fresh)
    assert not any(name.startswith("blocks.") for name in made.unlearnt)
    assert made.model.config.num_modalities == 5


def test_training_leaves_a_model_that_reads_all_modalities(trained):
    model, data, fit = trained
    assert fit.num_steps == 3
    assert model.inputs.modalities == ("peak", "protein", "rna")
    assert model.inputs.unbinned == ("protein",)
    assert len(told_tokens(model)) == 6
    assert len(model.inputs.panel) == 40 + 6 + len(data.ids("peak"))
    tokens = model.tokenizer()(data.cells.read(np.arange(4)), Draw())
    assert set(tokens.modality_nt.flatten().tolist()) == {0, 1, 2, 4}


def test_what_is_told_does_not_depend_on_what_was_measured(trained):
    model, data, _ = trained
    names = told_tokens(model)
    told_nf = tell_features(model, data.cells, names, QUIET)
    assert told_nf.shape == (60, 6)
    hidden = data.without("protein", np.arange(60))
    assert np.allclose(tell_features(model, hidden.cells, names, QUIET), told_nf, atol=1e-5)
    some = tell_features(model, data.cells.select([7, 3]), names[::-1], QUIET)
    assert np.allclose(some, told_nf[[7, 3]][:, ::-1], atol=1e-5)


def test_asked_tokens_stand_behind_each_cell(trained):
    model, data, _ = trained
    cells = data.cells.read(np.arange(3))
    for is_packed in (True, False):
        tokenize = model.family.tokenizer(model.config, model.vocab, model.inputs, is_packed=is_packed)
        tokens = tokenize(cells, Draw())
        pad = model.vocab.special_id("pad")
        asked = with_asked(tokens, np.array([3, 5]), np.array([2, 2]), pad_gene=pad)
        assert asked.layout.is_packed is is_packed
        assert asked.layout.lengths == tuple(length + 2 for length in tokens.layout.lengths)
        at_t = asked.layout.end(CellEnd("last", 2))[1]
        assert asked.gene_nt.flatten()[at_t].tolist() == [3, 5] * 3
        assert asked.is_hidden_nt.flatten()[at_t].all()
        assert asked.is_hidden_nt.sum() == 6
        assert torch.equal(asked.layout.first(asked.gene_nt), tokens.layout.first(tokens.gene_nt))


def test_a_family_without_modalities_is_refused():
    genes = [f"G{i}" for i in range(5)]
    vocab = GeneVocab.from_genes(genes, FAMILIES["scfoundation"].specials)
    other = new_model("scfoundation", vocab, FAMILIES["scfoundation"].sizes["tiny"])
    with pytest.raises(ValueError, match="scFoundation does not tell modalities apart; take a model of a family that"):
        modality_changes(other, ("protein", "rna"), 0)


def test_a_model_of_other_modalities_is_refused(trained):
    with pytest.raises(ValueError, match="knows peak, protein, rna; the cells have protein, rna"):
        modality_changes(trained[0], ("protein", "rna"), 0)


def test_features_that_were_not_learnt_are_refused(trained):
    model, data, _ = trained
    with pytest.raises(ValueError, match="'protein:P99' is not among what"):
        tell_features(model, data.cells, ["protein:P99"], QUIET)
    with pytest.raises(ValueError, match="features of one modality are not"):
        tell_features(model, data.cells, ["protein:P0", "peak:chr1:1000-1500"], QUIET)


def test_proteins_can_be_fed_as_bins(tmp_path):
    made, data = prepared()
    config = MultiomeConfig().override([*QUICK, "proteins=bins", "train.max_steps=1"])
    model, _ = train_multiome(made.model, data, Rows(train=np.arange(30)), config=config, folder=tmp_path / "run")
    assert model.inputs.unbinned == ()
    told_nf = tell_features(model, data.cells.select([0]), told_tokens(model), QUIET)
    assert np.isfinite(told_nf).all()


def test_calibration_sets_height_and_spread_right_and_never_turns_round():
    rng = np.random.default_rng(0)
    said_nf = rng.random((50, 3))
    measured_nf = np.column_stack([2 * said_nf[:, 0] + 1, 3 - said_nf[:, 1], np.full(50, np.nan)])
    line = Calibration.fit(said_nf, measured_nf)
    assert np.allclose(line.slope_f, [2, 0, 1])
    assert np.allclose(line(said_nf)[:, 0], measured_nf[:, 0], atol=1e-5)
    assert np.allclose(line(said_nf)[:, 1], measured_nf[:, 1].mean(), atol=1e-5)
    assert np.allclose(line(said_nf)[:, 2], said_nf[:, 2], atol=1e-5)
    assert (line(said_nf - 10) >= 0).all()
    few = Calibration.fit(said_nf[:5], measured_nf[:5])
    assert few.slope_f.tolist() == [1, 1, 1]


# Baselines and scores


def planted(num=200, seed=0):
    """RNA that says three proteins linearly, with noise."""
    rng = np.random.default_rng(seed)
    rna_ng = rng.random((num, 30)) * (rng.random((num, 30)) < 0.5)
    protein_nf = rna_ng[:, :3] * [1, 2, -1] + 1 + 0.05 * rng.normal(size=(num, 3))
    return rna_ng, protein_nf


def test_baselines_find_what_is_planted():
    import scipy.sparse as sp

    rna_ng, protein_nf = planted()
    scores = {}
    for name, baseline in FEATURE_BASELINES.items():
        pred_nf = baseline.fit_predict(
            sp.csr_matrix(rna_ng[:150]), protein_nf[:150], sp.csr_matrix(rna_ng[150:]), seed=0
        )
        assert pred_nf.shape == (50, 3)
        scores[name] = feature_pearson(protein_nf[150:], pred_nf).mean()
    assert scores["mean"] == 0
    assert scores["ridge"] > 0.95
    assert scores["ridge"] > scores["kNN"] > 0.1


def test_baselines_learn_from_training_cells_only():
    import scipy.sparse as sp

    rna_ng, protein_nf = planted()
    train, query = sp.csr_matrix(rna_ng[:150]), sp.csr_matrix(rna_ng[150:])
    for baseline in FEATURE_BASELINES.values():
        whole = baseline.fit_predict(train, protein_nf[:150], query, seed=0)
        alone = baseline.fit_predict(train, protein_nf[:150], query[:5], seed=0)
        assert np.allclose(whole[:5], alone)


def test_canonical_variates_find_the_shared_direction():
    rng = np.random.default_rng(1)
    shared_n = rng.normal(size=300)
    a_nd, b_nd = rng.normal(size=(300, 5)), rng.normal(size=(300, 4))
    a_nd[:, 2] += 3 * shared_n
    b_nd[:, 0] += 3 * shared_n
    u_nd, v_nd = canonical_variates(a_nd, b_nd)
    assert abs(np.corrcoef(u_nd[:, 0], shared_n)[0, 1]) > 0.9
    assert np.corrcoef(u_nd[:, 0], v_nd[:, 0])[0, 1] > 0.8


@pytest.mark.parametrize("is_peaks", [False, True])
def test_joint_embeddings_have_a_row_a_cell(is_peaks):
    import scipy.sparse as sp

    rna_ng, other_nf = sp.random_array((40, 60), density=0.3, rng=0), sp.random_array((40, 12), density=0.5, rng=1)
    found = joint_embeddings(rna_ng, other_nf, is_peaks=is_peaks)
    assert list(found)[0] == "PCA of RNA"
    assert f"PCA of {'peaks' if is_peaks else 'proteins'}" in found
    for x_nd, what in found.values():
        assert len(x_nd) == 40
        assert np.isfinite(x_nd).all()
        assert what


def test_scores_of_features():
    rng = np.random.default_rng(2)
    truth_nf = rng.random((30, 4))
    for metric in MODALITY_METRICS.values():
        assert metric.function(truth_nf, truth_nf) == pytest.approx(metric.best)
    assert feature_pearson(truth_nf, np.ones((30, 4))).tolist() == [0] * 4
    assert np.allclose(feature_pearson(truth_nf, -2 * truth_nf + 1), -1)
    assert np.allclose(feature_spearman(truth_nf, np.exp(5 * truth_nf)), 1)
    assert np.allclose(feature_rmse(truth_nf, truth_nf + 0.5), 0.5)
    flat_nf = truth_nf.copy()
    flat_nf[:, 1] = 3.0
    assert np.isnan(feature_pearson(flat_nf, truth_nf)).tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="2 or more cells x features"):
        feature_rmse(truth_nf, truth_nf[:, :2])
