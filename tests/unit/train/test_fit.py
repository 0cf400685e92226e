"""A run from beginning to end: its folder, its records, its options, its errors."""

import json
import logging
import signal
import sys
import warnings

import pytest
import torch
from torch import nn
from toy_cells import ToyLoader, ToyModel, ToyTokenizer, toy_cells

from cellwright.nn.lora import LoraConfig, add_lora
from cellwright.objectives import Objective
from cellwright.objectives.cell import Label
from cellwright.objectives.value import CellValue, MaskedValue
from cellwright.objectives.views import Clean, RandomMask
from cellwright.train.checkpoint import read_tree
from cellwright.train.optim import OptimConfig
from cellwright.train.plan import TrainPlan
from cellwright.train.run import TrainConfig, fit, open_run
from cellwright.types import VALID_EPOCH


def make_plan(network=None, tokenize=None, terms=None, **optim):
    terms = terms or {"gep": (1, MaskedValue()), "mvc": (0.5, CellValue())}
    objective = Objective(RandomMask(), terms)
    optim = OptimConfig(**{"lr": 0.02, **optim})
    return TrainPlan(network or ToyModel(dropout=0.1), objective, tokenize or ToyTokenizer(), optim=optim, seed=5)


def run(plan, folder, valid=False, **options):
    config = TrainConfig(**{"max_steps": 12, "accelerator": "cpu", "log_every": 1, **options})
    cells = toy_cells(20, seed=2)
    valid = ToyLoader(toy_cells(8, seed=1)) if valid else None
    return fit(plan, ToyLoader(cells), valid, config=config, folder=folder, is_progress_shown=False)


def test_a_run_learns_and_leaves_a_whole_record(tmp_path):
    folder = open_run(tmp_path / "run", {"name": "toy"})
    plan = make_plan(schedule="cosine", warmup_steps=2)
    result = run(plan, folder, valid=True, max_steps=None, max_epochs=8)
    assert {item.name for item in folder.iterdir()} == {
        *("recipe.json", "versions.json", "metrics.csv", "log.txt", "checkpoints")
    }
    train = [row for row in result.history if "train/loss" in row]
    valid = [row for row in result.history if "valid/loss" in row]
    assert [row["step"] for row in train] == list(range(1, 41))
    assert [row["epoch"] for row in train] == [epoch for epoch in range(8) for _ in range(5)]
    assert [row["step"] for row in valid] == list(range(5, 41, 5))
    assert all(row["train/loss"] == pytest.approx(row["train/gep"] + 0.5 * row["train/mvc"]) for row in train)
    assert all(set(row) == {"step", "epoch", "seconds", "valid/loss", "valid/gep", "valid/mvc"} for row in valid)
    assert [row["lr"] for row in train[:4]] == pytest.approx([0.02 / 3, 0.04 / 3, 0.02, 0.02], rel=1e-2)
    assert train[-1]["lr"] < 1e-4
    assert valid[-1]["valid/loss"] < 0.7 * valid[0]["valid/loss"]
    assert (result.num_steps, result.num_parameters, result.num_trained) == (40, 506, 506)
    assert result.best_loss == min(row["valid/loss"] for row in valid)
    assert (folder / "metrics.csv").read_text().splitlines()[0] == (
        "step,epoch,seconds,lr,train/loss,train/gep,train/mvc,valid/loss,valid/gep,valid/mvc"
    )
    assert "finished at step 40" in (folder / "log.txt").read_text()
    assert not plan.network.training


def test_validation_draws_are_the_same_every_time(tmp_path):
    seen = {}

    class Spy(ToyTokenizer):
        def __call__(self, cells, draw):
            if draw.epoch == VALID_EPOCH:
                seen.setdefault((tuple(cells.row_n), draw), 0)
                seen[tuple(cells.row_n), draw] += 1
            return super().__call__(cells, draw)

    run(make_plan(tokenize=Spy()), tmp_path, valid=True, max_steps=15)
    assert len(seen) == 2
    assert set(seen.values()) == {3}


def test_every_training_minibatch_has_its_own_draw(tmp_path):
    draws = []

    class Spy(ToyTokenizer):
        def __call__(self, cells, draw):
            draws.append(draw)
            return super().__call__(cells, draw)

    result = run(make_plan(tokenize=Spy()), tmp_path, accumulate=2, max_steps=None, max_epochs=2)
    assert result.num_steps == 6
    assert len(draws) == len(set(draws)) == 10
    assert {draw.seed for draw in draws} == {5}
    assert [draw.epoch for draw in draws] == [0] * 5 + [1] * 5


def test_the_same_seed_gives_the_same_run_and_the_callers_stream_is_left_alone(tmp_path):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    losses = [
        [row["train/loss"] for row in run(make_plan(), tmp_path / str(i), seed=seed).history]
        for i, seed in enumerate((1, 1, 2))
    ]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_on_even_if_the_network_came_in_evaluation_mode(tmp_path):
    one, two = make_plan(), make_plan(ToyModel(dropout=0.1).eval())
    assert run(one, tmp_path / "a").history[3]["train/loss"] == run(two, tmp_path / "b").history[3]["train/loss"]


def test_best_weights_are_put_back(tmp_path):
    plan = make_plan(lr=1.5)  # too fast: the loss jumps about
    result = run(plan, tmp_path, valid=True, keep="best", max_steps=9, validate_every=3)
    valid = {row["step"]: row["valid/loss"] for row in result.history if "valid/loss" in row}
    assert result.best_step == min(valid, key=valid.get) != max(valid)
    assert {item.name for item in (tmp_path / "checkpoints").iterdir()} == {
        f"best-{result.best_step:09d}",
        "step-000000009",
    }
    kept = read_tree(tmp_path / "checkpoints" / f"best-{result.best_step:09d}")["state_dict"]
    last = read_tree(tmp_path / "checkpoints" / "step-000000009")["state_dict"]
    for name, value in plan.state_dict().items():
        assert torch.equal(value, kept[name])
    assert not all(torch.equal(kept[name], last[name]) for name in kept)


def test_patience_stops_early(tmp_path):
    result = run(make_plan(lr=0.6), tmp_path, valid=True, patience=2, max_steps=400, validate_every=3)
    valid = [row["valid/loss"] for row in result.history if "valid/loss" in row]
    assert result.num_steps == 3 * len(valid) < 400
    assert min(valid) == valid[-3]
    assert (tmp_path / "checkpoints" / f"step-{result.num_steps:09d}").is_dir()


def test_frozen_parts_and_lora_bases_stay_as_they_were(tmp_path):
    for name, network, frozen in (
        ("frozen", ToyModel(), ("network.gene", "network.mix", "network.value")),
        ("lora", ToyModel(), ()),
    ):
        if name == "lora":
            add_lora(network, LoraConfig(targets=("head",)))
        before = {key: value.clone() for key, value in network.state_dict().items()}
        plan = make_plan(network, frozen=frozen)
        result = run(plan, tmp_path / name)
        changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
        free = {key for key, p in network.named_parameters() if p.requires_grad}
        assert changed == free
        assert result.num_trained == sum(network.get_parameter(key).numel() for key in free)
        assert not any(key.startswith(tuple(f.removeprefix("network.") for f in frozen)) for key in free if frozen)


def test_heads_of_terms_are_trained_and_saved(tmp_path):
    head = nn.Linear(8, 3)
    before = head.weight.detach().clone()
    plan = TrainPlan(ToyModel(), Objective(Clean(), {"label": (1, Label(head))}), ToyTokenizer(), optim=OptimConfig())
    run(plan, tmp_path)
    assert not torch.equal(head.weight, before)
    saved = read_tree(tmp_path / "checkpoints" / "step-000000012")["state_dict"]
    assert torch.equal(saved["objective.heads.label.head.weight"], head.weight)


def test_mixed_precision_keeps_weights_and_losses_in_float32(tmp_path):
    plan = make_plan()
    plain = run(make_plan(), tmp_path / "plain").history[-1]["train/loss"]
    mixed = run(plan, tmp_path / "mixed", precision="bf16-mixed").history[-1]["train/loss"]
    assert {p.dtype for p in plan.parameters()} == {torch.float32}
    assert plain != mixed == pytest.approx(plain, rel=0.1)


def test_plan_checks_the_objective_against_the_network():
    class Blind(ToyModel):
        produces = frozenset()

    with pytest.raises(ValueError, match="Blind does not produce"):
        make_plan(Blind())
    with pytest.raises(ValueError, match="did you mean 'network.gene'"):
        make_plan(frozen=("network.genes",))


def test_an_error_passes_through_and_is_noted(tmp_path):
    class Failing(ToyTokenizer):
        def __call__(self, cells, draw):
            if draw.step == 3:
                raise RuntimeError("disk gone\nmore")
            return super().__call__(cells, draw)

    with pytest.raises(RuntimeError, match="disk gone"):
        run(make_plan(tokenize=Failing()), tmp_path, checkpoint_every=2)
    assert [item.name for item in (tmp_path / "checkpoints").iterdir()] == ["step-000000002"]
    assert (tmp_path / "log.txt").read_text().splitlines()[-1].endswith("stopped at step 3 by RuntimeError disk gone")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    network = ToyModel()
    with torch.no_grad():
        network.head.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="'gep' is nan at epoch 0, step 0"):
        run(make_plan(network), tmp_path)


def test_what_lightning_changes_in_the_process_is_put_back(tmp_path):
    handler, level = signal.getsignal(signal.SIGINT), logging.getLogger("lightning.pytorch").level
    run(make_plan(), tmp_path, is_deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()
    assert signal.getsignal(signal.SIGINT) is handler
    assert logging.getLogger("lightning.pytorch").level == level


def test_the_users_warnings_pass_and_nothing_is_printed(tmp_path, capfd):
    class Warning_(UserWarning):
        pass

    class Warning_Tokenizer(ToyTokenizer):
        def __call__(self, cells, draw):
            if draw.step == 1:
                warnings.warn("mine", Warning_, stacklevel=1)
            return super().__call__(cells, draw)

    with pytest.warns(Warning_, match="mine"):
        run(make_plan(tokenize=Warning_Tokenizer()), tmp_path, max_steps=4)
    assert capfd.readouterr() == ("", "")


def test_progress_goes_to_stderr(tmp_path, capsys):
    config = TrainConfig(max_epochs=1, accelerator="cpu")
    loaders = ToyLoader(toy_cells(20)), ToyLoader(toy_cells(8))
    fit(make_plan(), *loaders, config=config, folder=tmp_path, is_progress_shown=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "train/loss" in err
    assert sys.stdout is not sys.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [({"keep": "best"}, "keep='best' needs a validation"), ({"patience": 3}, "patience needs a validation")],
)
def test_validation_that_is_asked_for_must_be_given(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(make_plan(), tmp_path, **options)


def test_an_empty_loader_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no minibatches"):
        fit(make_plan(), ToyLoader(toy_cells(3)), config=TrainConfig(max_steps=1), folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "max_epochs and max_steps"), ({"max_steps": 0}, "max_steps"), ({"max_steps": 1, "keep": "all"}, "keep")],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_results_are_never_written_over(tmp_path):
    run(make_plan(), tmp_path, max_steps=2)
    with pytest.raises(ValueError, match="holds the metrics.csv of an earlier run"):
        run(make_plan(), tmp_path, max_steps=2)


def test_open_run_refuses_what_it_did_not_make(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="holds other files"):
        open_run(tmp_path / "mine", {})
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        open_run(tmp_path / "mine", {}, resume=True)
    record = {"name": "a", "train": {"max_steps": 5}, "optim": {"lr": 0.1}}
    folder = open_run(tmp_path / "run", record)
    assert json.loads((folder / "recipe.json").read_text()) == record
    assert "torch" in json.loads((folder / "versions.json").read_text())
    with pytest.raises(ValueError, match="a run already; resume it"):
        open_run(folder, record)
    with pytest.raises(ValueError, match=r"begun with optim.lr = 0\.1, not 0\.2"):
        open_run(folder, {**record, "optim": {"lr": 0.2}}, resume=True)
    longer = {**record, "train": {"max_steps": 9}}
    assert open_run(folder, longer, resume=True) == folder
    assert json.loads((folder / "recipe.json").read_text()) == longer
    assert "train.max_steps = 9, before 5" in (folder / "log.txt").read_text()


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["gpu", "cuda", "mps"])
def test_an_absent_accelerator_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(ValueError, match=f"train.accelerator = '{name}', and this machine has none") as caught:
        run(make_plan(), tmp_path / "run", accelerator=name)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
