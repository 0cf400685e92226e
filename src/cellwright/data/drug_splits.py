"""Hold pairs out: whole cell lines, whole drugs, or single pairs, and the split of the published code.

Pairs drawn at random leave every line and every drug in training. A model then needs only the line's name to do well,
so such a split cannot tell a good representation of cells from a name tag; it is here to be shown, not to be trusted.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from cellwright.data.drugs import Responses
from cellwright.data.splits import PARTS, Split

SplitBy = Literal["line", "drug", "pair"]
PUBLISHED_LABELS = (
    "ALL", "BLCA", "BRCA", "CESC", "DLBC", "LIHC", "LUAD", "ESCA", "GBM", "HNSC", "KIRC", "LAML", "LCML", "LGG",
    "LUSC", "MESO", "MM", "NB", "OV", "PAAD", "SCLC", "SKCM", "STAD", "THCA", "COAD/READ",
)  # fmt: skip
"""Cancer types of DeepCDR's split, in the order in which they are drawn from; other types are in neither part."""


def folds(num: int, num_folds: int, *, seed: int) -> np.ndarray:
    """Return int64 ``[num]``: the fold of each line or drug, sizes equal to within one.

    Raises
    ------
    ValueError
        Fewer than two folds, or more folds than things.
    """
    if not 2 <= num_folds <= num:
        raise ValueError(f"{num_folds} folds of {num}; at least 2 folds are needed, and one line or drug for each")
    return np.random.default_rng(seed).permutation(num) % num_folds


def split_pairs(
    responses: Responses,
    *,
    by: SplitBy = "line",
    fold: int = 0,
    fold_k: np.ndarray | None = None,
    num_folds: int = 5,
    valid: float = 0.1,
    seed: int = 0,
) -> Split:
    """Hold one fold of the lines, drugs or pairs out as test; part of the rest is for choosing (valid).

    Parameters
    ----------
    by
        ``line`` (a new cell line: what a representation of cells is for), ``drug`` (a new compound), ``pair`` (neither
        is new; it cannot rank representations).
    fold
        The fold that is the test part, 0 .. ``num_folds`` - 1.
    fold_k
        The fold of each name of ``responses.lines`` (or ``drugs``, or of each pair) instead of a drawn one.
    valid
        Share of the remaining lines, drugs or pairs, held out the same way; 0 = none.

    Returns
    -------
    Split over the positions of the pairs; its groups are names of lines or drugs.

    Raises
    ------
    ValueError
        Unknown ``by`` or fold, a part that would be empty.
    """
    units = {"line": (responses.line_p, responses.lines), "drug": (responses.drug_p, responses.drugs)}
    if by not in (*units, "pair"):
        raise ValueError(f"split by {by!r}; choose line, drug or pair")
    if not 0 <= valid < 1:
        raise ValueError(f"valid = {valid}: must be 0 or more and below 1")
    unit_p, names = units.get(by, (np.arange(len(responses)), ()))
    num = len(names) or len(responses)
    fold_k = folds(num, num_folds, seed=seed) if fold_k is None else np.asarray(fold_k)
    if fold_k.shape != (num,):
        raise ValueError(f"folds are {fold_k.shape}, but there are {num} to be held out by {by}")
    if fold not in fold_k:
        raise ValueError(f"no fold {fold}; there are {sorted(set(fold_k.tolist()))}")
    part_k = np.where(fold_k == fold, 2, 0)
    rest = np.flatnonzero(part_k == 0)
    num_valid = max(round(valid * len(rest)), 1) if valid else 0
    if len(rest) <= num_valid:
        raise ValueError(f"holding out leaves {len(rest)} of {num} for training and validation; use more data")
    part_k[np.random.default_rng([seed, fold]).permutation(rest)[:num_valid]] = 1
    part_p = part_k[unit_p]
    groups = {part: tuple(np.array(names)[part_k == i].tolist()) for i, part in enumerate(PARTS)} if names else {}
    return _made(responses, part_p, by=by, seed=seed, groups=groups)


def published_sample(groups: Sequence[Sequence[Any]], *, share: float = 0.95, seed: int = 0) -> list[list[int]]:
    """Draw ``share`` of each group without replacement, by the algorithm of Python 2's ``random.sample``.

    The i-th draw takes position ``int(random() * (size - i))`` of what is left, and the last one left moves into the
    gap. Python 3 draws other positions from the same seed, so that its split has the published sizes and other pairs.

    Returns
    -------
    For each group the drawn positions, in the order drawn. One stream of random numbers serves all groups in turn.
    """
    stream = random.Random(seed)
    drawn = []
    for group in groups:
        left = list(range(len(group)))
        taken = []
        for _ in range(int(share * len(group))):
            at = int(stream.random() * len(left))
            taken.append(left[at])
            left[at] = left[-1]
            left.pop()
        drawn.append(taken)
    return drawn


def published_split(responses: Responses, label_p: Sequence[str]) -> tuple[np.ndarray, Split]:
    """Return DeepCDR's split: 95 % of the pairs of each of 25 cancer types for training, the rest is test.

    Parameters
    ----------
    responses
        All instances in the order in which the published code builds them, repeats kept.
    label_p
        Cancer type of each pair.

    Returns
    -------
    Positions of the pairs that take part (training in the order drawn, then test), and a Split over *these*. There is
    no validation part: the published code chooses its epoch on the test part.

    Notes
    -----
    A test pair whose (line, drug, value) equals a training pair's is left out, as there. Pairs that repeat a line and
    a drug with another value stay, so the parts are not disjoint in (line, drug): 538 of 4,729 on the published table.
    """
    label_p = np.asarray(label_p)
    places = [np.flatnonzero(label_p == label) for label in PUBLISHED_LABELS]
    keys = list(zip(responses.line_p.tolist(), responses.drug_p.tolist(), responses.value_p.tolist(), strict=True))
    train: list[int] = []
    test: list[int] = []
    for place, taken in zip(places, published_sample(places), strict=True):
        drawn = place[taken].tolist()
        known = {keys[p] for p in drawn}
        train += drawn
        test += [p for p in place.tolist() if keys[p] not in known]
    if not train or not test:
        raise ValueError(f"the published split leaves {len(train)} training and {len(test)} test pairs; check labels")
    kept = np.array([*train, *test], np.int64)
    part_p = np.where(np.arange(len(kept)) < len(train), 0, 2)
    return kept, _made(responses.take(kept), part_p, by="pair", seed=0, groups={})


def _made(responses: Responses, part_p: np.ndarray, *, by: str, seed: int, groups: dict) -> Split:
    digest = hashlib.sha256()
    for line, drug, part in zip(responses.line_p, responses.drug_p, part_p.tolist(), strict=True):
        digest.update(f"{responses.lines[line]}\t{responses.drugs[drug]}\t{PARTS[part]}\n".encode())
    rows = {part: np.flatnonzero(part_p == i).astype(np.int64) for i, part in enumerate(PARTS)}
    for part in ("train", "test"):
        if not len(rows[part]):
            raise ValueError(f"the {part} part would have no pairs")
    notes = () if by != "pair" else ("all lines and drugs may be in training: representations cannot be ranked",)
    return Split(**rows, by=by, seed=seed, groups=groups, sha256=digest.hexdigest(), notes=notes)
