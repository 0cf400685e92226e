"""Published scFoundation checkpoints: read strictly, write back exactly.

The published file (``models.ckpt``) is a table of up to three models of one shape, ``cell`` (alias ``ce``), ``rde``
and ``gene``, each with its configuration and a state dict whose names begin with ``model.``. One of them becomes a
`cellwright.models.Model`; writing gives a file of the published kind that holds that one. The gene list is no part of
the file: the published one comes with the package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellwright.config import did_you_mean
from cellwright.files import atomic_path
from cellwright.models.pickles import check_shapes, is_state, odd_dtypes, open_published, plain, with_dtypes
from cellwright.models.scfoundation.config import KEYS, ScFoundationConfig
from cellwright.models.scfoundation.genes import (
    list_name,
    list_text,
    published_genes,
    read_list,
    vocab_of,
)
from cellwright.models.scfoundation.model import build
from cellwright.protocols import Released
from cellwright.vocab import GeneVocab

WEIGHTS = "models.ckpt"
PREFIX = "model."
TERMS = (
    "Published scFoundation weights are under the scFoundation License: research that is not commercial only, not to "
    "be passed on; the Apache-2.0 licence of the published code does not cover them."
)
_ALIASES = {"ce": "cell"}
_UNUSED = ("decoder.performer.calls_since_last_redraw", "token_emb.emb_pad.weight")
"""A counter of training steps, and the vector of pads, which nothing ever sees."""

_RENAMES = (  # ours -> published, all that match
    (r"^value_encoder\.linear1\.", "token_emb.mlp."),
    (r"^value_encoder\.linear2\.", "token_emb.mlp2."),
    (r"^value_encoder\.bins\.", "token_emb.emb."),
    (r"^value_encoder\.hidden\.", "token_emb.emb_mask."),
    (r"^gene_encoder\.", "pos_emb."),
    (r"^(blocks\.\d+\.)attention\.qkv\.", r"\1self_attn.in_proj_"),
    (r"^(blocks\.\d+\.)attention\.out\.", r"\1self_attn.out_proj."),
    (r"^blocks\.", "encoder.transformer_encoder."),
    (r"^encoder_norm\.", "encoder.norm."),
    (r"^decoder_input\.", "decoder_embed."),
    (r"^decoder_norm\.", "decoder.norm."),
    (r"^value_head\.", "to_final."),
    (r"^(decoder\.\d+\.)norm1\.", r"\g<1>0.norm."),
    (r"^(decoder\.\d+\.)norm2\.", r"\g<1>1.norm."),
    (r"^(decoder\.\d+\.)linear([12])\.", r"\g<1>1.fn.fn.w\2."),
    (r"^(decoder\.\d+\.)attention\.projection_md$", r"\g<1>0.fn.fast_attention.projection_matrix"),
    (r"^(decoder\.\d+\.)attention\.out\.", r"\g<1>0.fn.to_out."),
    (r"^decoder\.(\d+)\.", r"decoder.performer.net.layers.\1."),
)
_FUSED = re.compile(r"^decoder\.(\d+)\.attention\.qkv\.(\w+)$")


def published_names(key: str) -> tuple[str, ...]:
    """Return the published names of one of our tensors; three where ours joins query, key and value, in this order."""
    if found := _FUSED.match(key):
        return tuple(f"decoder.performer.net.layers.{found[1]}.0.fn.to_{part}.{found[2]}" for part in "qkv")
    for ours, theirs in _RENAMES:
        key = re.sub(ours, theirs, key)
    return (key,)


def find_weights(path: Path) -> Path | None:
    """Return the weights file that a path is, or that a folder holds; ``None`` = neither."""
    if path.is_file():
        return path if path.suffix == ".ckpt" else None
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    found = sorted(path.glob("*.ckpt"))
    return found[0] if len(found) == 1 else None


def from_released(path: Path, vocab_file: Path | None = None, key: str | None = None) -> Released:
    """Read one model of a published file.

    Parameters
    ----------
    path
        The file, or the folder that it lies in.
    vocab_file
        Gene list of the model. Where it is not given, it is the list that lies beside the weights under the published
        name, and else the published list.
    key
        ``cell`` (alias ``ce``), ``rde`` or ``gene``. ``None`` = ``cell``, or the only one of a file that holds one.

    Raises
    ------
    ValueError
        Naming what is missing, unknown, of another shape, or not supported.
    """
    weights = find_weights(path)
    if weights is None:
        raise ValueError(
            f"{path} is not a published scFoundation checkpoint: it needs a weights file such as {WEIGHTS}"
        )
    container = open_published(weights, is_mapped=True)
    key = _choose(container, key, weights)
    where, part = f"{weights} ({key})", container[key]
    given = {name: value.clone() for name, value in part["state_dict"].items()}
    if foreign := [name for name in given if not name.startswith(PREFIX)]:
        raise ValueError(f"{where}: {len(foreign)} tensors are not named {PREFIX}... ({', '.join(foreign[:3])})")
    state = {name.removeprefix(PREFIX): value for name, value in given.items()}
    config = read_config(part["config"], state, where)
    vocab = read_vocab(state, weights, vocab_file)
    network, notes = _network(state, config, vocab, weights), [TERMS]
    if others := [name for name in container if name != key]:
        notes.append(f"the model {key!r} was opened; the file also holds {', '.join(map(repr, others))} (key=)")
    if ignored := sorted(map(str, set(part) - {"config", "state_dict"})):
        notes.append(f"entries beside the weights were left out: {', '.join(ignored)}")
    files = {"config": plain(part["config"]), "key": key, "weights_name": weights.name, "dtypes": odd_dtypes(given)}
    return Released(
        config=config,
        vocab=vocab,
        network=network,
        heads={},
        extras={name: state[name] for name in _UNUSED},
        layout=f"key {key}",
        files=files | {"order": list(given)},
        notes=tuple(notes),
    )


def _choose(container: Any, key: str | None, weights: Path) -> str:
    """Return which entry of the file to open; refuse a file that holds no models."""
    is_model = isinstance(container, dict) and {
        name: isinstance(entry, dict) and isinstance(entry.get("config"), dict) and is_state(entry.get("state_dict"))
        for name, entry in container.items()
    }
    if not is_model or not all(is_model.values()):
        raise ValueError(
            f"{weights} is not a published scFoundation checkpoint: it holds no table of models (config, state_dict)"
        )
    wanted = KEYS[0] if key is None else _ALIASES.get(key, key)
    if key is None and wanted not in container and len(container) == 1:
        return next(iter(container))
    if wanted not in container:
        near = did_you_mean(wanted, container) if key is not None else ""
        raise ValueError(f"{weights} holds no model {wanted!r}{near}; it holds {', '.join(map(str, container))} (key=)")
    return wanted


def read_config(record: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> ScFoundationConfig:
    """Derive the architecture from a published configuration; number and size of features come from the tensors."""
    name = record.get("model")
    models, data = record.get("model_config"), record.get("dataset_config")
    if name != "mae_autobin" or not isinstance(models, dict) or not isinstance(models.get(name), dict):
        raise ValueError(f"{where}: its config describes no 'mae_autobin' model, but {name!r}")
    # published code lets what is said of the data win over what is said of the model
    data = data.get("rnaseq") if isinstance(data, dict) else None
    merged = models[name] | (data if isinstance(data, dict) else {})
    encoder, decoder = merged.get("encoder"), merged.get("decoder")
    if not isinstance(encoder, dict) or not isinstance(decoder, dict):
        raise ValueError(f"{where}: its config lacks 'encoder' or 'decoder'")
    for part, wanted, record in (("encoder", "transformer", encoder), ("decoder", "performer", decoder)):
        if lacking := {"hidden_dim", "depth", "heads", "dim_head"} - set(record):
            raise ValueError(f"{where}: its config lacks {sorted(lacking)[0]!r} of the {part}")
        if record.get("module_type", wanted) != wanted:
            raise ValueError(f"{where}: {part} of kind {record['module_type']!r}; only {wanted!r} is known")
        if record["heads"] * record["dim_head"] != record["hidden_dim"]:
            raise ValueError(
                f"{where}: {part} of {record['heads']} heads of {record['dim_head']} is not its hidden_dim"
            )
    values = {
        f"{part}_{ours}": record[theirs]
        for part, record in (("encoder", encoder), ("decoder", decoder))
        for ours, theirs in (("width", "hidden_dim"), ("heads", "heads"), ("layers", "depth"))
    }
    projections = [len(value) for key, value in state.items() if key.endswith("projection_matrix")]
    values["num_features"] = projections[0] if projections else 1  # a file without any is refused later, by name
    values |= {"num_bins": merged.get("bin_num", 100), "bin_scale": merged.get("bin_alpha", 1.0)}
    return ScFoundationConfig.read(values, where)


def read_vocab(state: Mapping[str, Tensor], weights: Path, vocab_file: Path | None) -> GeneVocab:
    """Return the vocabulary of the position table's rows: genes, T, S, pad."""
    if "pos_emb.weight" not in state:
        raise ValueError(f"{weights}: the position table pos_emb.weight is missing; is this scFoundation?")
    num_rows = len(state["pos_emb.weight"])
    beside = weights.parent / list_name(num_rows - 3)
    path = vocab_file or (beside if beside.is_file() else None)
    genes = published_genes() if path is None else read_list(path)
    if len(genes) + 3 != num_rows:
        source = "the published list" if path is None else str(path)
        raise ValueError(
            f"{weights}: its position table has {num_rows} rows, that is {num_rows - 3} genes, T, S and pad; {source} "
            f"has {len(genes)} genes. Give the list of this model's genes (vocab=)"
        )
    return vocab_of(genes)


def _network(
    state: dict[str, Tensor], config: ScFoundationConfig, vocab: GeneVocab, weights: Path
) -> dict[str, Tensor]:
    """Return the tensors under our names; all must be there, in shape, and no other but `_UNUSED`."""
    with torch.device("meta"):
        shapes = build(config, vocab).state_dict()
    needed: dict[str, Tensor] = {}
    for key, like in shapes.items():
        names = published_names(key)
        needed |= dict(zip(names, like.chunk(len(names)), strict=True))
    needed |= _unused(config)
    check_shapes(state, needed, weights, hint="Is the config in the file that of another model?")
    if unknown := [name for name in state if name not in needed]:
        raise ValueError(
            f"{weights}: {len(unknown)} tensors are of another architecture ({', '.join(unknown[:3])}); nothing was "
            "loaded"
        )
    network = {}
    for key in shapes:
        parts = [state[name] for name in published_names(key)]
        network[key] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return network


def _unused(config: ScFoundationConfig) -> dict[str, Tensor]:
    """Return the published tensors that nothing uses, as a new model has them."""
    return dict(zip(_UNUSED, (torch.zeros((), dtype=torch.int64), torch.zeros(1, config.encoder_width)), strict=True))


def to_released(model: Any, folder: Path) -> None:
    """Write a `cellwright.models.Model` of this family as a published folder, atomically.

    The file holds one model, under the key that it came from (``cell`` for one that was trained here); the gene list
    lies beside it. Weights that came from a published checkpoint go back tensor for tensor, key for key.

    Raises
    ------
    ValueError
        When the published format cannot say what the model is: exact attention, other than 4-fold feed-forward parts,
        a vocabulary that is not genes, T, S, pad in this order.
    """
    write_container({model.origin.get("files", {}).get("key", KEYS[0]): model}, folder)


def write_container(models: Mapping[str, Any], folder: Path | str) -> None:
    """Write several models of this family as one published folder, atomically: one file, and the gene list beside it.

    Parameters
    ----------
    models
        Key -> `cellwright.models.Model`; published keys are ``cell``, ``rde`` and ``gene``.
    folder
        Folder to make; one that is there is replaced.

    Raises
    ------
    ValueError
        As `to_released`; there is no model, a key is none of the published ones, one model is of another family, or
        the models have not the same genes.
    """
    if not models:
        raise ValueError("there is no model to write")
    first = next(iter(models.values()))
    for key, model in models.items():
        if len(models) > 1 and key not in KEYS:
            raise ValueError(f"key {key!r} is none of {', '.join(KEYS)}{did_you_mean(key, KEYS)}")
        if model.family.name != "scfoundation":
            raise ValueError(f"the model for key {key!r} is {model.family.title}, not scFoundation")
        if model.vocab.tokens != first.vocab.tokens:
            raise ValueError(f"the model for key {key!r} has other genes than the first; a file has one gene list")
    container = {key: _entry(model) for key, model in models.items()}
    name = first.origin.get("files", {}).get("weights_name", WEIGHTS)
    with atomic_path(folder) as draft:
        draft.mkdir()
        torch.save(container, draft / name)
        (draft / list_name(len(first.vocab.genes))).write_text(list_text(first.vocab.genes), encoding="utf-8")


def _entry(model: Any) -> dict[str, Any]:
    """Return a model as the published file holds it."""
    config, files = model.config, model.origin.get("files", {})
    if config.decoder_attention != "linear" or config.feed_forward_scale != 4:
        raise ValueError(
            "published scFoundation models have linear attention in the decoder and feed_forward_scale = 4; "
            "write this one as cellwright"
        )
    if model.vocab.tokens != vocab_of(model.vocab.genes).tokens:
        raise ValueError(
            "the published format wants genes, <T>, <S>, <pad> in this order; write this one as cellwright"
        )
    state: dict[str, Tensor] = {}
    for key, value in model.network.state_dict().items():
        names = published_names(key)
        state |= {name: part.clone() for name, part in zip(names, value.chunk(len(names)), strict=True)}
    state |= {name: model.extras.get(name, like) for name, like in _unused(config).items()}
    state = with_dtypes({PREFIX + name: value for name, value in state.items()}, files.get("dtypes", {}))
    state = {name: state[name] for name in dict.fromkeys([*files.get("order", ()), *state]) if name in state}
    return {"config": files.get("config") or published_config(config, len(model.vocab) - 1), "state_dict": state}


def published_config(config: ScFoundationConfig, num_tokens: int) -> dict[str, Any]:
    """Return the configuration that published readers need."""

    def part(name: str, kind: str) -> dict[str, Any]:
        width, num_heads = getattr(config, f"{name}_width"), getattr(config, f"{name}_heads")
        return {
            "hidden_dim": width,
            "depth": getattr(config, f"{name}_layers"),
            "heads": num_heads,
            "dim_head": width // num_heads,
            "seq_len": num_tokens,
            "module_type": kind,
            "norm_first": False,
        }

    shared = {"bin_num": config.num_bins}
    model = {
        "model": "mae_autobin",
        "mask_gene_name": False,
        "gene_num": num_tokens,
        "seq_len": num_tokens,
        "encoder": part("encoder", "transformer"),
        "decoder": part("decoder", "performer"),
        "n_class": 104,
        "pad_token_id": 103,
        "mask_token_id": 102,
        "bin_alpha": config.bin_scale,
        "rawcount": True,
    }
    return {
        "model": "mae_autobin",
        "model_config": {"mae_autobin": model | shared},
        "dataset_config": {"rnaseq": {"bin_type": "auto_bin"} | shared},
    }
