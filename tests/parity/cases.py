"""Reference vectors recorded from the published code, as our types."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from cellwright.models import Model, load
from cellwright.types import Layout, TokenBatch

DATA = Path(__file__).parent / "data"
OUTPUT_ATOL, OUTPUT_RTOL = 2e-5, 1e-4


@dataclass(frozen=True)
class Case:
    """One recorded case: arrays by name, and the checkpoint beside them where there is one."""

    family: str
    name: str

    @property
    def folder(self) -> Path:
        return DATA / self.family / self.name

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "io.npz") as found:
            return {key: found[key] for key in found.files}

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])

    @cached_property
    def call(self) -> dict:
        return json.loads((self.folder / "case.json").read_text())["ctor_kwargs"]

    def model(self) -> Model:
        """Load the official checkpoint, with the choices that official checkpoints do not store."""
        given = self.call
        overrides = [f"dropout={given['dropout']}"]
        if given.get("cell_emb_style", "cls") != "cls":
            overrides.append(f"pooling={given['cell_emb_style']}")
        if given.get("pre_norm"):
            overrides.append("norm=pre_residual")
        if given.get("decoder_activation"):
            overrides.append(f"value_head_activation={given['decoder_activation']}")
        if given.get("decoder_adaptive_bias"):
            overrides.append("is_value_head_adaptive=true")
        overrides.append(f"pad_value={given['pad_value']}")
        return load(self.folder, overrides=overrides)

    def tokens(self, prefix: str = "in/", *, hidden_value: float | None = -1, **fields: str) -> TokenBatch:
        """Return the recorded input as padded tokens; published markers become booleans."""
        gene_nt, value_nt, is_pad_nt = (self[f"{prefix}{key}"] for key in ("src", "values", "pad_mask"))
        is_hidden_nt = value_nt == hidden_value if hidden_value is not None else torch.zeros_like(is_pad_nt)
        is_hidden_nt &= ~is_pad_nt
        return TokenBatch(
            gene_nt=gene_nt,
            value_nt=value_nt.masked_fill(is_hidden_nt | is_pad_nt, 0.0),
            is_hidden_nt=is_hidden_nt,
            layout=Layout(tuple((~is_pad_nt).sum(1).tolist()), gene_nt.shape[1]),
            **{field: self[key] for field, key in fields.items()},
        )

    def split_tokens(self) -> TokenBatch:
        """Return a recorded generative input as packed tokens, each cell's prompt before its unknown genes."""
        is_prompt_pad, is_gen_pad = self["in/pcpt_pad_mask"], self["in/gen_pad_mask"]
        gene, value, prompts, lengths = [], [], [], []
        for i in range(len(is_prompt_pad)):
            prompt = ~is_prompt_pad[i]
            unknown = self["in/gen_gene"][i][~is_gen_pad[i]]
            gene += [self["in/pcpt_gene"][i][prompt], unknown]
            value += [self["in/pcpt_expr"][i][prompt], torch.zeros(len(unknown))]
            prompts.append(int(prompt.sum()))
            lengths.append(prompts[-1] + len(unknown))
        layout = Layout(tuple(lengths), None, tuple(prompts))
        is_hidden_nt = ~layout.is_prompt_nt()
        return TokenBatch(
            gene_nt=torch.cat(gene)[None], value_nt=torch.cat(value)[None], is_hidden_nt=is_hidden_nt, layout=layout
        )


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, at: torch.Tensor | None = None) -> None:
    """Compare with the tolerance of a full forward pass in fp32 on CPU."""
    if at is not None:
        ours, theirs = ours[at], theirs[at]
    torch.testing.assert_close(ours, theirs, atol=OUTPUT_ATOL, rtol=OUTPUT_RTOL)
