"""tools.make_paired_dataset: names, class numbers, sizes, and that it appears whole or not at all."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tools import make_paired_dataset
from training.data.paired import UNLABELLED, PairedDataset


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three JPEG photographs of 40×30, bright where the annotation is 3, dark where it is 0 or 1."""
    for name in ("images", "annotations"):
        (tmp_path / "source" / name / "a").mkdir(parents=True)
    for i in range(3):
        classes = np.zeros([30, 40], dtype=np.uint8)
        classes[8:20, 12 + i : 28 + i] = 3
        PIL.Image.fromarray(np.where(classes == 3, 230, 20).astype(np.uint8)).convert("RGB").save(
            tmp_path / f"source/images/a/{i}.jpg", quality=95
        )
        classes[:, :4] = 1
        PIL.Image.fromarray(classes).save(tmp_path / f"source/annotations/a/{i}.png")
    return tmp_path / "source"


def arguments(source: Path, dest: Path, *more: str) -> list[str]:
    return [
        f"--images={source / 'images'}",
        f"--annotations={source / 'annotations'}",
        f"--dest={dest}",
        "--resolution=32",
        *more,
    ]


@pytest.mark.parametrize("dest", ["pairs", "pairs.zip"])
def test_pairs_are_cut_and_resized_alike(source: Path, tmp_path: Path, succeed: Any, dest: str) -> None:
    path = tmp_path / "new" / dest
    assert (
        succeed(make_paired_dataset.main, *arguments(source, path)).splitlines()[-1]
        == f"{path}: 3 images and as many annotations"
    )
    data = PairedDataset(path)
    assert (len(data), data.num_classes, data.resolution, data.num_channels) == (3, 4, 32, 3)
    for i in range(3):
        image, _, classes = data.sample(i)
        assert set(np.unique(classes)) == {0, 3}  # the strip was cut off, and no class lies between others
        assert ((image[0] > 125) == (classes == 3)).mean() > 0.98


def test_zero_may_mean_unlabelled(source: Path, tmp_path: Path, succeed: Any) -> None:
    succeed(make_paired_dataset.main, *arguments(source, tmp_path / "pairs", "--zero=unlabelled"))
    assert set(np.unique(PairedDataset(tmp_path / "pairs").classes(0))) == {2, UNLABELLED}


def test_a_palette_s_places_are_classes(source: Path, tmp_path: Path, succeed: Any) -> None:
    for path in (source / "annotations" / "a").iterdir():
        image = PIL.Image.fromarray(np.asarray(PIL.Image.open(path)))
        image.putpalette([200, 0, 0] * 256)
        assert image.mode == "P"
        image.save(path)
    succeed(make_paired_dataset.main, *arguments(source, tmp_path / "pairs"))
    assert set(np.unique(PairedDataset(tmp_path / "pairs").classes(0))) == {0, 3}


@pytest.mark.parametrize("dest", ["pairs", "pairs.zip"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lacking", "'a/1' is in '.*images' and not in '.*annotations'"),
        ("more", "'a/1' is in '.*annotations' and not in '.*images'"),
        (
            "colour",
            r"'.*annotations/a/1\.png' cannot be used: an annotation is 8-bit greyscale or has a palette, "
            "and this one is RGB",
        ),
        ("size", r"'.*annotations/a/1\.png' cannot be used: it is 20x30, and its image 40x30"),
        (
            "classes",
            r"'.*annotations/a/1\.png' cannot be used: it has class 250; classes are below 200, "
            "and 255 is unlabelled",
        ),
        (
            "turned",
            r"'.*images/a/1\.jpg' cannot be used: it has the EXIF orientation 3; turn it and its counterpart",
        ),
        ("broken", r"'.*images/a/1\.jpg' cannot be used"),
        ("nothing", "images' holds no images"),
    ],
)
def test_what_is_refused(
    source: Path, tmp_path: Path, complaint: Any, kind: str, message: str, dest: str
) -> None:
    image, annotation = source / "images" / "a" / "1.jpg", source / "annotations" / "a" / "1.png"
    if kind == "lacking":
        annotation.unlink()
    elif kind == "more":
        image.unlink()
    elif kind == "turned":
        exif = PIL.Image.Exif()
        exif[0x0112] = 3
        with PIL.Image.open(image) as upright:
            upright.save(image, exif=exif)
    elif kind == "broken":
        image.write_bytes(image.read_bytes()[:50])
    elif kind == "nothing":
        for path in (*(source / "images" / "a").iterdir(), *(source / "annotations" / "a").iterdir()):
            path.unlink()
    else:
        wrong = {"colour": ("RGB", (40, 30), 0), "size": ("L", (20, 30), 0), "classes": ("L", (40, 30), 250)}
        PIL.Image.new(*wrong[kind]).save(annotation)
    assert re.search(message, complaint(make_paired_dataset.main, arguments(source, tmp_path / "new" / dest)))
    assert not (tmp_path / "new").exists()


def test_sources_are_never_written_over(source: Path, tmp_path: Path, complaint: Any) -> None:
    path = shutil.make_archive(str(tmp_path / "both"), "zip", source)
    before = Path(path).read_bytes()
    inside = [
        f"--images={path}/images",
        f"--annotations={path}/annotations",
        f"--dest={path}",
        "--resolution=8",
    ]
    assert f"'{path}/images' and --dest '{path}' are the same" in complaint(make_paired_dataset.main, inside)
    assert Path(path).read_bytes() == before


def test_images_that_differ_only_in_their_suffix_are_refused(
    source: Path, tmp_path: Path, complaint: Any
) -> None:
    PIL.Image.new("RGB", (40, 30)).save(source / "images" / "a" / "1.png")
    line = complaint(make_paired_dataset.main, arguments(source, tmp_path / "new"))
    assert "'a/1.jpg' and 'a/1.png' in" in line
    assert "differ only in their suffix" in line


def test_deep_images_and_further_pages(source: Path, tmp_path: Path, succeed: Any) -> None:
    path = source / "images" / "a" / "1.jpg"
    path.unlink()
    values = np.zeros((30, 40), dtype=np.uint16)
    values[:20] = 4000
    deep, more = PIL.Image.fromarray(values), PIL.Image.fromarray(values)
    deep.save(path.with_suffix(".tif"), save_all=True, append_images=[more])
    printed = succeed(make_paired_dataset.main, *arguments(source, tmp_path / "dark"))
    assert "Warning: the values of 1 image with 16 bits lie between 0 and 4000" in printed
    assert "Note: 1 image with more than one frame or page: the first is used" in printed
    printed = succeed(make_paired_dataset.main, *arguments(source, tmp_path / "out"), "--range=auto")
    assert "lie between 0 and 4000, which became black and white" in printed
    data = PairedDataset(tmp_path / "out")
    assert [int(data[i][0].max()) for i in range(3)][1] == 255
    assert int(PairedDataset(tmp_path / "dark")[1][0].max()) <= 20  # 16, and what Lanczos adds beside an edge
