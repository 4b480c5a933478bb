"""The architecture: imports run downwards, without circles; the root needs no Paddle; its page is true."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

import paddle_attn
from paddle_attn.commands import COMMANDS, IN_A_CLONE

PACKAGE = ROOT / "paddle_attn"
ROOT_MODULES = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
# from the top layer down: a package imports packages of lower layers, never one of its own layer
LAYERS = (
    {"__main__"},
    {"commands"},
    {"study", "diagnose", "serve"},
    {"train", "deploy", "explain"},
    {"builders"},
    {"models"},
    {"data"},
    {"weights", "attention"},
    {"ops", "plotting"},
    ROOT_MODULES,
)
PLAIN_ARGUMENTS = {
    "models",
    "weights",
    "attention",
    "ops",
}  # usable in any training script: they see no config
WITHOUT_PADDLE = sorted(
    [f"paddle_attn.{name}" for name in ROOT_MODULES]
    + [f"paddle_attn.commands.{path.stem}" for path in (PACKAGE / "commands").glob("[!_]*.py")]
    + [f"paddle_attn.data.prepare.{path.stem}" for path in (PACKAGE / "data" / "prepare").glob("[!_]*.py")]
)
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
OURS = re.compile(r"(?:paddle_attn|tests|benchmarks|reference)(?:[./]\w+)+")  # as a module or as a path


def subpackage(module: str) -> str:
    """`paddle_attn.data.prepare.split` is in the package `data`."""
    return module.split(".")[1]


def docstrings(tree: ast.Module) -> set[ast.Constant]:
    bodies = [node.body for node in ast.walk(tree) if hasattr(node, "body") and isinstance(node.body, list)]
    first = [body[0].value for body in bodies if body and isinstance(body[0], ast.Expr)]
    return {value for value in first if isinstance(value, ast.Constant)}


def resolve(name: str, package: list[str]) -> str:
    """The absolute name of a module: one leading dot is the package itself, each further dot its parent."""
    dots = len(name) - len(name.lstrip("."))
    base = package[: len(package) - dots + 1] if dots else []
    return ".".join([*base, *filter(None, name.lstrip(".").split("."))])


def imported(path: Path) -> Iterator[str]:
    """The absolute names of the modules that a file imports, in functions too."""
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve("." * node.level + (node.module or ""), package)
            for alias in node.names:  # a submodule, or a name in the module
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in SOURCES else base
        elif isinstance(node, ast.Call) and ast.unparse(node).startswith("importlib.import_module('."):
            yield resolve(ast.literal_eval(node.args[0]), package)


def started(path: Path) -> Iterator[str]:
    """The modules that a file names in strings: `-m package.x`, `import_module("…")`, `run_path("….py")`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
            names = [name.removesuffix(".py").replace("/", ".") for name in OURS.findall(node.value)]
            yield from (name for name in names if name in SOURCES or not name.startswith("paddle_attn."))


IMPORTS = {module: {*imported(path), *started(path)} for module, path in SOURCES.items()}
RULED = {module: names for module, names in IMPORTS.items() if module != "paddle_attn"}  # it forwards names


def test_every_package_has_a_layer():
    assert {subpackage(module) for module in RULED} <= set().union(*LAYERS)


@pytest.mark.parametrize("module", RULED)
def test_imports_run_downwards(module: str):
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    above = [
        name
        for name in RULED[module]
        if name.startswith("paddle_attn.")
        and subpackage(name) != subpackage(module)
        and subpackage(name) not in ROOT_MODULES
        and layer[subpackage(name)] <= layer[subpackage(module)]
    ]
    assert not above, f"{module} imports {', '.join(above)}, which is not below it"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: names & set(SOURCES) - {module} for module, names in RULED.items()}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_type_checkers_see_every_public_name_in_its_module():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == paddle_attn._NAMES


def test_attention_imports_operators_and_the_root_alone():
    packages = {
        subpackage(name)
        for module, names in RULED.items()
        if subpackage(module) == "attention"
        for name in names
        if name.startswith("paddle_attn.")
    }
    assert packages - {"attention"} <= {"ops"} | ROOT_MODULES


def test_networks_and_their_parts_see_no_config():
    seen_by = {subpackage(module) for module, names in RULED.items() if "paddle_attn.config" in names}
    assert "train" in seen_by and not seen_by & PLAIN_ARGUMENTS


def test_the_package_does_not_know_its_tests_benchmarks_and_reference():
    for module, names in IMPORTS.items():
        outside = [name for name in names if name.split(".")[0] in ("tests", "benchmarks", "reference")]
        assert not outside, f"{module} names {', '.join(outside)}, which no wheel carries"


def test_the_root_has_at_most_six_modules():
    assert {"config", "cli", "errors", "files", "runtime"} <= ROOT_MODULES and len(ROOT_MODULES) <= 6


def in_new_process(missing: str, *modules: str) -> subprocess.CompletedProcess:
    """Import modules in a process in which importing `missing` fails."""
    code = f"import sys; sys.modules[{missing!r}] = None; import {', '.join(modules)}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_the_root_and_the_preparation_of_data_need_no_paddle():
    result = in_new_process("paddle", "paddle_attn", *WITHOUT_PADDLE)
    assert result.returncode == 0, result.stderr
    assert in_new_process("paddle", "paddle_attn.attention").returncode != 0


def test_deploy_needs_no_train():
    modules = [module for module in RULED if subpackage(module) == "deploy"]
    result = in_new_process("paddle_attn.train", *modules)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "reference", "tools"])
def test_nothing_imports_tests(folder: str):
    for path in (ROOT / folder).rglob("*.py"):
        imports = [name for name in imported(path) if re.search(r"(^|\.)(test_\w+|conftest)$", name)]
        assert not imports, f"{path.relative_to(ROOT)} imports {', '.join(imports)}"


# ---- docs/architecture.md

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(("_", "."))]


@pytest.mark.parametrize("name", sorted(f"{path.name}{'/' * path.is_dir()}" for path in visible(PACKAGE)))
def test_the_page_names_every_package(name: str):
    assert re.search(rf"(?<![\w/]){re.escape(name)}(?!\w)", PAGE)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_names_every_command(name: str):
    assert re.search(rf"\b{name}\b", PAGE)


def test_every_command_has_a_module_or_needs_a_clone_and_every_script_in_tools_is_a_command():
    modules = {path.stem for path in (PACKAGE / "commands").glob("[!_]*.py")}
    assert modules | set(IN_A_CLONE) == set(COMMANDS) and not modules & set(IN_A_CLONE)
    assert {path.stem for path in (ROOT / "tools").glob("*.py")} <= set(COMMANDS)


def test_every_file_and_folder_that_the_page_names_exists():
    """Files by their ending anywhere; folders where the tree of the page lists them, or in backticks."""
    files = re.findall(r"[\w./-]*\w\.(?:py|md|cc|h|toml)\b", PAGE)
    folders = re.findall(r"^[ │├└─]*([\w./-]+/)(?=\s|$)", PAGE, re.M) + re.findall(r"`([\w./-]+/)`", PAGE)
    known = [f"/{path.relative_to(ROOT).as_posix()}{'/' * path.is_dir()}" for path in listed(ROOT)]
    missing = [name for name in {*files, *folders} if not any(path.endswith(f"/{name}") for path in known)]
    assert files and folders and not missing


def listed(folder: Path) -> Iterator[Path]:
    """The files and folders of the repository, without hidden ones."""
    for path in visible(folder):
        yield path
        if path.is_dir():
            yield from listed(path)
