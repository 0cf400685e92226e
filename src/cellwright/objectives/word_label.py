"""Loss of a classifier of metadata beside the generative one: the words behind a task word, told from its state alone.

What generation says word by word, this says at once with a head of its own: the question whether metadata are better
written or classified (scMulan writes them) can be put to the same sentences and the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from cellwright.types import ModelOutput, Targets


class WordLabel(nn.Module):
    """Which words of some categories stand behind each sentence's task word, from the hidden state at that word.

    A causal network has read everything before the task word there and none of the answers. Averaged over sentences;
    one that asks for none of these words (a cell to be made) is not scored.

    Parameters
    ----------
    head
        Maps hidden states ``[n, d]`` to one logit a word ``[n, k]``, categories one after another. The term owns it.
    words
        Vocabulary ids of the words of each category.
    kind
        one: cross entropy within each category whose word is asked, summed over these categories. any: binary cross
        entropy of every word being there (0/1 words), summed over all words.

    Raises
    ------
    ValueError
        If a category has fewer than two words, or the kind is unknown.
    """

    needs: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset({"entity_nt", "is_asked_nt"})

    def __init__(self, head: nn.Module, words: Sequence[Sequence[int]], kind: Literal["one", "any"] = "one"):
        super().__init__()
        if not words or min(map(len, words)) < 2:
            raise ValueError("every category needs at least two words to choose from")
        if kind not in ("one", "any"):
            raise ValueError(f"kind is {kind!r}; choose one (cross entropy in each category) or any (0/1 words)")
        self.head, self.kind = head, kind
        self.sizes = [len(ids) for ids in words]
        self.register_buffer("word_k", torch.tensor([word for ids in words for word in ids]), persistent=False)

    def forward(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when no sentence asks for any of the words."""
        if targets.entity_nt is None or targets.is_asked_nt is None:
            raise ValueError("the view gave no values of sentences to answer; use a view such as c_sentence")
        is_there_nk = self._answers(out, targets)
        is_scored_n = is_there_nk.any(1)
        if not is_scored_n.any():
            raise ValueError("no word of these categories is scored; give sentences that ask for one of them")
        logit_nk = self.head(task_state(out, targets)[is_scored_n]).float()
        is_there_nk = is_there_nk[is_scored_n]
        if self.kind == "any":
            loss_nk = nn.functional.binary_cross_entropy_with_logits(logit_nk, is_there_nk.float(), reduction="none")
            return loss_nk.sum(1).mean()
        parts = zip(logit_nk.split(self.sizes, 1), is_there_nk.split(self.sizes, 1), strict=True)
        loss_n = sum(-(logit.log_softmax(1) * is_there).sum(1) for logit, is_there in parts)
        return loss_n.mean()

    def _answers(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return bool ``[n, k]``: the word stands behind the cell's task word."""
        layout = out.layout
        entity_t, is_asked_t = layout.pack(targets.entity_nt)[0], layout.pack(targets.is_asked_nt)[0]
        behind_t = is_asked_t.clone()
        behind_t[_first_asked(layout.lengths, is_asked_t)] = False
        is_word_tk = (entity_t[:, None] == self.word_k) & behind_t[:, None]
        count_nk = is_word_tk.new_zeros((layout.num_cells, len(self.word_k)), dtype=torch.long)
        return count_nk.index_add(0, layout.cell_of_token(entity_t.device), is_word_tk.long()) > 0


def task_state(out: ModelOutput, targets: Targets) -> Tensor:
    """Return the hidden state of each sentence's task word ``[n, d]``: the first word at which something is asked."""
    layout = out.layout
    is_asked_t = layout.pack(targets.is_asked_nt)[0]
    return layout.pack(out.hidden_ntd)[0][_first_asked(layout.lengths, is_asked_t)]


def _first_asked(lengths: Sequence[int], is_asked_t: Tensor) -> Tensor:
    """Return the packed place of each cell's first asked word, its last word where nothing is asked."""
    size = len(is_asked_t)
    at_t = torch.arange(size, device=is_asked_t.device)
    part_n = torch.where(is_asked_t, at_t, size).split(list(lengths))
    last_n = torch.tensor(lengths, device=is_asked_t.device).cumsum(0) - 1
    return torch.minimum(torch.stack([part.min() for part in part_n]), last_n)
