"""Transfer from bulk to cells: the adversary, the folds, and that no cell's label is ever there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cellwright.data.drugs import LineFeatures
from cellwright.metrics.drugs import auroc
from cellwright.tasks.transfer import (
    Adversarial,
    StepLoader,
    TransferConfig,
    TransferNet,
    _Step,
    balanced_folds,
    checked_labels,
    scaled,
    shared_features,
    transfer,
)
from cellwright.types import Draw

SMALL = TransferConfig(hidden=16, width=8, num_folds=2, batch_size=16, dropout=0.1).override(
    ["train.max_epochs=12", "optim.lr=0.01", "train.accelerator=cpu"]
)


def two_domains(seed=0, num=60):
    """Bulk and cells share three genes that follow the response; cells are shifted and scaled in all genes."""
    rng = np.random.default_rng(seed)
    sides = []
    for shift, scale in ((0.0, 1.0), (5.0, 0.2)):
        label_n = np.arange(num) % 2
        value_nf = rng.normal(size=(num, 8))
        value_nf[:, :3] += 2.5 * label_n[:, None]
        sides.append((label_n, (value_nf * scale + shift).astype(np.float32)))
    names = tuple(f"g{i}" for i in range(8))
    (label_n, bulk_nf), (cell_label_n, cell_nf) = sides
    bulk = LineFeatures(tuple(f"b{i}" for i in range(num)), bulk_nf, names)
    return bulk, label_n, LineFeatures(tuple(f"c{i}" for i in range(num)), cell_nf, names), cell_label_n


def test_cells_are_ordered_by_the_response_of_bulk(tmp_path):
    bulk, label_n, cells, cell_label_n = two_domains()
    found = transfer(bulk, label_n, cells, config=SMALL, folder=tmp_path / "one")
    assert auroc(cell_label_n, found.score_n) > 0.9
    assert found.source_auroc > 0.8
    assert found.logit_nk.shape == (60, 2)
    assert np.bincount(found.fold_n).tolist() == [30, 30]
    assert (found.held_out_n[found.fold_n == 1] == found.logit_nk[found.fold_n == 1, 1]).all()
    again = transfer(bulk, label_n, cells, config=SMALL, folder=tmp_path / "two")
    assert (again.logit_nk == found.logit_nk).all()


def test_the_adversary_pushes_the_extractor_the_other_way():
    config = TransferConfig(hidden=6, width=4, dropout=0, adversary=1.0)
    torch.manual_seed(0)
    net, rival = TransferNet(5, config), Adversarial(config, num_epochs=10)
    rng = np.random.default_rng(0)
    step = _Step(
        rng.normal(size=(8, 5)).astype(np.float32), np.arange(8) % 2, rng.normal(3, 1, (8, 5)).astype(np.float32)
    )
    grads = {}
    for weight in (0.0, 1.0):
        rival.weight = weight
        net.zero_grad()
        rival.zero_grad()
        rival.step(net, step, tokenize=None, draw=Draw()).loss.backward()
        grads[weight] = net.extractor[0].weight.grad.clone()
    # what the adversary adds is the negative of the gradient that would help it
    direct = torch.autograd.grad(_domain_loss(net, rival, step), net.extractor[0].weight)[0]
    assert torch.allclose(grads[1.0] - grads[0.0], -direct, atol=1e-6)
    assert direct.abs().max() > 1e-6


def _domain_loss(net, rival, step):
    hidden_nd = torch.cat([net.extractor(torch.from_numpy(part)) for part in (step.source_nf, step.target_nf)])
    wanted_n = torch.cat([torch.zeros(8), torch.ones(8)])
    return torch.nn.functional.binary_cross_entropy_with_logits(rival.discriminator(hidden_nd)[:, 0], wanted_n)


def test_the_adversary_can_rise():
    config = TransferConfig(hidden=6, width=4, adversary=2.0, warmup=0.5, dropout=0)
    torch.manual_seed(0)
    net, rival = TransferNet(5, config), Adversarial(config, num_epochs=10)
    rng = np.random.default_rng(0)
    step = _Step(*(rng.normal(size=(8, 5)).astype(np.float32), np.arange(8) % 2, np.ones((8, 5), np.float32)))
    shares = []
    for epoch in (0, 2, 5, 9):
        report = rival.step(net, step, tokenize=None, draw=Draw(0, epoch))
        shares.append(float((report.loss.detach() - report.parts["response"]) / report.parts["domain"]))
    assert shares == pytest.approx([0.0, 0.8, 2.0, 2.0], abs=1e-4)


def test_both_classes_are_drawn_alike_and_every_cell_once():
    label_n = (np.arange(100) < 10).astype(int)
    cells_nf = np.arange(43, dtype=np.float32)[:, None]
    loader = StepLoader(np.zeros((100, 1), np.float32), label_n, cells_nf, 10, seed=0)
    steps = list(loader)
    assert len(steps) == len(loader) == 4  # the last three cells are too few for batch norm
    assert len(np.unique(np.concatenate([step.target_nf for step in steps]))) == 40
    drawn = []
    for epoch in range(30):
        loader.set_epoch(epoch)
        drawn += [step.label_n for step in loader]
    assert np.concatenate(drawn).mean() == pytest.approx(0.5, abs=0.05)


def test_an_iteration_can_be_taken_up_again():
    def new():
        return StepLoader(np.arange(20.0)[:, None], np.arange(20) % 2, np.arange(30.0)[:, None], 10, seed=3)

    whole, first, second = list(new()), new(), new()
    iterator = iter(first)
    next(iterator)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert len(rest) == 2
    assert (rest[0].target_nf == whole[1].target_nf).all()
    assert (rest[1].source_nf == whole[2].source_nf).all()


def test_folds_hold_both_classes():
    label_n = (np.arange(53) < 11).astype(int)
    fold_n = balanced_folds(label_n, 5, seed=0)
    assert np.ptp(np.bincount(fold_n)) <= 1
    assert np.ptp(np.bincount(fold_n[label_n == 1])) <= 1


def test_scales():
    rng = np.random.default_rng(0)
    source_nf, target_nf = rng.normal(3, 2, (50, 3)), rng.normal(-1, 5, (40, 3))
    source_nf[:, 2] = target_nf[:, 2] = 7
    for side in scaled(source_nf, target_nf, "each"):
        assert np.allclose(side[:, :2].mean(0), 0, atol=1e-5)
        assert np.allclose(side[:, :2].std(0), 1, atol=1e-4)
        assert (side[:, 2] == 0).all()
    joint = np.concatenate(scaled(source_nf, target_nf, "joint"))
    assert np.allclose(joint[:, :2].std(0), 1, atol=1e-4)
    assert scaled(source_nf, target_nf, "joint")[0][:, 0].mean() > 0.3
    assert np.allclose(scaled(source_nf, target_nf, "none")[1], target_nf, atol=1e-5)


def test_mistakes_are_named(tmp_path):
    bulk, label_n, cells, _ = two_domains(num=20)
    with pytest.raises(ValueError, match=r"labels are \(19,\) for 20 bulk samples"):
        checked_labels(label_n[:19], 20, 2)
    with pytest.raises(ValueError, match=r"labels hold \[0\]"):
        checked_labels(np.zeros(20, int), 20, 2)
    with pytest.raises(ValueError, match="the rarer class has 1 bulk samples"):
        checked_labels(np.arange(20) == 0, 20, 2)
    other = LineFeatures(cells.lines, cells.value_lf, tuple(f"ENSG{i}" for i in range(8)))
    with pytest.raises(ValueError, match="share no feature"):
        shared_features(bulk, other)
    with pytest.raises(ValueError, match="20 cells are too few for 5 folds"):
        transfer(bulk, label_n, cells, config=TransferConfig(num_folds=5), folder=tmp_path / "run")
