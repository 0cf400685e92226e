"""The documentation tells the truth: links, commands, code and names are those of the package; the examples run."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import doc_pages
import pytest
import typer
from doc_pages import EXAMPLES, PAGES, ROOT, SOURCE, blocks, name_of

import cellwright
from cellwright.cli import build
from cellwright.config import Config
from cellwright.data import load_dataset, make_cells
from cellwright.demo import DemoConfig
from cellwright.objectives import TERMS, VIEWS
from cellwright.recipes import RECIPES, recipe
from cellwright.tasks.annotate import AnnotateConfig
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.integrate import IntegrateConfig
from cellwright.train.config import TrainConfig
from cellwright.train.optim import OptimConfig
from cellwright.verbs import CompareOptions, ReadOptions
from cellwright.verbs.comparing import configs_of

SMALL = {
    "annotate": ["--steps", "2", "--epochs", "1"],
    "compare_modes": ["--steps", "2", "--epochs", "1", "--seeds", "1", "--modes", "probe", "full"],
    "convert": [],
    "denoise": ["--steps", "2"],
    "embed": ["--steps", "2"],
    "grn": ["--steps", "2", "--genes", "120", "--num-cells", "5"],
    "integrate": ["--steps", "2", "--epochs", "1", "--genes", "60"],
    "fill": ["--steps", "2", "--genes", "40"],
    "map_reference": ["--steps", "2"],
    "multiome": ["--epochs", "1"],
    "generate": ["--steps", "2", "--num-cells", "3"],
    "perturb": ["--epochs", "1"],
    "pretrain": ["--steps", "2", "--genes", "50"],
}
"""Arguments that make an example quick."""
OWN = {
    "annotate": ["--reference", "own.h5ad", "--query", "own.h5ad", "--label", "cell_type"],
    "compare_modes": ["--data", "own.h5ad", "--label", "cell_type"],
    "convert": [],
    "denoise": ["--data", "own.h5ad"],
    "embed": ["--data", "own.h5ad", "--label", "cell_type"],
    "grn": ["--data", "own.h5ad"],
    "integrate": ["--data", "own.h5ad", "--tech-batch", "tech_batch", "--label", "cell_type"],
    "fill": ["--data", "own.h5ad", "--label", "cell_type"],
    "map_reference": ["--reference", "own.h5ad", "--query", "own.h5ad", "--label", "cell_type"],
    "multiome": [],
    "generate": ["--data", "own.h5ad", "--label", "cell_type"],
    "perturb": ["--data", "own.h5ad", "--perturbation", "cell_type", "--control", "type 0"],
    "pretrain": ["--data", "own.h5ad"],
}
"""Arguments that give it cells of one's own."""
SAYS = {
    "annotate": "wrote ",
    "compare_modes": "report: ",
    "convert": "equal after the round trip: True",
    "embed": "PCA: ",
    "grn": "wrote ",
    "integrate": "embedded again: ",
    "fill": "steps are ",
    "map_reference": "PCA: ",
    "multiome": "told 6 proteins of 40 cells without any:",
    "generate": "made.h5ad: 6 cells",
    "denoise": "genes known to the model",
    "perturb": "largest predicted change",
    "pretrain": "step 2: ",
}
"""What it must have printed in the end."""
OUT = {
    "annotate": "annotated.h5ad",
    "compare_modes": "ways/report.html",
    "convert": "cellwright/config.json",
    "embed": None,
    "grn": "attention/targets.tsv",
    "integrate": "integrated/integrated.h5ad",
    "fill": "whole.h5ad",
    "map_reference": None,
    "multiome": "cells.h5ad",
    "generate": "made.h5ad",
    "denoise": None,
    "perturb": "model/network/config.json",
    "pretrain": "config.json",
}
"""File that it must leave in the folder ``--out``; ``None`` = ``--out`` is that file."""

per_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.fixture(scope="module")
def command():
    """The command line, as its parser sees it."""
    return typer.main.get_command(build())


def test_the_pages_are_found():
    names = {name_of(page) for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/data.md", "docs/families/scgpt.md"} <= names


@per_page
def test_links_lead_somewhere(page):
    for link in doc_pages.links(page):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{name_of(page)}: {link} does not exist"
        assert target == ROOT or ROOT in target.parents, f"{name_of(page)}: {link} leads out of the repository"
        if anchor and target.suffix == ".md":
            assert anchor in doc_pages.anchors(target), f"{name_of(page)}: {link}: no such heading"


def parse(command, words: list[str], *, is_whole: bool) -> None:
    """Let the command line read ``cellwright ...`` without doing anything; what cannot be read is raised."""
    context, rest = typer.Context(command, info_name="cellwright"), words[1:]
    if rest and rest[0] in ("--help", "--version", "--debug"):
        return
    path = []
    while hasattr(command, "commands") and rest:
        name, command, rest = command.resolve_command(context, rest)
        context = typer.Context(command, info_name=name, parent=context)
        path.append(name)
    if not is_whole:
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        unknown = {word.partition("=")[0] for word in rest if word.startswith("-")} - known - {"--help"}
        assert not unknown, f"{' '.join(words)}: no option {', '.join(unknown)}"
        return
    options = command.make_context(path[-1], rest, parent=context).params
    for kind in (ReadOptions, InferenceOptions):
        kind.read({name: options[name] for name in kind.model_fields if name in options}, " ".join(words))
    changes = list(options.get("set_") or ())
    if path == ["pretrain"]:
        recipe(options["recipe"]).override(changes)
    elif path == ["demo"]:
        DemoConfig.standard().override(changes)
    elif path == ["finetune", "annotate"]:
        AnnotateConfig().override([f"mode={options['mode']}", *changes])
    elif path == ["finetune", "compare"]:
        modes = None if options["modes"] is None else options["modes"].split(",")
        configs_of(CompareOptions(modes=modes).modes, changes, task=options["task"])
    elif path == ["integrate"] and options["mode"] != "zero_shot":
        IntegrateConfig().override([f"mode={options['mode']}", *changes])


def check_command(command, words: list[str], where: str, *, is_whole: bool = True) -> None:
    """Fail where a command of a page is not one that the package or the Makefile knows."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        unknown = [word for word in words[1:] if "=" not in word and word not in targets]
        assert not unknown, f"{where}: make has no target {unknown}"
        return
    try:
        parse(command, words, is_whole=is_whole)
    except Exception as error:  # noqa: BLE001 - the parser's own errors have no public name
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        pytest.fail(f"{where}: {' '.join(words)}: {text}")


@per_page
def test_commands_can_be_read(command, page):
    for words in doc_pages.commands(page) + doc_pages.indented_commands(doc_pages.prose(page)):
        check_command(command, words, name_of(page))
    for words in doc_pages.mentioned_commands(page):
        check_command(command, words, name_of(page), is_whole=False)


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_commands_of_examples_can_be_read(command, example):
    text = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8")))
    found = doc_pages.indented_commands(text)
    assert found, f"{name_of(example)} does not say how the same is done on the command line"
    for words in found:
        check_command(command, words, name_of(example))


@pytest.mark.parametrize("words", ["embedd m d -o x.h5ad", "embed m d", "embed m d -o x.h5ad --keys k", "embed m -o x"])
def test_a_wrong_command_would_be_noticed(command, words):
    with pytest.raises(pytest.fail.Exception):
        check_command(command, ["cellwright", *words.split()], "here")


def test_a_wrong_setting_would_be_noticed(command):
    for words in ("pretrain d -o x --set train.max_step=1", "finetune annotate m d --label l -o x --mode none"):
        with pytest.raises(pytest.fail.Exception):
            check_command(command, ["cellwright", *words.split()], "here")


@per_page
def test_python_blocks_compile_and_use_what_exists(page):
    for block in blocks(page):
        if block.language in ("python", "py"):
            where = f"{name_of(page)}, line {block.line}"
            tree = compile(block.text, where, "exec", flags=ast.PyCF_ONLY_AST, dont_inherit=True)
            check_names(tree, where)


def check_names(tree: ast.AST, where: str) -> None:
    """Fail where code imports what is not there, or calls a verb with an argument that it does not take."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "cellwright":
                    import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cellwright":
            for alias in node.names:
                found = hasattr(import_module(node.module), alias.name)
                assert found, f"{where}: {node.module} has no {alias.name}"
        elif isinstance(node, ast.Call) and is_verb(node.func):
            keywords = {keyword.arg for keyword in node.keywords if keyword.arg}
            unknown = keywords - set(inspect.signature(getattr(cellwright, node.func.attr)).parameters)
            assert not unknown, f"{where}: cellwright.{node.func.attr} takes no {', '.join(unknown)}"
        if is_verb(node):
            assert hasattr(cellwright, node.attr), f"{where}: there is no cellwright.{node.attr}"


def is_verb(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cellwright"


@pytest.mark.parametrize("page", [p for p in PAGES if any(block.is_run for block in blocks(p))], ids=name_of)
def test_marked_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__page__"}
    for block in blocks(page):
        if block.is_run:
            exec(compile(block.text, f"{name_of(page)}, line {block.line}", "exec", dont_inherit=True), names)


@per_page
def test_names_in_tables_exist(page):
    names, members = doc_pages.defined_names()
    for symbol in doc_pages.symbols(page):
        place, _, name = symbol.rpartition(": ")
        if place:
            path = SOURCE / place
            assert path.is_file(), f"{name_of(page)}: no file {place}"
            assert name in doc_pages.names_in(ast.parse(path.read_text(encoding="utf-8"))), f"{name_of(page)}: {symbol}"
        elif "/" in symbol or symbol.endswith(".py"):
            assert (SOURCE / symbol).exists() or (ROOT / symbol).exists(), f"{name_of(page)}: no {symbol}"
        elif "." in symbol:
            owner, _, name = symbol.rpartition(".")
            assert name in members.get(owner, ()), f"{name_of(page)}: {owner} has no {name}"
        elif symbol.isidentifier():
            assert symbol in names, f"{name_of(page)}: nothing is called {symbol}"


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ("docs/objectives.md", [*VIEWS, *TERMS]),
        ("docs/training.md", [*RECIPES, *TrainConfig.model_fields, *OptimConfig.model_fields]),
        ("docs/tasks/embed.md", [f"--{name.replace('_', '-')}" for name in ReadOptions.model_fields]),
    ],
)
def test_nothing_is_left_out(page, wanted):
    code = " ".join(doc_pages.inline_code(ROOT / page))
    missing = [name for name in wanted if not re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", code)]
    assert not missing, f"{page} does not speak of {', '.join(missing)}"


@pytest.mark.parametrize(("heading", "kind"), [("train", TrainConfig), ("optim", OptimConfig)])
def test_documented_defaults_are_the_defaults(heading: str, kind: type[Config]):
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    table = text.split(f"Under `{heading}`:")[1].split("\n\n")[1]
    checked = 0
    for option, default in re.findall(r"^\| `(\w+)` \| `?([\w.-]+)`? \|", table, flags=re.MULTILINE):
        value = kind.model_fields[option].get_default(call_default_factory=True)
        if default != "none":
            assert str(value).lower() in (default, f"{default}.0"), f"{option} is {value}, the page says {default}"
        else:
            assert not value, f"{option} is {value}, the page says none"
        checked += 1
    assert checked >= 5


LONG = {"denoise", "embed", "integrate", "multiome", "perturb"}
"""Examples that take four seconds and more; other tests run the same verbs."""


def test_every_example_has_arguments_here():
    assert LONG < {example.stem for example in EXAMPLES}
    assert {example.stem for example in EXAMPLES} == set(SMALL) == set(OWN) == set(SAYS) == set(OUT)


def check_example(example: Path, out: Path, printed: str) -> None:
    assert SAYS[example.stem] in printed
    left = out if OUT[example.stem] is None else out / OUT[example.stem]
    assert left.is_file()


@pytest.mark.parametrize(
    "example",
    [pytest.param(e, marks=pytest.mark.slow) if e.stem in LONG else e for e in EXAMPLES],
    ids=name_of,
)
def test_an_example_runs(example, tmp_path, monkeypatch, capsys):
    """In this process, on small cells of one's own; the drawing is by PCA, since UMAP takes long to compile."""
    from cellwright.evaluate import integration_sections, multiome, projection, study

    monkeypatch.chdir(tmp_path)
    genes = load_dataset("pbmc_facs_zheng").var_names[:300]
    make_cells(150, len(genes), gene_names=genes, depth=600.0).write_h5ad("own.h5ad")
    for module in (study, multiome, integration_sections):
        monkeypatch.setattr(module, "umap_embedding", lambda x_nd, seed: projection._principal_components(x_nd))
    out = tmp_path / ("out.h5ad" if OUT[example.stem] is None else "out")
    runpy.run_path(str(example))["main"]([*SMALL[example.stem], *OWN[example.stem], "--out", str(out)])
    check_example(example, out, capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_an_example_runs_as_a_stranger_runs_it(example, tmp_path):
    """In a process of its own, on the shipped cells, with its own settings but for the length of training."""
    out = tmp_path / ("out.h5ad" if OUT[example.stem] is None else "out")
    line = [sys.executable, str(example), *SMALL[example.stem], "--out", str(out)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_example(example, out, done.stdout)
