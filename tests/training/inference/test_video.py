"""MP4 and GIF: what is written can be read back, and nothing half-written stays."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.GifImagePlugin
import PIL.Image
import pytest
import torch

from dnnlib.errors import UserError
from training.inference.video import check_video_path, save_video, shown_fps


def frames(count: Any, channels: Any = 3, size: Any = 16) -> Any:
    for i in range(count):
        yield torch.full([channels, size, size * 2], 20 + 40 * i, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "fps", "shown"),
    [("a.gif", 20, 20), ("a.gif", 30, 100 / 3), ("A.GIF", 240, 50), ("a.mp4", 240, 240)],
)
def test_the_speed_of_a_file(name: Any, fps: Any, shown: Any) -> None:
    assert shown_fps(name, fps) == pytest.approx(shown)


@pytest.mark.parametrize("channels", [1, 3])
def test_gif(tmp_path: Path, channels: Any) -> None:
    save_video(frames(5, channels), tmp_path / "a.gif", fps=20)
    with PIL.Image.open(tmp_path / "a.gif") as gif:
        assert isinstance(gif, PIL.GifImagePlugin.GifImageFile)
        assert (gif.n_frames, gif.size, gif.info["loop"], gif.info["duration"]) == (5, (32, 16), 0, 50)
        for i in range(5):
            gif.seek(i)
            assert np.unique(np.asarray(gif.convert("RGB"))).tolist() == [20 + 40 * i]


@pytest.mark.parametrize("channels", [1, 3])
def test_mp4(tmp_path: Path, channels: Any) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    save_video(frames(5, channels), tmp_path / "a.mp4", fps=10)
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-i",
        str(tmp_path / "a.mp4"),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "-",
    ]
    done = subprocess.run(command, capture_output=True, check=True)
    assert b"10 fps" in done.stderr
    assert np.frombuffer(done.stdout, dtype=np.uint8).reshape(5, 16, 32).mean(axis=(1, 2)) == pytest.approx(
        range(20, 220, 40), abs=3
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def broken() -> Any:
    yield from frames(2)
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_an_interruption_leaves_what_was_there(tmp_path: Path, name: Any) -> None:
    if name.endswith("mp4"):
        pytest.importorskip("imageio_ffmpeg")
    (tmp_path / name).write_text("before")
    with pytest.raises(KeyboardInterrupt):
        save_video(broken(), tmp_path / name, fps=10)
    assert (tmp_path / name).read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_endings() -> None:
    with pytest.raises(UserError, match=r"a\.avi: videos are written as \.mp4 or \.gif"):
        check_video_path("a.avi")


def test_missing_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(
        UserError, match=r"\(unlike \.gif\) needs the package imageio_ffmpeg: pip install -e '\.\[video\]'"
    ):
        check_video_path("a.mp4")
    check_video_path("a.GIF")


def test_h264_needs_even_sizes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="frames of 18x9 pixels"):
        save_video(frames(1, size=9), tmp_path / "a.mp4", fps=10)
    assert not list(tmp_path.iterdir())


def test_an_mp4_that_ffmpeg_could_not_write_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer does not look at ffmpeg's exit status."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(imageio_ffmpeg, "count_frames_and_secs", lambda path: (3, 0.3))
    (tmp_path / "a.mp4").write_text("before")
    with pytest.raises(UserError, match=r"a\.mp4: ffmpeg wrote 3 of 5 frames; make room on the disk"):
        save_video(frames(5), tmp_path / "a.mp4", fps=10)
    assert (tmp_path / "a.mp4").read_text() == "before"


def test_an_mp4_on_a_disk_that_is_full(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    noise = [torch.randint(0, 256, [3, 64, 64], dtype=torch.uint8) for _ in range(20)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"a\.mp4: ffmpeg wrote 0 of 20 frames"):
            save_video(noise, tmp_path / "a.mp4", fps=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
