"""Dotted overrides: what may be set, and what is refused with a hint."""

import pytest
import torch

from cellwright.recipes import recipe
from cellwright.tasks.inference import choose_device
from cellwright.types import VALID_EPOCH, Draw


def test_fields_at_any_depth_are_set_and_the_original_stays():
    before = recipe("scgpt_tiny")
    after = before.override(["train.max_steps=7", "model.dropout=0", "objective.view_options.is_reversed=true"])
    assert (after.train.max_steps, after.model["dropout"]) == (7, 0)
    assert after.objective.view_options == {"is_reversed": True}
    assert before.train.max_steps is None
    assert before.objective.view_options == {}


def test_tables_take_new_names():
    chosen = recipe("scmulan_tiny").override(["data.metadata.sex=donor_sex", "objective.terms.next_level=1"])
    assert chosen.data.metadata["sex"] == "donor_sex"
    assert chosen.objective.terms == {"next_entity": 1.0, "next_level": 1.0}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.max_stepz=5", "no option 'train.max_stepz'; did you mean 'max_steps'"),
        ("trian.max_steps=5", "no option 'trian.max_steps'; did you mean 'train'"),
        ("name.part=5", "'name' has no parts"),
        ("data.metadata.sex.deep=x", "no option 'data.metadata.sex.deep'"),
        ("train.max_steps=soon", "train.max_steps = 'soon'"),
        ("train.max_steps", "not of the form name=value"),
        ("data.metadata.sex=3", "data.metadata.sex = 3"),
    ],
)
def test_mistakes_are_named(assignment, message):
    with pytest.raises(ValueError, match=message):
        recipe("scmulan_tiny").override([assignment])


def test_a_device_that_cannot_run_models_is_refused():
    for name in ("meta", "xpu" if not hasattr(torch, "xpu") or not torch.xpu.is_available() else "meta"):
        with pytest.raises(ValueError, match="cannot run models; use auto, cpu"):
            choose_device(name)


def test_a_draw_says_when_it_is():
    assert str(Draw(3, 2, 1)) == "epoch 2, step 1 (seed 3)"
    assert str(Draw(3, VALID_EPOCH, 1)) == "validation, step 1 (seed 3)"
