"""Models of perturbations that are kept: the same answers from the folder, and folders that are none."""

from functools import partial

import numpy as np
import pytest

from cellwright.data.gene_graphs import coexpression_graph
from cellwright.data.synthetic import ScreenPlan, make_perturbed_cells
from cellwright.models import FAMILIES, load, new_model
from cellwright.tasks.lessons import whole_lesson
from cellwright.tasks.perturb_cells import ADAPTED, CellPerturb, CellPerturbConfig
from cellwright.tasks.perturb_graph import GraphConfig, GraphPerturb
from cellwright.tasks.perturb_saved import SavedPerturb
from cellwright.tasks.screen import ScreenOptions, open_screen
from cellwright.vocab import GeneVocab

PLAN = ScreenPlan(num_modules=2, genes_per_module=2, doubles=2, cells_each=20, contexts=("one", "two"))
CONDITIONS = ["P00+P03", "P01", "P02+NEVER_HEARD_OF"]


@pytest.fixture(scope="module")
def screen():
    return open_screen(make_perturbed_cells(30, PLAN, seed=5), ScreenOptions(kind="genes", context="cell_type"))


def graph_model(screen):
    nodes = tuple(dict.fromkeys([*screen.perturbations.all_parts, *screen.genes]))
    graph = coexpression_graph(screen.genes, screen.log_ng[np.flatnonzero(screen.is_seen_n)], num_neighbors=4)
    graph = graph.over(nodes, {part: screen.genes[at] for part, at in screen.panel_at.items()})
    return GraphPerturb(node_graph=graph, config=GraphConfig(max_epochs=2, width=8))


def cell_model(screen, mode="full"):
    vocab = GeneVocab.from_genes(
        dict.fromkeys([*screen.genes, *screen.perturbations.all_parts]), FAMILIES["scgpt"].specials
    )
    size = {"width": 16, "num_heads": 2, "num_layers": 1, "feed_forward": 16, "num_bins": None, "dropout": 0.0}
    config = FAMILIES["scgpt"].config.read(FAMILIES["scgpt"].sizes["tiny"].record() | size | ADAPTED, "tiny")
    how = CellPerturbConfig(
        max_epochs=1, cells_per_profile=3, pool=7, value_scale=2.0, max_genes=20, device="cpu", mode=mode
    )
    return CellPerturb(model=new_model("scgpt", vocab, config), config=how)


@pytest.mark.parametrize("make", [graph_model, cell_model, partial(cell_model, mode="lora")])
def test_a_kept_model_answers_as_before(screen, tmp_path, make):
    method = make(screen)
    fitted = method.fit(whole_lesson(screen))
    kept = SavedPerturb.of(fitted, screen, method.what)
    kept.save(tmp_path / "kept")
    opened = SavedPerturb.load(tmp_path / "kept", load)
    assert (opened.genes, opened.contexts, opened.control) == (screen.genes, ("one", "two"), "ctrl")
    said, again = kept.predict(CONDITIONS), opened.predict(CONDITIONS)
    for name in CONDITIONS:
        assert said[name].shape == (2, 30)
        assert said[name] == pytest.approx(again[name], abs=1e-6)
        assert said[name].any()
    direct = fitted.predict(screen.asked_anew(("P00", "P03"))).effect_ug
    assert (said["P00+P03"] == direct).all()
    assert opened.unknown("P02+NEVER_HEARD_OF") == ("NEVER_HEARD_OF",)
    assert said["P02+NEVER_HEARD_OF"] == pytest.approx(opened.predict(["P02"])["P02"], abs=1e-6)
    with pytest.raises(ValueError, match="'ctrl' is the control"):
        opened.predict(["ctrl"])


def test_other_folders_are_refused(screen, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model of perturbations"):
        SavedPerturb.load(tmp_path, load)
    kept = SavedPerturb.of(graph_model(screen).fit(whole_lesson(screen)), screen, "w")
    kept.save(tmp_path / "kept")
    state = next((tmp_path / "kept" / "perturbation").glob("*.json"))
    state.write_text(state.read_text().replace("perturbation model 1", "perturbation model 9"))
    with pytest.raises(ValueError, match="perturbation"):
        SavedPerturb.load(tmp_path / "kept", load)
