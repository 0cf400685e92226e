"""Simple baselines of annotation and metadata on the cells and genes of the other studies.

Their tables take these rows in when they find them in the same folder.

    python studies/baselines.py --data FOLDER -o studies/results
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from common import ASKED, Record, as_codes, figure, markdown, open_part, parser, queries, scores_of
from joint_cells import CATEGORIES, joint_cells
from scipy import sparse

from cellwright.baselines.annotation import ANNOTATION_BASELINES
from cellwright.data.joined import open_together
from cellwright.models import FAMILIES, new_model

if TYPE_CHECKING:
    from anndata import AnnData


def baseline_words(
    model: Any, train: AnnData, asked: Mapping[str, AnnData]
) -> Iterator[tuple[str, dict[str, dict[str, np.ndarray]]]]:
    """Yield each baseline's name and its answers (part -> column -> words), on the genes that the model reads."""
    gene_ids = model.vocab.ids(model.vocab.genes)
    train_ng = open_part(train, model).logcp10k(gene_ids)
    query_ng = sparse.vstack([open_part(query, model).logcp10k(gene_ids) for query in asked.values()], format="csr")
    bounds = np.cumsum([query.n_obs for query in asked.values()])[:-1]
    for baseline, entry in ANNOTATION_BASELINES.items():
        answers: dict[str, dict[str, np.ndarray]] = {part: {} for part in asked}
        for name in CATEGORIES:
            known = sorted(set(train.obs[name]))
            code_n = as_codes(train.obs[name], known)
            prob_nk = entry.fit_predict(train_ng, code_n, query_ng, num_classes=len(known), seed=0)
            for part, code_m in zip(asked, np.split(prob_nk.argmax(1), bounds), strict=True):
                answers[part][name] = np.array(known)[code_m]
        yield baseline, answers


def main() -> None:
    options = parser(__doc__.splitlines()[0], steps=1)
    asked = options.parse_args()
    cells = joint_cells(asked.data)
    record, family = Record("baselines", asked, cells), FAMILIES["scmulan"]
    train, held_out = cells.part("train"), queries(cells)
    source = open_together([train], specials=family.specials, accepts=family.accepts, num_genes=asked.genes)
    model = new_model("scmulan", source.vocab, family.sizes["tiny"])
    for name, answers in baseline_words(model, train, held_out):
        scores = {part: scores_of(answers[part], query, part) for part, query in held_out.items()}
        record.add({"method": name}, scores=scores)
        record.save(table)


def table(rows: list[dict[str, Any]]) -> str:
    """Return macro-F1 over the classes present and accuracy."""
    columns = [(part, name) for part, names in ASKED.items() for name in names]
    parts = []
    for metric in ("macro_f1_present", "accuracy"):
        lines = [
            [row["method"], *(figure(row["scores"][part][name][metric]) for part, name in columns)] for row in rows
        ]
        parts.append(f"{metric}:\n\n{markdown(['method', *(f'{p}: {n}' for p, n in columns)], lines)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
