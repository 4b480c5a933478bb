"""The plan of the house: imports run downwards, no circles, and docs/architecture.md names every room."""

from __future__ import annotations

import ast
from pathlib import Path

from helpers import ROOT

PACKAGE = ROOT / "paddle_attn"
# from the top floor down; a room may import what stands below it, and files of its own folder
FLOORS = [
    {"engine", "fidelity", "benchmark"},
    {"export", "complexity", "convert"},
    {"models"},
    {"attention", "predict"},
    {"data", "weights", "config", "cli", "plots", "ops"},
    {"torch_files"},
    {"runtime", "files", "errors", "torch_keys", "dry_run", "safe_pickle"},
]
WITHOUT_PADDLE = [
    "config.py",
    "runtime.py",
    "cli.py",
    "files.py",
    "errors.py",
    "data/images.py",
    "data/drawn.py",
    "data/sources.py",
    "data/split.py",
]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """The modules of this package that a file imports, as 'room' or 'room.file'; wherever in the file it does."""
    found = set()
    package = ("paddle_attn", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
            names = (
                [".".join([*base, alias.name]) for alias in node.names]
                if not node.module
                else [".".join(base)]
            )
            found |= {name.removeprefix("paddle_attn.") for name in names}
    return {name for name in found if name != "__version__"}


def test_every_room_stands_on_a_floor_and_imports_run_downwards():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    assert {room(path) for path in files} == set(floor)
    for path in files:
        for module in imported_modules(path):
            target = module.partition(".")[0]
            assert target == room(path) or floor[target] > floor[room(path)], (
                f"{path.relative_to(ROOT)} imports {module}: upwards"
            )


def test_files_of_a_folder_do_not_import_in_circles():
    for folder in [path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]:
        inside = {
            path.stem: {
                m.partition(".")[2] for m in imported_modules(path) if m.startswith(f"{folder.name}.")
            }
            for path in folder.glob("*.py")
        }
        done: set[str] = set()
        while ready := {name for name, needs in inside.items() if name not in done and needs <= done}:
            done |= ready
        assert done == set(inside), f"a circle in {folder.name}: {set(inside) - done}"


def test_what_must_be_light_does_not_import_paddle():
    for name in WITHOUT_PADDLE:
        tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not [node for node in top if "paddle" in ast.unparse(node).split()[1].split(".")[0]], name


def test_the_page_names_every_room_and_tool():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for entry in PACKAGE.iterdir():
        if entry.name not in ("__init__.py", "__pycache__"):
            assert entry.name in page, f"docs/architecture.md does not name {entry.name}"
    for tool in (ROOT / "tools").glob("*.py"):
        assert tool.stem in page
