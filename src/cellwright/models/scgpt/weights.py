"""Published scGPT checkpoints: read strictly, write back exactly.

A published checkpoint is a folder of ``args.json``, ``vocab.json`` and a plain state dict (``best_model.pt``). Four
spellings of the attention keys exist in the wild, depending on which attention back end wrote them, and any of them
may carry the ``module.`` prefix of an unwrapped distributed save. Sizes come from ``args.json`` and are checked
against the tensors; which parts exist is read from the keys.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cellwright.files import atomic_path, read_json, write_json
from cellwright.models.pickles import check_shapes, is_state, odd_dtypes, open_published, with_dtypes
from cellwright.models.scgpt.config import SPECIALS, ScGPTConfig
from cellwright.models.scgpt.model import build
from cellwright.models.scgpt.names import HEADS, PREFIX, published_head_key, published_key, read_layout
from cellwright.nn.heads import ClassHead
from cellwright.protocols import Released
from cellwright.vocab import GeneVocab

EMBED_LENGTH = 1200
"""Most tokens a cell in published zero-shot use: ``embed_data`` takes this many whatever ``max_seq_len`` says."""


def find_files(path: Path) -> tuple[Path, Path, Path] | None:
    """Return (args.json, vocab.json, weights) of a published folder or weights file, or ``None``."""
    folder = path if path.is_dir() else path.parent
    args, vocab = folder / "args.json", folder / "vocab.json"
    if not (args.is_file() and vocab.is_file()):
        return None
    if path.is_file():
        return (args, vocab, path) if path.suffix in (".pt", ".pth", ".bin") else None
    found = folder / "best_model.pt"
    if not found.is_file():
        others = sorted(p for p in folder.iterdir() if p.suffix == ".pt")
        if len(others) != 1:
            return None
        found = others[0]
    return args, vocab, found


def read_state(path: Path) -> dict[str, Tensor]:
    """Open a published state dict without running any code in it.

    Raises
    ------
    ValueError
        When the file is not a checkpoint, is cut short, or holds anything but tensors by name.
    """
    state = open_published(path)
    if not is_state(state):
        raise ValueError(f"{path} is not a state dict (a table of tensors by name), but a {type(state).__name__}")
    return dict(state)


def read_vocab(path: Path, pad_token: str, num_rows: int) -> GeneVocab:
    """Read a published vocabulary for an embedding of ``num_rows``.

    Special tokens that the file lacks are appended in the published order, as far as the embedding has rows for
    them: published training appends them after reading the file.
    """
    ids = read_json(path)
    if not isinstance(ids, dict) or not ids:
        raise ValueError(f"{path} is not a published scGPT vocabulary (a table token -> id)")
    specials = SPECIALS | {"pad": pad_token}
    for token in specials.values():
        if token not in ids and len(ids) < num_rows:
            ids[token] = len(ids)
    return GeneVocab.from_ids(ids, {role: token for role, token in specials.items() if token in ids})


def read_config(args: dict[str, Any], state: dict[str, Tensor], where: str) -> ScGPTConfig:
    """Derive the architecture from ``args.json`` and from which tensors exist."""

    def needed(name: str) -> Any:
        if name not in args:
            raise ValueError(f"{where}/args.json lacks {name!r}, which a scGPT checkpoint needs")
        return args[name]

    def rows(key: str) -> int:
        return state[key].shape[0] if key in state else 0

    width = needed("embsize")
    domains = {key.split(".")[2] for key in state if key.startswith("dsbn.bns.")}
    style = _cell_value_style(state)
    category = rows("value_encoder.embedding.weight")
    values = {
        "width": width,
        "num_heads": needed("nheads"),
        "num_layers": needed("nlayers"),
        "feed_forward": needed("d_hid"),
        "dropout": args.get("dropout", 0.2),
        "num_bins": args.get("n_bins", 51) if args.get("input_style", "binned") == "binned" else None,
        "mask_value": args.get("mask_value", -1),
        "pad_value": args.get("pad_value", -2),
        "max_length": EMBED_LENGTH,
        "input_norm": "domain" if domains else "batch" if "bn.running_mean" in state else "none",
        "num_domains": len(domains),
        "num_tech_batches": rows("batch_encoder.embedding.weight"),
        "num_modalities": rows("mod_encoder.embedding.weight"),
        "num_conditions": rows("pert_encoder.weight"),
        "has_unknown_flag": "flag_encoder.weight" in state,
        "has_zero_gate": any(".zero_logit." in key or "W_zero_logit" in key for key in state),
        "cell_value_style": style,
    }
    if category:
        # published convention for category input: marker numbers are the two rows after the bins
        values |= {"value_input": "category", "num_value_entries": category}
        values |= {"pad_value": category - 2, "mask_value": category - 1}
    elif "value_encoder.linear1.weight" not in state:
        values["value_input"] = "scaling"
    if "decoder.coeff_decoder.fc.0.weight" in state:
        values["value_head"] = "affine"
        values["condition_pad"] = args.get("pert_pad_id", 0) if values["num_conditions"] else None
    elif not any(key.startswith("decoder.") for key in state):
        values["value_head"] = "none"
    query = state.get("mvc_decoder.gene2query.weight")
    values["is_gene_conditioned"] = query is not None and query.shape[1] == 2 * width
    return ScGPTConfig.read(values, f"{where}/args.json")


def _cell_value_style(state: dict[str, Tensor]) -> str:
    if not any(key.startswith("mvc_decoder.") for key in state):
        return "none"
    if "mvc_decoder.fc1.weight" not in state:
        return "inner product"
    query, first = state.get("mvc_decoder.gene2query.weight"), state["mvc_decoder.fc1.weight"]
    return "sum query" if query is not None and first.shape[1] == query.shape[0] else "concat query"


def from_released(path: Path) -> Released:
    """Read a published folder (or the weights file in one).

    Raises
    ------
    ValueError
        Naming the tensors that the architecture needs and the file lacks or holds in another shape.
    """
    found = find_files(path)
    if found is None:
        raise ValueError(
            f"{path} is not a published scGPT checkpoint: args.json, vocab.json and one .pt file are needed"
        )
    args_path, vocab_path, weights_path = found
    args, state = read_json(args_path), read_state(weights_path)
    layout = read_layout(list(state), str(weights_path))
    bare = {key.removeprefix(PREFIX): value for key, value in state.items()}
    config = read_config(args, bare, str(args_path.parent))
    num_rows = bare["encoder.embedding.weight"].shape[0] if "encoder.embedding.weight" in bare else 0
    vocab = read_vocab(vocab_path, args.get("pad_token", SPECIALS["pad"]), num_rows)
    with torch.device("meta"):
        shapes = build(config, vocab).state_dict()
    names = {key: published_key(key, layout, config.value_input) for key in shapes}
    needed = {name: shapes[key] for key, name in names.items()}
    check_shapes(state, needed, weights_path, hint="Is args.json or vocab.json of another model beside it?")
    rest = {name: value for name, value in state.items() if name not in set(names.values())}
    heads = {head: _read_head(head, rest, layout, config.width) for head in HEADS}
    return Released(
        config=config,
        vocab=vocab,
        network={key: state[name] for key, name in names.items()},
        heads={head: found for head, found in heads.items() if found is not None},
        extras=rest,
        layout=layout,
        files={
            "args": args,
            "weights_name": weights_path.name,
            "num_vocab": len(read_json(vocab_path)),
            "dtypes": odd_dtypes(state),
        },
    )


def _read_head(head: str, rest: dict[str, Tensor], layout: str, width: int) -> dict[str, Any] | None:
    """Take a class head out of ``rest`` when all its tensors fit; a foreign one stays there."""
    prefix = (PREFIX if layout.startswith("distributed ") else "") + HEADS[head]
    out = rest.get(f"{prefix}out_layer.weight")
    if out is None or out.shape[1:] != (width,):
        return None
    linears = {int(m[1]) for name in rest if (m := re.match(re.escape(prefix) + r"_decoder\.(\d+)\.", name))}
    num_layers = len({i // 3 for i in linears}) + 1
    module: nn.Module = ClassHead(width, out.shape[0], num_layers=num_layers, kind=head)  # type: ignore[arg-type]
    names = {key: published_head_key(head, key, layout) for key in module.state_dict()}
    if any(name not in rest or rest[name].shape != module.state_dict()[key].shape for key, name in names.items()):
        return None
    return {"options": module.options, "state": {key: rest.pop(name) for key, name in names.items()}}


def to_released(model: Any, folder: Path) -> None:
    """Write a `cellwright.models.Model` of this family as a published folder, atomically.

    What came from a published checkpoint goes back tensor for tensor, key for key.

    Raises
    ------
    ValueError
        For a network with several kinds of conditions, which the published format has no names for.
    """
    if model.config.more_conditions:
        raise ValueError("published scGPT checkpoints hold one kind of conditions; save this model in our own format")
    origin = model.origin
    files = origin.get("files", {})
    layout = origin.get("layout", "flash")
    value_input = model.config.value_input
    state = {published_key(k, layout, value_input): v for k, v in model.network.state_dict().items()}
    for head, module in model.heads.items():
        if head in HEADS:
            state |= {published_head_key(head, k, layout): v for k, v in module.state_dict().items()}
    state |= model.extras
    state = with_dtypes(state, files.get("dtypes", {}))
    with atomic_path(folder) as draft:
        draft.mkdir()
        torch.save(state, draft / files.get("weights_name", "best_model.pt"))
        tokens = model.vocab.tokens[: files.get("num_vocab", len(model.vocab))]
        write_json(draft / "vocab.json", {token: i for i, token in enumerate(tokens)})
        write_json(draft / "args.json", files.get("args") or published_args(model.config))


def published_args(config: ScGPTConfig) -> dict[str, Any]:
    """Return the fields of ``args.json`` that readers of published checkpoints use."""
    return {
        "embsize": config.width,
        "nheads": config.num_heads,
        "d_hid": config.feed_forward,
        "nlayers": config.num_layers,
        "n_layers_cls": 3,
        "dropout": config.dropout,
        "pad_token": SPECIALS["pad"],
        "pad_value": config.pad_value,
        "mask_value": config.mask_value,
        "n_bins": config.num_bins,
        "input_style": "binned" if config.num_bins else "log1p",
        "input_emb_style": config.value_input,
        "max_seq_len": config.max_length,
    }
