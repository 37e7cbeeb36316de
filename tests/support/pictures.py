"""Picture files for tests, some made by hand because Pillow writes none of their kind."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import PIL.Image
from PIL import PngImagePlugin

EXIF_ORIENTATION = 0x0112
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'

#: 12-bit RGB values, uint16 ``[8, 32, 3]``.
TWELVE = np.arange(256, dtype=np.uint16).reshape(8, 32)[:, :, None] * np.array([16, 15, 14], dtype=np.uint16)


def encode(image: PIL.Image.Image, kind: str = "png", **kwargs: Any) -> bytes:
    """The file of a picture."""
    stream = io.BytesIO()
    image.save(stream, kind, **kwargs)
    return stream.getvalue()


def png(width: int, height: int, bits: int, color: int, rows: bytes = b"") -> bytes:
    """A PNG file by hand; Pillow writes none with 16-bit colour. Without rows, its pixels are missing."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    made = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def deep_png(values: np.ndarray) -> bytes:
    """uint16 ``[H, W, C]``: grey with alpha (2 channels), RGB (3) or RGBA (4)."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(width, height, 16, {2: 4, 3: 2, 4: 6}[channels], rows)


def oriented(image: PIL.Image.Image, kind: str, orientation: int) -> bytes:
    """A file with an EXIF orientation; ``xmp`` is PNG with the orientation in XMP."""
    if kind == "xmp":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", (XMP % orientation).decode())
        return encode(image, pnginfo=text)
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return encode(image, kind, exif=exif, **({"lossless": True} if kind == "webp" else {}))
