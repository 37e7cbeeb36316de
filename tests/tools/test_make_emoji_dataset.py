"""The bundled images and the tool that made them."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from dnnlib.errors import UserError
from tools.make_emoji_dataset import read_package, select_bases
from training.dataset import ImageFolderDataset

DATA = Path(__file__).resolve().parents[2] / "data"


def test_one_of_each_base_emoji() -> None:
    names = ["0023-fe0f-20e3", "23-20e3", "1f44b", "1f44b-1f3fb", "1f431", "1f63a", "1f3f4-e0067_e0062", "1f9d1-1f3ff-200d-1f91d"]
    images = {f"{name}.webp": name.encode() for name in names}
    images["1f63a.webp"] = images["1f431.webp"]
    chosen = select_bases(images)
    assert list(chosen) == [f"{name}.webp" for name in ("0023-fe0f-20e3", "1f3f4-e0067_e0062", "1f431", "1f44b")]
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
    assert (dataset.num_images, dataset.image_shape, dataset.in_memory, dataset.has_labels) == (1854, [3, 32, 32], True, False)
    assert path.stat().st_size <= 4_000_000
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 1855
    pixels = hashlib.sha256(b"".join(dataset[i][0].tobytes() for i in range(1854))).hexdigest()
    described = (DATA / "README.md").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in described
    assert pixels in described
    corners = [dataset[i][0][:, 0, 0].min() for i in range(1854)]
    assert sum(corner >= 250 for corner in corners) > 1800  # white behind the alpha
