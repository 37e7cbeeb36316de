"""Imports point one way: entry points → training → metrics → torch_utils → dnnlib, and within training."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["dnnlib", "torch_utils", "metrics", "training"]
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


#: What training consists of, from the bottom up. A part may import those on floors below its own, and itself.
#: A file that is not named here is a loss term.
FLOORS = [
    {"config"},
    {"data", "networks", "augment", "loss", "ema"},
    {"objective"},
    TERMS := {"ggdr", "segmentation"},
    {"build"},
    {"run"},
    {"phases"},
    {"training_loop"},
    {"launch"},
]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at whatever depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names.add(module)
            names.update(name for alias in node.names if is_module(name := f"{module}.{alias.name}"))
    return names


def is_module(name: str) -> bool:
    """Whether a name is that of a module of ours."""
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def parts_of_training(path: Path) -> set[str]:
    """The parts of training that a file imports: packages, and files at the top."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("training.")}


def floor(part: str) -> int:
    """The floor of a part of training."""
    return next((n for n, parts in enumerate(FLOORS) if part in parts), FLOORS.index(TERMS))


def test_there_are_files() -> None:
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Any) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    programs = {"train", "generate", "calc_metrics", "dataset_tool", "tools", "benchmarks"}
    above = set(LAYERS[layer + 1 :]) | programs
    assert not {name.split(".")[0] for name in imported(path)} & above


@pytest.mark.parametrize(
    "path", sorted((ROOT / "training").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_within_training_point_down(path: Path) -> None:
    part = path.relative_to(ROOT / "training").parts[0].removesuffix(".py")
    others = parts_of_training(path) - {part}
    if part == "inference":
        assert others <= {"config", "data", "networks"}
    else:
        assert {other for other in others if other == "inference" or floor(other) >= floor(part)} == set()


def test_nothing_imports_the_experiments() -> None:
    folders = [*LAYERS, "tools", "benchmarks", "data"]
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    assert [
        path for path in paths if any(name.split(".")[0] == "experiments" for name in imported(path))
    ] == []


def test_the_configuration_imports_no_torch() -> None:
    names = [f"training.config.{path.stem}" for path in (ROOT / "training" / "config").glob("[!_]*.py")]
    assert len(names) > 10
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "path", sorted((ROOT / "torch_utils" / "ops").rglob("*.py")), ids=lambda path: path.name
)
def test_ops_import_torch_alone(path: Any) -> None:
    """What builds them and keeps the builds may use the general helpers too."""
    helpers = {"dnnlib", "filelock"} if path.name in ("build.py", "build_cache.py") else set()
    allowed = {"torch", "numpy", "torch_utils"} | helpers | set(sys.stdlib_module_names)
    assert {name.split(".")[0] for name in imported(path)} <= allowed
    ours = {f"torch_utils.ops.{p.stem}" for p in path.parent.glob("*.py")}
    assert {name for name in imported(path) if name.startswith("torch_utils")} <= ours


def test_losses_import_no_network() -> None:
    assert not {name for name in imported(ROOT / "training" / "loss.py") if name.startswith("training")}


@pytest.mark.parametrize("module", ["ggdr", "segmentation"])
def test_only_build_and_the_options_know_the_regularisers_as_options(module: Any) -> None:
    knowing = {"build.py", "options.py", "resolve.py", "notes.py", f"{module}.py"}
    for path in FILES:
        if path.name not in knowing:
            assert f"training.{module}" not in imported(path), path
            assert not re.search(r"config\.(ggdr|seg)\b", path.read_text(encoding="utf-8")), path


PROGRAMS = [
    path
    for folder in ("tools", "benchmarks", "experiments")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in path.read_text()
]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_programs_start_by_their_path_without_an_installation(path: Any) -> None:
    """``python tools/x.py`` puts tools/ on the import path, so the program has to add the root."""
    ours = {*LAYERS, "tools", "benchmarks", "experiments"}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if "sys.path.insert(0, " in ast.unparse(node):
            break
        names = (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in getattr(node, "names", [])]
        )
        assert not {name.split(".")[0] for name in names} & ours
