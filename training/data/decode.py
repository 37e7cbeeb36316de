"""The decoder of all pictures: a file's bytes to 8-bit greyscale or RGB, upright and opaque."""

import contextlib
import dataclasses
import io
import re
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
from PIL import (  # noqa: F401  importing one makes its formats known; no other plugin is loaded
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PcxImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    SgiImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from dnnlib.cli import plural

Color = tuple[int, int, int]

#: Which values become black and white: two numbers, ``"auto"`` (the smallest and the largest), ``"full"``
#: (the ends of the type), or None (``"full"``, by default).
ValueRange = tuple[float, float] | Literal["auto", "full"] | None

#: The formats that are read, whatever a file's name says. All are decoded by libraries in this process: none
#: starts a program, as EPS does. TGA has no signature, so it comes last.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "PCX", "SGI", "TGA")

#: Pixels of one image, unless ``--max-pixels`` says otherwise. At 4 bytes a pixel, decoding takes 2 GB.
MAX_PIXELS = 500_000_000

#: A larger image needs a byte for each 10,000 pixels. Otherwise its header is wrong, and decoding it would
#: fill memory first.
LARGE_PIXELS, PIXELS_A_BYTE = 2**26, 10_000

PIL.Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS takes its place
# Pillow's warnings about odd metadata name neither the file nor what to do, and the pixels are not affected.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

#: Pillow's modes of greyscale with more than 8 bits.
DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_WHITE_16 = 65535

_BITS, _PLANAR = 258, 284  # BitsPerSample and PlanarConfiguration of TIFF

#: Keys under which Pillow keeps data that may hold an orientation.
_EXIF_KEYS = {"exif", "xmp", "Raw profile type exif", "Raw profile type APP1", "XML:com.adobe.xmp"}

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # the pixels need none of them

#: Pillow keeps the upper bytes of 16-bit colour. By layout, another one under which it gives the lower bytes.
_LOWER_BYTES = {
    **{f"{mode};16B": f"{mode};16L" for mode in ("RGB", "RGBA", "RGBX")},
    **{f"{mode};16L": f"{mode};16B" for mode in ("RGB", "RGBA", "RGBX")},
    **{
        f"{mode};16N": f"{mode};16{'B' if sys.byteorder == 'little' else 'L'}"
        for mode in ("RGB", "RGBA", "RGBX")
    },
    "LA;16B": "I;32B",  # both values of a pixel as one number
}

#: Endings of formats that often have several frames or pages.
FRAME_SUFFIXES = {".gif", ".tif", ".tiff", ".webp", ".avif", ".apng"}

_BLOCK = 2**22  # values that are scaled at a time


class NeedsOption(ValueError):
    """A whole picture that needs an option to be read.

    Attributes:
        advice: names the option.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(problem, advice)
        self.advice = advice

    def __str__(self) -> str:
        return str(self.args[0])


@dataclasses.dataclass(frozen=True)
class DecodeOptions:
    """How pictures become 8-bit greyscale or RGB.

    Attributes:
        background: behind transparency.
        max_pixels: larger pictures are refused before they are decoded.
        value_range: of pictures with more than 8 bits a value. Others stay as they are.
    """

    background: Color = (255, 255, 255)
    max_pixels: int = MAX_PIXELS
    value_range: ValueRange = None


class DeepValues(NamedTuple):
    """The values in pictures with more than 8 bits a value.

    Attributes:
        low: the smallest one.
        high: the largest one.
        white: the value of white unless a range is given; NaN where it is not known.
    """

    low: float
    high: float
    white: float

    def join(self, other: "DeepValues | None") -> "DeepValues":
        """The values of both."""
        if other is None:
            return self
        return DeepValues(min(self.low, other.low), max(self.high, other.high), max(self.white, other.white))

    @property
    def dark(self) -> bool:
        """Whether the upper half of the type is unused, as by 10-, 12- or 14-bit data in 16-bit files."""
        return self.high <= (self.white + 1) / 2

    def describe_dark(self) -> str:
        """The problem of :attr:`dark` values, and what to do."""
        top = 2 ** max(int(self.high).bit_length(), 1) - 1
        return (
            f"lie between {self.low:g} and {self.high:g}, and {self.white:g} would be white: they come out "
            f"dark; --range=0-{top} makes {top} white, --range=auto the largest value, and --range=full "
            "leaves them as they are"
        )


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: mode ``L`` (greyscale in the file) or ``RGB`` (everything else).
        more_frames: more frames or pages follow in the file.
        deep: None for a picture with 8 bits a value.
    """

    image: PIL.Image.Image
    more_frames: bool = False
    deep: DeepValues | None = None


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The first frame of a picture as Pillow gives it, upright.

    Attributes:
        image: in any mode.
        orientation: of the file's EXIF data; 1 is upright.
        turned: the stored pixels lie in another direction than ``image``. False for TIFF, which Pillow turns.
        more_frames: more frames or pages follow in the file.
        layout: Pillow's name of how the pixels lie in the file, such as ``RGB;16B``.
        depth: bits a value in the file, 8 or 16, where the mode does not show them.
    """

    image: PIL.Image.Image
    orientation: int
    turned: bool
    more_frames: bool
    layout: str
    depth: int


def decode(content: bytes, options: DecodeOptions | None = None) -> Picture:
    """Decode the first frame.

    The EXIF orientation is applied. Transparency is composited on the background. Palettes are resolved; one
    without colours gives ``L``. CMYK and other colour spaces are converted without colour profiles. Values of
    more than 8 bits are scaled by the range in the options, or from the ends of the type.

    Raises:
        NeedsOption: the picture is larger than the limit, or has values without a known range (floating
            point, 32-bit integers) and no range is given.
        ValueError: the content is of no known format. Pillow raises many other errors on damaged bytes.
    """
    options = options or DecodeOptions()
    loaded = load(content, max_pixels=options.max_pixels)
    image, deep = loaded.image, None
    if image.mode in DEEP_GREY:
        values = np.asarray(image)
        deep = _found(values, 4095 if loaded.layout == "I;12" else _WHITE_16, image.mode)
        image = PIL.Image.fromarray(_scaled(values, *_ends(options.value_range, deep)))
    elif loaded.depth == 16:
        image, deep = _deep_colour(content, loaded, options.value_range)
    return Picture(_flat(image, options.background), loaded.more_frames, deep)


def load(
    content: bytes, *, max_pixels: int = MAX_PIXELS, check: Callable[[PIL.Image.Image], None] | None = None
) -> Loaded:
    """Open a picture, turn it upright and load its first frame.

    Args:
        content: of the file.
        max_pixels: the limit.
        check: takes the picture before any pixel is decoded, and may raise because of its size or mode.

    Raises:
        NeedsOption: the picture is larger than the limit.
        ValueError: the content is of no known format. Pillow raises many other errors on damaged bytes.
    """
    try:
        return _load(content, max_pixels, check)
    except NeedsOption:
        raise
    except ValueError:  # Pillow raises it for long texts and colour profiles, among others
        bare = _without_text(content)
        if len(bare) == len(content):
            raise
        return _load(bare, max_pixels, check)


def frames_note(count: int) -> list[str]:
    """A sentence about ``count`` images with more than one frame or page; none for 0."""
    return [f"{plural(count, 'image')} with more than one frame or page: the first is used"] if count else []


def range_notes(images: int, deep: DeepValues | None, value_range: ValueRange) -> list[str]:
    """What ``value_range`` did with the values of ``images`` images with more than 8 bits."""
    if deep is None:
        return [] if value_range is None else ["--range has no effect: all images have 8 bits a value"]
    values = f"the values of {plural(images, 'image')} with more than 8 bits"
    between = f"{values} lie between {deep.low:g} and {deep.high:g}"
    if value_range == "auto":
        return [f"{between}, which became black and white"]
    if isinstance(value_range, tuple) and (deep.low < value_range[0] or deep.high > value_range[1]):
        return [f"{between}; what is outside --range={value_range[0]:g}-{value_range[1]:g} was cut"]
    return []


def dark_warning(images: int, deep: DeepValues | None, value_range: ValueRange) -> list[str]:
    """A warning where ``images`` images with 16 bits come out dark and no ``--range`` is given."""
    if deep is None or value_range is not None or not deep.dark:
        return []
    return [f"the values of {plural(images, 'image')} with 16 bits {deep.describe_dark()}"]


@contextlib.contextmanager
def open_picture(content: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[PIL.ImageFile.ImageFile]:
    """A picture of which only the header is read. Raises as :func:`load` does."""
    try:
        opened = PIL.Image.open(io.BytesIO(content), formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        raise ValueError(
            f"it is no image, or of a format that is not read; those are {' '.join(FORMATS)}"
        ) from error
    with opened as image:
        if image.width * image.height > max_pixels:
            raise NeedsOption(
                f"it has {image.width}x{image.height} pixels, more than the {max_pixels} that are read",
                f"--max-pixels={image.width * image.height} reads it, in at least 4 bytes of memory a pixel",
            )
        if image.width * image.height > max(LARGE_PIXELS, PIXELS_A_BYTE * len(content)):
            raise ValueError(f"it has only {len(content)} bytes for {image.width}x{image.height} pixels")
        yield image


def _load(content: bytes, max_pixels: int, check: Callable[[PIL.Image.Image], None] | None) -> Loaded:
    with open_picture(content, max_pixels) as image:
        if check is not None:
            check(image)
        layout, depth, more_frames = _layout(image), _depth(content, image), _more_frames(image)
        if (
            image.format != "TIFF"
        ):  # which forgets its orientation as it is loaded; PNG may have it behind the pixels
            image.load()
        orientation = _orientation(image)
        image.load()
        if orientation != 1:
            PIL.ImageOps.exif_transpose(image, in_place=True)
        return Loaded(
            image, orientation, orientation != 1 and image.format != "TIFF", more_frames, layout, depth
        )


def _without_text(content: bytes) -> bytes:
    """A PNG file without texts and colour profile, which Pillow refuses if long. Other files stay."""
    if not content.startswith(_PNG):
        return content
    return _PNG + b"".join(content[at:end] for kind, at, end in _png_chunks(content) if kind not in _PNG_TEXT)


def is_turned(content: bytes) -> bool:
    """Whether :func:`load` turns a picture; False if it cannot be read."""
    try:
        if content.startswith(_PNG):  # Pillow knows its orientation only once the pixels are decoded
            return _png_may_be_turned(content) and load(content).turned
        with open_picture(content) as image:
            return _orientation(image) != 1 and image.format != "TIFF"
    except Exception:  # noqa: BLE001  Pillow raises nearly anything on damaged bytes; decoding will raise
        return False


def has_more_frames(content: bytes) -> bool:
    """Whether a picture has more than one frame or page, by its header; False if it cannot be read."""
    try:
        with open_picture(content, sys.maxsize) as image:
            return _more_frames(image)
    except Exception:  # noqa: BLE001  as above
        return False


def upper_bytes_found(upper: np.ndarray) -> DeepValues:
    """Bounds of 16-bit values from their upper bytes."""
    return DeepValues(256.0 * int(upper.min()), 256.0 * int(upper.max()) + 255, _WHITE_16)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk of a PNG file."""
    at = len(_PNG)
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length  # length, kind, data, checksum
        yield kind, at, end
        at = end


def _png_may_be_turned(content: bytes) -> bool:
    exif = (b"Raw profile type", b"XML:com.adobe.xmp")
    return any(
        kind == b"eXIf" or (kind in _PNG_TEXT and content.startswith(exif, at + 8))
        for kind, at, _ in _png_chunks(content)
    )


def _orientation(image: PIL.Image.Image) -> int:
    """1 to 8 (EXIF 2.3, 4.6.4); 1 (upright) without an orientation and for damaged data."""
    if image.format != "TIFF" and not _EXIF_KEYS & image.info.keys():  # as most images
        return 1
    try:
        found = image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  Pillow's reader of EXIF data raises nearly anything
        return 1
    return int(found) if found in range(2, 9) else 1


def _more_frames(image: PIL.Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001  what follows the first frame is damaged, and not needed
        return True


def _layout(image: PIL.ImageFile.ImageFile) -> str:
    """Pillow's name of how the pixels lie in the file; empty where it has none."""
    if image.format == "TIFF" and image.tag_v2.get(_PLANAR) == 2:  # type: ignore[attr-defined]
        return ""  # its name is that of a single plane
    args = image.tile[0].args if image.tile else None
    found = args[0] if isinstance(args, tuple) and args else args
    return found if isinstance(found, str) else ""


def _depth(content: bytes, image: PIL.ImageFile.ImageFile) -> int:
    """Bits a value in the file, 8 or 16. Raises :class:`ValueError` for what Pillow reads wrongly."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        deep = max(tags.get(_BITS, (8,))) > 8
        if (
            deep
            and tags.get(_PLANAR) == 2
            and image.mode in ("RGB", "RGBA", "CMYK")
            and any(tile.codec_name != "libtiff" for tile in image.tile)
        ):
            raise ValueError(
                "16-bit colour in separate planes without compression cannot be read; save it with "
                "interleaved channels"
            )
        return 16 if deep and image.mode != "CMYK" else 8
    if image.format == "SGI":
        return 8 * content[3]
    if image.format == "PPM":
        return 16 if content[:2] in (b"P3", b"P6") and _ppm_white(content) > 255 else 8
    if image.format == "JPEG2000":
        # The first channel's depth in the codestream's header (ISO 15444-1, A.5.1).
        at = content.find(b"\xff\x4f\xff\x51") + 42
        return 16 if len(content) > at >= 42 and (content[at] & 127) + 1 == 16 else 8
    return 16 if image.format == "PNG" and _layout(image).endswith(";16B") else 8


def _ppm_white(content: bytes) -> int:
    match = re.match(
        rb"P\d(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d{1,5})", content[:4096]
    )
    return int(match[1]) if match else 255


def _found(values: np.ndarray, white: float, mode: str) -> DeepValues:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it has values that are no finite numbers")
    return DeepValues(low, high, np.nan if mode == "F" or low < 0 or high > white else white)


def _ends(value_range: ValueRange, deep: DeepValues) -> tuple[float, float]:
    """The values that become black and white. Raises :class:`NeedsOption` where they are not known."""
    if value_range == "auto":
        return deep.low, deep.high
    if isinstance(value_range, tuple):
        return value_range
    if np.isnan(deep.white):
        raise NeedsOption(
            f"floating-point or 32-bit pixels, whose range is not known; they lie between {deep.low:g} and "
            f"{deep.high:g}",
            "say with --range=LOW-HIGH which values become black and white, or --range=auto",
        )
    return 0.0, deep.white


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """``255 (v - low) / (high - low)``, rounded and cut to uint8, of the same shape; 0 where low is high."""
    out = np.zeros(values.shape, dtype=np.uint8)
    rows = max(_BLOCK // max(values[0].size, 1), 1)
    for start in range(0, len(values) if high > low else 0, rows):
        part = values[start : start + rows].astype(np.float64)
        out[start : start + rows] = np.clip((part - low) * (255 / (high - low)) + 0.5, 0, 255)
    return out


def _deep_colour(
    content: bytes, loaded: Loaded, value_range: ValueRange
) -> tuple[PIL.Image.Image, DeepValues]:
    """A picture of 16 bits a value, scaled to 8, and its values. Pillow gives its upper bytes."""
    image = loaded.image
    upper = np.asarray(image)
    upper = upper[:, :, :3] if upper.ndim == 3 else upper
    found = upper_bytes_found(upper)
    if not isinstance(value_range, tuple) and value_range != "auto" and not found.dark:
        return image, found
    if loaded.layout not in _LOWER_BYTES:
        if value_range is None or value_range == "full":
            return image, found
        raise NeedsOption(
            f"of 16-bit colour in {image.format} files of this layout the upper 8 bits alone are read, so "
            "--range cannot be applied",
            "save it as PNG, or read it with --range=full",
        )
    values = _lower_bytes(content, loaded)
    values = values | (upper.astype(np.uint16) << 8)
    found = _found(values, _WHITE_16, image.mode)
    if value_range is None or value_range == "full":
        return image, found
    scaled = PIL.Image.fromarray(_scaled(values, *_ends(value_range, found)))
    if image.mode == "RGBA" or "transparency" in image.info:
        scaled.putalpha(image.convert("RGBA").getchannel("A"))
    return scaled, found


def _lower_bytes(content: bytes, loaded: Loaded) -> np.ndarray:
    """The lower bytes of 16-bit colour: uint16 ``[H, W, 3]``, or ``[H, W, 1]`` where the three are equal."""
    with open_picture(_without_text(content), sys.maxsize) as image:
        lower = _LOWER_BYTES[loaded.layout]
        image.tile = [
            tile._replace(args=(lower, *tile.args[1:]) if isinstance(tile.args, tuple) else lower)
            for tile in image.tile
        ]
        if lower == "I;32B":
            image._mode = "I"  # noqa: SLF001  Pillow has no other way to read both values as one number
        image.load()
        if loaded.turned:
            PIL.ImageOps.exif_transpose(image, in_place=True)
        if lower == "I;32B":
            return ((np.asarray(image).view(np.uint32) >> 16) & 255).astype(np.uint16)[:, :, None]
        return np.asarray(image)[:, :, :3].astype(np.uint16)


def _flat(image: PIL.Image.Image, background: Color) -> PIL.Image.Image:
    """8-bit pixels of any mode as ``L`` or ``RGB``, composited on the background where transparent."""
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


def _composite_grey(image: PIL.Image.Image, background: Color) -> PIL.Image.Image:
    if len(set(background)) > 1:
        return _composite_rgb(image.convert("RGBA"), background)
    pixels = np.asarray(image)
    return PIL.Image.fromarray(_over(pixels[..., :1], pixels[..., 1:], np.asarray(background[:1]))[..., 0])


def _composite_rgb(image: PIL.Image.Image, background: Color) -> PIL.Image.Image:
    pixels = np.asarray(image)
    return PIL.Image.fromarray(_over(pixels[..., :3], pixels[..., 3:], np.asarray(background)))


def _over(color: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    """``color·alpha + background·(1 - alpha)``, rounded, of 8-bit ``[H, W, C]``, ``[H, W, 1]``, ``[C]``."""
    out = np.empty(color.shape, dtype=np.uint8)
    rows = max(_BLOCK // max(color[0].size, 1), 1)
    for start in range(0, len(color), rows):
        a = alpha[start : start + rows].astype(np.int64)
        out[start : start + rows] = (color[start : start + rows] * a + background * (255 - a) + 127) // 255
    return out


def _is_grey(image: PIL.Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels == pixels[..., :1]).all())
