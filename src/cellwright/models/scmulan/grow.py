"""Teach a scMulan network further words: rows for them in its entity table and in both heads, together.

Published code has no way to do this; a new label needs all three. New rows begin as what the network knows of their
kind, since heads trained on millions of absent words answer far below zero: a row of fresh random numbers would win
every comparison with trained ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cellwright.models.scmulan.model import ScMulan, build
from cellwright.vocab import GeneVocab


def grow_model(model: Any, vocab: GeneVocab, *, seed: int = 0) -> Any:
    """Return a copy of a scMulan `cellwright.models.Model` that knows ``vocab``; what it answers for old words stays.

    Parameters
    ----------
    model
        The model; left alone.
    vocab
        The model's vocabulary with tokens behind it: `GeneVocab.extended`.
    seed
        Of the small random part of new entity vectors.

    Raises
    ------
    ValueError
        When ``vocab`` does not begin with the model's tokens, or gives special tokens other roles.
    """
    network = grow(model.network, model.vocab, vocab, seed=seed)
    network.train(model.network.training)
    return replace(model.copy(), network=network, vocab=vocab)


def grow(network: ScMulan, old: GeneVocab, new: GeneVocab, *, seed: int = 0) -> ScMulan:
    """Return a larger copy of a network; see `grow_model`.

    A new word's entity vector is the mean over old words of its kind (its category, or genes) plus normal numbers of
    standard deviation 0.02; its head rows are that mean. A category without old words takes the mean of all words.
    """
    if new.tokens[: len(old)] != old.tokens:
        raise ValueError("the new vocabulary must begin with all tokens of the old one, in order; use extended()")
    if new.specials != old.specials:
        raise ValueError("the new vocabulary has other special tokens; only genes and words can be added")
    with torch.random.fork_rng(devices=[]):
        grown = build(network.config, new).to(network.norm.weight)
    kinds = [_kind(token, old, new) for token in new.tokens[len(old) :]]
    generator = torch.Generator().manual_seed(seed)
    noise_vd = torch.randn(len(kinds), network.width, generator=generator) * 0.02
    state = network.state_dict()
    for name in ("gene_encoder.weight", "entity_head.weight", "level_head.weight"):
        rows_vd = _rows(state[name], kinds)
        if name == "gene_encoder.weight":
            rows_vd = rows_vd + noise_vd.to(rows_vd)
        state[name] = torch.cat([state[name], rows_vd])
    grown.load_state_dict(state)
    _copy_flags(network, grown)
    return grown


def _kind(token: str, old: GeneVocab, new: GeneVocab) -> tuple[int, ...]:
    """Return the ids of old words of the same kind as a new token."""
    like = {w for words in new.categories.values() if token in words for w in words} if token in new.words else ()
    ids = old.ids(like if token in new.words else old.genes)
    ids = ids[ids >= 0]
    return tuple((ids if len(ids) else old.ids(old.words or old.genes)).tolist())


def _rows(weight_vd: Tensor, kinds: list[tuple[int, ...]]) -> Tensor:
    means: dict[tuple[int, ...], Tensor] = {kind: weight_vd[list(kind)].mean(0) for kind in set(kinds)}
    return torch.stack([means[kind] for kind in kinds]) if kinds else weight_vd[:0]


def _copy_flags(network: nn.Module, grown: nn.Module) -> None:
    """Keep frozen parameters frozen."""
    for before, after in zip(network.parameters(), grown.parameters(), strict=True):
        after.requires_grad_(before.requires_grad)
