"""The bundled images and the tool that made them."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from data import make_emoji_dataset
from data.make_emoji_dataset import read_package, select_bases, write_pairs
from dnnlib.errors import UserError
from training.data.dataset import ImageFolderDataset
from training.data.importing import Transform
from training.data.paired import PairedDataset

DATA = Path(__file__).resolve().parents[2] / "data"


def test_one_of_each_base_emoji() -> None:
    names = [
        "0023-fe0f-20e3",
        "23-20e3",
        "1f44b",
        "1f44b-1f3fb",
        "1f431",
        "1f63a",
        "1f3f4-e0067_e0062",
        "1f9d1-1f3ff-200d-1f91d",
    ]
    images = {f"{name}.webp": name.encode() for name in names}
    images["1f63a.webp"] = images["1f431.webp"]
    chosen = select_bases(images)
    assert list(chosen) == [
        f"{name}.webp" for name in ("0023-fe0f-20e3", "1f3f4-e0067_e0062", "1f431", "1f44b")
    ]
    assert chosen["1f431.webp"] == b"1f431"


def test_another_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tgz").write_bytes(b"something else")
    with pytest.raises(UserError, match="is not @lobehub/fluent-emoji-3d"):
        read_package(str(tmp_path / "x.tgz"))
    with pytest.raises(UserError, match="cannot read"):
        read_package(str(tmp_path / "y.tgz"))


def test_the_bundled_zip_is_the_one_that_its_readme_describes() -> None:
    path = DATA / "emoji32.zip"
    dataset = ImageFolderDataset(path)
    assert (dataset.num_images, dataset.image_shape, dataset.in_memory, dataset.has_labels) == (
        1854,
        [3, 32, 32],
        True,
        False,
    )
    assert path.stat().st_size <= 4_000_000
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 1855
    pixels = hashlib.sha256(b"".join(dataset[i][0].tobytes() for i in range(1854))).hexdigest()
    described = (DATA / "README.md").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in described
    assert pixels in described
    corners = [dataset[i][0][:, 0, 0].min() for i in range(1854)]
    assert sum(corner >= 250 for corner in corners) > 1800  # white behind the alpha


def sticker(seed: int) -> bytes:
    """A WebP picture 64 x 64: a dark rectangle on transparent white."""
    rng = np.random.default_rng(seed)
    pixels = np.full([64, 64, 4], 255, np.uint8)
    pixels[..., 3] = 0
    top, left = rng.integers(0, 30, 2)
    pixels[top : top + 30, left : left + 20] = [*rng.integers(0, 100, 3), 255]
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, format="webp", lossless=True)
    return stream.getvalue()


def test_pairs_of_images_and_foreground(tmp_path: Path) -> None:
    images = {f"{name}.webp": sticker(number) for number, name in enumerate(("1f431", "0023", "1f44b"))}
    report = write_pairs(images, tmp_path / "new" / "pairs", Transform("center-crop", 32, 32))
    assert report.num_images == 3
    data = PairedDataset(tmp_path / "new" / "pairs")
    assert (len(data), data.num_classes, data.resolution) == (3, 2, 32)
    for image, _, classes in (data.sample(i) for i in range(3)):
        assert 100 < (classes == 1).sum() < 200  # 15 x 10 pixels, give or take their border
        assert image[:, classes == 1].mean() < 120
        assert image[:, classes == 0].mean() > 240
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["pairs"]


def test_pairs_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    images = {"1f431.webp": sticker(0), "1f44b.webp": b"broken"}
    with pytest.raises(UserError, match="cannot be used"):
        write_pairs(images, tmp_path / "pairs", Transform("center-crop", 32, 32))
    assert not list(tmp_path.iterdir())
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="is not empty"):
        write_pairs({"1f431.webp": sticker(0)}, tmp_path / "pairs", Transform("center-crop", 32, 32))
    assert [path.name for path in (tmp_path / "pairs").iterdir()] == ["thesis.txt"]


def test_pairs_are_no_zip(tmp_path: Path) -> None:
    result = CliRunner().invoke(make_emoji_dataset.main, [f"--package={tmp_path / 'x.tgz'}", "--paired"])
    assert result.exit_code == 1
    assert "--paired writes a folder" in result.output
