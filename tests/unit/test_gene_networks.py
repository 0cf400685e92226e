"""Rankings of targets, their scores and baselines, gene modules and enrichment."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import average_precision_score, roc_auc_score

from cellwright.baselines.networks import NETWORK_BASELINES, NetworkData
from cellwright.data.regulators import read_gene_sets, read_targets
from cellwright.metrics.networks import NETWORK_METRICS, auprc_ratio, auroc, average_precision, early_precision_ratio
from cellwright.tasks.gene_features import GeneTable
from cellwright.tasks.grn import listed_elsewhere, rank_targets, scorable, score_targets, without_self
from cellwright.tasks.modules import ModuleConfig, enrich, find_modules, module_scores

GENES = tuple(f"G{i}" for i in range(60))


def embedding(num_groups=3, seed=0):
    """60 genes around a few corners: gene i belongs to corner i % num_groups."""
    generator = np.random.default_rng(seed)
    x_gd = 5 * np.eye(8)[np.arange(60) % num_groups] + generator.normal(0, 0.5, (60, 8))
    return GeneTable(GENES, x_gd.astype(np.float32), "planted")


scores_and_targets = st.integers(0, 10_000).map(
    lambda seed: (
        np.random.default_rng(seed).integers(0, 8, 30).astype(float),
        np.random.default_rng(seed + 1).permutation(np.arange(30) < 1 + seed % 28),
    )
)


@given(scores_and_targets)
def test_areas_agree_with_an_independent_implementation(case):
    score_g, is_target_g = case
    assert average_precision(score_g, is_target_g) == pytest.approx(average_precision_score(is_target_g, score_g))
    assert auroc(score_g, is_target_g) == pytest.approx(roc_auc_score(is_target_g, score_g))


@given(scores_and_targets)
def test_early_precision_is_the_mean_over_orders_of_equal_scores(case):
    score_g, is_target_g = case
    generator = np.random.default_rng(0)
    num = is_target_g.sum()
    found = []
    for _ in range(300):
        order = np.lexsort((generator.random(30), -score_g))
        found.append(is_target_g[order[:num]].mean() / is_target_g.mean())
    assert early_precision_ratio(score_g, is_target_g) == pytest.approx(np.mean(found), abs=0.35 * 30 / num**1.5)


def test_a_perfect_order_scores_best_and_one_score_for_all_is_chance():
    is_target_g = np.arange(40) < 10
    assert auroc(is_target_g * 1.0, is_target_g) == 1
    assert auprc_ratio(is_target_g * 1.0, is_target_g) == 4  # 1 over the share of targets
    assert early_precision_ratio(is_target_g * 1.0, is_target_g) == 4
    for metric, chance in (("auprc_ratio", 1), ("early_precision_ratio", 1), ("target_auroc", 0.5)):
        assert NETWORK_METRICS[metric].function(np.zeros(40), is_target_g) == pytest.approx(chance)


def test_scores_refuse_what_cannot_be_scored():
    with pytest.raises(ValueError, match="0 of 5 genes are targets"):
        auroc(np.arange(5.0), np.zeros(5, bool))
    with pytest.raises(ValueError, match="not finite"):
        auprc_ratio(np.array([0, np.nan]), np.array([True, False]))


def test_each_regulator_is_ranked_by_its_own_vector():
    ranked = rank_targets(embedding(), ["G0", "G1", "G2"])
    best = ranked.top(10)
    for name in ("G0", "G1", "G2"):
        assert {int(gene[1:]) % 3 for gene, _ in best[name]} == {int(name[1:]) % 3}
        assert name not in [gene for gene, _ in best[name]]
        assert [score for _, score in best[name]] == sorted((score for _, score in best[name]), reverse=True)
    with pytest.raises(ValueError, match="1 genes have no embedding: TP53"):
        rank_targets(embedding(), ["TP53"])


def test_scores_of_a_planted_network_and_of_a_shuffled_one():
    targets = {f"G{r}": frozenset(gene for gene in GENES if int(gene[1:]) % 3 == r) - {f"G{r}"} for r in range(3)}
    known = scorable(targets | {"ABSENT": frozenset(GENES)}, GENES)
    assert set(known) == set(targets)
    scores = score_targets(rank_targets(embedding(), list(known)), known)
    assert min(scores["target_auroc"].values()) == 1
    shuffled = without_self(list(known), GENES, np.random.default_rng(1).random((3, 60)))
    assert np.mean([*score_targets(shuffled, known)["target_auroc"].values()]) == pytest.approx(0.5, abs=0.15)
    with pytest.raises(
        ValueError, match="of 3 regulators with known targets, 3 are among the 60 genes and none has 30"
    ):
        scorable(targets, GENES, min_targets=30)


def test_baselines_rank_with_the_genes_that_move_together():
    generator = np.random.default_rng(0)
    common_n = generator.poisson(3, 200)
    value_ng = generator.poisson(2, (200, 20)).astype(float)
    value_ng[:, :5] += common_n[:, None]
    matrix_ng = sparse.csr_matrix(np.log1p(value_ng))
    data = NetworkData(logcp10k_ng=matrix_ng, regulators=[0, 10])
    for name in ("pearson", "spearman"):
        score_rg = NETWORK_BASELINES[name].rank(data)
        assert set(np.argsort(-score_rg[0])[:5]) == set(range(5)), name
        assert score_rg[0, 0] == pytest.approx(1)
    by_mean = NETWORK_BASELINES["mean_expression"].rank(data)
    np.testing.assert_array_equal(by_mean[0], by_mean[1])
    seeds = [NetworkData(logcp10k_ng=matrix_ng, regulators=[0], seed=seed) for seed in (0, 0, 1)]
    first, again, other = (NETWORK_BASELINES["random"].rank(data) for data in seeds)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert not NETWORK_BASELINES["random_degree"].is_possible(data)
    assert not NETWORK_BASELINES["response"].is_possible(data)


def test_random_targets_with_the_degree_of_genes_come_as_often_as_others_list_them():
    targets = {f"R{r}": frozenset({"G0", "G1"} if r < 9 else {"G2"}) for r in range(10)}
    targets["G5"] = frozenset({"G3", "G0"})
    listed_rg = listed_elsewhere(targets, ["G5", "R0"], GENES)
    assert listed_rg[:, :4].tolist() == [[9, 9, 1, 0], [9, 8, 1, 1]]  # one's own list does not count
    matrix_ng = sparse.csr_matrix(np.ones((3, 60)))
    firsts = np.array([
        NETWORK_BASELINES["random_degree"]
        .rank(NetworkData(logcp10k_ng=matrix_ng, regulators=[5, 9], listed_rg=listed_rg, seed=seed))
        .argmax(axis=1)
        for seed in range(3000)
    ])  # fmt: skip
    share_g = np.bincount(firsts[:, 0], minlength=60) / 3000
    np.testing.assert_allclose(share_g[:3], np.array([10, 10, 2]) / 79, atol=0.025)  # 57 others have one ticket each
    assert 0 < share_g[3:].max() < 0.03


def test_the_response_is_the_change_over_its_error():
    generator = np.random.default_rng(0)
    value_ng = generator.poisson(3, (120, 8)).astype(float)
    value_ng[40:80, 2] += 6
    value_ng[80:, 5] -= 3
    data = NetworkData(
        logcp10k_ng=sparse.csr_matrix(value_ng), regulators=[0, 1], control=np.arange(40),
        perturbed=[np.arange(40, 80), np.arange(80, 120)],
    )  # fmt: skip
    score_rg = NETWORK_BASELINES["response"].rank(data)
    assert score_rg.argmax(1).tolist() == [2, 5]
    from scipy.stats import ttest_ind

    expected = np.abs(ttest_ind(value_ng[40:80], value_ng[:40], equal_var=False).statistic)
    np.testing.assert_allclose(score_rg[0], expected, rtol=1e-9)


def test_modules_are_the_planted_groups_and_cells_use_them():
    pytest.importorskip("leidenalg")
    modules = find_modules(embedding(), ModuleConfig(resolution=0.5))
    assert {frozenset(int(gene[1:]) % 3 for gene in module) for module in modules} == {frozenset({k}) for k in range(3)}
    value_ng = np.random.default_rng(0).poisson(2, (30, 60)).astype(float)
    value_ng[:10, ::3] += 15
    score_nm = module_scores(sparse.csr_matrix(value_ng), GENES, [GENES[::3], GENES[1::3]])
    assert score_nm[:10, 0].min() > score_nm[10:, 0].max()
    with pytest.raises(ValueError, match="have no 15 neighbours"):
        find_modules(GeneTable(GENES[:9], np.ones((9, 2), np.float32), "nine"))


def test_enrichment_finds_the_set_and_corrects_for_all_tests():
    modules = [GENES[:10], GENES[30:40]]
    sets = {"first": frozenset(GENES[:12]), "spread": frozenset(GENES[::6]), "elsewhere": frozenset({"X", "Y"})}
    found = enrich(modules, sets, GENES)
    assert (found[0].module, found[0].gene_set, found[0].num_shared) == (0, "first", 10)
    assert found[0].p_value == pytest.approx(66 / 75394027566, rel=1e-9)  # C(12, 10) / C(60, 10)
    assert all(pair.q_value >= pair.p_value for pair in found)
    assert {pair.gene_set for pair in found} == {"first", "spread"}
    with pytest.raises(ValueError, match="share no gene with the background"):
        enrich(modules, {"elsewhere": frozenset({"X"})}, GENES)


def test_enrichment_agrees_with_an_independent_implementation():
    gseapy = pytest.importorskip("gseapy")
    generator = np.random.default_rng(0)
    sets = {f"set {k}": frozenset(generator.choice(GENES, 5 + k, replace=False)) for k in range(12)}
    module = GENES[:15]
    ours = {pair.gene_set: pair for pair in enrich([module], sets, GENES, min_shared=1)}
    given = {name: sorted(genes) for name, genes in sets.items()}
    theirs = gseapy.enrich(list(module), given, background=list(GENES), outdir=None, cutoff=1, no_plot=True).results
    assert set(theirs["Term"]) == set(ours)
    for row in theirs.to_dict("records"):
        assert ours[row["Term"]].p_value == pytest.approx(row["P-value"], rel=1e-6)
        assert f"{ours[row['Term']].num_shared}/{ours[row['Term']].num_set}" == row["Overlap"]
    if len(ours) == len(sets):  # they correct over pairs that share a gene, we over all
        by_name = theirs.set_index("Term")["Adjusted P-value"]
        assert all(pair.q_value == pytest.approx(by_name[name], rel=1e-6) for name, pair in ours.items())


def test_module_scores_agree_with_scanpy():
    scanpy = pytest.importorskip("scanpy")
    from anndata import AnnData

    generator = np.random.default_rng(0)
    genes = [f"G{g}" for g in range(3000)]
    value_ng = np.log1p(generator.poisson(generator.lognormal(0, 1, 3000), (80, 3000))).astype(np.float32)
    value_ng[:40, 100:120] += 1
    adata = AnnData(sparse.csr_matrix(value_ng))
    adata.var_names = genes
    scanpy.tl.score_genes(adata, genes[100:120], ctrl_size=50)
    score_nm = module_scores(adata.X, genes, [genes[100:120]])
    assert np.corrcoef(score_nm[:, 0], adata.obs["score"])[0, 1] > 0.999
    np.testing.assert_allclose(score_nm[:, 0], adata.obs["score"], atol=0.1)


def test_tables_of_targets_are_read_in_their_kinds(tmp_path):
    table = tmp_path / "targets.tsv.gz"
    with gzip.open(table, "wt") as handle:
        handle.write("source\ttarget\tevidence\nMYC\tTERT\t3\nMYC\tMYC\t1\nSPI1\tBGLAP\t2\n")
    assert read_targets(table) == {"MYC": {"TERT"}, "SPI1": {"BGLAP"}}
    listed = tmp_path / "chip.json"
    listed.write_text(json.dumps({"TP53 HEPG2": ["MDM2"], "TP53 K562": ["CDKN1A", "TP53"]}))
    assert read_targets(listed) == {"TP53": {"MDM2", "CDKN1A"}}
    bad = tmp_path / "bad.csv"
    bad.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="needs the columns regulator and target; it has a, b"):
        read_targets(bad)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_targets(tmp_path / "none.tsv")
    sets = tmp_path / "sets.gmt"
    sets.write_text("one\tabout it\tMYC\tTP53,1.0\n\ntwo\t\tSPI1\n")
    assert read_gene_sets(sets) == {"one": {"MYC", "TP53"}, "two": {"SPI1"}}
    sets.write_text("one about it MYC\n")
    with pytest.raises(ValueError, match="line 1: name, description and genes"):
        read_gene_sets(sets)
