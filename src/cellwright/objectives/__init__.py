"""What a model is trained for: views (what it may see), terms (what an answer costs), and their sum.

`VIEWS` and `TERMS` are the whole list: a name in a recipe is a key of these tables.
"""

from __future__ import annotations

from cellwright.objectives.base import Objective
from cellwright.objectives.cell import Contrast, Domain, Label, Similarity
from cellwright.objectives.confidence import ExpectedError
from cellwright.objectives.depth import ReadDepth
from cellwright.objectives.entity import NextEntity, NextLevel
from cellwright.objectives.modalities import ModalityMask
from cellwright.objectives.sentences import CSentence
from cellwright.objectives.value import CellValue, CellZeroGate, MaskedValue, PromptedValue, ZeroGate
from cellwright.objectives.views import Clean, GenerativeSplit, RandomMask
from cellwright.objectives.word_label import WordLabel

VIEWS = {
    "clean": Clean,
    "random_mask": RandomMask,
    "modality_mask": ModalityMask,
    "generative_split": GenerativeSplit,
    "c_sentence": CSentence,
    "read_depth": ReadDepth,
}
"""Name -> view class; each is built from keyword options."""

TERMS = {
    "masked_value": MaskedValue,
    "cell_value": CellValue,
    "prompted_value": PromptedValue,
    "zero_gate": ZeroGate,
    "cell_zero_gate": CellZeroGate,
    "expected_error": ExpectedError,
    "next_entity": NextEntity,
    "next_level": NextLevel,
    "label": Label,
    "word_label": WordLabel,
    "similarity": Similarity,
    "contrast": Contrast,
    "domain": Domain,
}
"""Name -> term class; `Label`, `WordLabel`, `Domain` and `ExpectedError` also take the head that they own."""

__all__ = ["TERMS", "VIEWS", "Objective"]
