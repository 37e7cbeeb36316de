"""tools/truncation.py: a row for each seed, a column for each psi."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.small_networks import pixels
from tools import truncation
from torch_utils.persistence import load_network_pkl
from torch_utils.pixels import to_uint8


def test_sweep(pkl: Any, tmp_path: Path, succeed: Any) -> None:
    out = tmp_path / "deep" / "sweep.png"
    assert f"2 seeds at psi 0, 0.5, -1 in {out}" in succeed(
        truncation.main, "--network", pkl, "--seeds=3,8", "--psis=0,0.5,-1", "--out", out
    )
    G = load_network_pkl(pkl)["G_ema"]
    grid = pixels(out).reshape(2, 16, 3, 16, 3)
    for line, seed in enumerate((3, 8)):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, 8)).float()
        for cell, psi in enumerate((0, 0.5, -1)):
            expected = (
                to_uint8(G(z, None, truncation_psi=psi, noise_mode="const"))[0].permute(1, 2, 0).numpy()
            )
            assert np.array_equal(grid[line, :, cell], expected)
    assert np.array_equal(grid[0, :, 0], grid[1, :, 0])
    assert [path.name for path in out.parent.iterdir()] == ["sweep.png"]


def test_greyscale(conditional: Any, tmp_path: Path, succeed: Any) -> None:
    succeed(truncation.main, "--network", conditional, "--seeds=0", "--class=2", "--out", tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").shape == (16, 80)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--psis=0,half"], "'0,half' is not a list of numbers"),
        (["--psis=inf"], "not a list of numbers"),
        (["--psis="], "not a list of numbers"),
        (["--seeds=3-1"], "runs backwards"),
        (["--class=0"], "unconditional"),
        (["--out=a.jpg"], "give a name that ends in .png"),
    ],
)
def test_wrong_options(pkl: Any, tmp_path: Path, complaint: Any, args: Any, message: Any) -> None:
    assert message in complaint(
        truncation.main, ["--network", pkl, "--seeds=0", "--out", tmp_path / "out" / "a.png", *args]
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(pkl: Any, tmp_path: Path, complaint: Any) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "a.png"
    assert f"cannot write --out={out}: " in complaint(
        truncation.main, ["--network", pkl, "--seeds=0", "--out", out]
    )
