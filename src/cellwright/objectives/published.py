"""What scGPT is published to be trained for, task by task: the one place for views, terms and weights.

Source: published training scripts and notebooks (``finetune_integration.py``, ``Tutorial_Annotation``,
``Tutorial_Perturbation``, ``Tutorial_Multiomics``, the pre-training branch). Where the paper says otherwise, the
function does. Pre-training recipes are built from them; integration and several modalities take their defaults here.
`cellwright.objectives.config.build_objective` puts any of them together, given the heads of ``label`` and ``domain``.
"""

from __future__ import annotations

from collections.abc import Callable

from cellwright.objectives.config import ObjectiveConfig


def scgpt_pretraining() -> ObjectiveConfig:
    """Generative pre-training: unknown genes from their own states, from the cell, and from the cell as prompt.

    A quarter, half, or three quarters of the genes are unknown, which is what the view does when nothing else is said.
    The published code adds the last after 1,000 steps; with more than 1,000 minibatches an epoch, from the first step.
    The paper names the first and the last only.
    """
    return ObjectiveConfig(
        view="generative_split",
        terms={"masked_value": 1.0, "cell_value": 1.0, "prompted_value": 1.0},
    )


def scgpt_integration() -> ObjectiveConfig:
    """Integration of sequencing batches: values and zeros from tokens and from the cell, alike or apart, no domain.

    The network has a zero gate, sequencing batches at its heads, and a batch norm of each domain. The paper's threshold
    of ``similarity`` is 0.6.
    """
    return ObjectiveConfig(
        view="random_mask",
        view_options={"fraction": 0.4},
        terms={
            "masked_value": 1.0,
            "zero_gate": 1.0,
            "cell_value": 1.0,
            "cell_zero_gate": 1.0,
            "similarity": 10.0,
            "domain": 1.0,
        },
        term_options={"similarity": {"threshold": 0.8}},
    )


def scgpt_annotation() -> ObjectiveConfig:
    """Cell types: the label alone, nothing hidden."""
    return ObjectiveConfig(view="clean", terms={"label": 1.0})


def scgpt_perturbation() -> ObjectiveConfig:
    """Perturbation: the value after it, of every gene that is fed. The view, of pairs of cells, is the task's own."""
    return ObjectiveConfig(view=None, terms={"masked_value": 1.0})


def scgpt_multiome() -> ObjectiveConfig:
    """Several modalities: values from tokens and from the cell, no domain. No zero gate, no norm of each domain."""
    return ObjectiveConfig(
        view="random_mask",
        view_options={"fraction": 0.4},
        terms={"masked_value": 1.0, "cell_value": 1.0, "domain": 1.0},
    )


PUBLISHED: dict[str, Callable[[], ObjectiveConfig]] = {
    "scgpt_pretraining": scgpt_pretraining,
    "scgpt_integration": scgpt_integration,
    "scgpt_annotation": scgpt_annotation,
    "scgpt_perturbation": scgpt_perturbation,
    "scgpt_multiome": scgpt_multiome,
}
"""Name -> objective."""
