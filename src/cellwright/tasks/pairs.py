"""Coarse and fine words chosen together, by the probability of both.

A network that writes sentences says the coarse word first and the fine one behind it. Taking the likeliest word in each
turn can end in an unlikely pair, or in one that the hierarchy does not know. Here every pair that the hierarchy allows
has the probability

    p(coarse, fine) = p(coarse) p(fine | coarse was said),

both from the scores of the entity head: p(coarse) is the softmax over the coarse words at the asking word, p(fine |
coarse) that over the fine words which may follow, after the network has read the coarse word. (The head is trained with
a yes or no for each word; the softmax is what the yes's come to, given that exactly one word of the list is right.) The
pair of the highest probability is the answer. Coarse words are tried in the order of their probability, and no longer
than it takes to know which pair is best: p(coarse) bounds all pairs that begin with it. So the answer is exact, a
sure cell needs one trial, and the prompt is read once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellwright.tasks.hierarchy import WordHierarchy
from cellwright.types import CellEnd, Layout, TokenBatch
from cellwright.vocab import GeneVocab


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairProbs:
    """Probabilities of all answers, in the order of the source. Axis ``k``: the pairs of `WordHierarchy.pairs`."""

    pairs: tuple[tuple[str | None, str | None], ...]
    """(coarse, fine). A fine word of ``None`` is the coarse word alone: for a coarse word without fine ones, and for
    those that were not tried."""
    prob_nk: np.ndarray
    """float32 ``[n, k]``, rows sum to 1."""
    best_n: np.ndarray
    """int64 ``[n]``: the pair of the highest probability; a coarse word that was not tried is never the best."""
    coarse_prob_n: np.ndarray
    """float32 ``[n]``: p(coarse) of the best pair; 1 where there are no coarse words."""
    embedding_nd: np.ndarray
    """float32 ``[n, d]``: state at the coarse word of the best pair; at the asking word where there are none."""

    @property
    def prob_n(self) -> np.ndarray:
        """float32 ``[n]``: p(coarse, fine) of the best pair."""
        return self.prob_nk[np.arange(len(self.best_n)), self.best_n]

    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """Return coarse and fine word of each best pair, str ``[n]``; the coarse word twice where it is alone."""
        coarse_k = np.array([coarse or fine for coarse, fine in self.pairs], dtype=object)
        fine_k = np.array([fine or coarse for coarse, fine in self.pairs], dtype=object)
        return coarse_k[self.best_n].astype(str), fine_k[self.best_n].astype(str)


def score_pairs(
    network: Any,
    prompts: Iterable[tuple[np.ndarray, TokenBatch]],
    num_cells: int,
    *,
    vocab: GeneVocab,
    hierarchy: WordHierarchy,
    coverage: float = 0.0,
) -> PairProbs:
    """Score the pairs of every cell; see the module's text.

    Parameters
    ----------
    network
        A causal network with ``new_cache``, in evaluation mode on the device of the prompts.
    prompts
        (positions, packed sentences that end with the asking word), covering all cells.
    num_cells
        How many cells there are.
    vocab
        The model's words.
    hierarchy
        Which pairs there are.
    coverage
        Go on until the coarse words tried have this probability together, 0 .. 1; the rest stays with the coarse words
        that were not tried. 0 = only as far as the best pair needs.
    """
    plan = _Plan(vocab, hierarchy)
    prob_nk = np.zeros((num_cells, len(plan.pairs)), np.float32)
    best_n, coarse_prob_n = np.zeros(num_cells, np.int64), np.zeros(num_cells, np.float32)
    embedding_nd = np.empty((num_cells, network.width), np.float32)
    for at_n, tokens in prompts:
        done = _Trial(network, tokens, plan).run(coverage)
        prob_nk[at_n], best_n[at_n] = done.prob_nk.cpu().numpy(), done.best_n.cpu().numpy()
        coarse_prob_n[at_n], embedding_nd[at_n] = done.coarse_prob_n.cpu().numpy(), done.embedding_nd.cpu().numpy()
    return PairProbs(
        pairs=plan.pairs, prob_nk=prob_nk, best_n=best_n, coarse_prob_n=coarse_prob_n, embedding_nd=embedding_nd
    )


class _Plan:
    """The hierarchy in ids; ``place_cf`` is the pair's number, of pairs that are none the last one."""

    def __init__(self, vocab: GeneVocab, hierarchy: WordHierarchy):
        self.pairs = hierarchy.pairs
        self.coarse_c, self.fine_f = (torch.from_numpy(vocab.ids(w)) for w in (hierarchy.coarse, hierarchy.fine))
        self.is_child_cf = torch.from_numpy(hierarchy.is_child_cf)
        is_row_cf = hierarchy.is_child_cf if hierarchy.coarse else np.ones((1, len(hierarchy.fine)), bool)
        place_cf = np.full(is_row_cf.shape, len(self.pairs), np.int64)
        place_cf[is_row_cf] = np.arange(is_row_cf.sum())
        self.place_cf = torch.from_numpy(place_cf)
        self.alone_c = torch.arange(len(hierarchy.coarse)) + int(is_row_cf.sum())


class _Trial:
    """One minibatch: what is known of each cell so far, and the coarse words that are still to be tried."""

    def __init__(self, network: Any, tokens: TokenBatch, plan: _Plan):
        device = tokens.gene_nt.device
        self.network = network
        self.coarse_c, self.fine_f, self.is_child_cf, self.place_cf, self.alone_c = (
            x.to(device) for x in (plan.coarse_c, plan.fine_f, plan.is_child_cf, plan.place_cf, plan.alone_c)
        )
        self.cache = network.new_cache(max(tokens.layout.lengths) + 1)
        self.last_nd, self.weight_vd, self.level_vd = self._read(tokens)
        n = len(self.last_nd)
        # one column more takes what belongs to no pair
        self.wide_nk = self.last_nd.new_zeros(n, len(plan.pairs) + 1)
        self.best_n, self.highest_n = torch.zeros(n, dtype=torch.long, device=device), self.last_nd.new_full((n,), -1.0)
        self.coarse_prob_n, self.embedding_nd = self.last_nd.new_ones(n), self.last_nd.clone()

    @property
    def prob_nk(self) -> Tensor:
        return self.wide_nk[:, :-1]

    def run(self, coverage: float) -> _Trial:
        """Try coarse words until the best pair is known and enough of them were tried."""
        if not len(self.coarse_c):
            prob_nf = self._scores(self.last_nd, self.fine_f).softmax(-1)
            self.wide_nk[:, self.place_cf[0]] = prob_nf
            self.highest_n, self.best_n = prob_nf.max(1)
            return self
        prob_nc = self._scores(self.last_nd, self.coarse_c).softmax(-1)
        self.wide_nk[:, self.alone_c] = prob_nc  # moves to the pairs when they are tried
        order_nc = prob_nc.argsort(dim=1, descending=True, stable=True)
        row_n = torch.arange(len(prob_nc), device=prob_nc.device)
        tried_n = torch.zeros_like(self.highest_n)
        kept_n, lengths = row_n, self.cache.lengths  # the rows that the cache still holds
        for rank in range(len(self.coarse_c)):
            prob_n = prob_nc[row_n, order_nc[row_n, rank]]
            is_open_n = (prob_n > self.highest_n[row_n]) | (tried_n[row_n] < coverage)
            row_n = row_n[is_open_n]
            if not len(row_n):
                break
            if 2 * len(row_n) <= len(kept_n):  # copying what is kept costs, so not for a few rows
                at_n = torch.searchsorted(kept_n, row_n)
                self.cache.take(at_n)
                kept_n, lengths = row_n, self.cache.lengths
            self._try(order_nc[:, rank], prob_nc, kept_n, row_n)
            self.cache.lengths = lengths  # the next word goes where this one was
            tried_n[row_n] += prob_nc[row_n, order_nc[row_n, rank]]
        return self

    def _try(self, coarse_n: Tensor, prob_nc: Tensor, kept_n: Tensor, row_n: Tensor) -> None:
        """Let the kept rows read their coarse word; note the pairs of ``row_n``, which are among them."""
        word_n = self.coarse_c[coarse_n[kept_n]]
        level_n = (self.last_nd[kept_n] * self.level_vd[word_n]).sum(-1).round().clamp(0, self.network.num_levels)
        hidden_nd, _, _ = self._read(_one_word(word_n, level_n.long()))
        hidden_nd = hidden_nd[torch.searchsorted(kept_n, row_n)]
        coarse_n = coarse_n[row_n]
        is_child_nf = self.is_child_cf[coarse_n]
        score_nf = self._scores(hidden_nd, self.fine_f).masked_fill_(~is_child_nf, -torch.inf)
        prob_n = prob_nc[row_n, coarse_n]
        has_child_n = is_child_nf.any(1)
        prob_nf = torch.where(has_child_n[:, None], score_nf.softmax(-1) * prob_n[:, None], 0.0)
        place_nf = self.place_cf[coarse_n]
        self.wide_nk[row_n[:, None], place_nf] = prob_nf
        self.wide_nk[row_n, self.alone_c[coarse_n]] = torch.where(has_child_n, 0.0, prob_n)
        highest_n, at_n = prob_nf.max(1)
        highest_n = torch.where(has_child_n, highest_n, prob_n)
        place_n = torch.where(has_child_n, place_nf.gather(1, at_n[:, None])[:, 0], self.alone_c[coarse_n])
        is_better_n = highest_n > self.highest_n[row_n]
        better_n = row_n[is_better_n]
        self.highest_n[better_n], self.best_n[better_n] = highest_n[is_better_n], place_n[is_better_n]
        self.coarse_prob_n[better_n], self.embedding_nd[better_n] = prob_n[is_better_n], hidden_nd[is_better_n]

    def _read(self, tokens: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the state at each last word, and the rows of both heads, float32."""
        out = self.network(tokens, ("entity", "level"), cache=self.cache, only=CellEnd("last", 1))
        return out.layout.last(out.hidden_ntd).float(), out.entity.weight_vd.float(), out.level.weight_vd.float()

    def _scores(self, hidden_nd: Tensor, ids: Tensor) -> Tensor:
        with torch.autocast(hidden_nd.device.type, enabled=False):  # near ties must not be decided by rounding
            return hidden_nd @ self.weight_vd[ids].T


def _one_word(word_n: Tensor, level_n: Tensor) -> TokenBatch:
    return TokenBatch(
        gene_nt=word_n[:, None],
        value_nt=level_n[:, None],
        is_hidden_nt=torch.zeros_like(word_n[:, None], dtype=torch.bool),
        layout=Layout((1,) * len(word_n), 1),
    )
