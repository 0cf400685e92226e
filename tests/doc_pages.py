"""Reads the documentation as its tests need it: pages, code blocks, command lines, links, tables."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "cellwright"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")])
RUN = "<!-- run -->"


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int
    is_run: bool
    """Whether the comment `RUN` stands above it."""


def name_of(path: Path) -> str:
    """Return a path as a reader of test results wants it."""
    return str(path.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order; one that is never closed is an error."""
    found, opened, above = [], None, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"\s*```\s*([\w+-]*)", line)
        if opened is None and fence:
            opened = (fence[1].lower(), [], number + 1, above == RUN)
        elif opened is not None and fence:
            language, lines, start, is_run = opened
            found.append(Block(language, "\n".join(lines) + "\n", start, is_run))
            opened = None
        elif opened is not None:
            opened[1].append(line)
        above = line.strip() or above
    assert opened is None, f"{name_of(page)}: the block at line {opened[2]} is never closed"
    return found


def prose(page: Path) -> str:
    """Return the text of a page without its fenced blocks and without formulas."""
    text = re.sub(r"^\s*```.*?^\s*```[^\n]*$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\$\$?[^$]+\$\$?", "", text)


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures; those on the web are left out."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    targets = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", text)
    targets += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    targets += re.findall(r"^\[[^\]]+\]:\s+(\S+)", text, flags=re.MULTILINE)
    return [target for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:", target)]


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as links spell them."""
    text = re.sub(r"^\s*```.*?^\s*```[^\n]*$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+\s+(.+?)\s*#*$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of each ``cellwright`` or ``make`` command of a shell block."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words and words[0] in ("cellwright", "make"):
            yield words


def commands(page: Path) -> list[list[str]]:
    """Return the commands of a page: those of its blocks whole, those inside its text as far as they are given."""
    shells = ("", "sh", "bash", "shell", "console", "text")
    return [words for block in blocks(page) if block.language in shells for words in command_lines(block.text)]


def indented_commands(text: str) -> list[list[str]]:
    """Return the commands of indented lines, as READMEs and docstrings hold them."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [words for line in lines if line.startswith("    ") for words in command_lines(line)]


def inline_code(page: Path) -> list[str]:
    """Return what stands in the text and its tables as code."""
    return re.findall(r"`([^`]+)`", prose(page))


def mentioned_commands(page: Path) -> list[list[str]]:
    """Return the ``cellwright`` commands that stand in the text as code; they may leave arguments out."""
    return [words for code in inline_code(page) if code.startswith("cellwright ") for words in command_lines(code)]


def symbols(page: Path) -> list[str]:
    """Return the code of every table column whose heading is "in code" or ends so."""
    found, column = [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.lstrip().startswith("|"):
            column = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if column is None:
            heads = [cell.lower() for cell in cells]
            column = next((i for i, head in enumerate(heads) if head.endswith("in code")), -1)
        elif 0 <= column < len(cells):
            found += re.findall(r"`([^`]+)`", cells[column])
    return found


@cache
def defined_names() -> tuple[set[str], dict[str, set[str]]]:
    """Return every name that the package defines, and class name -> names of its fields and methods."""
    names: set[str] = set()
    members: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names |= names_in(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                members.setdefault(node.name, set()).update(names_in(node))
    return names, members


def names_in(tree: ast.AST) -> set[str]:
    """Return the functions, classes, variables and attributes that are defined in a piece of code."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names
