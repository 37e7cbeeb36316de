"""tools/style_mixing.py: which styles end up where."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.small_networks import pixels
from tools import style_mixing
from torch_utils.persistence import load_network_pkl
from torch_utils.pixels import to_uint8

ROOT = Path(__file__).resolve().parent.parent.parent


def test_table(pkl: Any, tmp_path: Path, succeed: Any) -> None:
    args = ("--network", pkl, "--rows=1,2", "--cols=3-5", "--styles=0,2", "--trunc=0.5", "--outdir", tmp_path)
    assert f"2 rows of 3 mixed pictures in {tmp_path / 'grid.png'}" in succeed(style_mixing.main, *args)
    own, mixed = {"1-1", "2-2", "3-3", "4-4", "5-5"}, {f"{row}-{col}" for row in (1, 2) for col in (3, 4, 5)}
    assert {path.stem for path in tmp_path.iterdir()} == own | mixed | {"grid"}

    G = load_network_pkl(pkl)["G_ema"]
    z = {seed: torch.from_numpy(np.random.RandomState(seed).randn(1, 8)).float() for seed in (2, 4)}
    row, col = (G.mapping(z[seed], None, truncation_psi=0.5) for seed in (2, 4))
    row[:, [0, 2]] = col[:, [0, 2]]
    expected = to_uint8(G.synthesis(row, noise_mode="const"))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(pixels(tmp_path / "2-4.png"), expected)
    assert not np.array_equal(pixels(tmp_path / "2-4.png"), pixels(tmp_path / "2-2.png"))

    grid = pixels(tmp_path / "grid.png").reshape(3, 16, 4, 16, 3)
    assert not grid[0, :, 0].any()
    names = [["3-3", "4-4", "5-5"], ["1-1", "1-3", "1-4", "1-5"], ["2-2", "2-3", "2-4", "2-5"]]
    for line, cells in enumerate(names):
        for cell, name in enumerate(reversed(cells)):
            assert np.array_equal(grid[line, :, 3 - cell], pixels(tmp_path / f"{name}.png"))


def test_all_layers_are_the_columns_pictures(conditional: Any, tmp_path: Path, succeed: Any) -> None:
    succeed(
        style_mixing.main,
        "--network",
        conditional,
        "--rows=1",
        "--cols=3",
        "--styles=0-5",
        "--class=1",
        "--outdir",
        tmp_path,
    )
    assert np.array_equal(pixels(tmp_path / "1-3.png"), pixels(tmp_path / "3-3.png"))
    assert pixels(tmp_path / "grid.png").shape == (32, 32)


@pytest.mark.parametrize("how", [["tools/style_mixing.py"], ["-m", "tools.style_mixing"]])
def test_both_ways_to_call_it(how: Any) -> None:
    done = subprocess.run(
        [sys.executable, *how, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--styles" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--rows=1", "--cols=2"], "--styles=0-6: this network has 6 layers, numbered from 0 to 5"),
        (["--rows=1", "--cols=2", "--styles=a"], "not a list of numbers"),
        (["--rows=", "--cols=2"], "not a list of numbers"),
        (["--rows=1"], "--cols"),
        (["--rows=4294967296", "--cols=2", "--styles=0"], "below 4294967296"),
        (["--rows=1", "--cols=2", "--styles=0", "--class=1"], "unconditional"),
        (["--rows=1", "--cols=2", "--styles=0", "--trunc=x"], "not a finite number"),
        (["--rows=1", "--cols=2", "--styles=0", "--network=net.onnx"], "net.onnx is an export (ONNX)"),
    ],
)
def test_wrong_options(pkl: Any, tmp_path: Path, complaint: Any, args: Any, message: Any) -> None:
    assert message in complaint(style_mixing.main, ["--network", pkl, "--outdir", tmp_path / "out", *args])
    assert not (tmp_path / "out").exists()
