"""Imports point one way: entry points → training → metrics → torch_utils → dnnlib; ops import torch alone."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["dnnlib", "torch_utils", "metrics", "training"]
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at whatever depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def test_there_are_files() -> None:
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Any) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    above = set(LAYERS[layer + 1 :]) | {"train", "generate", "calc_metrics", "dataset_tool", "tools"}
    assert not {name.split(".")[0] for name in imported(path)} & above


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
    knowing = {"build.py", "config.py", "options.py", "resolve.py", "notes.py", f"{module}.py"}
    for path in FILES:
        if path.name not in knowing:
            assert f"training.{module}" not in imported(path), path
            assert not re.search(r"config\.(ggdr|seg)\b", path.read_text(encoding="utf-8")), path


PROGRAMS = [
    path
    for folder in ("tools", "benchmarks")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in path.read_text()
]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_programs_start_by_their_path_without_an_installation(path: Any) -> None:
    """``python tools/x.py`` has tools/ in front of the import path: the root has to be put there before
    anything of ours is imported."""
    ours = {*LAYERS, "tools", "benchmarks"}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if "sys.path.insert(0, " in ast.unparse(node):
            break
        names = (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in getattr(node, "names", [])]
        )
        assert not {name.split(".")[0] for name in names} & ours
