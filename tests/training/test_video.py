"""MP4 and GIF: what is written can be read back, and nothing half-written stays."""

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch

from dnnlib.errors import UserError
from training.video import check_video_path, save_video


def frames(count, channels=3, size=16):
    for i in range(count):
        yield torch.full([channels, size, size * 2], 20 + 40 * i, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_gif(tmp_path, channels):
    save_video(frames(5, channels), tmp_path / "a.gif", fps=20)
    with PIL.Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"], gif.info["duration"]) == (5, (32, 16), 0, 50)
        for i in range(5):
            gif.seek(i)
            assert np.unique(np.asarray(gif.convert("RGB"))).tolist() == [20 + 40 * i]


@pytest.mark.parametrize("channels", [1, 3])
def test_mp4(tmp_path, channels):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    save_video(frames(5, channels), tmp_path / "a.mp4", fps=10)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / "a.mp4"), "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert b"10 fps" in done.stderr
    assert np.frombuffer(done.stdout, dtype=np.uint8).reshape(5, 16, 32).mean(axis=(1, 2)) == pytest.approx(range(20, 220, 40), abs=3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def broken():
    yield from frames(2)
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_an_interruption_leaves_what_was_there(tmp_path, name):
    if name.endswith("mp4"):
        pytest.importorskip("imageio_ffmpeg")
    (tmp_path / name).write_text("before")
    with pytest.raises(KeyboardInterrupt):
        save_video(broken(), tmp_path / name, fps=10)
    assert (tmp_path / name).read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_endings():
    with pytest.raises(UserError, match=r"a\.avi: videos are written as \.mp4 or \.gif"):
        check_video_path("a.avi")


def test_missing_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"\(unlike \.gif\) needs the package imageio_ffmpeg: pip install '\.\[video\]'"):
        check_video_path("a.mp4")
    check_video_path("a.GIF")


def test_h264_needs_even_sizes(tmp_path):
    with pytest.raises(UserError, match="frames of 18x9 pixels"):
        save_video(frames(1, size=9), tmp_path / "a.mp4", fps=10)
    assert not list(tmp_path.iterdir())
