"""Give a trained network further parts and further words, and keep what it has learnt.

Fine-tuning for a task may need what pre-training did not have: batch norms a sequencing batch, condition flags, an
affine head, tokens of proteins. Published code loads what happens to fit and draws the rest anew, in silence; here
every tensor is kept, grown or fresh, and the report says which. A network whose parts only grew answers as before:
what is new in a linear layer begins at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cellwright.models.bundle import LoadReport, Model, build_network
from cellwright.vocab import GeneVocab


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """A changed copy of a model, and what became of its tensors (names as in the network's state dict)."""

    model: Model
    kept: tuple[str, ...]
    """As they were."""
    grown: tuple[str, ...]
    """As they were, with rows or columns added."""
    fresh: tuple[str, ...]
    """Newly drawn: parts that were not there, and those that were to be redrawn."""
    dropped: tuple[str, ...]
    """Of parts that the changed architecture does not have."""

    @property
    def unlearnt(self) -> tuple[str, ...]:
        """Tensors with numbers in them that no training has seen; they must be trained in every mode."""
        return (*self.grown, *self.fresh)

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"num_kept": len(self.kept), **{n: list(getattr(self, n)) for n in ("grown", "fresh", "dropped")}}


def adapted(
    model: Model,
    changes: Mapping[str, Any] | None = None,
    *,
    vocab: GeneVocab | None = None,
    redraw: Sequence[str] = (),
    seed: int = 0,
) -> Adapted:
    """Return a copy of ``model`` under a changed architecture record or a larger vocabulary.

    New tokens get rows in every table that has one a token: in an embedding, a vector drawn like those of known tokens
    of its kind (words of its category; genes), in a head their mean, since heads trained on millions of absent words
    answer far below zero and a random row would win every comparison. Heads of tasks stay behind: they were trained on
    what the network said before.

    Parameters
    ----------
    model
        The model; left alone.
    changes
        Fields of the family's architecture record -> new value.
    vocab
        The model's vocabulary with tokens behind it: `GeneVocab.extended`. ``None`` = as it is.
    redraw
        Prefixes of tensors that are newly drawn although they would fit (dotted names, ``value_head``).
    seed
        Of all that is newly drawn.

    Raises
    ------
    ValueError
        When ``vocab`` does not begin with the model's tokens or gives special tokens other roles, a change would make
        a tensor smaller or of another kind, or ``redraw`` names nothing.
    """
    vocab = model.vocab if vocab is None else vocab
    _check_vocab(model.vocab, vocab)
    config = model.family.config.read(model.config.record() | dict(changes or {}), "architecture")
    network = build_network(model.family, config, vocab, seed)
    before, after = model.network.state_dict(), network.state_dict()
    for prefix in redraw:
        if not any(_is_under(name, prefix) for name in after):
            raise ValueError(f"nothing in the network is called {prefix!r}, so it cannot be redrawn")
    is_redrawn = {name: any(_is_under(name, prefix) for prefix in redraw) for name in after}
    known = [name for name in after if name in before and not is_redrawn[name]]
    kinds = [_kind(token, model.vocab, vocab) for token in vocab.tokens[len(model.vocab) :]]
    generator = torch.Generator().manual_seed(seed)
    kept, grown = [], []
    for name in known:
        old, new = before[name], after[name]
        if old.shape == new.shape:
            after[name], _ = old.clone(), kept.append(name)
            continue
        _check_larger(name, old, new)
        owner = network.get_submodule(name.rpartition(".")[0])
        if kinds and len(old) == len(model.vocab) and len(new) == len(vocab):
            after[name] = torch.cat([old, _rows(old, kinds, generator if isinstance(owner, nn.Embedding) else None)])
        else:
            after[name] = _grown(old, new, is_linear=isinstance(owner, nn.Linear))
        grown.append(name)
    network.load_state_dict(after)
    _copy_flags(model.network, network)
    network.train(model.network.training)
    made = Adapted(
        model=replace(model, config=config, vocab=vocab, network=network, heads={}, classes={}, extras={}, origin={}),
        kept=tuple(kept),
        grown=tuple(grown),
        fresh=tuple(name for name in after if name not in set(known)),
        dropped=tuple(name for name in before if name not in after),
    )
    made.model.report = LoadReport(source=model.report.source, kind="new", layout="cellwright")
    made.model.origin = {name: fact for name, fact in model.origin.items() if name not in ("layout", "files")}
    made.model.origin["adapted"] = {"from_sha256": model.sha256(), **made.record()}
    return made


def _check_vocab(old: GeneVocab, new: GeneVocab) -> None:
    if new.tokens[: len(old)] != old.tokens:
        raise ValueError("the new vocabulary must begin with all tokens of the old one, in order; use extended()")
    if new.specials != old.specials:
        raise ValueError("the new vocabulary has other special tokens; only genes and words can be added")


def _check_larger(name: str, old: Tensor, new: Tensor) -> None:
    if old.ndim != new.ndim or any(a > b for a, b in zip(old.shape, new.shape, strict=True)):
        raise ValueError(
            f"{name} is {tuple(old.shape)} and would become {tuple(new.shape)}; parts can grow, and others must be "
            f"redrawn (redraw={name.rpartition('.')[0]!r})"
        )


def _is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _grown(old: Tensor, new: Tensor, *, is_linear: bool) -> Tensor:
    """Lay ``old`` over the first rows and columns of ``new``; the rest of a linear layer is zero."""
    out = torch.zeros_like(new) if is_linear else new.clone()
    out[tuple(slice(size) for size in old.shape)] = old
    return out


def _kind(token: str, old: GeneVocab, new: GeneVocab) -> tuple[int, ...]:
    """Return the ids of old tokens of the same kind as a new one."""
    like = {w for words in new.categories.values() if token in words for w in words} if token in new.words else ()
    ids = old.ids(like if token in new.words else old.genes)
    ids = ids[ids >= 0]
    return tuple((ids if len(ids) else old.ids(old.words or old.genes)).tolist())


def _rows(weight_vd: Tensor, kinds: list[tuple[int, ...]], generator: torch.Generator | None) -> Tensor:
    """Return a row for each new token: the mean of its kind, and with a generator noise of its kind's spread."""
    of_kind: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
    for kind in set(kinds):
        some_vd = weight_vd[list(kind)]
        of_kind[kind] = some_vd.mean(0), some_vd.std(0, correction=0)
    rows_vd = torch.stack([of_kind[kind][0] for kind in kinds])
    if generator is None:
        return rows_vd
    spread_vd = torch.stack([of_kind[kind][1] for kind in kinds])
    noise_vd = torch.randn(spread_vd.shape, generator=generator).to(spread_vd)
    return rows_vd + spread_vd * noise_vd


def _copy_flags(before: nn.Module, after: nn.Module) -> None:
    """Keep frozen parameters frozen."""
    is_trained = {name: parameter.requires_grad for name, parameter in before.named_parameters()}
    for name, parameter in after.named_parameters():
        parameter.requires_grad_(is_trained.get(name, True))
