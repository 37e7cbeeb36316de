"""Any image's bytes to 8-bit greyscale or RGB, upright and opaque."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps

Color = tuple[int, int, int]

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def decode_image(content: bytes, background: Color = (255, 255, 255)) -> PIL.Image.Image:
    """Decode the first frame as mode ``L`` (greyscale in the file) or ``RGB`` (everything else).

    EXIF rotation is applied; transparency of any kind is composited on ``background``; palettes are resolved (a palette
    without colours gives ``L``); CMYK and other colour spaces are converted without regard to colour profiles; 16-bit
    greyscale is scaled by 255/65535. Raises :class:`ValueError` for pixels whose range isn't known (floating point, 32-bit
    integers), and whatever Pillow raises on damaged bytes.
    """
    with PIL.Image.open(io.BytesIO(content)) as opened:
        opened.load()
        image = PIL.ImageOps.exif_transpose(opened)
    if image.mode in _SIXTEEN_BIT:
        return _from_sixteen_bit(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode == "L" and "transparency" in image.info:
        image = image.convert("LA")
    if image.mode in ("LA", "La"):
        return _composite_grey(image.convert("LA"), background)
    if image.mode in ("RGBA", "RGBa", "PA") or "transparency" in image.info:
        return _composite_rgb(image.convert("RGBA"), background)
    if image.mode == "P":
        image = image.convert("RGB")
        return image.convert("L") if _is_grey(image) else image
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _from_sixteen_bit(image: PIL.Image.Image) -> PIL.Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("32-bit integer pixels, whose range is not known")
    return PIL.Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))


def _composite_grey(image: PIL.Image.Image, background: Color) -> PIL.Image.Image:
    if len(set(background)) > 1:
        return _composite_rgb(image.convert("RGBA"), background)
    pixels = np.asarray(image)
    return PIL.Image.fromarray(_over(pixels[..., 0], pixels[..., 1], background[0]))


def _composite_rgb(image: PIL.Image.Image, background: Color) -> PIL.Image.Image:
    pixels = np.asarray(image)
    return PIL.Image.fromarray(_over(pixels[..., :3], pixels[..., 3:], np.asarray(background)))


def _over(color: np.ndarray, alpha: np.ndarray, background: np.ndarray | int) -> np.ndarray:
    """``color·alpha + background·(1 - alpha)`` of 8-bit values, rounded to nearest; the shapes broadcast."""
    a = alpha.astype(np.int64)
    return ((color * a + background * (255 - a) + 127) // 255).astype(np.uint8)


def _is_grey(image: PIL.Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())
