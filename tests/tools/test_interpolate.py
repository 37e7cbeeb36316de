"""tools/interpolate.py: a GIF or MP4 of the right length and size."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.GifImagePlugin
import PIL.Image
import pytest

from tools import interpolate


def read_gif(path: Any) -> Any:
    with PIL.Image.open(path) as gif:
        assert isinstance(gif, PIL.GifImagePlugin.GifImageFile)
        frames = []
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
        return frames


def test_gif_with_several_walks(pkl: Any, tmp_path: Path, succeed: Any) -> None:
    out = tmp_path / "deep" / "walk.gif"
    args = (
        "--network",
        pkl,
        "--seeds=0-5",
        "--grid=3x1",
        "--frames=4",
        "--fps=10",
        "--space=w",
        "--out",
        out,
    )
    assert f"8 frames (0.8 s at 10 a second) in {out}" in succeed(interpolate.main, *args)
    frames = read_gif(out)
    assert len(frames) == 8
    assert frames[0].shape == (16, 48, 3)
    changes = [np.abs(a - b).mean() for a, b in zip(frames, [*frames[1:], frames[0]], strict=True)]
    assert min(changes) > 0
    assert changes[-1] < 3 * np.mean(changes)  # it closes
    assert [path.name for path in out.parent.iterdir()] == ["walk.gif"]


def test_mp4_of_a_greyscale_network(conditional: Any, tmp_path: Path, succeed: Any) -> None:
    pytest.importorskip("imageio_ffmpeg")
    out = tmp_path / "walk.mp4"
    assert "6 frames (0.2 s at 30 a second)" in succeed(
        interpolate.main, "--network", conditional, "--seeds=1,2", "--class=0", "--frames=3", "--out", out
    )
    assert out.read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seeds=1"], "at least two seeds, got 1"),
        (["--seeds=1-5", "--grid=2x2"], "4 cells, and 5 is not a multiple of it"),
        (["--seeds=1-4", "--grid=2x2"], "at least two seeds, got 1"),
        (["--grid=big"], "such as 5x4"),
        (["--frames=0"], "--frames"),
        (["--frames=1000000"], "more than 1000000 frames"),
        (["--frames=1000000000000"], "--frames"),
        (["--fps=0"], "--fps"),
        (["--space=x"], "--space"),
        (["--out=walk.avi"], "written as .mp4 or .gif"),
        (["--trunc=nan"], "not a finite number"),
        (["--class=1"], "unconditional"),
    ],
)
def test_wrong_options(pkl: Any, tmp_path: Path, complaint: Any, args: Any, message: Any) -> None:
    assert message in complaint(
        interpolate.main, ["--network", pkl, "--seeds=1-4", "--out", tmp_path / "out" / "walk.gif", *args]
    )
    assert not (tmp_path / "out").exists()


def test_missing_package(pkl: Any, tmp_path: Path, complaint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    args = ["--network", pkl, "--seeds=1-4", "--out", tmp_path / "walk.mp4"]
    assert "pip install -e '.[video]'" in complaint(interpolate.main, args)
