"""ScFoundation (Hao et al., Nature Methods 2024): the family's table line."""

from cellwright.models.scfoundation.config import KEYS, RELEASED, SMALL, SPECIALS, TINY, ScFoundationConfig
from cellwright.models.scfoundation.genes import NUM_PUBLISHED, list_name
from cellwright.models.scfoundation.model import build
from cellwright.models.scfoundation.tokenizer import ScFoundationTokenizer
from cellwright.models.scfoundation.weights import TERMS, find_weights, from_released, to_released, write_container
from cellwright.protocols import Family

__all__ = ["FAMILY", "ScFoundationConfig", "write_container"]

FAMILY = Family(
    name="scfoundation",
    title="scFoundation",
    config=ScFoundationConfig,
    sizes={"tiny": TINY, "small": SMALL, "released": RELEASED},
    build=build,
    tokenizer=ScFoundationTokenizer,
    specials=SPECIALS,
    accepts=("raw", "normalised", "log1p"),
    is_released=lambda path: find_weights(path) is not None,
    from_released=from_released,
    to_released=to_released,
    decoding=None,
    is_embedding_normalised=False,
    citation="Hao M., Gong J., Zeng X. et al. Large-scale foundation model on single-cell transcriptomics. Nature "
    "Methods 21, 1481-1491 (2024). doi:10.1038/s41592-024-02305-7",
    weights_terms=TERMS,
    keys=KEYS,
    vocab_file=list_name(NUM_PUBLISHED),
    class_head={"num_layers": 2, "hidden": 256, "is_standardised": True, "has_layer_norm": False},
)
