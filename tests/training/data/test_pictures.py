"""Pictures from disk, as a network would draw them."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from dnnlib.errors import UserError
from training.data.pictures import from_uint8, grid_image, load_picture


def save(array: Any, path: Any, **kwargs: Any) -> Any:
    PIL.Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path, **kwargs)
    return path


def test_the_largest_centred_square(tmp_path: Path) -> None:
    wide = np.zeros([16, 40, 3])
    wide[:, 12:28] = (10, 20, 30)
    image = load_picture(save(wide, tmp_path / "wide.png"), 16, 3)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 16, 16)
    assert image[:, 5, 0].tolist() == image[:, 5, 15].tolist() == [10, 20, 30]
    tall = load_picture(save(wide.transpose(1, 0, 2), tmp_path / "tall.png"), 16, 3)
    assert torch.equal(tall, image.transpose(1, 2))


def test_lanczos(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, [64, 64, 3])
    path = save(values, tmp_path / "a.png")
    with PIL.Image.open(path) as picture:
        expected = np.asarray(picture.resize((16, 16), PIL.Image.Resampling.LANCZOS))
    found = load_picture(path, 16, 3).permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_colours_and_transparency(tmp_path: Path) -> None:
    red = save(np.full([8, 8, 3], (255, 0, 0)), tmp_path / "red.png")
    assert load_picture(red, 8, 1).unique().tolist() == [76]
    grey = save(np.full([8, 8], 90), tmp_path / "grey.png")
    assert load_picture(grey, 8, 3).unique().tolist() == [90]
    clear = save(np.full([8, 8, 4], (0, 0, 0, 0)), tmp_path / "clear.png")
    assert load_picture(clear, 8, 3).unique().tolist() == [255]


def test_sixteen_bits_and_pixels_of_unknown_range(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.full([8, 8], 128 * 257, dtype=np.uint16)).save(tmp_path / "sixteen.png")
    assert load_picture(tmp_path / "sixteen.png", 8, 3).unique().tolist() == [128]
    PIL.Image.fromarray(np.full([8, 8], 0.5, dtype=np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(
        UserError,
        match=r"float\.tiff cannot be used: floating-point .* between 0\.5 and 0\.5; say with --range",
    ):
        load_picture(tmp_path / "float.tiff", 8, 3)


def test_turned_pictures(tmp_path: Path) -> None:
    values = np.zeros([8, 8, 3])
    values[0] = 255
    exif = PIL.Image.Exif()
    exif[274] = 3  # upside down
    image = load_picture(save(values, tmp_path / "turned.png", exif=exif), 8, 3)
    assert image[0, 7].tolist() == [255] * 8
    assert image[0, 0].tolist() == [0] * 8


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    whole = save(np.random.default_rng(0).integers(0, 256, [64, 64, 3]), tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="Is a directory"):
        load_picture(tmp_path, 8, 3)
    for name in ("text.png", "half.png"):
        with pytest.raises(UserError, match="is not a picture that can be read"):
            load_picture(tmp_path / name, 8, 3)
    with pytest.raises(UserError, match="does not exist"):
        load_picture(tmp_path / "none.png", 8, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_grid(channels: Any) -> None:
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, channels, 2, 2)
    grid = grid_image(images, 3)
    assert grid.shape == (channels, 4, 6)
    assert grid[0, ::2, ::2].tolist() == [[0, 1, 2], [3, 4, 0]]


def test_bytes_become_minus_one_to_one() -> None:
    assert from_uint8(
        torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    ).flatten().tolist() == pytest.approx([-1, -0.6, 1])
