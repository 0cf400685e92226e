"""Configuration: frozen typed records, strict dotted overrides, and the record of what ran.

`Config` is the base of every options object; an unknown field, a wrong type or a value out of range is a
``ValueError`` that names the field. A run's configuration is written beside its results and read back unchanged.
"""

from __future__ import annotations

import difflib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

RECORDED_PACKAGES = ("cellwright", "torch", "numpy", "scipy", "anndata", "scikit-learn", "lightning", "numba")


class Config(BaseModel):
    """A frozen record whose fields are checked on construction; see the module's text."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )

    @classmethod
    def read(cls, record: Any, where: str) -> Self:
        """Build from parsed JSON; a mistake is one ``ValueError`` that says where and which field."""
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            raise ValueError(f"{where}: {_explain(error, cls)}") from None

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return self.model_dump(mode="json")

    def override(self, assignments: Sequence[str]) -> Self:
        """Return a copy with changes such as ``"train.max_steps=50"`` applied, in order.

        The right side is read as JSON (``null``, or ``None``, unsets), and as plain text where that fails. A name that
        no field has, or a value of the wrong type, is a ``ValueError``; a near miss is named.
        """
        tree = self.record()
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            if not equals:
                raise ValueError(f"{assignment!r} is not of the form name=value")
            _assign(self, tree, path.strip(), _value(text))
        return type(self).read(tree, "--set")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None if text == "None" else text


def _assign(config: Config, tree: dict[str, Any], path: str, value: Any) -> None:
    """Set one entry of the tree; new names may come only into tables such as ``data.metadata``, at their end."""
    *parents, last = path.split(".")
    node, record = tree, config
    for depth, name in enumerate([*parents, last]):
        is_new = isinstance(record, dict) and depth == len(parents)
        if name not in node and not is_new:
            raise ValueError(f"no option {path!r}{did_you_mean(name, node) or f'; options here: {sorted(node)}'}")
        if depth < len(parents):
            if not isinstance(node[name], dict):
                raise ValueError(f"no option {path!r}: {'.'.join(parents[: depth + 1])!r} has no parts")
            node = node[name]
            record = record[name] if isinstance(record, dict) else getattr(record, name)
    node[last] = value


def _explain(error: ValidationError, cls: type[Config]) -> str:
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"no option {name!r}{did_you_mean(name, cls.model_fields)}")
        elif name:
            lines.append(f"{name} = {item.get('input')!r}: {item['msg']}")
        else:
            lines.append(item["msg"])
    return "; ".join(lines)


def did_you_mean(name: str, known: Any) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def some_of(words: Sequence[str], most: int = 5) -> str:
    """Return the first words with commas between, and how many more there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def record_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return where two records in JSON form differ: dotted name, value before (``None`` = absent), value now."""
    old, new = _flat(before), _flat(now)
    return [(name, old.get(name), new.get(name)) for name in sorted(old | new) if old.get(name) != new.get(name)]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def versions() -> dict[str, str]:
    """Return the versions that a result depends on: Python, the platform and the main packages."""
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
