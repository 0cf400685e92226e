"""A made-up evaluation of realistic shape, for tests that look at reports and figures."""

import numpy as np

from cellwright.evaluate import (
    Cells,
    Cost,
    Curve,
    CurvePoint,
    Difference,
    Evaluation,
    Grouping,
    Method,
    Provenance,
    Score,
    Section,
    Table,
    labelled_sections,
    measures_of,
)
from cellwright.metrics import METRICS

CLASSES = (
    "B cell",
    "CD14-positive, CD16-negative classical monocyte",
    "CD4-positive, alpha-beta T cell",
    "CD8-positive, alpha-beta cytotoxic T cell",
    "hematopoietic stem and progenitor cell",
    "natural killer cell",
    "FCGR3A+ monocyte",
    "conventional dendritic cell",
)


def made_up_cells(num_cells=2400, num_classes=8, seed=0, group_names=("donor A", "donor B", "donor C")):
    generator = np.random.default_rng(seed)
    centre_k2 = generator.normal(scale=7, size=(num_classes, 2))
    share_k = generator.dirichlet(np.full(num_classes, 1.5))
    truth_n = generator.choice(num_classes, p=share_k, size=num_cells)
    is_right_n = generator.random(num_cells) < 0.83
    pred_n = np.where(is_right_n, truth_n, generator.integers(num_classes, size=num_cells))
    pred_n[generator.random(num_cells) < 0.03] = -1
    confidence_n = np.where(pred_n == truth_n, generator.beta(8, 1, num_cells), generator.beta(4, 2, num_cells))
    return Cells(
        umap_n2=(centre_k2[truth_n] + generator.normal(size=(num_cells, 2))).astype(np.float32),
        truth_n=truth_n,
        pred_n=pred_n,
        confidence_n=confidence_n.astype(np.float32),
        groupings={"donor": Grouping(generator.integers(len(group_names), size=num_cells), tuple(group_names))},
    )


def _curve(name, stage, height, seed, num_points=60):
    generator = np.random.default_rng(seed)
    points = []
    for i in range(num_points):
        trend = height * (0.35 + 0.65 * np.exp(-i / 12))
        valid = trend * 1.06 + 0.01 * i / num_points if i % 6 == 5 else None
        points.append(CurvePoint(step=20 * i, train_loss=trend * (1 + 0.06 * generator.normal()), valid_loss=valid))
    return Curve(name=name, stage=stage, points=tuple(points))


def _method(name, what, is_baseline, values, **cost):
    names = ("macro_f1", "macro_f1_present", "accuracy", "ece")
    scores = {
        metric: Score(value=value, low=value - 0.013, high=value + 0.012)
        for metric, value in zip(names, values, strict=True)
    }
    return Method(name=name, what=what, is_baseline=is_baseline, scores=scores, **cost)


METHODS = (
    _method("scgpt-small, pre-trained, fine-tuned", "all weights trained on the reference cells", False,
            (0.861, 0.872, 0.884, 0.041), seconds=431.2, trained_parameters=3_412_998),
    _method("scgpt-small, from scratch", "the same network from random weights", False,
            (0.802, 0.811, 0.829, 0.078), seconds=433.0, trained_parameters=3_412_998),
    _method("scgpt-small, frozen probe", "logistic regression on frozen embeddings", False,
            (0.774, 0.792, 0.80, 0.06), seconds=21.5, trained_parameters=1544),
    _method("majority", "class shares of the training cells, the same answer for every cell", True,
            (0.131, 0.131, 0.486, 0.252), seconds=0.1),
    _method("pca_knn", "vote of the 15 nearest training cells in 50 principal components", True,
            (0.689, 0.827, 0.774, 0.072), seconds=4.1),
    _method("pca_logistic", "logistic regression on 50 principal components", True,
            (0.841, 0.843, 0.853, 0.078), seconds=3.1, trained_parameters=408),
    _method("gene_logistic", "logistic regression on the 5,000 most variable genes", True,
            (0.692, 0.83, 0.811, 0.099), seconds=2.0, trained_parameters=40_008),
)  # fmt: skip


def made_up_evaluation(**changes):
    fields = {
        "title": "Cell types of 2,400 blood cells from another study",
        "task": "annotation",
        "created": "2026-11-21T12:00:00+00:00",
        "headline": "Fine-tuning the pre-trained network labels cells of an unseen study slightly better than "
        "logistic regression on principal components does, and pre-training is worth 0.06 of macro-F1.",
        "summary": ("Training: 3,874 sorted blood cells, 6 labels. Query: 2,400 cells of three donors.",),
        "measures": measures_of(METRICS),
        "primary_metric": "macro_f1",
        "methods": METHODS,
        "differences": (
            Difference(method="scgpt-small, pre-trained, fine-tuned", other="pca_logistic", metric="macro_f1",
                       value=0.020, low=0.004, high=0.037),
        ),
        "interval_note": "In brackets: 95 % bootstrap intervals over cells, 1,000 resamples.",
        "classes": CLASSES,
        "cells": made_up_cells(),
        "cells_method": "scgpt-small, pre-trained, fine-tuned",
        "contracts": (
            Section(heading="Reference: sorted blood cells", lines=("Matrix: raw counts in X.",),
                    facts={"cells": 3874, "genes": 21952, "genes in the vocabulary": 13670, "share of UMIs": 0.981}),
            Section(heading="Query: blood cells", facts={"cells": 2400, "genes": 13714, "duplicates": 0}),
        ),
        "curves": (
            _curve("pre-training, 14,000 cells", "Pre-training: masked value loss", 4.2, 0),
            _curve("pre-trained, fine-tuned", "Fine-tuning: cross-entropy", 1.4, 1, 36),
            _curve("from scratch", "Fine-tuning: cross-entropy", 1.9, 2, 36),
        ),
        "tables": {
            "Few labelled cells": Table(
                columns=("cells per class", "fine-tuned", "pca_logistic"),
                rows=((5, 0.61, 0.66), (20, 0.74, 0.75), (100, 0.82, 0.80)),
                note="Accuracy, mean of five draws.",
            )
        },
        "provenance": Provenance(
            versions={"python": "3.11.9", "cellwright": "0.1.0", "torch": "2.5.1", "numpy": "2.1.0"},
            seed=0, commit="9ae311f", model_sha256="a" * 64, split_sha256="b" * 64,
        ),
        "cost": Cost(seconds={"pre-training": 812.0, "fine-tuning": 431.2, "prediction": 9.8, "baselines": 9.3},
                     machine="2 CPU cores, no GPU", peak_memory_gb=2.31),
        "citations": ("Cui H. et al. scGPT. Nature Methods 21, 1470 (2024). https://doi.org/10.1038/s41592-024-02201-0",
                      "Zheng G. et al. Massively parallel digital profiling. Nature Communications 8, 14049 (2017)."),
        "licences": ("Code: BSD-3-Clause.", "Data: CC BY 4.0 (10x Genomics)."),
        "limitations": (
            "One reference and one query study: the intervals speak of other cells of this query, not of others.",
            "Each sorted population is its own sequencing run, so part of what is learned may be the run.",
            "The network is small and was pre-trained on 14,000 cells; nothing here is about the published weights.",
        ),
    }  # fmt: skip
    fields |= changes
    fields.setdefault("sections", labelled_sections(fields["cells"], fields["classes"], fields["cells_method"]))
    return Evaluation(**fields)
