"""The rooms of the house and who may look into whom; an arrow that is not in the table fails here."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "cellwright"
CORE = {"layout", "types", "files", "config", "vocab", "protocols", "tokens", "nn", "models", "objectives"}
CORE_LIBRARIES = {"torch", "numpy", "scipy", "pydantic", "numba", "safetensors", "cellwright"}
BELOW_VERBS = {
    "layout", "types", "files", "config", "vocab", "protocols", "metrics", "data", "tokens", "nn", "models",
    "objectives", "train", "baselines", "tasks", "evaluate",
}  # fmt: skip

MAY_IMPORT: dict[str, set[str]] = {
    "layout": set(),
    "types": {"layout"},
    "files": set(),
    "config": set(),
    "metrics": set(),
    "vocab": {"files"},
    "protocols": {"types", "vocab"},
    "baselines": {"types", "metrics"},
    "tokens": {"types", "vocab"},
    "nn": {"layout", "types"},
    "data": {"types", "protocols", "vocab", "config", "files"},
    "models": {"types", "protocols", "vocab", "config", "files", "tokens", "nn"},
    "objectives": {"layout", "types", "protocols", "config", "tokens", "nn"},
    "train": {"types", "protocols", "config", "files"},
    "tasks": {
        "layout", "types", "protocols", "vocab", "config", "files", "metrics", "data", "tokens", "nn", "objectives",
        "train", "baselines",
    },
    "evaluate": {"types", "protocols", "config", "files", "metrics", "data", "tokens", "baselines", "tasks"},
    "recipes": BELOW_VERBS - {"evaluate"},
    "verbs": BELOW_VERBS | {"recipes"},
    "demo": BELOW_VERBS | {"recipes", "verbs"},
    "commands": BELOW_VERBS | {"recipes", "verbs", "demo"},
    "cli": {"config", "commands"},
    "__init__": {"verbs", "vocab", "models"},
}  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found.add(node.module)
            if node.module == "cellwright":
                found |= {f"cellwright.{alias.name}" for alias in node.names}
    return found


FILES = sorted(SOURCE.rglob("*.py"))


def test_every_arrow_is_in_the_table():
    wrong = []
    for path in FILES:
        room = room_of(path)
        assert room in MAY_IMPORT, f"{path}: the room {room!r} is not in the table"
        for module in imports(path):
            if module.startswith("cellwright."):
                other = module.split(".")[1]
                if other != room and other not in MAY_IMPORT[room]:
                    wrong.append(f"{path.relative_to(SOURCE)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_the_table_has_no_cycle():
    def reach(room: str, path: tuple[str, ...]) -> None:
        assert room not in path, f"cycle: {' -> '.join((*path, room))}"
        for other in MAY_IMPORT[room]:
            reach(other, (*path, room))

    for room in MAY_IMPORT:
        reach(room, ())


def test_the_core_imports_few_libraries():
    import sys

    for path in FILES:
        if room_of(path) in CORE:
            libraries = {module.split(".")[0] for module in imports(path)} - set(sys.stdlib_module_names)
            assert libraries <= CORE_LIBRARIES, f"{path.relative_to(SOURCE)} imports {libraries - CORE_LIBRARIES}"


def test_only_the_families_table_knows_a_family():
    families = {p.name for p in (SOURCE / "models").iterdir() if (p / "weights.py").is_file()}
    assert families
    for path in FILES:
        if path.relative_to(SOURCE).parts[:2] in {("models", name) for name in families}:
            continue
        allowed = path == SOURCE / "models" / "families.py"
        for module in imports(path):
            is_family = any(module.startswith(f"cellwright.models.{name}") for name in families)
            assert allowed or not is_family, f"{path.relative_to(SOURCE)} imports {module}"


def test_files_and_functions_stay_small():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, f"{path.relative_to(SOURCE)} is longer than 400 lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                where = f"{path.relative_to(SOURCE)}:{node.name}"
                body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
                length = node.end_lineno - (body[0].lineno if body else node.lineno) + 1
                assert length <= 60, f"{where} has {length} lines"
                num = sum(len(a) for a in (node.args.posonlyargs, node.args.args, node.args.kwonlyargs))
                is_method = bool(node.args.args) and node.args.args[0].arg in ("self", "cls")
                assert num - is_method <= 9, f"{where} has {num} parameters"


def test_nothing_prints_but_the_command_line():
    for path in FILES:
        if room_of(path) in ("cli", "commands"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not is_print, f"{path.relative_to(SOURCE)}:{node.lineno} prints"
