"""The objective itself: sums, checks, the second pass, errors."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from toy_cells import ToyModel, ToyTokenizer, toy_cells

from cellwright.objectives import Objective
from cellwright.objectives.cell import Contrast, Label
from cellwright.objectives.value import CellValue, MaskedValue, PromptedValue, ZeroGate
from cellwright.objectives.views import Clean, GenerativeSplit, RandomMask
from cellwright.types import Draw, Targets


class Spy(ToyModel):
    """Remembers how it was called."""

    def forward(self, tokens, outputs=None):
        out = super().forward(tokens, outputs)
        self.calls = [*getattr(self, "calls", []), (tokens, frozenset(outputs), out)]
        return out


def step(objective, model, **options):
    return objective.step(model, toy_cells(), tokenize=ToyTokenizer(), draw=Draw(0, 4, 7), **options)


def test_loss_is_the_weighted_sum_of_unweighted_parts():
    terms = {"a": (2, MaskedValue()), "b": (0.5, CellValue()), "c": (1, ZeroGate())}
    report = step(Objective(RandomMask(), terms), ToyModel())
    expected = sum(weight * report.parts[name] for name, (weight, _) in terms.items())
    torch.testing.assert_close(report.loss.detach(), expected)
    alone = step(Objective(RandomMask(), {"b": (1, CellValue())}), ToyModel())
    torch.testing.assert_close(alone.loss.detach(), report.parts["b"])


def test_model_is_asked_once_and_only_for_what_is_read():
    model = Spy()
    step(Objective(RandomMask(), {"a": (1, MaskedValue()), "b": (0, CellValue())}), model)
    assert [asked for _, asked, _ in model.calls] == [{"value_nt"}]


def test_prompted_terms_read_a_second_pass_with_the_detached_cell_embedding():
    model = Spy()
    terms = {"gep": (1, MaskedValue()), "mvc": (1, CellValue()), "gen": (1, PromptedValue())}
    report = step(Objective(GenerativeSplit(), terms), model)
    (first, asked_1, out), (second, asked_2, again) = model.calls
    assert (asked_1, asked_2) == ({"value_nt", "cell_value_nt"}, {"value_nt"})
    assert first.cell_nd is None
    assert torch.equal(second.cell_nd, out.cell_nd)
    assert not second.cell_nd.requires_grad
    assert torch.equal(second.value_nt, first.value_nt)
    assert not torch.allclose(again.value_nt, out.value_nt)
    assert report.parts["gen"] != report.parts["gep"]
    report.loss.backward()


def test_a_term_that_only_reads_the_second_pass_asks_nothing_of_the_first():
    model = Spy()
    step(Objective(GenerativeSplit(), {"gen": (1, PromptedValue())}), model)
    assert [asked for _, asked, _ in model.calls] == [frozenset(), {"value_nt"}]


def test_contrast_reads_a_second_pass_under_other_dropout():
    model = Spy(dropout=0.3)
    objective = Objective(RandomMask(), {"gep": (1, MaskedValue()), "cce": (10, Contrast())})
    objective.check(model)
    torch.manual_seed(0)
    report = step(objective, model)
    (first, asked_1, out), (second, asked_2, again) = model.calls
    assert (asked_1, asked_2) == ({"value_nt"}, frozenset())
    assert second is first
    assert (again.cell_nd - out.cell_nd).abs().max() > 1e-3
    expected = Contrast()(replace(out, again=again), Targets())
    torch.testing.assert_close(report.parts["cce"], expected.detach())
    report.loss.backward()
    assert all(call.cell_nd.requires_grad for call in (out, again))


def test_contrast_in_evaluation_needs_no_second_pass():
    model = Spy(dropout=0.3).eval()
    report = step(Objective(Clean(), {"cce": (1, Contrast())}), model)
    ((_, _, out),) = model.calls
    torch.testing.assert_close(report.parts["cce"], Contrast()(replace(out, again=out), Targets()).detach())


def test_contrast_needs_dropout():
    with pytest.raises(ValueError, match="cce compares two passes under different dropout, and ToyModel has none"):
        Objective(Clean(), {"cce": (1, Contrast())}).check(ToyModel())


def test_both_second_passes_in_one_step():
    model = Spy(dropout=0.3)
    terms = {"gen": (1, PromptedValue()), "cce": (1, Contrast()), "gep": (1, MaskedValue())}
    report = step(Objective(GenerativeSplit(), terms), model)
    assert [asked for _, asked, _ in model.calls] == [{"value_nt"}, {"value_nt"}, frozenset()]
    assert model.calls[1][0].cell_nd is not None
    assert model.calls[2][0].cell_nd is None
    assert set(report.parts) == {"gen", "cce", "gep"}


def test_check_names_term_field_and_model():
    class Blind(ToyModel):
        produces = frozenset({"value_nt"})

    objective = Objective(RandomMask(), {"mvc": (1, CellValue())})
    objective.check(ToyModel())
    with pytest.raises(ValueError, match=r"'mvc' needs 'cell_value_nt', which Blind does not produce; did you mean"):
        objective.check(Blind())


def test_check_names_what_the_view_cannot_answer():
    objective = Objective(Clean(), {"gep": (1, MaskedValue())})
    with pytest.raises(ValueError, match=r"'gep' needs the answer 'is_scored_nt', which the view Clean does not give"):
        objective.check(ToyModel())


def test_heads_belong_to_the_objective_and_not_to_the_model():
    head = nn.Linear(8, 3)
    objective = Objective(Clean(), {"label": (1, Label(head))})
    assert set(objective.state_dict()) == {"heads.label.head.weight", "heads.label.head.bias"}
    step(objective, ToyModel()).loss.backward()
    assert head.weight.grad is not None


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "nothing to train for"),
        ({"a": (0, MaskedValue())}, "nothing to train for"),
        ({"a": (-1, MaskedValue())}, "weight -1"),
        ({"a": (float("nan"), MaskedValue())}, "weight nan"),
        ({"loss": (1, MaskedValue())}, "cannot name a term"),
        ({"a.b": (1, MaskedValue())}, "cannot name a term"),
    ],
)
def test_impossible_objectives_are_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        Objective(RandomMask(), terms)


def test_a_loss_that_is_not_finite_names_its_term_and_draw():
    model = ToyModel()
    with torch.no_grad():
        model.cell_head.bias[0] = float("inf")
    objective = Objective(RandomMask(), {"gep": (1, MaskedValue()), "mvc": (1, CellValue())})
    with pytest.raises(FloatingPointError, match=r"'mvc' is (inf|nan) at epoch 4, step 7 \(seed 0\)"):
        step(objective, model)


def test_tokens_follow_the_model_to_its_device():
    class Elsewhere(nn.Module):
        produces = frozenset({"value_nt"})

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(1, device="meta"))

        def forward(self, tokens, outputs=None):
            assert tokens.value_nt.device.type == tokens.gene_nt.device.type == "meta"
            raise InterruptedError

    with pytest.raises(InterruptedError):
        step(Objective(RandomMask(), {"gep": (1, MaskedValue())}), Elsewhere())
