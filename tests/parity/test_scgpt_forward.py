"""Parts of the network give the published numbers; whole forward passes are compared in test_scgpt_answers."""

import pytest
import torch
from parity.cases import Case, assert_close

from cellwright.nn.embed import mark_values
from cellwright.nn.heads import CellValueHead
from cellwright.types import Layout


def run(case: Case, tokens, outputs=None):
    model = case.model()
    with torch.no_grad():
        out = model.network.eval()(tokens, outputs)
        heads = {name: head(out.cell_nd) for name, head in model.heads.items()}
    return out, heads


@pytest.mark.parametrize("name", ["base_continuous", "released_layout", "flash_layer_postnorm", "category_values"])
def test_packed_equals_published_too(name):
    case = Case("scgpt", name)
    tokens = case.tokens()
    out, _ = run(case, tokens.packed())
    seen = ~tokens.layout.is_pad_nt()
    assert_close(out.layout.pad(out.value_nt)[seen[:, : max(out.layout.lengths)]], case["out/all/mlm_output"][seen])
    assert_close(out.cell_nd, case["out/all/cell_emb"])


def test_layer_by_layer():
    case = Case("scgpt", "base_continuous")
    model, tokens = case.model(), case.tokens()
    names = sorted(key for key in case.arrays if key.startswith("out/int/layer"))
    assert len(names) == len(model.network.blocks)
    marked_nt = mark_values(tokens, hidden=model.config.mask_value, pad=model.config.pad_value)
    x_ntd = model.network._embed(tokens, model.network.gene_encoder(tokens.gene_nt), marked_nt)
    with torch.no_grad():
        for name, block in zip(names, model.network.blocks, strict=True):
            x_ntd = block(x_ntd, tokens.layout)
            torch.testing.assert_close(
                x_ntd[~tokens.layout.is_pad_nt()], case[name][~tokens.layout.is_pad_nt()], atol=1e-5, rtol=1e-4
            )


def test_value_encoder_clamps_large_values():
    case = Case("scgpt", "base_continuous")
    with torch.no_grad():
        assert_close(case.model().network.value_encoder(case["in/big_values"]), case["out/big/value_encoder"])


def test_mixed_domains_depart_from_the_published_rule():
    """Published code normalises all cells by the first cell's domain; ours each by its own (decision 0003)."""
    case = Case("scgpt", "integration_dsbn_dab_zero")
    base = case.tokens("in/b0_", tech_batch_n="in/mixed_labels")
    out, _ = run(case, base)
    first = base.tech_batch_n == base.tech_batch_n[0]
    assert 0 < first.sum() < len(first)
    theirs = case["out/eval_mixed/cell_emb"]
    assert_close(out.cell_nd[first], theirs[first])
    assert (out.cell_nd[~first] - theirs[~first]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["plain", "zero", "softplus_adaptive", "mvc"])
def test_perturbation_network(name):
    case = Case("scgpt", f"perturb_generator/{name}")
    tokens = case.tokens(hidden_value=None, flag_nt="in/pert_flags")
    out, _ = run(case, tokens)
    assert_close(out.hidden_ntd, case["out/int/encode"])
    assert_close(out.value_nt, case["out/int/decoder_pred"])


STYLES = ["concat_query", "sum_query", "inner_product", "inner_product_batch", "inner_product_detach"]
STYLES += ["inner_product_detach_batch", "inner_product_detach_zero", "inner_product_detach_zero_batch"]
STYLES += ["inner_product_zero", "inner_product_zero_batch"]
OURS = {"gene2query": "query", "W_zero_logit": "gate", "W": "project", "fc1": "linear1", "fc2": "linear2"}
OURS["hidden_activation"] = "activation"


@pytest.mark.parametrize("name", STYLES)
def test_cell_value_styles(name):
    case = Case("scgpt", f"mvc_decoder/{name}")
    style = name.removesuffix("_batch").removesuffix("_zero").replace("_detach", ", detach").replace("_", " ")
    gene_ntd, cell_nd = case["in/gene_embs"], case["in/cell_emb"]
    head = CellValueHead(gene_ntd.shape[-1], cell_nd.shape[-1], style, has_gate="zero" in name)
    state = {key.removeprefix("sd/"): case[key] for key in case.arrays if key.startswith("sd/")}
    head.load_state_dict({f"{OURS[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in state.items()})
    layout = Layout((gene_ntd.shape[1],) * len(cell_nd), gene_ntd.shape[1])
    with torch.no_grad():
        value_nt, expressed_nt = head(cell_nd, gene_ntd, layout)
    assert_close(value_nt, case["out/pred"])
    if "zero" in name:
        assert_close(expressed_nt, case["out/zero_probs"])
    assert_close(head(cell_nd, gene_ntd.clone().requires_grad_(), layout)[0], case["out/pred"])
