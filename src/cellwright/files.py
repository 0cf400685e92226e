"""Files that are either whole or absent: atomic writing, hashing, strict JSON.

Every file cellwright leaves behind goes through `atomic_path`, so that a kill in the middle of a write never
leaves half a file under the final name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a path beside ``target`` that becomes ``target`` when the block ends without an error.

    The block may write a file or make a folder there. On an error nothing is left behind and an existing
    ``target`` stays as it was. The new content is flushed to disk before it takes the name; a folder replaces
    an existing folder.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # the suffix is kept because some writers choose the format by it
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)) / target.name
    try:
        yield draft
        _flush(draft)
        if draft.is_dir() and target.is_dir():
            target.rename(draft.parent / "replaced")
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)


def _flush(path: Path) -> None:
    for item in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if item.is_file():
            with open(item, "rb") as handle:
                os.fsync(handle.fileno())


def sha256_file(path: str | Path) -> str:
    """Hash a file's bytes (hexadecimal SHA-256)."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a file that is not JSON is a ``ValueError`` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); was it cut short or is it another file?") from None
