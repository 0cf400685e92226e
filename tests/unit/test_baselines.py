"""Annotation baselines on small made-up cells whose answer is known."""

import numpy as np
import pytest
from scipy import sparse

from cellwright.baselines import ANNOTATION_BASELINES, annotation

NAMES = list(ANNOTATION_BASELINES)
LEARNERS = [name for name in NAMES if name != "majority"]


def cells(num_cells, seed, num_classes=3, num_genes=120):
    """Log-normalised counts of cells whose class lifts ten genes of its own eightfold."""
    generator = np.random.default_rng(seed)
    label_n = generator.integers(num_classes, size=num_cells)
    rate_kg = np.ones((num_classes, num_genes))
    for k in range(num_classes):
        rate_kg[k, 10 * k : 10 * k + 10] = 8
    counts_ng = generator.poisson(rate_kg[label_n] * generator.gamma(4, 0.25, size=(num_cells, 1)))
    logcp10k_ng = np.log1p(counts_ng / np.maximum(counts_ng.sum(axis=1, keepdims=True), 1) * 1e4)
    return sparse.csr_matrix(logcp10k_ng.astype(np.float32)), label_n


@pytest.fixture(scope="module")
def data():
    train_ng, train_label_n = cells(240, seed=0)
    query_ng, query_label_n = cells(150, seed=1)
    return train_ng, train_label_n, query_ng, query_label_n


def answer(name, train_ng, label_n, query_ng, num_classes=3, seed=0):
    baseline = ANNOTATION_BASELINES[name]
    return baseline.fit_predict(train_ng, label_n, query_ng, num_classes=num_classes, seed=seed)


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_probabilities_and_repeatable(name, data):
    train_ng, label_n, query_ng, _ = data
    before = train_ng.copy(), label_n.copy(), query_ng.copy()
    probability_nk = answer(name, train_ng, label_n, query_ng)
    assert probability_nk.shape == (150, 3)
    assert probability_nk.min() >= 0
    assert np.allclose(probability_nk.sum(axis=1), 1)
    assert (answer(name, train_ng, label_n, query_ng) == probability_nk).all()
    assert (before[0] != train_ng).nnz == 0
    assert (before[1] == label_n).all()
    assert (before[2] != query_ng).nnz == 0


@pytest.mark.parametrize("name", LEARNERS)
def test_planted_classes_are_found(name, data):
    train_ng, label_n, query_ng, truth_n = data
    assert (answer(name, train_ng, label_n, query_ng).argmax(axis=1) == truth_n).mean() > 0.93


@pytest.mark.parametrize("name", LEARNERS)
def test_shuffled_labels_leave_chance(name, data):
    train_ng, label_n, query_ng, truth_n = data
    shuffled_n = np.random.default_rng(3).permutation(label_n)
    assert (answer(name, train_ng, shuffled_n, query_ng).argmax(axis=1) == truth_n).mean() < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_query_cell_is_answered_alone_as_in_company(name, data):
    train_ng, label_n, query_ng, _ = data
    assert np.allclose(
        answer(name, train_ng, label_n, query_ng)[:1],
        answer(name, train_ng, label_n, query_ng[:1]),
        atol=1e-9,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_training_cells_gets_nothing(name, data):
    train_ng, label_n, query_ng, _ = data
    moved_n = np.array([0, 2, 4])[label_n]
    probability_nk = answer(name, train_ng, moved_n, query_ng, num_classes=6)
    assert (probability_nk[:, [1, 3, 5]] == 0).all()
    assert np.allclose(probability_nk[:, [0, 2, 4]], answer(name, train_ng, label_n, query_ng))


@pytest.mark.parametrize("name", LEARNERS)
def test_gene_order_does_not_matter(name, data):
    train_ng, label_n, query_ng, _ = data
    order = np.random.default_rng(4).permutation(train_ng.shape[1])
    moved = answer(name, train_ng[:, order], label_n, query_ng[:, order])
    assert np.allclose(moved, answer(name, train_ng, label_n, query_ng), atol=2e-2)


def test_majority_is_the_class_shares():
    train_ng = sparse.csr_matrix(np.eye(4))
    probability_nk = answer("majority", train_ng, np.array([1, 1, 1, 0]), train_ng)
    assert (probability_nk == [[0.25, 0.75, 0]] * 4).all()


def test_knn_counts_votes(data):
    train_ng, label_n, query_ng, _ = data
    votes_nk = answer("pca_knn", train_ng, label_n, query_ng) * annotation.NUM_NEIGHBORS
    assert np.allclose(votes_nk, votes_nk.round())


def test_gene_logistic_keeps_the_variable_genes(data, monkeypatch):
    train_ng, label_n, query_ng, truth_n = data
    monkeypatch.setattr(annotation, "MAX_GENES", 30)  # the planted ones vary most
    flat_ng = sparse.hstack([train_ng, np.full((240, 1), 9.0)]).tocsr()  # large but constant
    flat_query_ng = sparse.hstack([query_ng, np.full((150, 1), 9.0)]).tocsr()
    alone = answer("gene_logistic", train_ng, label_n, query_ng)
    assert (answer("gene_logistic", flat_ng, label_n, flat_query_ng) == alone).all()
    assert (alone.argmax(axis=1) == truth_n).mean() > 0.93


@pytest.mark.parametrize("name", NAMES)
def test_few_cells_are_enough(name):
    train_ng, label_n = cells(6, seed=5, num_classes=2)
    label_n = np.array([0, 1, 0, 1, 0, 1])
    assert answer(name, train_ng, label_n, train_ng, num_classes=2).shape == (6, 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda train, label, query: (train, np.zeros_like(label), query), "1 classes"),
        (lambda train, label, query: (train, label - 1, query), "run from -1"),
        (lambda train, label, query: (train, label + 1, query), "not within 0 .. 2"),
        (lambda train, label, query: (train, label[:-1], query), "one integer code"),
        (lambda train, label, query: (train, label.astype(str), query), "one integer code"),
        (lambda train, label, query: (train, label, query[:, :-1]), "use the shared genes"),
        (lambda train, label, query: (train * np.nan, label, query), "not finite"),
        (lambda train, label, query: (train[:0], label[:0], query), "0 classes"),
    ],
)
def test_mistakes_are_named(name, change, words, data):
    with pytest.raises(ValueError, match=words):
        answer(name, *change(*data[:3]))
