"""The published objectives: weights as published, buildable by name, and gaps that are said."""

import pytest
from torch import nn
from toy_cells import ToyModel, ToyTokenizer, toy_cells

from cellwright.objectives.config import ObjectiveConfig, build_objective
from cellwright.objectives.published import PUBLISHED, scgpt_annotation, scgpt_integration, scgpt_perturbation
from cellwright.objectives.views import RandomMask
from cellwright.recipes import RECIPES, recipe
from cellwright.types import Draw

WEIGHTS = {
    "scgpt_pretraining": {"masked_value": 1, "cell_value": 1, "prompted_value": 1},
    "scgpt_integration": {
        "masked_value": 1, "zero_gate": 1, "cell_value": 1, "cell_zero_gate": 1, "similarity": 10, "domain": 1,
    },
    "scgpt_annotation": {"label": 1},
    "scgpt_perturbation": {"masked_value": 1},
    "scgpt_multiome": {"masked_value": 1, "cell_value": 1, "domain": 1},
}  # fmt: skip


def heads_for(config):
    return {name: nn.Linear(8, 3) for name in config.terms if name in ("label", "domain")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_build_and_train(name):
    config = PUBLISHED[name]()
    assert config.terms == WEIGHTS[name]
    heads = heads_for(config)
    view = RandomMask() if config.view is None else None
    objective, model = build_objective(config, view, heads=heads), ToyModel()
    objective.check(model)
    report = objective.step(model, toy_cells(), tokenize=ToyTokenizer(), draw=Draw())
    report.loss.backward()
    assert report.loss.item() == pytest.approx(
        sum(weight * report.parts[term].item() for term, weight in WEIGHTS[name].items()), rel=1e-6
    )
    assert all(p.grad is not None for head in heads.values() for p in head.parameters())


def test_the_two_gates_are_of_the_token_and_of_the_cell():
    objective = build_objective(scgpt_integration(), heads=heads_for(scgpt_integration()))
    gates = {name: term.needs for name, (_, term) in objective.terms.items() if "gate" in name}
    assert gates == {"zero_gate": {"expressed_nt"}, "cell_zero_gate": {"cell_expressed_nt"}}
    assert objective.terms["similarity"][1].threshold == 0.8
    assert objective.view.fraction == 0.4


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("scgpt")])
def test_recipes_are_of_the_published_objective(name):
    assert recipe(name).objective == PUBLISHED["scgpt_pretraining"]()


def test_gaps_are_one_clear_line():
    with pytest.raises(ValueError, match="the term 'label' needs classes"):
        build_objective(scgpt_annotation())
    with pytest.raises(ValueError, match="a head is given for 'domain', which is no term"):
        build_objective(scgpt_annotation(), heads={"label": nn.Linear(8, 3), "domain": nn.Linear(8, 3)})
    with pytest.raises(ValueError, match="view is null: name one of"):
        build_objective(scgpt_perturbation())
    config = ObjectiveConfig(view="clean", terms={"label": 1.0}, term_options={"label": {"smothing": 0.1}})
    with pytest.raises(ValueError, match="term_options of label: .*smothing"):
        build_objective(config, heads={"label": nn.Linear(8, 3)})
    config = ObjectiveConfig(view="clean", terms={"similarity": 1.0, "label": 0.0})
    assert set(build_objective(config).terms) == {"similarity"}
