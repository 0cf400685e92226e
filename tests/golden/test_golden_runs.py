"""Training gives the numbers it gave before, and a run that is killed and resumed gives them bit for bit."""

from __future__ import annotations

import pytest
import torch
from golden.record import NUM_STEPS, TINY, golden_path, run

from cellwright.files import read_json
from cellwright.objectives import Objective

RELATIVE = 1e-4
KILLED_AT = 17  # past the checkpoint at 15, so that two steps are made again


@pytest.fixture(scope="module", params=TINY)
def whole(request, tmp_path_factory):
    """Name of a recipe, losses and weights of a run without interruption."""
    return request.param, *run(request.param, tmp_path_factory.mktemp(request.param) / "run")


def test_every_tiny_recipe_is_recorded_and_nothing_else():
    assert TINY
    recorded = {path.stem for path in golden_path("x").parent.glob("*.json")}
    assert recorded == set(TINY), "run tests/golden/record.py for new recipes, remove the files of old ones"


def test_losses_are_the_recorded_ones(whole):
    name, rows, _ = whole
    golden = read_json(golden_path(name))["rows"]
    assert [sorted(row) for row in rows] == [sorted(row) for row in golden]
    for row, want in zip(rows, golden, strict=True):
        for column, value in want.items():
            assert row[column] == pytest.approx(value, rel=RELATIVE), f"{column} at step {want['step']}"


def test_it_learns(whole):
    rows = [row for row in whole[1] if "train/loss" in row]
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert rows[-1]["train/loss"] < 0.8 * rows[0]["train/loss"]


def test_killed_and_resumed_equals_straight_through(whole, tmp_path, monkeypatch):
    name, rows, tensors = whole
    step, done = Objective.step, []

    def stopping(self, model, cells, **options):
        if model.training:
            done.append(len(cells))
            if len(done) > KILLED_AT:
                raise InterruptedError("killed by the test")
        return step(self, model, cells, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "step", stopping)
        with pytest.raises(InterruptedError):
            run(name, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists(), "a killed run is no model"
    rows_again, tensors_again = run(name, tmp_path / "run", resume=True)
    assert rows_again == rows
    assert tensors_again.keys() == tensors.keys()
    for key, value in tensors.items():
        assert torch.equal(tensors_again[key], value), key
