"""Write videos: MP4 (H.264) through imageio-ffmpeg, GIF through Pillow."""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from dnnlib.optional import optional_import
from training.data.pictures import to_picture

SUFFIXES = (".mp4", ".gif")


def check_video_path(path: str | os.PathLike[str]) -> None:
    """Check the name of a video before frames are computed.

    Raises:
        UserError: the suffix is neither ``.mp4`` nor ``.gif``, or imageio-ffmpeg is missing.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: videos are written as .mp4 or .gif; give a name that ends so")
    if suffix == ".mp4":
        optional_import("imageio_ffmpeg", extra="video", purpose="writing .mp4 (unlike .gif)")


def save_video(frames: Iterable[torch.Tensor], path: str | os.PathLike[str], fps: int) -> None:
    """Write uint8 frames ``[C, H, W]`` of one size, C 1 or 3; the file appears complete or not at all.

    A GIF loops. Each frame has a palette of 256 colours and lasts whole hundredths of a second.

    Raises:
        UserError: as :func:`check_video_path`; the width or height of an MP4 is odd, or ffmpeg could not
            write all frames.
    """
    check_video_path(path)
    if Path(path).suffix.lower() == ".mp4":
        _save_mp4(frames, Path(path), fps)
    else:
        _save_gif(frames, Path(path), fps)


def shown_fps(path: str | os.PathLike[str], fps: int) -> float:
    """Frames a second of the file: ``fps``, or for a GIF the nearest rate it can have, at most 50."""
    return fps if Path(path).suffix.lower() == ".mp4" else 100 / _gif_hundredths(fps)


def _gif_hundredths(fps: int) -> int:
    return max(round(100 / fps), 2)


def _save_gif(frames: Iterable[torch.Tensor], path: Path, fps: int) -> None:
    pictures = (to_picture(frame) for frame in frames)
    first = next(pictures)
    with atomic_write(path) as stream:
        first.save(
            stream,
            format="gif",
            save_all=True,
            append_images=pictures,
            duration=_gif_hundredths(fps) * 10,
            loop=0,
        )


def _save_mp4(frames: Iterable[torch.Tensor], path: Path, fps: int) -> None:
    ffmpeg = optional_import("imageio_ffmpeg", extra="video", purpose="writing .mp4 (unlike .gif)")
    remaining = iter(frames)
    first = next(remaining)
    channels, height, width = first.shape
    if width % 2 or height % 2:
        raise UserError(f"{path}: frames of {width}x{height} pixels; H.264 needs even sizes, write a .gif")
    with _temporary_neighbour(path) as temporary:
        writer = ffmpeg.write_frames(
            str(temporary),
            (width, height),
            pix_fmt_in="gray" if channels == 1 else "rgb24",
            fps=fps,
            codec="libx264",
            quality=None,
            macro_block_size=1,
            output_params=["-crf", "18", "-movflags", "+faststart"],
            ffmpeg_log_level="error",
        )
        sent = 0
        with contextlib.closing(writer):
            writer.send(None)
            for frame in itertools.chain([first], remaining):
                writer.send(frame.permute(1, 2, 0).contiguous().numpy())
                sent += 1
        try:  # the writer does not report that ffmpeg failed
            written = ffmpeg.count_frames_and_secs(str(temporary))[0]
        except RuntimeError:
            written = 0
        if written != sent:
            raise UserError(
                f"{path}: ffmpeg wrote {written} of {sent} frames; make room on the disk, or write a .gif"
            )


@contextlib.contextmanager
def _temporary_neighbour(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path``, for a program that opens its file itself.

    It is renamed to ``path`` on success and removed otherwise.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)
