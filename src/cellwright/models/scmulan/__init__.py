"""ScMulan (Bian et al., RECOMB 2024): the family's table line."""

from cellwright.models.scmulan.config import PREPRINT, QUESTIONS, RELEASED, SMALL, SPECIALS, TINY, ScMulanConfig
from cellwright.models.scmulan.meta import CATEGORIES
from cellwright.models.scmulan.model import build
from cellwright.models.scmulan.tokenizer import ScMulanTokenizer
from cellwright.models.scmulan.weights import META, find_files, from_released, to_released
from cellwright.protocols import Family

FAMILY = Family(
    name="scmulan",
    title="scMulan",
    config=ScMulanConfig,
    sizes={"tiny": TINY, "small": SMALL, "released": RELEASED, "preprint": PREPRINT},
    build=build,
    tokenizer=ScMulanTokenizer,
    specials=SPECIALS,
    accepts=("raw", "normalised", "log1p"),
    is_released=lambda path: find_files(path) is not None,
    from_released=from_released,
    to_released=to_released,
    decoding="autoregressive",
    is_embedding_normalised=False,
    citation="Bian H., Chen Y., Dong X. et al. scMulan: a multitask generative pre-trained language model for "
    "single-cell analysis. RECOMB 2024, Lecture Notes in Computer Science 14758. doi:10.1007/978-1-0716-3989-4_57",
    weights_terms="Published scMulan weights come without terms of their own; their repository's code is MIT.",
    vocab_file=META,
    categories=CATEGORIES,
    has_silent_genes=False,
    questions=QUESTIONS,
)
