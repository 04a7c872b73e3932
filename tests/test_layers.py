"""Imports point down and in no circle: every import of the package, also those inside functions and for types only,
against the table of layers and from file to file."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "soldiom_ray"
FOLDER = Path(__file__).parents[1] / PACKAGE
ROWS = {
    "errors": 0,
    "records": 1,
    "settings": 1,
    "logs": 1,
    "sealing": 1,
    "tracing": 1,
    "storage": 2,
    "compute": 2,
    "actors": 2,
    "services": 2,
    "db": 2,
    "artifacts": 3,
    "batches": 4,
    "heartbeat": 3,
    "deletion": 4,
    "domains": 4,
    "examples": 4,
    "garbage": 4,
    "licenses": 4,
    "metrics": 4,
    "models": 4,
    "redaction": 4,
    "registry": 4,
    "resealing": 4,
    "safety": 4,
    "sandbox": 4,
    "specialists": 4,
    "users": 4,
    "vectors": 4,
    "collect": 5,
    "prepare": 5,
    "embed": 5,
    "train": 5,
    "compress": 5,
    "evaluate": 5,
    "register": 5,
    "deploy": 5,
    "feedback": 5,
    "federate": 6,
    "flow": 6,
    "launch": 6,
    "monitor": 6,
    "api": 7,
    "cli": 7,
}
GROUND = {name for name, row in ROWS.items() if row <= 3}
CRAFT = {name for name, row in ROWS.items() if row == 4}
STAGES = {name for name, row in ROWS.items() if row == 5}
ALLOWED = {
    "launch": GROUND | CRAFT - {"models"},
    "federate": GROUND | CRAFT | {"train"},
    "flow": GROUND | CRAFT | STAGES | {"launch", "federate"},
    "monitor": GROUND | CRAFT - {"models"} | {"launch"},
    "api": GROUND
    | {
        "batches",
        "deletion",
        "domains",
        "examples",
        "metrics",
        "registry",
        "specialists",
        "users",
        "launch",
        "monitor",
    },
    "cli": GROUND | CRAFT | {"launch", "monitor", "federate"},
}
"""Units whose imports are named one by one; everyone else may import every lower row, and row 4 its own row."""
SAME_ROW = {1, 4}


def permitted(unit: str) -> set[str]:
    row = ROWS[unit]
    lower = {name for name, other in ROWS.items() if other < row or (other == row and row in SAME_ROW)}
    return ALLOWED.get(unit, lower) | {unit}


def unit_of(path: Path) -> str:
    return path.relative_to(FOLDER).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(path for path in FOLDER.rglob("*.py") if path.parent != FOLDER or path.name != "__init__.py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything of ours that a file imports, and of module names in strings it imports by."""
    package = (PACKAGE, *path.relative_to(FOLDER).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module or "") if part)
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            first = node.args[0] if node.args else None
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def test_every_unit_of_the_package_has_its_row() -> None:
    assert {unit_of(path) for path in sources()} - ROWS.keys() == set()


@pytest.mark.parametrize("unit", sorted({unit_of(path) for path in sources()} & ROWS.keys()))
def test_imports_point_down(unit: str) -> None:
    wrong = [
        f"{path.relative_to(FOLDER.parent)}:{line} imports {name}"
        for path in sources()
        if unit_of(path) == unit
        for line, name in imported(path)
        if (parts := name.split("."))[0] == PACKAGE
        and len(parts) > 1
        and parts[1] in ROWS
        and parts[1] not in permitted(unit)
    ]
    assert not wrong, "\n".join(wrong)


def test_only_compute_starts_or_joins_ray() -> None:
    wrong = [
        str(path.relative_to(FOLDER.parent))
        for path in sources()
        if unit_of(path) != "compute"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ray.init"
    ]
    assert not wrong


def test_the_doors_and_launch_import_no_torch() -> None:
    wrong = [
        f"{path.relative_to(FOLDER.parent)}:{line} imports {name}"
        for path in sources()
        if unit_of(path) in ("api", "cli", "launch", "db", "services", "compute")
        for line, name in imported(path)
        if name.split(".")[0] in ("torch", "transformers", "peft")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_imports_itself_by_way_of_others() -> None:
    modules = {module_of(path): path for path in FOLDER.rglob("*.py")}
    imports = {module: set(imported_modules(path, modules)) - {module} for module, path in modules.items()}
    assert not [" -> ".join(circle) for circle in circles_of(imports)]


def module_of(path: Path) -> str:
    parts = path.relative_to(FOLDER.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """The files of ours that a file imports: a name that is no module is in the `__init__.py` of its package."""
    for _, name in imported(path):
        if name in modules:
            yield name
        elif (package := name.rpartition(".")[0]) in modules:
            yield package


def circles_of(imports: dict[str, set[str]]) -> Iterator[list[str]]:
    """One circle after the other, each taken apart when it was found."""
    while True:
        try:
            TopologicalSorter(imports).prepare()
            return
        except CycleError as error:
            circle = error.args[1][::-1]  # graphlib names each node's predecessor
            yield circle[:-1]
            imports[circle[0]] = imports[circle[0]] - {circle[1]}


def test_a_circle_of_three_files_is_found() -> None:
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}
    (circle,) = circles_of(imports)
    assert set(circle) == {"a", "b", "c"}
