"""Published scMulan checkpoints: read strictly, write back exactly.

A published checkpoint is a file with a state dict (``model``) and the sizes (``model_args``), and beside it
``meta_info.pt`` with the vocabulary. Keys may carry the prefixes that wrapped saves leave (``module.``,
``_orig_mod.``). Sizes come from ``model_args`` (the number of heads cannot be read from shapes) and are checked
against the tensors.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellwright.files import atomic_path
from cellwright.models.pickles import check_shapes, is_state, odd_dtypes, open_published, plain, with_dtypes
from cellwright.models.scmulan.config import ScMulanConfig
from cellwright.models.scmulan.meta import meta_record, published_meta, read_vocab
from cellwright.models.scmulan.model import build
from cellwright.protocols import Released
from cellwright.vocab import GeneVocab

WEIGHTS, META = "ckpt_scMulan.pt", "meta_info.pt"

_PREFIXES = re.compile(r"^((?:module\.|_orig_mod\.)*)")
_RENAMES = (  # ours -> published, all that match
    (r"^gene_encoder\.", "transformer.wte."),
    (r"^level_encoder\.", "transformer.wee."),
    (r"^norm\.", "transformer.ln_f."),
    (r"^entity_head\.", "lm_head."),
    (r"^level_head\.", "epx_head."),
    (r"^blocks\.", "transformer.h."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attention\.qkv\.", ".attn.c_attn."),
    (r"\.attention\.out\.", ".attn.c_proj."),
    (r"\.linear1\.", ".mlp.c_fc."),
    (r"\.linear2\.", ".mlp.c_proj."),
)
_ARGS = {  # ours -> published
    "width": "n_embd",
    "num_heads": "n_head",
    "num_layers": "n_layer",
    "dropout": "dropout",
    "has_bias": "bias",
    "num_levels": "expression_level",
}
_OTHER_ARGS = {"block_size", "vocab_size", "train_mode", "ele"}


def published_key(key: str) -> str:
    """Return the published name of one of our tensors."""
    for ours, theirs in _RENAMES:
        key = re.sub(ours, theirs, key)
    return key


def find_files(path: Path) -> tuple[Path, Path] | None:
    """Return (weights, meta_info.pt) of a published folder or weights file, or ``None``."""
    meta = (path if path.is_dir() else path.parent) / META
    weights = _weights_in(path)
    return (weights, meta) if meta.is_file() and weights is not None else None


def _weights_in(path: Path) -> Path | None:
    """Return the weights file that a path is, or that a folder holds."""
    if path.is_file():
        return path if path.suffix in (".pt", ".pth") and path.name != META else None
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    others = sorted(p for p in path.iterdir() if p.suffix in (".pt", ".pth") and p.name != META)
    return others[0] if len(others) == 1 else None


def from_released(path: Path, vocab_file: Path | None = None) -> Released:
    """Read a published folder or weights file.

    Parameters
    ----------
    path
        The folder, or the weights file in it.
    vocab_file
        The published vocabulary (``meta_info.pt``), where it does not lie beside the weights.

    Raises
    ------
    ValueError
        Naming what is missing, of another shape, or not supported.
    """
    weights = _weights_in(path)
    found = find_files(path) if vocab_file is None else None if weights is None else (weights, vocab_file)
    if found is None:
        raise ValueError(f"{path} is not a published scMulan checkpoint: it needs a weights file with {META} beside it")
    weights_path, meta_path = found
    container = open_published(weights_path)
    if not isinstance(container, dict) or not is_state(container.get("model")):
        raise ValueError(f"{weights_path} is not a published scMulan checkpoint: it holds no state dict 'model'")
    args, state = container.get("model_args"), container["model"]
    if not isinstance(args, dict):
        raise ValueError(f"{weights_path} holds no 'model_args'; the number of heads cannot be known without them")
    prefix = _PREFIXES.match(next(iter(state)))[1]
    meta = open_published(meta_path)
    vocab, vocab_notes = read_vocab(meta, meta_path)
    config = read_config(args, len(vocab), str(weights_path))
    with torch.device("meta"):
        shapes = build(config, vocab).state_dict()
    names = {key: prefix + published_key(key) for key in shapes}
    needed = {name: shapes[key] for key, name in names.items()}
    check_shapes(state, needed, weights_path, hint=f"Is {meta_path.name} of another model beside it?")
    kept, notes = _plain_entries(container)
    ignored = sorted(set(args) - set(_ARGS.values()) - _OTHER_ARGS)
    if ignored:
        notes += (f"model_args that say nothing about the architecture were ignored: {', '.join(ignored)}",)
    known = set(names.values())
    return Released(
        config=config,
        vocab=vocab,
        network={key: state[name] for key, name in names.items()},
        heads={},
        extras={name: value for name, value in state.items() if name not in known},
        layout=f"wrapped {prefix}" if prefix else "plain",
        files={
            "model_args": plain(args),
            "container": kept,
            "meta_info": meta_record(meta),
            "weights_name": weights_path.name,
            "prefix": prefix,
            "order": list(container),
            "dtypes": odd_dtypes(state),
        },
        notes=(*vocab_notes, *notes),
    )


def read_config(args: dict[str, Any], num_entries: int, where: str) -> ScMulanConfig:
    """Derive the architecture from ``model_args``; keys that say nothing about it are left alone."""
    for name in ("n_embd", "n_head", "n_layer", "bias", "vocab_size"):
        if name not in args:
            raise ValueError(f"{where}: model_args lack {name!r}, which a scMulan checkpoint needs")
    if args["vocab_size"] != num_entries:
        raise ValueError(
            f"{where} was made for {args['vocab_size']} vocabulary entries, {META} holds {num_entries}; "
            "is it of another model?"
        )
    if args.get("ele", 1) != 1:
        raise ValueError(f"{where}: ele = {args['ele']!r}; only models with a table of levels (ele = 1) are known")
    return ScMulanConfig.read({ours: args[theirs] for ours, theirs in _ARGS.items() if theirs in args}, where)


def _plain_entries(container: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the other entries of a container that are single numbers or words, and a note on those left out."""
    rest = {k: v for k, v in container.items() if k not in ("model", "model_args")}
    kept = {k: v for k, v in rest.items() if v is None or isinstance(v, bool | int | float | str)}
    dropped = sorted(map(str, set(rest) - set(kept)))
    notes = (f"entries beside the weights were left out: {', '.join(dropped)}",) if dropped else ()
    return kept, notes


def to_released(model: Any, folder: Path) -> None:
    """Write a `cellwright.models.Model` of this family as a published folder, atomically.

    Weights that came from a published checkpoint go back tensor for tensor, key for key.
    """
    files = model.origin.get("files", {})
    prefix = files.get("prefix", "")
    state: dict[str, Tensor] = {prefix + published_key(k): v for k, v in model.network.state_dict().items()}
    state = with_dtypes(state | model.extras, files.get("dtypes", {}))
    args = files.get("model_args", {}) | published_args(model.config, model.vocab, files.get("model_args", {}))
    container = {"model": state, "model_args": args} | files.get("container", {})
    order = [name for name in files.get("order", ()) if name in container]
    container = {name: container[name] for name in dict.fromkeys([*order, *container])}
    with atomic_path(folder) as draft:
        draft.mkdir()
        torch.save(container, draft / files.get("weights_name", WEIGHTS))
        torch.save(published_meta(model.vocab, files.get("meta_info", {})), draft / META)


def published_args(config: ScMulanConfig, vocab: GeneVocab, given: dict[str, Any]) -> dict[str, Any]:
    """Return ``model_args`` as published readers need them; they accept no other keys than these."""
    record = config.record()
    return {theirs: record[ours] for ours, theirs in _ARGS.items()} | {
        "block_size": given.get("block_size", config.max_length),
        "vocab_size": len(vocab),
        "train_mode": given.get("train_mode", "pretrain"),
        "ele": 1,
    }
