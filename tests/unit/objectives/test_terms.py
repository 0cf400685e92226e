"""Values of the loss terms: the published losses, and cases worked by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cellwright.objectives.cell import Contrast, Domain, Label
from cellwright.objectives.confidence import LEAST_ERROR, ExpectedError
from cellwright.objectives.value import CellValue, MaskedValue, PromptedValue, ZeroGate
from cellwright.types import Layout, ModelOutput, Targets

RECORDED = Path(__file__).parents[2] / "parity/data/scgpt/metrics_losses/io.npz"


def output(num_cells=4, width=9, **answers):
    layout = Layout((width,) * num_cells, width)
    hidden = torch.zeros(num_cells, width, 2)
    return ModelOutput(hidden_ntd=hidden, cell_nd=hidden[:, 0], layout=layout, **answers)


def cells(cell_nd, again=None):
    layout = Layout((1,) * len(cell_nd), 1)
    return ModelOutput(hidden_ntd=cell_nd[:, None], cell_nd=cell_nd, layout=layout, again=again)


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED) as arrays:
        return {key: torch.tensor(arrays[key]) for key in arrays if "loss" in key}


def test_losses_equal_the_published_ones(recorded):
    predicted, value, scored = (recorded[f"in/loss_{name}"] for name in ("input", "target", "mask"))
    targets = Targets(value_nt=value, is_scored_nt=scored)
    expected = recorded["out/loss/masked_mse"]
    torch.testing.assert_close(MaskedValue()(output(value_nt=predicted), targets), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(CellValue()(output(cell_value_nt=predicted), targets), expected, rtol=1e-6, atol=0)
    prompted = output(prompted=output(value_nt=predicted))
    torch.testing.assert_close(PromptedValue()(prompted, targets), expected, rtol=1e-6, atol=0)
    gates = {"value": "expressed_nt", "cell_value": "cell_expressed_nt"}
    for of, field in gates.items():
        loss = ZeroGate(of=of)(output(**{field: predicted}), targets)
        torch.testing.assert_close(loss, recorded["out/loss/neg_log_bernoulli"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_zero_gate_equals_torchs_bernoulli_even_at_certainty(dtype):
    expressed = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.3, 1e-9]], dtype=dtype, requires_grad=True)
    value = torch.tensor([[0.0, 2.0, 3.0, 0.0, 1.0, 1.0]])
    targets = Targets(value_nt=value, is_scored_nt=torch.ones_like(value, dtype=torch.bool))
    loss = ZeroGate()(output(1, 6, expressed_nt=expressed), targets)
    ours = torch.distributions.utils.clamp_probs(expressed.detach()).to(loss.dtype)
    reference = torch.distributions.Bernoulli(probs=ours)
    torch.testing.assert_close(loss, -reference.log_prob((value > 0).to(loss.dtype)).mean(), rtol=1e-5, atol=0)
    loss.backward()
    assert torch.isfinite(expressed.grad).all()
    assert expressed.grad[0, 4] != 0


def test_only_scored_tokens_count_whatever_stands_elsewhere():
    predicted = torch.tensor([[1.0, float("nan"), float("inf"), 4.0]], requires_grad=True)
    targets = Targets(
        value_nt=torch.tensor([[3.0, 0.0, 0.0, 4.0]]), is_scored_nt=torch.tensor([[True, False, False, True]])
    )
    loss = MaskedValue()(output(1, 4, value_nt=predicted), targets)
    loss.backward()
    assert loss.item() == 2.0
    assert predicted.grad.tolist() == [[-2.0, 0.0, 0.0, 0.0]]


def test_half_precision_predictions_are_compared_in_float32():
    predicted = torch.full((1, 4), 3.0, dtype=torch.bfloat16)
    targets = Targets(value_nt=torch.full((1, 4), 3.001), is_scored_nt=torch.ones(1, 4, dtype=torch.bool))
    loss = MaskedValue()(output(1, 4, value_nt=predicted), targets)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(1e-6, rel=1e-2)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_contrast_by_hand(temperature):
    torch.manual_seed(3)
    first, second = torch.randn(2, 5, 4, dtype=torch.float32)
    loss = Contrast(temperature=temperature)(cells(first, cells(second)), Targets())
    rows = []
    for i in range(5):
        cosines = [float(first[i] @ second[k] / first[i].norm() / second[k].norm()) / temperature for k in range(5)]
        rows.append(np.log(np.exp(cosines).sum()) - cosines[i])
    assert float(loss) == pytest.approx(np.mean(rows), rel=1e-5)
    alike = Contrast(temperature=temperature)(cells(first, cells(3 * first)), Targets())
    assert alike < loss
    swapped = Contrast(temperature=temperature)(cells(first, cells(first.roll(1, 0))), Targets())
    assert alike < swapped


def test_contrast_refuses_what_it_cannot_compare():
    one = torch.ones(1, 3)
    with pytest.raises(ValueError, match="run once only"):
        Contrast()(cells(one), Targets())
    with pytest.raises(ValueError, match="single cell"):
        Contrast()(cells(one, cells(one)), Targets())


def test_prompted_value_without_a_second_pass_is_an_error():
    targets = Targets(value_nt=torch.zeros(4, 9), is_scored_nt=torch.ones(4, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="prompted pass"):
        PromptedValue()(output(value_nt=torch.zeros(4, 9)), targets)


def test_an_empty_field_of_the_model_is_an_error():
    targets = Targets(value_nt=torch.zeros(4, 9), is_scored_nt=torch.ones(4, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="field empty"):
        MaskedValue()(output(), targets)


def label_case(**options):
    torch.manual_seed(3)
    cell_nd = torch.randn(5, 4)
    out = ModelOutput(hidden_ntd=cell_nd[:, None], cell_nd=cell_nd, layout=Layout((1,) * 5))
    return Label(nn.Linear(4, 3), **options), out, torch.tensor([0, 2, 1, 2, 2])


def test_label_is_cross_entropy_weighted_and_smoothed():
    for options in ({}, {"class_weight": (1.0, 2.0, 0.5)}, {"smoothing": 0.2}):
        term, out, label_n = label_case(**options)
        logp_nk = torch.log_softmax(term.head(out.cell_nd), 1)
        weight_k = torch.tensor(options.get("class_weight", (1.0, 1.0, 1.0)))
        soft = options.get("smoothing", 0.0)
        aim_nk = (1 - soft) * nn.functional.one_hot(label_n, 3) + soft / 3
        expected = -(aim_nk * logp_nk * weight_k).sum() / weight_k[label_n].sum()
        torch.testing.assert_close(term(out, Targets(label_n=label_n)), expected)


@pytest.mark.parametrize("bad", [-1, 3])
def test_unknown_classes_are_an_error(bad):
    term, out, label_n = label_case()
    label_n[1] = bad
    with pytest.raises(ValueError, match=rf"1 of 5 cells have a class outside 0 \.\. 2 \(first: {bad}"):
        term(out, Targets(label_n=label_n))
    with pytest.raises(ValueError, match="sequencing batch outside"):
        Domain(nn.Linear(4, 3))(out, Targets(domain_n=label_n))


@pytest.mark.parametrize("options", [{"smoothing": 1.0}, {"class_weight": (1.0, 0.0, 1.0)}])
def test_label_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Label(nn.Linear(4, 3), **options)


def test_class_weights_must_fit_the_head():
    term, out, label_n = label_case(class_weight=(1.0, 2.0))
    with pytest.raises(ValueError, match="2 entries, the head has 3 classes"):
        term(out, Targets(label_n=label_n))


def test_expected_error_is_least_where_the_head_says_the_log_of_the_mean_squared_error():
    class Says(nn.Module):
        def __init__(self, log_error):
            super().__init__()
            self.log_error = nn.Parameter(torch.tensor(float(log_error)))

        def forward(self, hidden):
            return self.log_error.expand(hidden.shape[:-1])

    predicted, value = torch.tensor([[1.0, 2.0, 3.0, 9.0]]), torch.tensor([[0.0, 2.0, 6.0, 0.0]])
    targets = Targets(value_nt=value, is_scored_nt=torch.tensor([[True, True, True, False]]))
    best = np.log(10 / 3 + LEAST_ERROR)
    losses = {}
    for log_error in (best - 0.5, best, best + 0.5):
        term = ExpectedError(Says(log_error))
        losses[log_error] = term(output(1, 4, value_nt=predicted), targets)
    assert losses[best].item() == pytest.approx(0.5 * (best + 1), abs=1e-6)
    assert losses[best] < min(losses[best - 0.5], losses[best + 0.5])
    term = ExpectedError(Says(best))
    term(output(1, 4, value_nt=predicted), targets).backward()
    assert abs(term.head.log_error.grad.item()) < 1e-6


def test_a_fresh_head_expects_large_errors_everywhere_and_follows_its_seed():
    one, same, other = (ExpectedError.for_width(16, seed=seed) for seed in (3, 3, 4))
    hidden = torch.randn(1, 5, 16)
    torch.testing.assert_close(one.head(hidden), same.head(hidden), rtol=0, atol=0)
    assert not torch.equal(one.head(hidden), other.head(hidden))
    assert (one.head(hidden) - np.log(100)).abs().max() < 1.5
