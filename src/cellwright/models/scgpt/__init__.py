"""ScGPT (Cui et al., Nature Methods 2024): the family's table line."""

from cellwright.models.scgpt.config import RELEASED, SMALL, SPECIALS, TINY, ScGPTConfig
from cellwright.models.scgpt.model import build
from cellwright.models.scgpt.tokenizer import ScGPTTokenizer
from cellwright.models.scgpt.weights import find_files, from_released, to_released
from cellwright.protocols import Family

FAMILY = Family(
    name="scgpt",
    title="scGPT",
    config=ScGPTConfig,
    sizes={"tiny": TINY, "small": SMALL, "released": RELEASED},
    build=build,
    tokenizer=ScGPTTokenizer,
    specials=SPECIALS,
    accepts=("raw", "normalised", "log1p", "binned", "unknown"),  # only the order of a cell's values counts
    is_released=lambda path: find_files(path) is not None,
    from_released=from_released,
    to_released=to_released,
    decoding="unmask",
    is_embedding_normalised=True,
    citation="Cui H. et al. scGPT: toward building a foundation model for single-cell multi-omics using generative AI. "
    "Nature Methods 21, 1470-1480 (2024). doi:10.1038/s41592-024-02201-0",
    weights_terms="Published scGPT weights come under their repository's MIT licence; no separate terms are stated.",
    heads=("label", "domain"),
    tech_batch_parts=lambda num: {
        "input_norm": "domain",
        "num_domains": num,
        "num_tech_batches": num,
        "has_zero_gate": True,
    },
)
