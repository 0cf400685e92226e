"""Model families in one literal table, and the door through which any checkpoint comes in."""

from cellwright.models.bundle import LoadReport, Model, new_model
from cellwright.models.families import FAMILIES
from cellwright.models.inputs import InputConfig
from cellwright.models.load import load, shipped

__all__ = ["FAMILIES", "InputConfig", "LoadReport", "Model", "load", "new_model", "shipped"]
