"""Every answer that was recorded of a published network's forward pass, call by call.

A call is a recorded forward pass of a case: its inputs stand under a prefix, its answers under ``out/<call>/``. All
arrays there are compared, so that a new one cannot stay unread.
"""

from dataclasses import replace

import pytest
import torch
from parity.cases import Case, assert_close

from cellwright.nn.embed import mark_values
from cellwright.nn.heads import pool
from cellwright.objectives.cell import Contrast, Similarity
from cellwright.types import Layout, ModelOutput, Targets, TokenBatch

CALLS = [
    ("base_continuous", "all", {}),
    ("base_continuous", "all_fastpath", {}),
    ("released_layout", "all", {}),
    ("category_values", "all", {}),
    ("scaling_values", "all", {"hidden_value": None}),
    ("cell_emb_avg-pool", "all", {}),
    ("cell_emb_w-pool", "all", {}),
    ("flash_layer_postnorm", "all", {}),
    ("flash_layer_prenorm", "all", {}),
    ("annotation_cls", "eval_b0", {"prefix": "in/b0_", "hidden_value": None}),
    ("batchnorm_batchlabels", "all", {"tech_batch_n": "in/batch_labels"}),
    *(
        (
            "integration_dsbn_dab_zero",
            f"eval_b{i}",
            {"prefix": f"in/b{i}_", "tech_batch_n": f"in/b{i}_batch_labels"},
        )
        for i in range(3)
    ),
    ("multiomic/mod_batch", "all", {"tech_batch_n": "in/batch_labels", "modality_nt": "in/mod_types"}),
    ("multiomic/mod_batch_zero", "all", {"tech_batch_n": "in/batch_labels", "modality_nt": "in/mod_types"}),
    ("multiomic/mod_only", "all", {"modality_nt": "in/mod_types"}),
    ("multiomic/batch_only", "all", {"tech_batch_n": "in/batch_labels"}),
    *(
        (f"perturb_generator/{name}", "eval", {"hidden_value": None, "flag_nt": "in/pert_flags"})
        for name in ("plain", "zero", "softplus_adaptive", "mvc")
    ),
]


OF_TOKENS = {"mlm_output", "mlm_zero_probs", "mvc_output", "mvc_zero_probs"}


def answers(case, model, out: ModelOutput) -> dict[str, torch.Tensor | None]:
    """Return published name -> our answer."""
    threshold = case.call.get("ecs_threshold", 0.3)
    return {
        "mlm_output": out.value_nt,
        "mlm_zero_probs": out.expressed_nt,
        "mvc_output": out.cell_value_nt,
        "mvc_zero_probs": out.cell_expressed_nt,
        "cell_emb": out.cell_nd,
        "loss_ecs": Similarity(threshold=threshold)(out, Targets()),
        "loss_cce": Contrast()(replace(out, again=out), Targets()),  # recorded in eval mode: nothing is dropped
        **{
            name: model.heads[head](out.cell_nd)
            for name, head in {"cls_output": "label", "dab_output": "domain"}.items()
            if head in model.heads
        },
    }


@pytest.mark.parametrize(("name", "call", "options"), CALLS, ids=[f"{name}-{call}" for name, call, _ in CALLS])
@torch.no_grad()
def test_every_answer_of_a_forward_pass(name, call, options):
    case = Case("scgpt", name)
    tokens, model = case.tokens(**options), case.model()
    out = model.network.eval()(tokens)
    if name == "perturb_generator/zero":  # sampled in evaluation as well; our networks sample nothing
        torch.manual_seed(0)
        out = replace(out, value_nt=torch.bernoulli(out.expressed_nt) * out.value_nt)
    compare(case, call, answers(case, model, out), ~tokens.layout.is_pad_nt())


def compare(case, call, ours, is_seen_nt):
    """Compare all answers of a call; those of tokens where they are no pads."""
    recorded = [key for key in case.arrays if key.startswith(f"out/{call}/")]
    assert recorded
    for key in recorded:
        name = key.removeprefix(f"out/{call}/")
        assert_close(ours[name], case[key], is_seen_nt if name in OF_TOKENS else None)


@pytest.mark.parametrize("how", ["avg-pool", "w-pool"])
@torch.no_grad()
def test_poolings_over_pads_that_torchs_fast_path_made_zero(how):
    """Published poolings count pads, and what stands there depends on the back end: zeros on torch's fast path."""
    case = Case("scgpt", f"cell_emb_{how}")
    model, tokens = case.model(), case.tokens()
    network, is_pad_nt = model.network.eval(), tokens.layout.is_pad_nt()
    out = network(tokens)
    marked_nt = mark_values(tokens, hidden=model.config.mask_value, pad=model.config.pad_value)
    cell_nd = pool(out.hidden_ntd.masked_fill(is_pad_nt[..., None], 0.0), marked_nt, tokens.layout, how)
    value_nt, _ = network.cell_value_head(cell_nd, network.gene_encoder(tokens.gene_nt), tokens.layout)
    changed = replace(out, cell_nd=cell_nd, cell_value_nt=value_nt)
    compare(case, "all_fastpath", answers(case, model, changed), ~is_pad_nt)


@torch.no_grad()
def test_mixed_domains_agree_where_the_first_cells_domain_is_theirs():
    """The others are normalised by another domain in the published code, see decision 0003."""
    case = Case("scgpt", "integration_dsbn_dab_zero")
    tokens, model = case.tokens("in/b0_", tech_batch_n="in/mixed_labels"), case.model()
    ours, is_seen_nt = answers(case, model, model.network.eval()(tokens)), ~tokens.layout.is_pad_nt()
    is_first_n = tokens.tech_batch_n == tokens.tech_batch_n[0]
    for key in [key for key in case.arrays if key.startswith("out/eval_mixed/")]:
        name = key.removeprefix("out/eval_mixed/")
        at = is_seen_nt[is_first_n] if name in OF_TOKENS else None
        assert_close(ours[name][is_first_n], case[key][is_first_n], at)


class Nothing(torch.nn.Module):
    """In the place of a value encoder: the gene alone."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, value_nt):
        return value_nt.new_zeros(*value_nt.shape, self.width)


@pytest.mark.parametrize("has_values", [True, False])
@torch.no_grad()
def test_one_pass_generation_from_a_given_cell(has_values):
    """Published ``generate``: the cell embedding in the place of ``<cls>``, full attention, values or none."""
    case = Case("scgpt", "integration_dsbn_dab_zero")
    model = case.model()
    tokens = case.tokens("in/b0_", tech_batch_n="in/b0_batch_labels")
    if not has_values:
        model.network.value_encoder = Nothing(model.config.width)
    out = model.network.eval()(replace(tokens, cell_nd=case["in/gen_cell_emb"]))
    wanted = case["out/generate_values" if has_values else "out/generate_novalues"]
    assert_close(out.value_nt, wanted, ~tokens.layout.is_pad_nt())


@pytest.mark.parametrize("name", ["base_continuous", "category_values", "flash_layer_postnorm", "flash_layer_prenorm"])
@torch.no_grad()
def test_encoders_and_the_last_layer(name):
    case = Case("scgpt", name)
    tokens, network = case.tokens(), case.model().network.eval()
    parts = {
        "encoder": (network.gene_encoder(tokens.gene_nt), None),
        "value_encoder": (network.value_encoder(case["in/values"]), None),
        "encode": (network(tokens, ()).hidden_ntd, ~tokens.layout.is_pad_nt()),
    }
    recorded = [key for key in case.arrays if key.startswith("out/int/") and "layer" not in key]
    assert recorded
    for key in recorded:
        ours, at = parts[key.removeprefix("out/int/")]
        assert_close(ours, case[key], at)


@torch.no_grad()
def test_without_pads_and_in_small_minibatches():
    case = Case("scgpt", "base_continuous")
    network = case.model().network.eval()
    assert_close(network(case.tokens("in/nopad_"), ()).hidden_ntd, case["out/nopad/encode"])
    whole = case.tokens().packed()
    assert_close(network(whole, ()).cell_nd, case["out/encode_batch_cls"])


@pytest.mark.parametrize("name", ["plain", "softplus_adaptive", "mvc"])
@torch.no_grad()
def test_predicted_perturbations(name):
    """Published ``pred_perturb``: all genes at once, or those that a cell of the minibatch expresses, else zeros."""
    case = Case("scgpt", f"perturb_generator/{name}")
    network = case.model().network.eval()
    tokens = case.tokens(hidden_value=None, flag_nt="in/pert_flags")
    assert_close(network(tokens).value_nt, case["out/pred_perturb_all"])
    value_nt, wanted = case["in/values_bw"], case["out/pred_perturb_batchwise"]
    at_t = (value_nt != 0).any(0)
    assert (wanted[:, ~at_t] == 0).all()
    assert 0 < at_t.sum() < len(at_t)
    some = TokenBatch(
        gene_nt=tokens.gene_nt[:, at_t],
        value_nt=value_nt[:, at_t],
        is_hidden_nt=tokens.is_hidden_nt[:, at_t],
        flag_nt=tokens.flag_nt[:, at_t],
        layout=Layout((int(at_t.sum()),) * len(value_nt), int(at_t.sum())),
    )
    assert_close(network(some).value_nt, wanted[:, at_t])
