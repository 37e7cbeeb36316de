"""Pictures of titled rows of images."""

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
    """Draw rows of images below each other, each with its title at the left.

    Args:
        rows: titles, and images uint8 ``[N, C, S, S]`` with C 1 or 3; rows may differ in N, C and S.
        cell: width of each image in pixels, a multiple of every S; images are enlarged without smoothing.

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
