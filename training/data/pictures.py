"""Images of the networks: from bytes to floats, and to and from pictures on disk."""

import os
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
import torch

from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from dnnlib.untrusted import parsing, read_bytes
from training.data.decode import DecodeOptions, NeedsOption, Picture, decode

MAX_PIXELS = 2**29  #: Pixels of a grid: 1.6 GB in memory.
MAX_FILE = 2**31  #: Bytes of a picture's file.
MARK = "made-by"  #: The key, among a PNG file's texts, of the mark that says what made it.


def from_uint8(images: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 ``[N, C, H, W]`` to float32 in [-1, 1] on ``device``."""
    return images.to(device, non_blocking=True).float() / 127.5 - 1


def to_picture(image: torch.Tensor) -> PIL.Image.Image:
    """One uint8 image ``[C, H, W]`` with C 1 (greyscale) or 3 (RGB) as a picture."""
    array = image.permute(1, 2, 0).contiguous().numpy()
    return PIL.Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def save_png(image: torch.Tensor, path: str | os.PathLike[str], mark: str | None = None) -> None:
    """Write one uint8 image ``[C, H, W]`` with C 1 (greyscale) or 3 (RGB) as a PNG file, whole or not at all.

    ``mark`` becomes its :data:`MARK`.
    """
    texts = PIL.PngImagePlugin.PngInfo()
    if mark is not None:
        texts.add_text(MARK, mark)
    with atomic_write(path) as stream:
        to_picture(image).save(stream, format="png", pnginfo=texts)


def grid_image(images: torch.Tensor, columns: int) -> torch.Tensor:
    """uint8 images ``[N, C, H, W]`` row by row: ``[C, rows · H, columns · W]``, black at the end."""
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    cells = images.new_zeros([rows * columns, channels, height, width])
    cells[:count] = images
    return (
        cells.reshape(rows, columns, channels, height, width)
        .permute(2, 0, 3, 1, 4)
        .reshape(channels, rows * height, columns * width)
    )


def save_grid(
    images: torch.Tensor, path: str | os.PathLike[str], columns: int, mark: str | None = None
) -> None:
    """Write :func:`grid_image` of the images as one picture, with :func:`save_png`."""
    save_png(grid_image(images, columns), path, mark)


def check_grid(columns: int, rows: int, resolution: int) -> None:
    """Raise :class:`UserError` for a grid with more than :data:`MAX_PIXELS` pixels."""
    width, height = columns * resolution, rows * resolution
    if width * height > MAX_PIXELS:
        raise UserError(
            f"a grid of {columns}x{rows} pictures has {width}x{height} pixels, more than {MAX_PIXELS}; ask "
            "for fewer pictures"
        )


def load_picture(path: str | os.PathLike[str], resolution: int, channels: int) -> torch.Tensor:
    """:func:`fitted` of :func:`read_picture`: a picture in a network's form. Raises :class:`UserError`."""
    return fitted(read_picture(path), resolution, channels)


def read_picture(path: str | os.PathLike[str], options: DecodeOptions | None = None) -> Picture:
    """A picture from disk, decoded by :func:`training.data.decode.decode`.

    Raises:
        UserError: it is missing, is no picture, or needs other options.
    """
    if not Path(path).exists():
        raise UserError(f"the picture {path} does not exist")
    content = read_bytes(path, limit=MAX_FILE)
    with parsing(str(path), "is not a picture that can be read"):
        try:
            return decode(content, options)
        except NeedsOption as error:
            raise UserError(f"the picture {path} cannot be used: {error}; {error.advice}") from error


def fitted(picture: Picture, resolution: int, channels: int) -> torch.Tensor:
    """The largest centred square of a picture, resized (Lanczos), as uint8.

    Its shape is ``[channels, resolution, resolution]``. Colours become grey for one channel.
    """
    image = picture.image.convert("L" if channels == 1 else "RGB")
    square = PIL.ImageOps.fit(
        image, (resolution, resolution), method=PIL.Image.Resampling.LANCZOS, centering=(0.5, 0.5)
    )
    array = np.array(square)
    return torch.from_numpy(array[None] if channels == 1 else array.transpose(2, 0, 1).copy())
