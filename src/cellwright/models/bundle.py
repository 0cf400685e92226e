"""A network with everything needed to use it: vocabulary, heads, class names, input preparation, where it is from.

On disk a cellwright checkpoint is a folder of ``config.json`` (everything but tensors), ``vocab.json`` and
``model.safetensors``. Each file is written whole; ``config.json`` comes last and holds the hashes of the others, so
that a torn or edited folder is noticed when it is opened. Published checkpoints come in by their family's adapter.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cellwright.config import Config, did_you_mean, versions
from cellwright.files import atomic_path, sha256_file, write_json
from cellwright.models.families import FAMILIES
from cellwright.models.inputs import InputConfig
from cellwright.models.sizes import check_fits
from cellwright.protocols import Family, Tokenizer
from cellwright.vocab import GeneVocab

if TYPE_CHECKING:
    from cellwright.models.adapt import Adapted

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What was found when a checkpoint was opened. Loading is strict: a network tensor is never missing here."""

    source: str
    kind: str
    """cellwright | released | new."""
    layout: str
    loaded: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    """Tensors that no part of the architecture uses; they are kept and written back."""
    absent_heads: tuple[str, ...] = ()
    """Heads that the family knows and this checkpoint does not have."""
    notes: tuple[str, ...] = ()
    """What the published files hold beside, and was left out."""

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "source": self.source,
            "kind": self.kind,
            "layout": self.layout,
            "num_loaded": len(self.loaded),
            "missing": [],
            "mismatched": [],
            "unused": list(self.unused),
            "absent_heads": list(self.absent_heads),
            "notes": list(self.notes),
        }


@dataclass(kw_only=True, eq=False)
class Model:
    """A network and its company; see the module's text. Made by `load` and `new_model`."""

    family: Family
    config: Config
    vocab: GeneVocab
    network: nn.Module
    inputs: InputConfig = InputConfig()
    heads: dict[str, nn.Module] = field(default_factory=dict)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Head name -> class names."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    """Facts about where it came from that must survive (published layout and records, training notes)."""
    report: LoadReport

    @property
    def key(self) -> str:
        """Name of the embedding slot, for instance ``X_scGPT``."""
        return f"X_{self.family.title}"

    @property
    def tech_batches(self) -> tuple[str, ...]:
        """Names of the sequencing batches that the network must be told of, in the order of its codes.

        Empty for a network that takes none. A published checkpoint does not say the names; they are the numbers then.
        """
        num = getattr(self.config, "num_known_batches", 0)
        return tuple(self.origin.get("tech_batches", {}).get("names") or map(str, range(num))) if num else ()

    @property
    def num_parameters(self) -> int:
        """Parameters of network and heads."""
        return sum(p.numel() for module in (self.network, *self.heads.values()) for p in module.parameters())

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor under the name it has on disk."""
        named = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        for head, module in self.heads.items():
            named |= {f"heads.{head}.{k}": v for k, v in module.state_dict().items()}
        named |= {f"extras.{k}": v for k, v in self.extras.items()}
        return {k: v.detach().cpu().contiguous() for k, v in named.items()}

    def sha256(self) -> str:
        """Hash of the family, the configuration, the vocabulary and every number of network and heads."""
        digest = hashlib.sha256(f"{self.family.name}{self.config.record()}{self.vocab.sha256}".encode())
        for name, value in sorted(self.tensors().items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def tokenizer(self, **changes: Any) -> Tokenizer:
        """Return the tokeniser that this model was made for; ``changes`` replace fields of `InputConfig`."""
        inputs = InputConfig.read(self.inputs.record() | changes, "tokeniser")
        return self.family.tokenizer(self.config, self.vocab, inputs, is_packed=not self.network.needs_padding)

    def fresh(self, seed: int) -> Model:
        """Return a copy with newly drawn weights and no heads: the same architecture without what it learnt."""
        report = LoadReport(source=self.report.source, kind="new", layout="cellwright")
        network = build_network(self.family, self.config, self.vocab, seed)
        return Model(
            family=self.family, config=self.config, vocab=self.vocab, network=network, inputs=self.inputs, report=report
        )

    def with_config(self, changes: Sequence[str]) -> Model:
        """Return the same weights under a changed architecture record, such as ``["pooling=max"]``.

        Tensors are shared. Heads stay behind: they were trained on what the network said before.

        Raises
        ------
        ValueError
            When the weights do not fit the changed record.
        """
        config = self.config.override(changes)
        with torch.device("meta"):
            network = self.family.build(config, self.vocab)
        try:
            network.load_state_dict(self.network.state_dict(), assign=True)
        except RuntimeError:
            raise ValueError(
                f"the weights do not fit {', '.join(changes)}; only what holds no weights can change"
            ) from None
        return replace(self, config=config, network=network.eval(), heads={}, classes={})

    def adapted(
        self,
        changes: Mapping[str, Any] | None = None,
        *,
        vocab: GeneVocab | None = None,
        redraw: Sequence[str] = (),
        seed: int = 0,
    ) -> Adapted:
        """Return a copy with further parts or words; see `cellwright.models.adapt.adapted`."""
        from cellwright.models.adapt import adapted

        return adapted(self, changes, vocab=vocab, redraw=redraw, seed=seed)

    def with_inputs(self, **changes: Any) -> Model:
        """Return the same model for cells that are prepared in another way; ``changes`` of `InputConfig`."""
        return replace(self, inputs=InputConfig.read(self.inputs.record() | changes, "inputs"))

    def copy(self) -> Model:
        """Return an independent copy of network and heads."""
        twin = copy.copy(self)
        twin.network, twin.heads = copy.deepcopy(self.network), copy.deepcopy(self.heads)
        twin.classes, twin.origin = dict(self.classes), copy.deepcopy(self.origin)
        return twin

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder; see the module's text. Files of other names in it are left alone."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "model.safetensors") as draft:
            save_file(self.tensors(), draft)
        self.vocab.save(folder / "vocab.json")
        heads = {
            name: {"options": head.options, "classes": list(self.classes.get(name, ()))}
            for name, head in self.heads.items()
        }
        record = {
            "format": "cellwright",
            "format_version": FORMAT_VERSION,
            "family": self.family.name,
            "config": self.config.record(),
            "inputs": self.inputs.record(),
            "heads": heads,
            "origin": self.origin,
            "sha256": {name: sha256_file(folder / name) for name in ("model.safetensors", "vocab.json")},
            "versions": versions(),
        }
        write_json(folder / "config.json", record)

    def release(self, folder: str | Path) -> None:
        """Write the published format of the family, exactly what came in where the model came from one."""
        self.family.to_released(self, Path(folder))


def build_network(family: Family, config: Config, vocab: GeneVocab, seed: int) -> nn.Module:
    """Assemble an untrained network; the same seed gives the same weights. One too large for the machine is refused."""
    check_fits(config.num_weights(len(vocab)), f"a {family.title} network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family.build(config, vocab)


def new_model(
    family: str, vocab: GeneVocab, config: Config, *, seed: int = 0, inputs: InputConfig | None = None
) -> Model:
    """Build an untrained model of a family for a vocabulary."""
    if family not in FAMILIES:
        raise ValueError(f"no model family {family!r}{did_you_mean(family, FAMILIES)}; known: {', '.join(FAMILIES)}")
    chosen = FAMILIES[family]
    report = LoadReport(source=f"new {family}", kind="new", layout="cellwright")
    network = build_network(chosen, config, vocab, seed)
    return Model(
        family=chosen, config=config, vocab=vocab, network=network, inputs=inputs or InputConfig(), report=report
    )
