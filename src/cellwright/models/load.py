"""The door through which any checkpoint comes in, strictly: everything fits, or one error says what does not.

Pickled files are opened with ``weights_only=True`` by the family adapters, so that no code in them runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cellwright.config import did_you_mean
from cellwright.files import read_json, sha256_file
from cellwright.models.bundle import FORMAT_VERSION, LoadReport, Model
from cellwright.models.families import FAMILIES
from cellwright.models.inputs import InputConfig
from cellwright.nn.heads import ClassHead, ErrorHead, build_head
from cellwright.protocols import Family
from cellwright.vocab import GeneVocab

_UNFIT = (RuntimeError, TypeError, KeyError, IndexError, AttributeError)
"""What building a network from records of the wrong kind raises."""
SHIPPED = Path(__file__).parent / "shipped"


def shipped() -> dict[str, Path]:
    """Return the checkpoints that come with the package, name -> folder."""
    return {p.name: p for p in sorted(SHIPPED.iterdir()) if p.is_dir()} if SHIPPED.is_dir() else {}


def load(
    path: str | Path,
    *,
    overrides: Sequence[str] = (),
    vocab: str | Path | None = None,
    key: str | None = None,
) -> Model:
    """Open a model: a cellwright checkpoint folder, a published folder or weights file, or a shipped name.

    Parameters
    ----------
    path
        Where it is, or the name of a shipped checkpoint.
    overrides
        Changes to the architecture record such as ``"pooling=avg-pool"``, for choices that published
        checkpoints do not store.
    vocab
        The published vocabulary file, for a published checkpoint that it does not lie beside (scMulan:
        ``meta_info.pt``; scFoundation: ``OS_scRNA_gene_index.19264.tsv``, for other genes than the published ones).
    key
        Which model of a published file that holds several (scFoundation: ``cell``, the default, ``rde`` or ``gene``).

    Raises
    ------
    FileNotFoundError
        When there is no such path or shipped name.
    ValueError
        When the folder is no known kind of checkpoint, is damaged, or tensors are missing or of another shape.
    """
    place = Path(path)
    if not place.exists():
        known = shipped()
        if str(path) not in known:
            near = did_you_mean(str(path), known)
            names = f"shipped: {', '.join(known) or 'none'}"
            raise FileNotFoundError(
                f"no model at {str(path)!r}{near} (a checkpoint folder, a weights file, or {names})"
            )
        place = known[str(path)]
    if vocab is not None:
        return _load_apart(place, Path(vocab), overrides, key)
    if place.is_dir() and (place / "config.json").is_file():
        if key is not None:
            raise ValueError(f"{place} holds one model; leave key = {key!r} out")
        return _load_own(place, overrides)
    for family in FAMILIES.values():
        if family.is_released(place):
            return _load_released(family, place, overrides, key=key)
    raise ValueError(
        f"{place} is not a model: expected a cellwright checkpoint (config.json, vocab.json, model.safetensors) or a "
        f"published one of {', '.join(f.title for f in FAMILIES.values())} "
        "(for scGPT: args.json, vocab.json, best_model.pt; for scMulan: ckpt_scMulan.pt, meta_info.pt; "
        "for scFoundation: models.ckpt)"
    )


def _load_apart(place: Path, vocab: Path, overrides: Sequence[str], key: str | None) -> Model:
    """Open published weights with a vocabulary file from elsewhere."""
    if not vocab.is_file():
        raise FileNotFoundError(f"no vocabulary file at {str(vocab)!r}")
    takers = [f for f in FAMILIES.values() if f.vocab_file and Path(f.vocab_file).suffix == vocab.suffix]
    if not takers or (place.is_dir() and (place / "config.json").is_file()):
        known = ", ".join(f"{f.vocab_file} of {f.title}" for f in FAMILIES.values() if f.vocab_file)
        raise ValueError(f"{place} takes no vocabulary from {vocab}; only published checkpoints do ({known})")
    return _load_released(takers[0], place, overrides, vocab_file=vocab, key=key)


def _load_released(family: Family, place: Path, overrides: Sequence[str], **choices: Path | str | None) -> Model:
    choices = {name: choice for name, choice in choices.items() if choice is not None}
    if "key" in choices and not family.keys:
        raise ValueError(f"{place} is a {family.title} checkpoint of one model; leave key = {choices['key']!r} out")
    try:
        with warnings.catch_warnings():
            # of a foreign pickle, which is refused with its own words
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            found = family.from_released(place, **choices)
        config = found.config.override(overrides) if overrides else found.config
        with torch.device("meta"):
            network = family.build(config, found.vocab)
        network.load_state_dict({k: _as_float32(v) for k, v in found.network.items()}, assign=True)
    except _UNFIT as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ValueError(
            f"{place} cannot be read as a published {family.title} checkpoint ({reason}); is one of its files damaged "
            "or of another model?"
        ) from None
    heads = {}
    for name, head in found.heads.items():
        heads[name] = ClassHead(config.width, **head["options"])
        heads[name].load_state_dict({k: _as_float32(v) for k, v in head["state"].items()})
    num_classes = {name: head["options"]["num_classes"] for name, head in found.heads.items()}
    report = LoadReport(
        source=str(place),
        kind="released",
        layout=found.layout,
        loaded=(*found.network, *(f"{n}.{k}" for n, h in found.heads.items() for k in h["state"])),
        unused=tuple(found.extras),
        absent_heads=tuple(h for h in family.heads if h not in heads),
        notes=found.notes,
    )
    return Model(
        family=family,
        config=config,
        vocab=found.vocab,
        network=network.eval(),
        heads={name: head.eval() for name, head in heads.items()},
        classes={name: tuple(f"class_{i}" for i in range(k)) for name, k in num_classes.items()},
        extras=found.extras,
        origin={"layout": found.layout, "files": found.files},
        report=report,
    )


def _as_float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _load_own(place: Path, overrides: Sequence[str]) -> Model:
    record = _read_record(place)
    family = FAMILIES[record["family"]]
    config = family.config.read(record["config"], f"{place}/config.json")
    config = config.override(overrides) if overrides else config
    vocab = GeneVocab.load(place / "vocab.json")
    tensors = _read_tensors(place)
    with torch.device("meta"):
        network = family.build(config, vocab)
    _load_strictly(network, _under("network.", tensors), place)
    heads: dict[str, nn.Module] = {}
    for name, head in record["heads"].items():
        heads[name] = _head(config.width, name, head, place)
        _load_strictly(heads[name], _under(f"heads.{name}.", tensors), place)
    extras = _under("extras.", tensors)
    report = LoadReport(
        source=str(place),
        kind="cellwright",
        layout="cellwright",
        loaded=tuple(n for n in tensors if not n.startswith("extras.")),
        unused=tuple(extras),
        absent_heads=tuple(h for h in family.heads if h not in heads),
    )
    return Model(
        family=family,
        config=config,
        vocab=vocab,
        network=network.eval(),
        inputs=InputConfig.read(record["inputs"], f"{place}/config.json"),
        heads=heads,
        classes={name: tuple(head["classes"]) for name, head in record["heads"].items()},
        extras=extras,
        origin=record["origin"],
        report=report,
    )


def _read_record(place: Path) -> dict[str, Any]:
    """Read config.json and check that the folder is whole."""
    record = read_json(place / "config.json")
    if not isinstance(record, dict) or record.get("format") != "cellwright":
        raise ValueError(f"{place}/config.json is not of a cellwright checkpoint")
    lacking = {"family", "config", "inputs", "heads", "origin", "sha256"} - set(record)
    if lacking:
        raise ValueError(f"{place}/config.json lacks {sorted(lacking)}; was it edited?")
    wrong = [name for name in ("config", "inputs", "heads", "origin", "sha256") if not isinstance(record[name], dict)]
    version, family = record.get("format_version"), str(record["family"])
    if wrong or not isinstance(version, int):
        raise ValueError(
            f"{place}/config.json: {(wrong or ['format_version'])[0]!r} is of another kind; was it edited?"
        )
    if version > FORMAT_VERSION:
        raise ValueError(f"{place} was written by a newer cellwright (format {version}); please upgrade")
    if family not in FAMILIES:
        near = did_you_mean(family, FAMILIES)
        raise ValueError(f"{place}: unknown model family {family!r}{near}; known: {', '.join(FAMILIES)}")
    for name in ("vocab.json", "model.safetensors"):
        if not (place / name).is_file():
            raise FileNotFoundError(f"{place} is incomplete: {name} is missing")
        if sha256_file(place / name) != record["sha256"].get(name):
            raise ValueError(f"{place}/{name} is damaged or was exchanged: its hash is not the one in config.json")
    return record


def _head(width: int, name: str, head: Any, place: Path) -> ClassHead | ErrorHead:
    try:
        built, classes = build_head(width, head["options"]).eval(), [str(label) for label in head["classes"]]
    except (*_UNFIT, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ValueError(f"{place}/config.json: head {name!r} cannot be built ({reason}); was it edited?") from None
    num_classes = built.options.get("num_classes", 0)
    if len(classes) not in (0, num_classes):
        raise ValueError(
            f"{place}/config.json: head {name!r} has {num_classes} classes and {len(classes)} names "
            "for them; was it edited?"
        )
    return built


def _read_tensors(place: Path) -> dict[str, Tensor]:
    try:
        return load_file(place / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{place}/model.safetensors cannot be read ({error})") from None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _load_strictly(module: nn.Module, state: dict[str, Tensor], place: Path) -> None:
    needed = module.state_dict()
    parts = {
        "missing": [name for name in needed if name not in state],
        "unknown": [name for name in state if name not in needed],
        "of another shape or kind": [
            f"{name} is {tuple(state[name].shape)} {state[name].dtype}, needed {tuple(value.shape)} {value.dtype}"
            for name, value in needed.items()
            if name in state and (state[name].shape, state[name].dtype) != (value.shape, value.dtype)
        ],
    }
    found = [f"{len(n)} {what} ({', '.join(n[:3])}{', ...' if len(n) > 3 else ''})" for what, n in parts.items() if n]
    if found:
        raise ValueError(f"{place}: the tensors do not fit the architecture in config.json: {'; '.join(found)}")
    module.load_state_dict(state, assign=True)
