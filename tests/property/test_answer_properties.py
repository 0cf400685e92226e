"""Back-off and roll-up for any hierarchy and any probabilities, against definitions spelt out term by term."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellwright.data.ontology import ROOT, cell_ontology
from cellwright.tasks.answers import LEVELS, back_off, most_likely
from cellwright.tasks.hierarchy import word_hierarchy
from cellwright.tasks.lineages import class_lineages, find_targets, pair_lineages, roll_up

NAMES = (
    "CD4 T cell", "CD8 T cell", "T cell", "Treg", "B cell", "NK cell", "Monocyte", "Classical monocyte", "Macrophage",
    "Intermediate macrophage", "neutrophil", "hepatocyte", "neuron", "astrocyte", "cluster 7", "doublet", "Cell",
)  # fmt: skip
QUICK = settings(max_examples=60, deadline=None)


@st.composite
def cases(draw):
    """Names of classes and probabilities of a few cells."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=8, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    prob_nk = rng.dirichlet(np.full(len(names), draw(st.sampled_from([0.1, 1.0, 5.0]))), 6).astype(np.float32)
    return names, prob_nk


@st.composite
def trees(draw):
    """Names with a parent each, or two: a graph of four storeys."""
    storeys = [["a", "b", "c", "d", "e", "f"], ["p", "q", "r"], ["s", "t"], ["top"]]
    parents = {}
    for low, high in zip(storeys[:-1], storeys[1:], strict=True):
        for name in low:
            parents[name] = draw(st.lists(st.sampled_from(high), min_size=1, max_size=2, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    return storeys[0], parents, rng.dirichlet(np.ones(6), 6).astype(np.float32)


def masses(prob_k, lineages):
    """Sum probabilities term by term."""
    found = {}
    for prob, above in zip(prob_k.tolist(), lineages.above, strict=True):
        for key in above:
            found[key] = found.get(key, 0.0) + prob
    return found


@QUICK
@given(cases())
def test_no_term_is_less_probable_than_one_below_it_and_the_root_has_all(case):
    names, prob_nk = case
    lineages = class_lineages(names)
    ontology = cell_ontology()
    for prob_k in prob_nk:
        mass = masses(prob_k, lineages)
        assert mass[ROOT] == pytest.approx(1, abs=1e-5)
        for key in mass:
            for parent in ontology.parents_of.get(key, ()):
                assert mass[parent] >= mass[key] - 1e-6


@QUICK
@given(cases(), st.floats(0.01, 1))
def test_backed_off_answers_are_the_most_specific_that_are_probable_enough(case, at_least):
    names, prob_nk = case
    lineages = class_lineages(names)
    found = back_off(prob_nk, lineages, at_least, along="ontology")
    key_of = {title: key for key, title in lineages.title_of.items()}
    below = {}
    for k, above in enumerate(lineages.above):
        for key in above:
            below.setdefault(key, set()).add(k)
    for n, prob_k in enumerate(prob_nk):
        mass, key = masses(prob_k, lineages), key_of[found.label_n[n]]
        assert found.prob_n[n] == pytest.approx(mass[key], abs=1e-5)
        assert found.prob_n[n] >= min(at_least, 1) - 1e-4
        assert found.prob_n[n] >= min(prob_k.max(), at_least) - 1e-4
        assert found.prob_n[n] >= prob_k.max() - 1e-5  # never lower than the leaf's
        own = lineages.own[prob_k.argmax()]
        if mass[own] >= at_least + 1e-4:
            assert key == own
        elif mass[own] < at_least - 1e-4:
            lower = [other for other in below if below[other] < below[key]]
            assert all(mass[other] < at_least for other in lower if abs(mass[other] - at_least) > 1e-4)
        assert found.level_n[n] in LEVELS
        assert found.term_n[n] == "unknown" or found.term_n[n] in cell_ontology().name_of


@QUICK
@given(cases())
def test_asking_for_more_never_gives_less(case):
    names, prob_nk = case
    lineages = class_lineages(names)
    last_n = np.zeros(len(prob_nk))
    for at_least in np.linspace(0.05, 1, 12):
        found = back_off(prob_nk, lineages, float(at_least), along="ontology")
        assert (found.prob_n >= at_least - 1e-4).all()
        assert (found.prob_n >= last_n - 1e-6).all()
        last_n = found.prob_n


@QUICK
@given(trees(), st.floats(0.51, 0.99))
def test_any_hierarchy_given(case, at_least):
    names, parents, prob_nk = case
    lineages = class_lineages(names, {child: tuple(above) for child, above in parents.items()})
    assert lineages.unplaced == ()
    found = back_off(prob_nk, lineages, at_least, along="given")
    for n, prob_k in enumerate(prob_nk):
        mass = masses(prob_k, lineages)
        for child, above in parents.items():
            assert all(mass.get(parent, 0) >= mass[child] - 1e-6 for parent in above if child in mass)
        assert found.prob_n[n] == pytest.approx(mass[found.label_n[n]], abs=1e-5)
        own = names[prob_k.argmax()]
        assert (found.label_n[n] == own) == (mass[own] >= at_least) or abs(mass[own] - at_least) < 1e-4
        assert not any(
            mass[child] >= at_least + 1e-4 and found.label_n[n] in above
            for child, above in parents.items()
            if child in mass and len({k for k, line in enumerate(lineages.above) if child in line})
            < len({k for k, line in enumerate(lineages.above) if found.label_n[n] in line})
        )  # fmt: skip


@QUICK
@given(
    cases(), st.lists(st.sampled_from(["T cell", "lymphocyte", "leukocyte", "neural cell"]), min_size=1, unique=True)
)
def test_rolling_up_loses_nothing(case, targets):
    names, prob_nk = case
    lineages, ids = class_lineages(names), find_targets(targets)
    summed_nk, rolled = roll_up(prob_nk, lineages, ids)
    np.testing.assert_allclose(summed_nk.sum(1), 1, atol=1e-5)
    assert len(set(rolled.own)) == len(rolled.own)
    nearest = cell_ontology().roll_up([key for key in lineages.own if key in cell_ontology().name_of], ids)
    for u, key in enumerate(rolled.own):
        members = [k for k, own in enumerate(lineages.own) if nearest.get(own) == key or (own == key)]
        if key in ids:
            members += [k for k, own in enumerate(lineages.own) if own not in nearest and key in lineages.above[k]]
        if key in ids and len(ids) == 1:  # with several targets a broader word's own term decides, tested above
            np.testing.assert_allclose(summed_nk[:, u], prob_nk[:, sorted(set(members))].sum(1), atol=1e-5)
    answers = most_likely(summed_nk, rolled, along="ontology")
    assert set(answers.term_n) <= {*ids, *lineages.term_of.values(), "unknown"}
    for names_in_order in (ids, ids[::-1]):
        again_nk, other = roll_up(prob_nk, lineages, names_in_order)
        assert dict(zip(other.own, again_nk.T.tolist(), strict=True)) == dict(
            zip(rolled.own, summed_nk.T.tolist(), strict=True)
        )


@QUICK
@given(st.integers(0, 2**20), st.booleans())
def test_told_pairs_sum_over_both_words(seed, is_ontology):
    coarse, fine = ("T cell", "Myeloid cell", "thing"), ("CD4 T cell", "Monocyte", "x", "T cell")
    places = {
        "CD4 T cell": ["T cell", "thing"],
        "Monocyte": "Myeloid cell",
        "x": ["T cell", "thing"],
        "T cell": "thing",
    }
    found = word_hierarchy(coarse, fine, given=places)
    lineages = pair_lineages(found, is_ontology=is_ontology)
    prob_nk = np.random.default_rng(seed).dirichlet(np.full(len(found.pairs), 0.4), 5).astype(np.float32)
    for prob_k in prob_nk:
        mass = masses(prob_k, lineages)
        assert mass[lineages.root] == pytest.approx(1, abs=1e-5)
        for word in coarse:
            key = lineages.coarse[[pair[0] for pair in found.pairs].index(word)]
            own = sum(prob for prob, pair in zip(prob_k, found.pairs, strict=True) if pair[0] == word)
            if not is_ontology:
                assert mass[key] >= own - 1e-6
    answers = back_off(prob_nk, lineages, 0.7, along="words")
    assert (answers.prob_n >= 0.7 - 1e-4).all()
    # a word that may stand under several coarse ones, or is one itself, can be likelier than each of them
    is_single_n = ~np.isin(answers.label_n, ["CD4 T cell", "x", "T cell"])
    assert (answers.coarse_prob_n >= answers.prob_n - 1e-4)[is_single_n].all() or is_ontology
    is_broad_n = answers.level_n != "fine"
    assert (answers.coarse_n[is_broad_n] == answers.label_n[is_broad_n]).all()
