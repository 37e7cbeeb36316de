"""Rows of images under each other, each with a title at its left."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch

Row = tuple[str, torch.Tensor]

_MARGIN = 120
_GAP = 2


def picture_of_rows(rows: Sequence[Row], cell: int) -> torch.Tensor:
    """One picture of titled rows of images uint8 ``[N, C, S, S]``, shown ``cell`` pixels wide without
    smoothing.

    Args:
        rows: titles and images; greyscale ones are repeated to RGB, and rows may differ in N and S.
        cell: a multiple of every S.

    Returns:
        uint8 ``[3, H, W]``, white where there is no image.
    """
    columns = max(len(images) for _, images in rows)
    canvas = PIL.Image.new("RGB", (_MARGIN + columns * (cell + _GAP), len(rows) * (cell + _GAP)), "white")
    draw, font = PIL.ImageDraw.Draw(canvas), PIL.ImageFont.load_default(size=12)
    for y, (title, images) in enumerate(rows):
        top = y * (cell + _GAP)
        draw.multiline_text((4, top + cell // 2), title, fill="black", font=font, anchor="lm")
        for x, image in enumerate(images.expand(-1, 3, -1, -1)):
            tile = PIL.Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).resize(
                (cell, cell), PIL.Image.Resampling.NEAREST
            )
            canvas.paste(tile, (_MARGIN + x * (cell + _GAP), top))
    return torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1)
