"""training.data.paired: images with their segmentation maps."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from dnnlib.errors import UserError
from tests.support.analysis import make_pairs
from training.data.paired import PairedDataset


def test_items_are_pairs(tmp_path: Path) -> None:
    data = PairedDataset(make_pairs(tmp_path / "pairs", count=5))
    assert (len(data), data.num_classes, data.resolution, data.num_channels) == (5, 2, 32, 3)
    for i in range(5):
        image, label, classes = data.sample(i)
        assert (label.shape, len(data[i])) == ((0,), 2)
        assert image.shape == (3, 32, 32)
        assert classes.shape == (32, 32)
        assert classes.dtype == np.uint8
        disc, ground = image[:, classes == 1], image[:, classes == 0]
        assert (disc == disc[:, :1]).all()  # each part has one colour: image and annotation belong together
        assert (ground == ground[:, :1]).all()


def write(path: Path, classes: np.ndarray) -> None:
    PIL.Image.fromarray(classes.astype(np.uint8)).save(path)


def test_unlabelled_pixels_are_no_class(tmp_path: Path) -> None:
    root = make_pairs(tmp_path / "pairs", count=3)
    write(root / "annotations" / "0000.png", np.full([32, 32], 255))
    write(root / "annotations" / "0001.png", np.eye(32) * 7)
    assert PairedDataset(root).num_classes == 8


def test_what_is_no_paired_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images' is not there"):
        PairedDataset(tmp_path)
    root = make_pairs(tmp_path / "pairs", count=3)
    extra = root / "annotations" / "0003.png"
    write(extra, np.zeros([32, 32]))
    with pytest.raises(UserError, match=r"'0003.png' is in only one"):
        PairedDataset(root)
    extra.unlink()
    taken = (root / "annotations" / "0001.png").rename(tmp_path / "0001.png")
    with pytest.raises(UserError, match=r"'0001.png' is in only one"):
        PairedDataset(root)
    taken.rename(root / "annotations" / "0001.png")
    for path in (root / "annotations").iterdir():
        write(path, np.zeros([32, 32]))
    with pytest.raises(UserError, match="no two classes"):
        PairedDataset(root)
    for path in (root / "annotations").iterdir():
        write(path, np.eye(16))
    with pytest.raises(UserError, match=r"16x16 with 1 channels; they must be 32x32"):
        PairedDataset(root)
