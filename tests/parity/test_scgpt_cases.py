"""Every recorded case of scGPT, every answer in it, and the test that compares it: nothing is left unread.

`CASES` says what the recordings are and where each answer is compared; an answer that is not compared stands in
`LEFT_OUT` with the reason.
"""

import ast
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DATA = HERE / "data" / "scgpt"

FORWARD = "test_scgpt_answers: test_every_answer_of_a_forward_pass"
LAYERS = "test_scgpt_answers: test_encoders_and_the_last_layer"
POOLED = "test_scgpt_answers: test_poolings_over_pads_that_torchs_fast_path_made_zero"
STYLES = "test_scgpt_forward: test_cell_value_styles"
BOTH_PASSES = "test_scgpt_generative: test_both_passes"
PROMPT = "test_scgpt_generative: test_prompt_alone"
PRETRAINING = "test_scgpt_training: test_generative_pretraining_losses_and_gradients"
PERTURBED = "test_scgpt_answers: test_predicted_perturbations"
TRAINED = ("loss0/train/*", "grad0/train/*", "train/train/*", "after/train/*")
DIGITS = "test_scgpt_tokens: test_random_ties_give_the_published_digits"
SCORES = "test_scgpt_scores: test_published_perturbation_scores"
UNIFORMS = "test_scgpt_tokens: test_collated_cells_equal_the_published_ones_given_its_uniforms"
LOSSES = "test_scgpt_training: test_recorded_losses"


def trained(test):
    return dict.fromkeys(TRAINED, f"test_scgpt_training: {test}")


GENERATIVE = {
    "out/pass1/*": BOTH_PASSES,
    "out/pass2/*": BOTH_PASSES,
    "out/pcpt_only/*": PROMPT,
    "loss/*": PRETRAINING,
    "grad/*": PRETRAINING,
}
PERTURBATION = {
    "out/eval/*": FORWARD,
    "out/int/*": "test_scgpt_forward: test_perturbation_network",
    **trained("test_perturbation_recipe"),
}
CASES: dict[str, dict[str, str]] = {
    "annotation_cls": {"out/eval_b0/*": FORWARD, **trained("test_annotation_recipe")},
    "base_continuous": {
        "out/all/*": FORWARD,
        "out/all_fastpath/*": FORWARD,
        "out/int/layer*": "test_scgpt_forward: test_layer_by_layer",
        "out/int/enc*": LAYERS,
        "out/int/value_encoder": LAYERS,
        "out/encode_batch_cls": "test_scgpt_answers: test_without_pads_and_in_small_minibatches",
        "out/nopad/encode": "test_scgpt_answers: test_without_pads_and_in_small_minibatches",
        "out/big/value_encoder": "test_scgpt_forward: test_value_encoder_clamps_large_values",
        "loss/masked_mse_*": "test_scgpt_training: test_recorded_losses_of_the_base_model",
    },
    "batchnorm_batchlabels": {"out/all/*": FORWARD},
    "category_values": {"out/all/*": FORWARD, "out/int/*": LAYERS},
    "cell_emb_avg-pool": {"out/all/*": FORWARD, "out/all_fastpath/*": POOLED},
    "cell_emb_w-pool": {"out/all/*": FORWARD, "out/all_fastpath/*": POOLED},
    "data_pipeline": {
        "out/binning_*": DIGITS,
        "out/digitize_upper/*": "test_scgpt_tokens: test_upper_ties_give_the_published_digits",
        "out/prep/X_binned": "test_scgpt_tokens: test_preprocessor_digits",
        "out/prep/bin_edges": "test_scgpt_tokens: test_preprocessor_edges",
        "out/prep/X_*": "test_scgpt_tokens: test_normalisation_agrees_with_the_preprocessor",
        "out/prep/kept_genes": "test_scgpt_tokens: test_normalisation_agrees_with_the_preprocessor",
        "out/tok/*": "test_scgpt_tokens: test_tokens_of_binned_cells",
        "out/mask/0.4": "test_scgpt_views: test_masking_hides_the_published_number_of_tokens_with_cls_among_them",
        "out/collate_embed_len100/*": UNIFORMS,
        "out/collate_embed_len12/*": "test_scgpt_tokens: test_collated_cells_keep_the_published_bounds",
        "out/collate_mlm/gene": "test_scgpt_views: test_cells_of_the_masking_collator",
        "out/collate_mlm/expr": "test_scgpt_views: test_cells_of_the_masking_collator",
    },
    "embed_data_endtoend": {"out/X_scGPT*": "test_scgpt_embed: test_equals_embed_data"},
    "flash_layer_postnorm": {"out/all/*": FORWARD, "out/int/encode": LAYERS},
    "flash_layer_prenorm": {"out/all/*": FORWARD, "out/int/encode": LAYERS},
    "integration_dsbn_dab_zero": {
        "out/eval_b?/*": FORWARD,
        "out/eval_mixed/*": "test_scgpt_answers: test_mixed_domains_agree_where_the_first_cells_domain_is_theirs",
        "out/generate_*": "test_scgpt_answers: test_one_pass_generation_from_a_given_cell",
        **trained("test_integration_recipe"),
    },
    "metrics_losses": {
        "out/nonzero?_*": SCORES,
        "out/loss/masked_mse": LOSSES,
        "out/loss/neg_log_bernoulli": LOSSES,
    },
    "multiomic/batch_only": {"out/all/*": FORWARD},
    "multiomic/mod_batch": {"out/all/*": FORWARD, **trained("test_multiomic_recipe")},
    "multiomic/mod_batch_zero": {"out/all/*": FORWARD},
    "multiomic/mod_only": {"out/all/*": FORWARD},
    **{
        f"mvc_decoder/{name}": {"out/*": STYLES}
        for name in (
            "concat_query",
            "inner_product",
            "inner_product_batch",
            "inner_product_detach",
            "inner_product_detach_batch",
            "inner_product_detach_zero",
            "inner_product_detach_zero_batch",
            "inner_product_zero",
            "inner_product_zero_batch",
            "sum_query",
        )
    },
    "perturb_generator/mvc": PERTURBATION | {"out/pred_perturb_*": PERTURBED},
    "perturb_generator/plain": PERTURBATION | {"out/pred_perturb_*": PERTURBED},
    "perturb_generator/softplus_adaptive": PERTURBATION | {"out/pred_perturb_*": PERTURBED},
    "perturb_generator/zero": PERTURBATION,
    "pretrain_collator": {
        "out/binning_one_sided": "test_scgpt_tokens: test_pretraining_digits_are_the_upper_ones",
        "out/both_len*": "test_scgpt_views: test_prompts_and_unknown_genes_are_as_many_as_published",
        "out/gen_len*": "test_scgpt_views: test_whole_cells_of_the_pretraining_collator",
        "out/pcpt_len*/gene": "test_scgpt_views: test_whole_cells_of_the_pretraining_collator",
        "out/pcpt_len*/expr": "test_scgpt_views: test_whole_cells_of_the_pretraining_collator",
    },
    "pretrain_generative_nopad": GENERATIVE,
    "pretrain_generative_padded": GENERATIVE,
    "pretrain_generative_prenorm": GENERATIVE,
    "released_layout": {"out/all/*": FORWARD},
    "scaling_values": {"out/all/*": FORWARD},
}
LEFT_OUT: dict[tuple[str, str], str] = {
    ("base_continuous", "loss/mre_mlm"): "only ever logged: the relative error divides by zero where the answer is 0",
    ("metrics_losses", "out/loss/masked_relative_error"): "as above",
    ("data_pipeline", "out/prep_int_target/*"): "a slip: a whole number as target is taken for no target",
    ("data_pipeline", "out/collate_mlm/masked_expr"): "a coin for each token; our view hides a fixed part, as "
    "published fine-tuning does",
    ("pretrain_collator", "out/pcpt_len*/masked_expr"): "the same; this style made no released weights",
}
ELSEWHERE = {"grn"}
"""Gene networks have a test module of their own."""


def recorded() -> dict[str, list[str]]:
    """Return case -> names of its recorded answers."""
    found = {}
    for path in sorted(DATA.rglob("io.npz")):
        with np.load(path) as arrays:
            found[path.parent.relative_to(DATA).as_posix()] = [
                name for name in arrays.files if not name.startswith(("in/", "sd/"))
            ]
    return {case: names for case, names in found.items() if case not in ELSEWHERE}


def test_every_case_is_in_the_table():
    assert recorded().keys() == CASES.keys()


def test_every_answer_is_compared_or_left_out_for_a_reason():
    left_out = {case: {pattern for c, pattern in LEFT_OUT if c == case} for case in CASES}
    for case, names in recorded().items():
        for name in names:
            is_compared = any(fnmatch(name, pattern) for pattern in CASES[case])
            is_left_out = any(fnmatch(name, pattern) for pattern in left_out[case])
            assert is_compared != is_left_out, f"{case}: {name}"
        for pattern in {*CASES[case], *left_out[case]}:
            assert any(fnmatch(name, pattern) for name in names), f"{case}: nothing is called {pattern}"


def test_the_tests_that_are_named_exist():
    named = {where for answers in CASES.values() for where in answers.values()}
    tests = {
        f"{path.stem}: {node.name}"
        for path in HERE.glob("test_scgpt_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert named <= tests
