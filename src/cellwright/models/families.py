"""The families that cellwright speaks. To add one: a folder beside this file and a line here."""

from cellwright.models import scfoundation, scgpt, scmulan
from cellwright.protocols import Family

FAMILIES: dict[str, Family] = {
    "scgpt": scgpt.FAMILY,
    "scmulan": scmulan.FAMILY,
    "scfoundation": scfoundation.FAMILY,
}
