"""A network, a tokeniser, cells and a loader as small as the contracts allow; for tests of objectives and training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from cellwright.tokens.sentence import SentenceSpec, encode_sentences
from cellwright.types import CellBatch, Layout, ModelOutput, TokenBatch, WordScores
from cellwright.vocab import GeneVocab

NUM_GENES, CLS, PAD = 20, 20, 21
SPECIALS = {"cls": "<cls>", "pad": "<pad>", "end": "<end>", "annotate": "<a>", "place": "<p>", "generate": "<g>"}
SPECIALS |= {"target_depth": "<T>", "source_depth": "<S>"}
WORDS = {"organ": ["o0", "o1"], "region": ["o0", "r1"], "coarse_type": ["t0", "t1"], "cell_type": ["t0", "c1", "c2"]}
TOY_VOCAB = GeneVocab(
    [*(f"G{i}" for i in range(NUM_GENES)), *SPECIALS.values(), "o0", "o1", "r1", "t0", "t1", "c1", "c2"],
    SPECIALS,
    WORDS,
)


def toy_cells(num=6, *, seed=0, lengths=None, obs=True):
    """Ragged cells; gene ``g`` tends to have the value ``g % 5 + 1``."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, NUM_GENES + 1, num) if lengths is None else np.asarray(lengths)
    gene_z = np.concatenate([np.sort(rng.permutation(NUM_GENES)[:length]) for length in lengths]).astype(np.int32)
    value_z = (gene_z % 5 + 1 + (rng.random(len(gene_z)) < 0.2)).astype(np.float32)
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(lengths)]),
        gene_z=gene_z,
        value_z=value_z,
        row_n=np.arange(len(lengths)),
        total_n=np.full(len(lengths), 500.0),
        obs=_toy_obs(len(lengths)) if obs else {},
    )


def _toy_obs(num):
    """Codes of label, sequencing batch, and of the categories of the toy vocabulary."""
    return {
        "label": np.arange(num) % 3,
        "tech_batch": np.arange(num) % 2,
        **{name: np.arange(num) % len(words) for name, words in WORDS.items()},
    }


class ToyTokenizer:
    """``<cls>`` and then each stored gene with its value; packed or padded. Sentences are coded like any family's.

    Told a target depth, it gives all genes and ``<T>``, ``<S>``, as a family that knows read depth does.
    """

    vocab = TOY_VOCAB

    def __init__(self, *, is_packed=True):
        self.is_packed = is_packed

    def __call__(self, cells, draw, target_total_n=None):
        if target_total_n is not None:
            return self._with_depth(cells, target_total_n)
        parts_gene, parts_value, lengths = [], [], []
        for start, stop in zip(cells.indptr_n1[:-1], cells.indptr_n1[1:], strict=True):
            parts_gene += [[CLS], cells.gene_z[start:stop]]
            parts_value += [[0.0], cells.value_z[start:stop]]
            lengths.append(int(stop - start) + 1)
        gene_nt = torch.tensor(np.concatenate(parts_gene).astype(np.int64))[None]
        value_nt = torch.tensor(np.concatenate(parts_value).astype(np.float32))[None]
        tokens = TokenBatch(
            gene_nt=gene_nt,
            value_nt=value_nt,
            is_hidden_nt=torch.zeros_like(gene_nt, dtype=torch.bool),
            layout=Layout(tuple(lengths)),
        )
        return tokens if self.is_packed else tokens.padded(PAD)

    def depth_of(self, cells):
        return cells.total_n

    def _with_depth(self, cells, target_total_n):
        num, depth = len(cells), [TOY_VOCAB.special_id(role) for role in ("target_depth", "source_depth")]
        value_ng = np.zeros((num, NUM_GENES))
        value_ng[np.repeat(np.arange(num), cells.num_genes_n), cells.gene_z] = cells.value_z
        value_nt = np.column_stack([value_ng, np.log10(target_total_n), np.log10(self.depth_of(cells))])
        gene_nt = torch.tensor([*range(NUM_GENES), *depth]).repeat(num, 1)
        width = gene_nt.shape[1]
        tokens = TokenBatch(
            gene_nt=gene_nt,
            value_nt=torch.tensor(value_nt, dtype=torch.float32),
            is_hidden_nt=torch.zeros_like(gene_nt, dtype=torch.bool),
            layout=Layout((width,) * num, width),
        )
        return tokens.packed() if self.is_packed else tokens

    def sentences(self, cells, draw, *, before_nw=None, after_nw=None, order=None):
        spec = SentenceSpec(max_length=64, order=order or "reverse", pad_entity=PAD, is_packed=self.is_packed)
        return encode_sentences(cells, spec, draw, before_nw=before_nw, after_nw=after_nw)


class ToyModel(nn.Module):
    """Gene and value, mixed with the mean over the cell's visible tokens."""

    produces = frozenset({"value_nt", "expressed_nt", "cell_value_nt", "cell_expressed_nt"})
    needs_padding = False

    def __init__(self, width=8, *, dropout=0.0, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.width = width
            self.gene = nn.Embedding(PAD + 1, width)
            self.value = nn.Linear(1, width)
            self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh(), nn.Dropout(dropout))
            self.drop = nn.Dropout(dropout)
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, 2)
            self.cell_head = nn.Linear(width, 2 * width)

    def forward(self, tokens, outputs=None):
        layout, wanted = tokens.layout, self.produces if outputs is None else set(outputs)
        gene_ntd = self.gene(tokens.gene_nt)
        seen_nt = (~tokens.is_hidden_nt & ~layout.is_pad_nt(gene_ntd.device)).float()
        x_ntd = gene_ntd + self.value(tokens.value_nt[..., None]) * seen_nt[..., None]
        if tokens.cell_nd is not None:
            at_first_nt = torch.zeros_like(seen_nt)
            starts = layout.offsets()[:-1] if layout.is_packed else [0]
            at_first_nt[:, starts] = 1
            x_ntd = torch.lerp(x_ntd, layout.spread(tokens.cell_nd), at_first_nt[..., None])
        total_nd = self._sum(x_ntd * seen_nt[..., None], layout)
        mean_nd = total_nd / self._sum(seen_nt[..., None], layout).clamp(min=1)
        hidden_ntd = self.norm(self.mix(torch.cat([x_ntd, layout.spread(mean_nd)], -1)))
        cell_nd = self.drop(mean_nd)
        value_ntd, cell_ntd = self.head(hidden_ntd), layout.spread(self.cell_head(cell_nd)).chunk(2, -1)
        answers = {
            "value_nt": value_ntd[..., 0],
            "expressed_nt": torch.sigmoid(value_ntd[..., 1]),
            "cell_value_nt": (cell_ntd[0] * gene_ntd).sum(-1),
            "cell_expressed_nt": torch.sigmoid((cell_ntd[1] * gene_ntd).sum(-1)),
        }
        answers = {name: answer for name, answer in answers.items() if name in wanted}
        return ModelOutput(hidden_ntd=hidden_ntd, cell_nd=cell_nd, layout=layout, **answers)

    @staticmethod
    def _sum(x_ntd, layout):
        if layout.is_packed:
            return x_ntd.new_zeros(layout.num_cells, x_ntd.shape[-1]).index_add(0, layout.cell_of_token(), x_ntd[0])
        return x_ntd.sum(1)


class ToySentenceModel(ToyModel):
    """The same, which knows words and answers what follows them. (It is not causal; no test here asks for that.)"""

    produces = ToyModel.produces | {"entity", "level"}

    def __init__(self, width=8, *, dropout=0.0, seed=0):
        super().__init__(width, dropout=dropout, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        self.gene = nn.Embedding.from_pretrained(torch.randn(len(TOY_VOCAB), width, generator=generator), freeze=False)
        self.word_heads = nn.Parameter(torch.randn(2, len(TOY_VOCAB), width, generator=generator) / width)

    def forward(self, tokens, outputs=None):
        out = super().forward(tokens, outputs)
        wanted = self.produces if outputs is None else set(outputs)
        scores = {name: WordScores(out.hidden_ntd, self.word_heads[i]) for i, name in enumerate(("entity", "level"))}
        return replace(out, **{name: answer for name, answer in scores.items() if name in wanted})


class ToyLoader:
    """Shuffled minibatches of ready cells; resumable, and sharded over processes."""

    def __init__(self, cells, size=4, *, seed=0, is_eager=False):
        self.cells, self.size, self.seed, self.is_eager = cells, size, seed, is_eager
        self.epoch = self.start = self.at = 0
        self.given = []

    @staticmethod
    def _rank_world():
        group = torch.distributed
        ready = group.is_available() and group.is_initialized()
        return (group.get_rank(), group.get_world_size()) if ready else (0, 1)

    def __len__(self):
        return len(self.cells) // (self.size * self._rank_world()[1])

    def set_epoch(self, epoch):
        self.epoch, self.start = epoch, 0

    def state_dict(self):
        return {"epoch": self.epoch, "at": self.at}

    def load_state_dict(self, state):
        self.epoch, self.start = state["epoch"], state["at"]

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.cells))
        self.at, self.start = self.start, 0
        return self._batches(order)

    def _batches(self, order):
        rank, world = self._rank_world()
        while self.at < len(self):
            first = (self.at * world + rank) * self.size
            rows = order[first : first + self.size]
            self.at += 1
            self.given.append(rows.tolist())
            yield self.cells.take(rows)
