"""Cropping and resizing to the size for training."""

from dataclasses import dataclass
from typing import Literal

import PIL.Image

from dnnlib.errors import UserError
from training.config.resolutions import MIN_RESOLUTION, is_resolution

Crop = Literal["center-crop", "center-crop-wide"]
ResizeFilter = Literal["box", "lanczos", "nearest"]

FILTERS = {
    "box": PIL.Image.Resampling.BOX,
    "lanczos": PIL.Image.Resampling.LANCZOS,
    "nearest": PIL.Image.Resampling.NEAREST,
}

MAX_SIDE = 1 << 15  # pixels of an image that comes out


class TooSmall(Exception):
    """An image has fewer pixels than a crop needs."""


@dataclass(frozen=True)
class Transform:
    """The way of each image to its final size. Raises :class:`UserError` for contradictions.

    Without ``crop`` the image is stretched to ``width`` x ``height``; each is the image's own by default.
    ``center-crop`` takes the largest centred square first. ``center-crop-wide`` takes the largest centred
    rectangle of that ratio and pads it with black rows to ``width`` x ``width``. It refuses images that it
    would have to enlarge.
    """

    crop: Crop | None = None
    width: int | None = None
    height: int | None = None
    resize_filter: ResizeFilter = "lanczos"

    def __post_init__(self) -> None:
        for name, value in (("width", self.width), ("height", self.height)):
            if value is not None and not 1 <= value <= MAX_SIDE:
                raise UserError(
                    f"--{name} must be {'at least 1' if value < 1 else f'at most {MAX_SIDE}'}, not {value}"
                )
        if self.crop is not None and (self.width is None or self.height is None):
            raise UserError(f"--transform={self.crop} needs --width and --height (or --resolution=WxH)")
        if self.width is None or self.height is None:
            return
        if self.crop == "center-crop-wide" and self.height > self.width:
            raise UserError(
                f"--transform=center-crop-wide is for wide images; --height={self.height} is more than "
                f"--width={self.width}"
            )
        check_output_size(self.width, self.width if self.crop == "center-crop-wide" else self.height)

    def apply(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Transform one ``L`` or ``RGB`` image. Raises :class:`TooSmall`."""
        if self.crop == "center-crop":
            side = min(image.size)
            return self._resize(_center(image, side, side))
        if self.crop == "center-crop-wide":
            return self._wide(image)
        return self._resize(image)

    def _wide(self, image: PIL.Image.Image) -> PIL.Image.Image:
        assert self.width is not None
        assert self.height is not None
        scale = min(image.width / self.width, image.height / self.height)
        if scale < 1:
            raise TooSmall(
                f"{image.width}x{image.height} is too small for --transform=center-crop-wide to "
                f"{self.width}x{self.height}"
            )
        cropped = self._resize(_center(image, round(self.width * scale), round(self.height * scale)))
        canvas = PIL.Image.new(image.mode, (self.width, self.width))
        canvas.paste(cropped, (0, (self.width - self.height) // 2))
        return canvas

    def _resize(self, image: PIL.Image.Image) -> PIL.Image.Image:
        size = (self.width or image.width, self.height or image.height)
        return image if image.size == size else image.resize(size, FILTERS[self.resize_filter])


def check_output_size(width: int, height: int, what: str = "the images would come out") -> None:
    """Raise :class:`UserError` unless the size is a square of a power of two that a network can have."""
    if width != height or not is_resolution(width):
        raise UserError(
            f"{what} {width}x{height}; training needs squares with a power of two of at least "
            f"{MIN_RESOLUTION} a side: set --width and --height (and --transform=center-crop to keep the "
            "shapes)"
        )


def _center(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))
