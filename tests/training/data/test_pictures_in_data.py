"""Data sets, ``dataset_tool.py``, pairs and ``tools/project.py`` read the same files alike."""

import hashlib
import os
import socket
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from dnnlib.download import local_file
from dnnlib.errors import UserError
from tests.support.analysis import make_pairs
from tests.support.pictures import TWELVE, deep_png, encode, oriented, png
from training.data.dataset import ImageFolderDataset
from training.data.importing import Transform, import_dataset
from training.data.paired import PairedDataset
from training.data.pictures import load_picture
from training.data.reals import open_images

SIZE = 8


def picture(seed: int, shape: tuple[int, ...] = (SIZE, SIZE, 3)) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def files(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return target


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One upright, the others in every way in which a camera can lie, in three formats."""
    turned = {
        f"{kind}{n}.{kind}": oriented(picture(n), kind, n)
        for kind in ("png", "webp", "jpeg")
        for n in range(2, 9)
    }
    return files(tmp_path / "photos", {"a.png": encode(picture(0)), **turned})


# --- orientation


@pytest.mark.parametrize("budget", [1024, 0])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_photos_are_trained_on_as_dataset_tool_makes_them(
    photos: Path, tmp_path: Path, kind: str, budget: int
) -> None:
    import_dataset(photos, tmp_path / "made.zip", workers=1)
    made = ImageFolderDataset(tmp_path / "made.zip")
    raw = ImageFolderDataset(
        photos if kind == "folder" else zipped(photos, tmp_path / "raw.zip"), memory_budget_mb=budget
    )
    assert len(raw) == len(made) == 22
    for index in range(len(raw)):
        np.testing.assert_array_equal(raw[index][0], made[index][0])


def test_the_identity_changes_where_pixels_do_and_nowhere_else(photos: Path, tmp_path: Path) -> None:
    upright = files(tmp_path / "upright", {f"{i}.png": encode(picture(i)) for i in range(3)})
    plain = hashlib.sha256(
        b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sorted(upright.iterdir()))
    ).hexdigest()
    dataset = ImageFolderDataset(upright)
    assert dataset.fingerprint() == f"{plain}-plain"  # as it was when no image was turned
    assert (
        dataset.identity() == dataset.earlier_identity() == hashlib.sha256(f"{plain} 3 ".encode()).hexdigest()
    )
    (upright / "1.png").write_bytes(oriented(picture(1), "png", 6))
    before = hashlib.sha256(
        b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sorted(upright.iterdir()))
    ).hexdigest()
    turned = ImageFolderDataset(upright)
    assert (
        turned.fingerprint() != f"{before}-plain"
    )  # statistics of the images as they lay are not taken for these
    zip_path = zipped(upright, tmp_path / "x.zip")
    in_zip = ImageFolderDataset(zip_path)
    assert in_zip.fingerprint() == turned.fingerprint()
    with zipfile.ZipFile(zip_path) as archive:
        facts = "".join(f"{info.CRC:08x} {info.file_size}\n" for info in archive.infolist())
    outline = hashlib.sha256(facts.encode()).hexdigest()
    assert not in_zip.is_known_as(
        hashlib.sha256(f"{outline} 3 ".encode()).hexdigest()
    )  # a run on them as they lay does not go on


@pytest.mark.parametrize("part", ["images", "annotations"])
def test_pairs_are_not_turned(tmp_path: Path, part: str) -> None:
    root = make_pairs(tmp_path / "pairs", count=3)
    path = root / part / "0001.png"
    with PIL.Image.open(path) as image:
        image.load()
    path.write_bytes(oriented(image, "png", 3))
    with pytest.raises(
        UserError, match=r"'0001.png' in .* is to be turned for display \(EXIF orientation 3\)"
    ):
        PairedDataset(root)


# --- frames


def test_further_frames_are_counted_on_every_route(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more: dict[str, Any] = {"save_all": True, "append_images": [picture(9)]}
    contents = {
        "a.png": encode(picture(0)),
        "b.png": encode(picture(1), "png", **more),
        "c.tif": encode(picture(2), "tiff", **more),
    }
    folder = files(tmp_path / "x", {**contents, "d.webp": encode(picture(3), "webp", **more)})
    note = "3 images with more than one frame or page: the first is used"
    assert import_dataset(folder, tmp_path / "made.zip", workers=1).notes == [note]
    for budget in (0, 1024):
        assert ImageFolderDataset(folder, memory_budget_mb=budget).notes() == [note]
    open_images(str(folder))
    assert f"Note: {note}" in capsys.readouterr().err
    assert ImageFolderDataset(tmp_path / "made.zip").notes() == []


def test_of_many_images_the_likely_ones_are_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {"save_all": True, "append_images": [picture(9)]}
    folder = files(tmp_path / "x", {f"{i}.tif": encode(picture(i), "tiff", **more) for i in range(3)})
    files(folder, {"a.png": encode(picture(5))})
    monkeypatch.setattr("training.data.dataset.FEW", 1)
    assert ImageFolderDataset(folder, memory_budget_mb=0).notes() == [
        "3 images with more than one frame or page: the first is used"
    ]


# --- more than 8 bits


def grey16(values: np.ndarray, kind: str = "png") -> bytes:
    return encode(PIL.Image.fromarray(values), kind)


def first_image(path: Path) -> np.ndarray:
    return ImageFolderDataset(path)[0][0]


def test_the_range_that_was_found(tmp_path: Path) -> None:
    steps = (np.arange(64, dtype=np.uint16) * 60).reshape(8, 8)
    folder = files(tmp_path / "x", {"a.png": grey16(steps), "b.png": grey16(steps + 300)})
    report = import_dataset(folder, tmp_path / "full.zip", workers=1)
    (warning,) = report.warnings
    assert warning.startswith(
        "the values of 2 images with 16 bits lie between 0 and 4080, and 65535 would be white: they come out "
        "dark"
    )
    assert "--range=0-4095 makes 4095 white" in warning
    assert first_image(tmp_path / "full.zip").max() == 15
    report = import_dataset(folder, tmp_path / "range.zip", workers=1, value_range=(0, 4095))
    assert (report.warnings, report.notes) == ([], [])
    np.testing.assert_array_equal(first_image(tmp_path / "range.zip")[0], np.floor(steps / 4095 * 255 + 0.5))
    report = import_dataset(folder, tmp_path / "auto.zip", workers=2, value_range="auto")
    assert report.notes == [
        "the values of 2 images with more than 8 bits lie between 0 and 4080, which became black and white"
    ]
    np.testing.assert_array_equal(
        first_image(tmp_path / "auto.zip")[0], np.floor(steps / 4080 * 255 + 0.5)
    )  # of both, not of each
    assert import_dataset(folder, tmp_path / "as.zip", workers=1, value_range="full").warnings == []
    (note,) = import_dataset(folder, tmp_path / "cut.zip", workers=1, value_range=(0, 1000)).notes
    assert note.endswith("lie between 0 and 4080; what is outside --range=0-1000 was cut")


def test_ranges_of_colour_and_of_eight_bits(tmp_path: Path) -> None:
    folder = files(tmp_path / "x", {"a.png": deep_png(TWELVE[:8, :8]), "b.png": encode(picture(1))})
    (warning,) = import_dataset(folder, tmp_path / "full.zip", workers=1).warnings
    assert "of 1 image with 16 bits lie between 0 and" in warning
    report = import_dataset(
        files(tmp_path / "y", {"b.png": encode(picture(1))}),
        tmp_path / "8.zip",
        workers=1,
        value_range="auto",
    )
    assert "--range has no effect: all images have 8 bits a value" in report.notes
    np.testing.assert_array_equal(first_image(tmp_path / "8.zip"), np.asarray(picture(1)).transpose(2, 0, 1))


def test_float_images_need_a_range(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    folder = files(tmp_path / "x", {"a.tiff": grey16(values, "tiff")})
    with pytest.raises(
        UserError,
        match=r"lie between 0 and 1; say with --range=LOW-HIGH .*, or leave it out with --on-error=skip",
    ):
        import_dataset(folder, tmp_path / "no.zip", workers=1)
    assert not (tmp_path / "no.zip").exists()
    import_dataset(folder, tmp_path / "yes.zip", workers=1, value_range=(0, 1))
    np.testing.assert_array_equal(first_image(tmp_path / "yes.zip")[0], np.floor(values * 255 + 0.5))


def test_a_folder_of_deep_images_as_training_data(tmp_path: Path) -> None:
    folder = files(tmp_path / "x", {"a.png": deep_png(TWELVE[:8, :8])})
    (note,) = ImageFolderDataset(folder).notes()
    assert "come out dark" in note
    assert "dataset_tool.py" in note
    folder = files(tmp_path / "y", {"a.tiff": grey16(np.zeros((8, 8), np.float32), "tiff")})
    with pytest.raises(
        UserError,
        match=r"is F \(more than 8 bits a value\), not RGB .*; convert the images with dataset_tool\.py",
    ):
        ImageFolderDataset(folder)


# --- limits


def test_large_images_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    huge = png(40000, 40000, 8, 0)  # without pixels: decoding it would say that it is broken
    folder = files(tmp_path / "x", {"a.png": encode(picture(0, (SIZE, SIZE))), "b.png": huge})
    with pytest.raises(
        UserError, match=r"'b\.png' in .* cannot be used: it has 40000x40000 pixels, more than the 500000000"
    ) as caught:
        import_dataset(folder, tmp_path / "o.zip", workers=1, transform=Transform("center-crop", 8, 8))
    assert "--max-pixels=1600000000 reads it" in str(caught.value)
    assert "mend" not in str(caught.value)
    with pytest.raises(
        UserError,
        match=r"'b\.png' .* more than the 500000000 that are read; convert the images with dataset_tool\.py",
    ):
        ImageFolderDataset(folder)
    (folder / "b.png").write_bytes(png(8192, 8192, 8, 0))
    with pytest.raises(
        UserError, match=r"'b\.png' in .* is 8192x8192 greyscale, but 'a\.png' is 8x8 greyscale"
    ):
        ImageFolderDataset(folder)
    skipped = import_dataset(folder, tmp_path / "o.zip", workers=1, max_pixels=100, on_error="skip").skipped
    assert skipped == [f"'b.png' in '{folder}': it has 8192x8192 pixels, more than the 100 that are read"]
    (tmp_path / "target.png").write_bytes(huge)
    with pytest.raises(UserError, match="--max-pixels=1600000000 reads it"):
        load_picture(tmp_path / "target.png", 8, 3)


# --- special files


def special(folder: Path, name: str, kind: str) -> Path:
    path = folder / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        before = os.getcwd()
        os.chdir(folder)  # a socket's path must be short
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(name)
        finally:
            os.chdir(before)
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_special_files_are_never_opened(tmp_path: Path, kind: str) -> None:
    """Each of these would wait, or fill the memory."""
    folder = files(tmp_path / "x", {"a.png": encode(picture(0))})
    path = special(folder, "b.png", kind)
    dataset = ImageFolderDataset(folder)
    assert len(dataset) == 1
    assert "1 special (pipes, sockets or devices)" in dataset.notes()[0]
    report = import_dataset(folder, tmp_path / "o.zip", workers=1)
    assert report.num_images == 1
    assert any("1 special (pipes, sockets or devices)" in note for note in report.notes)
    with pytest.raises(UserError, match="is a pipe, socket or device; give a folder of images or a zip"):
        ImageFolderDataset(path)
    with pytest.raises(UserError, match="is a pipe, socket or device"):
        import_dataset(path, tmp_path / "p.zip", workers=1)
    with pytest.raises(UserError, match=r"is no ordinary file|cannot read"):
        load_picture(path, 8, 3)
    with pytest.raises(UserError, match="is no ordinary file"):
        local_file(path)


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = files(tmp_path / "x", {"a.png": encode(picture(0)), "b.png": encode(picture(1))})
    dataset = ImageFolderDataset(folder, memory_budget_mb=0)
    (folder / "b.png").unlink()
    special(folder, "b.png", "pipe")
    with pytest.raises(UserError, match=r"b\.png.* no ordinary file"):
        dataset[1]
