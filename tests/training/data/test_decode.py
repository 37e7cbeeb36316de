"""The decoder of all pictures: formats, limits, orientation, frames, transparency, more than 8 bits."""

import io
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL import PngImagePlugin

from dnnlib.cli import ValueRange
from tests.support.pictures import EXIF_ORIENTATION, TWELVE, deep_png, encode, oriented, png
from training.data.decode import (
    FORMATS,
    DecodeOptions,
    DeepValues,
    NeedsOption,
    decode,
    has_more_frames,
    is_turned,
    load,
    open_picture,
)
from training.data.file_listing import IMAGE_SUFFIXES


def noise(shape: tuple[int, ...] = (8, 8, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def deep_tiff(values: np.ndarray, order: str, *, deflate: bool = False, planar: bool = False) -> bytes:
    """uint16 ``[H, W, 3]`` in one strip (or one a channel); ``order`` is ``<`` or ``>``."""
    height, width, channels = values.shape
    planes = [values[:, :, channel] for channel in range(channels)] if planar else [values]
    strips = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    strips = [zlib.compress(strip) if deflate else strip for strip in strips]
    count, start = len(strips), 8
    data, places = b"", []
    for body in (struct.pack(f"{order}3H", 16, 16, 16), *strips):
        places.append(start + len(data))
        data += body
    lists = start + len(data)
    data += struct.pack(f"{order}{2 * count}I", *places[1:], *(len(strip) for strip in strips))
    at, sizes = (lists, lists + 4 * count) if count > 1 else (places[1], len(strips[0]))
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, 3, places[0]),
        (259, 3, 1, 8 if deflate else 1),
        (262, 3, 1, 2),
    ]
    tags += [
        (273, 4, count, at),
        (277, 3, 1, 3),
        (278, 3, 1, height),
        (279, 4, count, sizes),
        (284, 3, 1, 2 if planar else 1),
    ]
    entries = b""
    for tag, kind, number, value in tags:
        short = kind == 3 and number == 1
        entries += struct.pack(f"{order}HHI", tag, kind, number) + struct.pack(
            f"{order}HH" if short else f"{order}I", *([value, 0] if short else [value])
        )
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start + len(data))
    return header + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


# --- formats


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind: str) -> None:
    content = encode(PIL.Image.fromarray(noise((16, 24, 3))), kind)
    assert decode(content).image.size == (24, 16)
    assert decode(content).image.mode == "RGB"


def test_every_ending_of_an_image_stands_for_a_format_that_is_read() -> None:
    PIL.Image.init()
    known = PIL.Image.registered_extensions()
    assert {known[suffix] for suffix in IMAGE_SUFFIXES} <= {*FORMATS, "MPO"}


@pytest.mark.parametrize("kind", ["EPS", "ICO", "DDS", "ICNS", "MSP", "XBM", "PDF", "QOI"])
def test_other_formats_are_not_opened_whatever_their_name(kind: str) -> None:
    content = encode(PIL.Image.new("1" if kind in ("MSP", "XBM") else "RGB", (32, 32)), kind)
    with pytest.raises(ValueError, match="no image, or of a format that is not read; those are PNG JPEG"):
        decode(content)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_no_picture_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ValueError, match="not read"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n")
    assert not (tmp_path / "started").exists()


def test_pictures_are_opened_in_one_place() -> None:
    root = Path(__file__).parents[3]
    folders = ("training", "metrics", "torch_utils", "dnnlib", "tools", "experiments", "benchmarks")
    sources = [*root.glob("*.py"), *(path for folder in folders for path in (root / folder).rglob("*.py"))]
    assert len(sources) > 100
    opening = [
        path.relative_to(root).as_posix()
        for path in sources
        if "Image.open(" in path.read_text(encoding="utf-8")
    ]
    assert opening == ["training/data/decode.py"]


# --- limits


def test_the_limit_of_pixels_is_ours() -> None:
    content = encode(PIL.Image.fromarray(noise((10, 10))))
    assert decode(content, DecodeOptions(max_pixels=100)).image.size == (10, 10)
    with pytest.raises(NeedsOption, match="has 10x10 pixels, more than the 99 that are read") as caught:
        decode(content, DecodeOptions(max_pixels=99))
    assert "--max-pixels=100" in caught.value.advice
    with open_picture(
        png(14000, 14000, 1, 0) + bytes(20_000)
    ) as image:  # 196 megapixels: Pillow alone refuses, and warns from half of that
        assert image.size == (14000, 14000)
    with pytest.raises(NeedsOption, match="40000x40000"):
        decode(png(40000, 40000, 1, 0))  # before any memory is taken


@pytest.mark.parametrize("where", ["text", "text after the pixels", "profile"])
def test_long_texts_of_png_do_not_matter(where: str) -> None:
    image = PIL.Image.fromarray(noise())
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    if where == "profile":
        content = encode(image, icc_profile=bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1))
    else:
        content = encode(image, pnginfo=text)
    if where == "text after the pixels":
        start, end = content.index(b"zTXt") - 4, content.index(b"IDAT") - 4
        content = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"), PIL.Image.open(io.BytesIO(content)) as pillow:
        pillow.load()
    np.testing.assert_array_equal(np.asarray(decode(content).image), noise())


# --- orientation and frames

TURNED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
} | {
    6: lambda a: np.rot90(a, 3),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("kind", ["png", "xmp", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(kind: str, orientation: int) -> None:
    stored = noise((4, 6, 3))
    content = oriented(PIL.Image.fromarray(stored), kind, orientation)
    expected = TURNED.get(orientation, lambda a: a)(stored)
    np.testing.assert_array_equal(np.asarray(decode(content).image), expected)
    loaded = load(content)
    assert loaded.orientation == orientation
    assert (
        loaded.turned == is_turned(content) == (orientation != 1 and kind != "tiff")
    )  # Pillow turns TIFF by itself


@pytest.mark.parametrize("kind", ["jpeg", "avif"])
def test_lossy_formats_are_turned_upright(kind: str) -> None:
    stored = np.zeros((16, 16, 3), dtype=np.uint8)
    stored[:8] = 255
    content = oriented(PIL.Image.fromarray(stored), kind, 6)
    image = np.asarray(decode(content).image)
    assert image[:, 12:].min() > 200 > 50 > image[:, :4].max()
    assert is_turned(content)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as the module itself sets it, outside tests
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"\0" * 40]
)
def test_damaged_orientation_is_none(exif: bytes) -> None:
    for kind in ("png", "jpeg", "webp"):
        content = encode(PIL.Image.fromarray(noise()), kind, exif=exif)
        assert decode(content).image.size == (8, 8)
        assert not is_turned(content)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff", "avif"])
def test_the_first_of_several_frames(kind: str) -> None:
    first, second = (PIL.Image.new("RGB", (16, 16), color) for color in ("red", "blue"))
    content = encode(first, kind, save_all=True, append_images=[second])
    picture = decode(content)
    assert picture.more_frames
    assert has_more_frames(content)
    assert np.abs(np.asarray(picture.image.convert("RGB")).astype(int) - (255, 0, 0)).max() <= 8
    alone = encode(first, kind)
    assert not decode(alone).more_frames
    assert not has_more_frames(alone)
    assert not has_more_frames(b"nothing")


# --- more than 8 bits


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """By hand."""
    return np.clip(np.floor((values.astype(float) - low) / (high - low) * 255 + 0.5), 0, 255).astype(np.uint8)


DEEP_COLOUR = {
    "png": lambda: deep_png(TWELVE),
    "png with alpha": lambda: deep_png(np.dstack([TWELVE, np.full(TWELVE.shape[:2], 65535, np.uint16)])),
    "tiff, little end first": lambda: deep_tiff(TWELVE, "<"),
    "tiff, big end first": lambda: deep_tiff(TWELVE, ">"),
    "tiff, deflated": lambda: deep_tiff(TWELVE, "<", deflate=True),
    "tiff, deflated, big end first": lambda: deep_tiff(TWELVE, ">", deflate=True),
}


@pytest.mark.parametrize("kind", DEEP_COLOUR)
def test_twelve_bits_in_sixteen_bit_colour(kind: str) -> None:
    content = DEEP_COLOUR[kind]()
    picture = decode(content)
    assert picture.deep == DeepValues(0, 4080, 65535)
    assert picture.deep.dark
    np.testing.assert_array_equal(np.asarray(picture.image), TWELVE >> 8)  # the upper bytes, as always
    for value_range, ends in (
        ((0.0, 4095.0), (0, 4095)),
        ("auto", (0, 4080)),
        ((1000.0, 2000.0), (1000, 2000)),
    ):
        image = decode(content, DecodeOptions(value_range=value_range)).image  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.asarray(image), scaled(TWELVE, *ends))
    np.testing.assert_array_equal(
        np.asarray(decode(content, DecodeOptions(value_range="full")).image), TWELVE >> 8
    )


def test_twelve_bits_in_grey_with_alpha() -> None:
    grey = TWELVE[:, :, :1]
    content = deep_png(np.dstack([grey, np.where(grey > 2000, 65535, 0)]).astype(np.uint16))
    expected = np.where(grey > 2000, scaled(grey, 0, 4095), 255)
    np.testing.assert_array_equal(
        np.asarray(decode(content, DecodeOptions(value_range=(0, 4095))).image),
        np.repeat(expected, 3, axis=2),
    )


def test_sixteen_bit_colour_that_uses_them_is_as_before() -> None:
    values = TWELVE * 16
    picture = decode(deep_png(values))
    assert picture.deep is not None
    assert not picture.deep.dark
    np.testing.assert_array_equal(np.asarray(picture.image), values >> 8)


def test_turned_sixteen_bit_colour() -> None:
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    content = deep_png(TWELVE)
    image = decode(content[:33] + chunk + content[33:], DecodeOptions(value_range=(0, 4095))).image
    np.testing.assert_array_equal(np.asarray(image), np.rot90(scaled(TWELVE, 0, 4095), 3))


def test_layouts_that_cannot_be_read_in_full() -> None:
    with pytest.raises(ValueError, match="separate planes without compression"):
        decode(deep_tiff(TWELVE, "<", planar=True))
    lines = {
        "ppm": b"P6 32 8 65535\n" + TWELVE.astype(">u2").tobytes(),
        "tiff": deep_tiff(TWELVE, "<", deflate=True, planar=True),
    }
    for content in lines.values():
        picture = decode(content)
        assert picture.deep is not None
        assert picture.deep.dark  # by the upper bytes
        with pytest.raises(NeedsOption, match="--range cannot be applied"):
            decode(content, DecodeOptions(value_range=(0, 4095)))


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_ranges_of_sixteen_bit_grey(kind: str) -> None:
    values = TWELVE[:, :, 0]
    content = encode(PIL.Image.fromarray(values), kind)
    picture = decode(content)
    assert picture.deep == DeepValues(0, 4080, 65535)
    np.testing.assert_array_equal(np.asarray(picture.image), scaled(values, 0, 65535))
    np.testing.assert_array_equal(
        np.asarray(decode(content, DecodeOptions(value_range=(16, 4000))).image), scaled(values, 16, 4000)
    )
    np.testing.assert_array_equal(
        np.asarray(decode(content, DecodeOptions(value_range="auto")).image), scaled(values, 0, 4080)
    )


@pytest.mark.parametrize(
    "values",
    [np.linspace(-1, 2, 64, dtype=np.float32), np.arange(64, dtype=np.int32) * 1000 - 3000],
    ids=["float", "int32"],
)
def test_values_of_unknown_range_need_one(values: np.ndarray) -> None:
    grid = values.reshape(8, 8)
    content = encode(PIL.Image.fromarray(grid), "tiff")
    for value_range in (None, "full"):
        with pytest.raises(NeedsOption, match=f"they lie between {values[0]:g} and {values[-1]:g}") as caught:
            decode(content, DecodeOptions(value_range=value_range))  # type: ignore[arg-type]
    assert "--range=LOW-HIGH" in caught.value.advice
    np.testing.assert_array_equal(
        np.asarray(decode(content, DecodeOptions(value_range=(0, 1))).image), scaled(grid, 0, 1)
    )
    image = np.asarray(decode(content, DecodeOptions(value_range="auto")).image)
    np.testing.assert_array_equal(image, scaled(grid, values[0], values[-1]))
    assert (image.min(), image.max()) == (0, 255)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(bad: float) -> None:
    content = encode(PIL.Image.fromarray(np.array([[0, bad]], dtype=np.float32)), "tiff")
    with pytest.raises(ValueError, match="no finite numbers"):
        decode(content, DecodeOptions(value_range=(0, 1)))


def test_one_value_alone_is_black() -> None:
    content = encode(PIL.Image.fromarray(np.full((4, 4), 700, np.uint16)))
    assert np.asarray(decode(content, DecodeOptions(value_range="auto")).image).max() == 0


def test_eight_bits_have_no_range() -> None:
    content = encode(PIL.Image.fromarray(noise()))
    np.testing.assert_array_equal(
        np.asarray(decode(content, DecodeOptions(value_range=(0, 10))).image), noise()
    )
    assert decode(content).deep is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-4095", (0, 4095)),
        ("-1024-3071", (-1024, 3071)),
        ("-3--1", (-3, -1)),
        ("0.5 - 1e3", (0.5, 1000)),
        ("1e-3-2e-3", (0.001, 0.002)),
        ("auto", "auto"),
        ("full", "full"),
    ],
)
def test_range_option(text: str, expected: Any) -> None:
    assert ValueRange().convert(text, None, None) == expected


@pytest.mark.parametrize(
    "text", ["", "5", "5-", "-5", "5-5", "9-1", "a-b", "0-inf", "nan-1", "0-1-2", "0-1e999", "AUTO"]
)
def test_senseless_ranges(text: str) -> None:
    with pytest.raises(Exception, match=r"LOW-HIGH|less than the second"):
        ValueRange().convert(text, None, None)


def test_a_few_bytes_that_claim_many_pixels_are_refused_before_decoding() -> None:
    """A TIFF of 150 bytes would take 1.5 GB before it is found to be cut off."""
    stream = io.BytesIO()
    PIL.Image.new("L", (8, 8)).save(stream, "tiff")
    content = stream.getvalue()
    for tag in (256, 257):  # width and height
        place = next(
            place for kind in (3, 4) if (place := content.find(struct.pack("<HHI", tag, kind, 1))) >= 0
        )
        content = content[:place] + struct.pack("<HHII", tag, 4, 1, 20_000) + content[place + 12 :]
    with pytest.raises(ValueError, match=r"it has only \d+ bytes for 20000x20000 pixels"):
        decode(content)
