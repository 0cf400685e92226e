"""A recipe in another size of its family."""

import pytest

from cellwright.models import FAMILIES
from cellwright.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", ["tiny", "small", "released"])
def test_every_recipe_has_every_size(name, size):
    made = recipe(name).override([f"size={size}"])
    assert made.size == size
    family = FAMILIES[made.family]
    own = {k: v for k, v in recipe(name).model.items() if v != family.sizes[recipe(name).size].record()[k]}
    assert made.model == family.sizes[size].record() | own
    assert made.override([f"size={recipe(name).size}"]) == recipe(name)


def test_other_changes_come_after_the_size():
    made = recipe("scfoundation_pretrain").override(["model.encoder_layers=3", "size=small", "batch_size=2"])
    assert (made.size, made.model["encoder_layers"], made.batch_size) == ("small", 3, 2)
    assert made.model["encoder_width"] == FAMILIES["scfoundation"].sizes["small"].encoder_width


def test_what_a_recipe_changes_itself_stays():
    assert recipe("scgpt_demo").override(["size=small"]).model["dropout"] == 0.0


def test_an_unknown_size_is_named():
    with pytest.raises(ValueError, match=r"size = 'smal' is none of scFoundation.*small"):
        recipe("scfoundation_tiny").override(["size=smal"])
