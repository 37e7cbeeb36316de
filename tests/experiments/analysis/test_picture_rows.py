"""experiments.analysis.picture_rows: every image at its place."""

import torch

from experiments.analysis.picture_rows import picture_of_rows


def test_rows_of_different_sizes_and_channels() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 8, 8)
    grey = torch.tensor([0, 100], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 16, 16)
    picture = picture_of_rows([("first", red), ("second\nrow", grey)], cell=16)
    assert picture.dtype == torch.uint8
    assert picture.shape[0] == 3
    right = picture[:, :, -2 * 18 :]
    assert (right[0, :16, :16] == 255).all()
    assert not right[1:, :16, :16].any()
    assert (right[:, :16, 18:34] == 255).all()  # no second image in the first row
    assert (right[:, 18:34, 18:34] == 100).all()
    assert not right[:, 18:34, :16].any()
    assert (picture[:, :16, :100] < 128).any()  # the title
