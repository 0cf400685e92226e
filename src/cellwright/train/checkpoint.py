"""Checkpoints as folders: every tensor in ``state.safetensors``, everything else in ``state.json``. No pickle.

A checkpoint is written whole or not at all, and is checked when read: ``state.json`` holds the SHA-256 of the tensor
file and of its own content. Nested dicts, lists and tuples, None, booleans, integers, strings and floats (NaN and
infinities included) come back with their exact types; so do dict keys that are not strings. Anything else is refused
when it is written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cellwright.files import atomic_path, read_json, sha256_file, write_json

FORMAT = "cellwright checkpoint 1"
TENSORS, STATE = "state.safetensors", "state.json"


class FolderCheckpoint(CheckpointIO):
    """Lets Lightning read and write checkpoints as folders; see the module's text."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` as the folder ``path``, replacing an older one only when all is on disk."""
        if storage_options is not None:
            raise ValueError("storage_options are not known here; a checkpoint is a local folder")
        write_tree(path, checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; its tensors are on the CPU. ``weights_only`` changes nothing: nothing is unpickled."""
        return read_tree(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint; one that is not there is no error."""
        remove_tree(path)


def write_tree(folder: str | Path, tree: Mapping[str, Any]) -> None:
    """Write a nested dict of tensors and plain values as a checkpoint folder, atomically.

    Tensors that are the same memory are stored once. An ``OrderedDict`` comes back as a dict, a ``Parameter`` as a
    tensor, and every tensor on the CPU without gradient.

    Raises
    ------
    ValueError
        If a value has another type (the message says where) or a tensor is not dense.
    """
    packer = _Packer()
    state = packer.pack(tree, "")
    with atomic_path(folder) as draft:
        draft.mkdir()
        try:
            save_file(packer.tensors, draft / TENSORS)
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"checkpoint {folder}: a tensor cannot be stored ({error})") from None
        record = {
            "format": FORMAT,
            "tensors_sha256": sha256_file(draft / TENSORS),
            "state_sha256": _sha256(state),
            "state": state,
        }
        write_json(draft / STATE, record)


def read_tree(folder: str | Path) -> dict[str, Any]:
    """Read what `write_tree` wrote.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file is damaged or is not part of a checkpoint; the message names it.
    """
    folder = Path(folder)
    for path in (folder, folder / STATE, folder / TENSORS):
        if not path.exists():
            raise FileNotFoundError(f"checkpoint is incomplete: {path} does not exist")
    record = read_json(folder / STATE)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{folder / STATE} is not a {FORMAT!r}; was it written by another version?")
    for path, found in ((TENSORS, sha256_file(folder / TENSORS)), (STATE, _sha256(record.get("state")))):
        noted = record.get(f"{'tensors' if path == TENSORS else 'state'}_sha256")
        if found != noted:
            raise ValueError(
                f"checkpoint file {folder / path} is damaged: the SHA-256 of its content is {found[:12]}..., the"
                f" checkpoint says {str(noted)[:12]}...; use another checkpoint"
            )
    return _unpack(record["state"], load_file(folder / TENSORS))


def _sha256(state: Any) -> str:
    return hashlib.sha256(json.dumps(state, separators=(",", ":")).encode()).hexdigest()


def remove_tree(folder: str | Path) -> None:
    """Remove a checkpoint folder, if it is there; a folder that holds anything else is refused."""
    folder = Path(folder)
    if not folder.exists():
        return
    strangers = sorted({item.name for item in folder.iterdir()} - {TENSORS, STATE})
    if strangers:
        raise ValueError(f"{folder} is not a checkpoint: it also holds {strangers[0]!r}; nothing was removed")
    for name in (STATE, TENSORS):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


class _Packer:
    """Turns a tree into JSON, putting its tensors aside under their path in the tree."""

    def __init__(self):
        self.tensors: dict[str, Tensor] = {}
        self._key_of: dict[tuple, str] = {}
        self._storages: set[int] = set()

    def pack(self, value: Any, where: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"$float": repr(value)}
        if kind is list:
            return [self.pack(item, f"{where}/{i}") for i, item in enumerate(value)]
        if kind is tuple:
            return {"$tuple": [self.pack(item, f"{where}/{i}") for i, item in enumerate(value)]}
        if kind in (dict, OrderedDict):
            return self._pack_dict(value, where)
        if isinstance(value, Tensor):
            return {"$tensor": self._put_aside(value.detach(), where)}
        raise ValueError(
            f"checkpoint entry {where or '/'} is a {kind.__module__}.{kind.__qualname__}, which cannot be stored;"
            " keep tensors, numbers, strings, None, lists, tuples and dicts in the state"
        )

    def _pack_dict(self, value: Mapping, where: str) -> Any:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: self.pack(item, f"{where}/{key}") for key, item in value.items()}
        pairs = []
        for key, item in value.items():
            if isinstance(key, Tensor):
                raise ValueError(f"checkpoint entry {where or '/'} has a tensor as a key, which cannot be stored")
            pairs.append([self.pack(key, f"{where}/(key)"), self.pack(item, f"{where}/{key}")])
        return {"$dict": pairs}

    def _put_aside(self, tensor: Tensor, where: str) -> str:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(f"checkpoint entry {where} is not a dense tensor with data, and cannot be stored")
        storage = tensor.untyped_storage().data_ptr()
        place = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and place in self._key_of:
            return self._key_of[place]
        key = where.encode("ascii", "backslashreplace").decode()
        while key in self.tensors:
            key += "'"
        stored = tensor.cpu().resolve_conj().resolve_neg().contiguous()
        # safetensors refuses two tensors in one piece of memory, even where they do not overlap
        self.tensors[key] = stored.clone() if storage in self._storages else stored
        self._storages.add(storage)
        self._key_of[place] = key
        return key


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (mark, inner), *_ = value.items()
        if mark == "$float":
            return float(inner)
        if mark == "$tuple":
            return tuple(_unpack(item, tensors) for item in inner)
        if mark == "$tensor":
            return tensors[inner]
        if mark == "$dict":
            return {_unpack(key, tensors): _unpack(item, tensors) for key, item in inner}
    return {key: _unpack(item, tensors) for key, item in value.items()}
