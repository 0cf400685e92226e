"""A run that is stopped and resumed equals one that was not, bit for bit."""

import pytest
import torch
from toy_cells import ToyLoader, ToyModel, ToyTokenizer, toy_cells

from cellwright.objectives import Objective
from cellwright.objectives.value import CellValue, MaskedValue
from cellwright.objectives.views import RandomMask
from cellwright.train.optim import OptimConfig
from cellwright.train.plan import TrainPlan
from cellwright.train.run import TrainConfig, fit

NUM_CELLS, SIZE = 29, 4  # seven minibatches an epoch


class Stopping(ToyTokenizer):
    """Fails at the minibatch after so many (training and validation ones)."""

    def __init__(self, after=None, error=InterruptedError):
        super().__init__()
        self.left, self.error = after, error

    def __call__(self, cells, draw):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise self.error
        return super().__call__(cells, draw)


def go(folder, *, resume=False, after=None, error=InterruptedError, valid=True, num_cells=NUM_CELLS, **options):
    """Train; return what can be compared: rows without times, weights, and the loader's cells."""
    terms = {"gep": (1, MaskedValue()), "mvc": (1, CellValue())}
    objective = Objective(RandomMask(fraction=(0.3, 0.5)), terms)
    optim = OptimConfig(lr=0.02, schedule=options.pop("schedule", "cosine"), warmup_steps=3, weight_decay=0.01)
    plan = TrainPlan(ToyModel(dropout=0.2), objective, Stopping(after, error), optim=optim)
    config = TrainConfig(**{"accelerator": "cpu", "log_every": 1, "checkpoint_every": 5, **options})
    loader = ToyLoader(toy_cells(num_cells, seed=3), SIZE)
    valid = ToyLoader(toy_cells(8, seed=1)) if valid else None
    result = fit(plan, loader, valid, config=config, folder=folder, resume=resume, is_progress_shown=False)
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in result.history]
    return rows, {name: value.clone() for name, value in plan.state_dict().items()}, result, loader.given


def assert_same(one, two):
    assert one[0] == two[0]
    assert all(torch.equal(value, two[1][name]) for name, value in one[1].items())
    assert (one[2].best_step, one[2].best_loss, one[2].num_steps) == (
        two[2].best_step,
        two[2].best_loss,
        two[2].num_steps,
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return go(tmp_path_factory.mktemp("straight"), max_steps=30)


@pytest.mark.parametrize("after", [3, 16, 18])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, straight, after):
    with pytest.raises(InterruptedError):
        go(tmp_path, max_steps=30, after=after)
    assert_same(go(tmp_path, max_steps=30, resume=True), straight)


def test_a_run_killed_twice(tmp_path, straight):
    with pytest.raises(InterruptedError):
        go(tmp_path, max_steps=30, after=14)
    with pytest.raises(InterruptedError):
        go(tmp_path, max_steps=30, after=12, resume=True)
    assert_same(go(tmp_path, max_steps=30, resume=True), straight)


@pytest.mark.parametrize("first", [14, 15])
def test_fifteen_and_fifteen_steps_equal_thirty(tmp_path, first):
    options = {"schedule": "constant", "valid": False}
    whole = go(tmp_path / "whole", max_steps=30, **options)
    half = go(tmp_path / "parts", max_steps=first, **options)
    assert half[2].num_steps == first
    both = go(tmp_path / "parts", max_steps=30, resume=True, **options)
    assert_same(both, whole)
    assert half[3] + both[3] == whole[3]  # the very same minibatches


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 4, "accumulate": 3},
        {"max_steps": 11, "accumulate": 3, "validate_every": 2, "checkpoint_every": 1},
        {"max_epochs": 3, "validate_every": 4, "keep": "best"},
        {"max_epochs": 4, "valid": False, "checkpoint_every": 7},
    ],
)
def test_whatever_the_options(tmp_path, options):
    whole = go(tmp_path / "whole", **options)
    with pytest.raises(InterruptedError):
        go(tmp_path / "parts", after=22, **options)
    assert_same(go(tmp_path / "parts", resume=True, **options), whole)


def test_best_weights_survive_a_kill(tmp_path):
    options = {"max_steps": 30, "keep": "best", "validate_every": 4, "checkpoint_every": 11}
    whole = go(tmp_path / "whole", **options)
    with pytest.raises(InterruptedError):
        go(tmp_path / "parts", after=30, **options)
    assert_same(go(tmp_path / "parts", resume=True, **options), whole)


def test_a_finished_run_resumes_to_itself(tmp_path, straight):
    go(tmp_path, max_steps=30)
    assert_same(go(tmp_path, max_steps=30, resume=True), straight)


def test_ctrl_c_leaves_a_run_that_can_be_resumed(tmp_path, straight):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, max_steps=30, after=15, error=KeyboardInterrupt)
    assert_same(go(tmp_path, max_steps=30, resume=True), straight)


def test_rows_survive_a_kill_and_a_torn_line_is_dropped(tmp_path, straight):
    with pytest.raises(InterruptedError):
        go(tmp_path, max_steps=30, after=15, checkpoint_every=100)
    metrics = tmp_path / "metrics.csv"
    assert len(metrics.read_text().splitlines()) == 1 + 13 + 1  # header, training, validation
    with open(metrics, "a") as handle:
        handle.write("14,1,0.")
    assert_same(go(tmp_path, max_steps=30, resume=True, checkpoint_every=100), straight)


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path):
    go(tmp_path, max_steps=5)
    path = tmp_path / "checkpoints" / "step-000000005" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    before = (tmp_path / "metrics.csv").read_text()
    with pytest.raises(ValueError, match=r"step-000000005/state\.safetensors is damaged") as caught:
        go(tmp_path, max_steps=9, resume=True)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "metrics.csv").read_text() == before


def test_other_data_is_refused(tmp_path):
    go(tmp_path, max_steps=5)
    with pytest.raises(ValueError, match="7 minibatches an epoch, the loader has 10"):
        go(tmp_path, max_steps=9, resume=True, num_cells=40)
