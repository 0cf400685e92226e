"""Opening published PyTorch files without running code in them, and saying what does not fit. For family adapters."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def open_published(path: Path, *, is_mapped: bool = False) -> Any:
    """Open a published ``torch.save`` file; only tensors and plain Python values are let in.

    Parameters
    ----------
    path
        The file.
    is_mapped
        Read tensors when they are first used, where the file's format allows: for large files of which a part is
        wanted. Copy what is kept, since the tensors change with the file.

    Raises
    ------
    ValueError
        When the file is not a PyTorch file, is cut short, or holds anything else.
    """
    try:
        is_mapped = is_mapped and zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} was refused: it holds more than tensors, and may run code when opened ({reason})"
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as a PyTorch checkpoint; is it complete? ({str(error)[:120]})"
        ) from None


def is_state(found: Any) -> bool:
    """Whether an object is a table of tensors by name, with at least one entry."""
    return (
        isinstance(found, dict)
        and bool(found)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())
    )


def check_shapes(state: dict[str, Tensor], needed: dict[str, Tensor], path: Path, *, hint: str) -> None:
    """Refuse a state that lacks tensors of ``needed`` or holds them in other shapes; all of them are counted."""
    missing = [name for name in needed if name not in state]
    wrong = [
        f"{name} is {tuple(state[name].shape)}, needed {tuple(like.shape)}"
        for name, like in needed.items()
        if name in state and state[name].shape != like.shape
    ]
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors missing ({', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''})")
    if wrong:
        parts.append(f"{len(wrong)} of another shape ({'; '.join(wrong[:4])}{'; ...' if len(wrong) > 4 else ''})")
    if parts:
        raise ValueError(f"{path}: {' and '.join(parts)}; nothing was loaded. {hint}")


def odd_dtypes(state: dict[str, Tensor]) -> dict[str, str]:
    """Return the number formats of tensors that are not float32, to write them back as they came."""
    odd = {k: v.dtype for k, v in state.items() if v.is_floating_point() and v.dtype != torch.float32}
    return {k: str(dtype).removeprefix("torch.") for k, dtype in odd.items()}


def with_dtypes(state: dict[str, Tensor], dtypes: dict[str, str]) -> dict[str, Tensor]:
    """Return tensors on the CPU, those named in ``dtypes`` in their own number format."""
    return {
        k: v.detach().cpu().to(getattr(torch, dtypes[k])) if k in dtypes else v.detach().cpu() for k, v in state.items()
    }


def plain(value: Any) -> Any:
    """Return a copy in which everything can be written as JSON; other values become their text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
