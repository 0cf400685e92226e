"""Checkpoints as folders: any tree comes back as it was, damage is found, Lightning's callback can use them."""

import json
import math
from collections import OrderedDict
from pathlib import Path

import lightning
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from toy_cells import ToyLoader, ToyModel, ToyTokenizer, toy_cells

from cellwright.objectives import Objective
from cellwright.objectives.value import MaskedValue
from cellwright.objectives.views import RandomMask
from cellwright.train.checkpoint import STATE, TENSORS, FolderCheckpoint, read_tree, remove_tree, write_tree
from cellwright.train.optim import OptimConfig
from cellwright.train.plan import TrainPlan

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64]
SHAPES = st.lists(st.integers(0, 3), max_size=3)
TENSOR = st.builds(lambda shape, dtype: (torch.rand(shape) * 9).to(dtype), SHAPES, st.sampled_from(DTYPES))
ODD_TEXT = st.text(max_size=4) | st.sampled_from(["$tensor", "$dict", "$", "a/b", "", "__metadata__", "\ud800"])
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | ODD_TEXT | TENSOR
KEY = ODD_TEXT | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), ODD_TEXT) | st.just(math.inf)
TREE = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(KEY, inner, max_size=3)
    ),
    max_leaves=10,
)


def assert_same(one, two):
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (two.dtype, two.shape)
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert [type(key) for key in one] == [type(key) for key in two]
        assert list(one) == list(two)
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            assert_same(left, right)
    elif isinstance(one, float):
        assert repr(one) == repr(two)
    else:
        assert one == two


@settings(max_examples=30, deadline=None)
@given(tree=st.dictionaries(KEY, TREE, max_size=4))
def test_any_tree_comes_back(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("tree") / "checkpoint"
    write_tree(folder, tree)
    assert_same(tree, read_tree(folder))


def test_awkward_tensors_come_back(tmp_path):
    base = torch.arange(12.0)
    tree = OrderedDict(
        whole=base,
        part=base[3:6],
        turned=base.view(3, 4).T,
        same=base,
        conj=torch.view_as_complex(torch.ones(2, 2)).conj(),
        parameter=torch.nn.Parameter(torch.ones(2)),
        nested={"a/b": torch.tensor(1), "a": {"b": torch.tensor(2)}},
    )
    write_tree(tmp_path / "c", tree)
    found = read_tree(tmp_path / "c")
    assert type(found) is dict
    assert torch.equal(found["part"], base[3:6])
    assert torch.equal(found["turned"], base.view(3, 4).T)
    assert found["same"] is found["whole"]
    assert found["conj"].imag.tolist() == [-1.0, -1.0]
    assert type(found["parameter"]) is torch.Tensor
    assert (int(found["nested"]["a/b"]), int(found["nested"]["a"]["b"])) == (1, 2)
    found["whole"].zero_()
    assert read_tree(tmp_path / "c")["whole"][1] == 1  # the file is not what is changed


@pytest.mark.parametrize(
    ("value", "kind"),
    [({1}, "set"), (Path("x"), "Path"), (b"x", "bytes"), (torch.float32, "dtype"), (object(), "object")],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_written(tmp_path, value, kind):
    with pytest.raises(ValueError, match=rf"checkpoint entry /a/1 is a .*{kind}"):
        write_tree(tmp_path / "c", {"a": [0, value]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tensor", [torch.ones(2).to_sparse(), torch.empty(2, device="meta"), torch.ones(1).cdouble()])
def test_tensors_that_cannot_be_stored_are_errors(tmp_path, tensor):
    with pytest.raises(ValueError, match="cannot be stored"):
        write_tree(tmp_path / "c", {"a": tensor})
    assert not list(tmp_path.iterdir())


def test_an_older_checkpoint_is_replaced_whole_or_not_at_all(tmp_path):
    write_tree(tmp_path / "c", {"a": 1})
    with pytest.raises(ValueError, match="cannot be stored"):
        write_tree(tmp_path / "c", {"a": {2}})
    assert read_tree(tmp_path / "c") == {"a": 1}
    write_tree(tmp_path / "c", {"a": 3})
    assert read_tree(tmp_path / "c") == {"a": 3}
    assert [item.name for item in tmp_path.iterdir()] == ["c"]


def damage_tensors(folder):
    content = bytearray((folder / TENSORS).read_bytes())
    content[-1] ^= 1
    (folder / TENSORS).write_bytes(content)


def damage_state(folder):
    record = json.loads((folder / STATE).read_text())
    record["state"]["step"] = 8
    (folder / STATE).write_text(json.dumps(record))


def cut_state(folder):
    (folder / STATE).write_text((folder / STATE).read_text()[:-20])


def cut_tensors(folder):
    (folder / TENSORS).write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "name"),
    [(damage_tensors, TENSORS), (cut_tensors, TENSORS), (damage_state, STATE), (cut_state, STATE)],
)
def test_damage_is_found_and_the_file_named(tmp_path, harm, name):
    write_tree(tmp_path / "c", {"a": torch.ones(3), "step": 7})
    harm(tmp_path / "c")
    with pytest.raises(ValueError, match=rf"c/{name} is (damaged|not valid JSON)"):
        read_tree(tmp_path / "c")


@pytest.mark.parametrize("name", [TENSORS, STATE, ""])
def test_a_missing_file_is_named(tmp_path, name):
    write_tree(tmp_path / "c", {"a": 1})
    if name:
        (tmp_path / "c" / name).unlink()
    else:
        remove_tree(tmp_path / "c")
    with pytest.raises(FileNotFoundError, match=rf"c/?{name} does not exist"):
        read_tree(tmp_path / "c")


def test_another_json_file_is_no_checkpoint(tmp_path):
    write_tree(tmp_path / "c", {})
    (tmp_path / "c" / STATE).write_text("[1]")
    with pytest.raises(ValueError, match="is not a 'cellwright checkpoint 1'"):
        read_tree(tmp_path / "c")


def test_removing_spares_folders_that_are_no_checkpoints(tmp_path):
    write_tree(tmp_path / "c", {})
    remove_tree(tmp_path / "c")
    remove_tree(tmp_path / "c")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"not a checkpoint: it also holds 'thesis\.txt'"):
        remove_tree(tmp_path / "home")


@pytest.mark.filterwarnings("ignore:You defined a .validation_step. but")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_lightnings_checkpoint_callback_can_use_it(tmp_path):
    plan = TrainPlan(
        ToyModel(), Objective(RandomMask(), {"gep": (1, MaskedValue())}), ToyTokenizer(), optim=OptimConfig()
    )
    plan.horizon = lambda: (9, 5)
    keeper = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=1, save_last=True)
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options |= {"plugins": [FolderCheckpoint()], "limit_val_batches": 0}
    trainer = lightning.Trainer(max_steps=9, callbacks=[keeper], **options)
    trainer.fit(plan, ToyLoader(toy_cells(20)))
    assert {item.name for item in tmp_path.iterdir()} == {"step=8.ckpt", "last.ckpt"}
    assert read_tree(tmp_path / "last.ckpt")["global_step"] == 8
    before = {name: value.clone() for name, value in plan.state_dict().items()}
    again = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=1, save_last=True)
    trainer = lightning.Trainer(max_steps=9, callbacks=[again], **options)
    trainer.fit(plan, ToyLoader(toy_cells(20)), ckpt_path=tmp_path / "last.ckpt")
    assert all(torch.equal(value, before[name]) for name, value in plan.state_dict().items())
