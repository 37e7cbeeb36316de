"""Sources, decoding, cropping and writing of ``dataset_tool.py``."""

import gzip
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from dnnlib.errors import UserError
from dnnlib.interrupt import end_processes
from tests.support.pictures import encode
from training.data.dataset import ImageFolderDataset
from training.data.decode import DecodeOptions, decode
from training.data.importing import Transform, archives, convert, import_dataset
from training.data.importing.archives import read_cifar10
from training.data.importing.lmdb_file import LmdbFile
from training.data.importing.sources import share_of_each_class, subfolder_labels
from training.data.labels import class_counts


def pixels(seed: int, shape: tuple[int, ...] = (8, 8, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def u8(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.uint8)


def make_folder(folder: Path, images: dict[str, np.ndarray]) -> Path:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(folder / name)
    return folder


def read_zip(path: Path) -> tuple[list[np.ndarray], Any]:
    """The images of a written zip in order, and the labels."""
    with zipfile.ZipFile(path) as archive:
        assert {info.date_time for info in archive.infolist()} == {
            (1980, 1, 1, 0, 0, 0)
        }  # else bytes differ from day to day
        names = [name for name in archive.namelist() if name != "dataset.json"]
        assert names == [f"{i // 1000:05d}/img{i:08d}.png" for i in range(len(names))]
        labels = json.loads(archive.read("dataset.json"))["labels"]
        assert labels is None or [name for name, _ in labels] == names
        images = [np.asarray(PIL.Image.open(io.BytesIO(archive.read(name)))) for name in names]
    return images, labels and [label for _, label in labels]


def complaint(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        import_dataset(*args, workers=1, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- decoding: each kind of file to the pixels that a viewer would show

GREY = u8([[0, 100], [200, 255]])
COLOR = u8([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]])
ALPHA = u8([[0, 255], [51, 255]])
BLUE = (0, 0, 255)


def over(color: np.ndarray, background: int | tuple[int, int, int]) -> np.ndarray:
    """``color`` with ALPHA on a background, by hand: places (0, 0) and (1, 0) are transparent."""
    out = color.astype(float)
    out[0, 0] = background
    out[1, 0] = 0.2 * out[1, 0] + 0.8 * np.asarray(background)
    return np.round(out).astype(np.uint8)


def decoded(content: bytes, **kwargs: Any) -> np.ndarray:
    image = decode(content, DecodeOptions(**kwargs)).image
    assert image.mode in ("L", "RGB")
    return np.asarray(image)


def test_plain_images_keep_their_pixels() -> None:
    np.testing.assert_array_equal(decoded(encode(PIL.Image.fromarray(GREY))), GREY)
    np.testing.assert_array_equal(decoded(encode(PIL.Image.fromarray(COLOR))), COLOR)
    np.testing.assert_array_equal(
        decoded(encode(PIL.Image.fromarray(GREY >= 128))), np.where(GREY >= 128, 255, 0)
    )


def test_rgba_goes_over_the_background() -> None:
    content = encode(PIL.Image.fromarray(np.dstack([COLOR, ALPHA])))
    np.testing.assert_array_equal(decoded(content), over(COLOR, (255, 255, 255)))
    np.testing.assert_array_equal(decoded(content, background=BLUE), over(COLOR, BLUE))


def test_grey_with_alpha_stays_grey_on_a_grey_background() -> None:
    content = encode(PIL.Image.fromarray(np.dstack([GREY, ALPHA]), "LA"))
    np.testing.assert_array_equal(decoded(content), over(GREY, 255))
    np.testing.assert_array_equal(decoded(content, background=BLUE), over(np.dstack([GREY] * 3), BLUE))


def palette_image(colors: list[int]) -> PIL.Image.Image:
    image = PIL.Image.fromarray(u8([[0, 1], [2, 3]])).convert("P")
    image.putdata([0, 1, 2, 3])
    image.putpalette(colors)
    return image


def test_palettes_are_resolved() -> None:
    image = palette_image(COLOR.ravel().tolist())
    np.testing.assert_array_equal(decoded(encode(image)), COLOR)
    np.testing.assert_array_equal(
        decoded(encode(image, transparency=ALPHA.tobytes())), over(COLOR, (255, 255, 255))
    )
    np.testing.assert_array_equal(decoded(encode(image, "gif")), COLOR)
    expected = COLOR.copy()
    expected[0, 1] = 255
    np.testing.assert_array_equal(decoded(encode(image, transparency=1)), expected)


def test_a_palette_without_colours_is_grey() -> None:
    np.testing.assert_array_equal(decoded(encode(palette_image(np.repeat(GREY.ravel(), 3).tolist()))), GREY)


def test_transparent_colours_of_png_go_over_the_background() -> None:
    expected = COLOR.copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(
        decoded(encode(PIL.Image.fromarray(COLOR), transparency=(255, 0, 0))), expected
    )
    np.testing.assert_array_equal(
        decoded(encode(PIL.Image.fromarray(GREY), transparency=0)), [[255, 100], [200, 255]]
    )


def test_cmyk() -> None:
    flat = np.broadcast_to(u8([200, 120, 40]), (16, 16, 3))
    got = decoded(encode(PIL.Image.fromarray(flat.copy()).convert("CMYK"), "jpeg", quality=95))
    assert np.abs(got.astype(int) - flat).max() <= 4


def test_sixteen_bits_are_scaled_not_cut() -> None:
    wide = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(decoded(encode(PIL.Image.fromarray(wide))), GREY)
    np.testing.assert_array_equal(
        decoded(encode(PIL.Image.fromarray(np.array([[128, 129]], dtype=np.uint16)))), [[0, 1]]
    )
    np.testing.assert_array_equal(decoded(encode(PIL.Image.fromarray(wide), "tiff")), GREY)
    np.testing.assert_array_equal(decoded(encode(PIL.Image.fromarray(wide.astype(np.int32)), "tiff")), GREY)


def test_sixteen_bit_rgb_png() -> None:
    import zlib

    rows = b"".join(b"\0" + (COLOR[y].astype(">u2") * 257).tobytes() for y in range(2))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    np.testing.assert_array_equal(decoded(content), COLOR)


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_undone(kind: str, orientation: int, turns: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = pixels(0, (2, 3, 3))
    np.testing.assert_array_equal(
        decoded(encode(PIL.Image.fromarray(stored), kind, exif=exif)), np.rot90(stored, turns)
    )


@pytest.mark.parametrize(
    "image", [np.full((1, 1), 0.5, np.float32), np.full((1, 1), 70000, np.int32)], ids=["float", "int32"]
)
def test_pixels_of_unknown_range_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="range is not known"):
        decode(encode(PIL.Image.fromarray(image), "tiff"))


# --- cropping and resizing


def gradient(width: int, height: int) -> PIL.Image.Image:
    """Red tells the column, green the row."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return PIL.Image.fromarray(np.dstack([x, y, x * 0]).astype(np.uint8))


def test_center_crop_takes_the_middle_square() -> None:
    for width, height in [(12, 8), (8, 12), (8, 8)]:
        out = np.asarray(Transform("center-crop", 8, 8).apply(gradient(width, height)))
        left, top = (width - 8) // 2, (height - 8) // 2
        np.testing.assert_array_equal(
            out, np.asarray(gradient(width, height))[top : top + 8, left : left + 8]
        )


def test_box_filter_averages_areas() -> None:
    image = pixels(0, (16, 16, 3))
    out = np.asarray(Transform("center-crop", 8, 8, "box").apply(PIL.Image.fromarray(image)))
    means = image.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(out - means).max() <= 1  # Pillow rounds rows and columns apart
    lanczos = np.asarray(Transform("center-crop", 8, 8).apply(PIL.Image.fromarray(image)))
    assert (lanczos != out).any()


def test_without_crop_images_are_stretched() -> None:
    assert Transform(None, 8, 8).apply(gradient(20, 10)).size == (8, 8)


@pytest.mark.parametrize(("width", "height"), [(8, 4), (8, 8), (12, 4), (16, 8), (9, 6)])
def test_center_crop_wide_keeps_shapes_and_pads_with_black(width: int, height: int) -> None:
    image = PIL.Image.fromarray(np.full((height, width, 3), 200, np.uint8))
    out = np.asarray(Transform("center-crop-wide", 8, 4).apply(image))
    assert out.shape == (8, 8, 3)
    assert (out[2:6] == 200).all()
    assert not out[:2].any()
    assert not out[6:].any()


def test_center_crop_wide_takes_the_middle() -> None:
    out = np.asarray(Transform("center-crop-wide", 8, 4).apply(gradient(8, 8)))
    np.testing.assert_array_equal(out[2:6], np.asarray(gradient(8, 8))[2:6])
    out = np.asarray(Transform("center-crop-wide", 8, 4).apply(gradient(12, 4)))
    np.testing.assert_array_equal(out[2:6], np.asarray(gradient(12, 4))[:, 2:10])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("center-crop", 8, None), "needs --width and --height"),
        (("center-crop-wide", None, None), "needs --width and --height"),
        (("center-crop", 8, 16), "would come out 8x16"),
        (("center-crop", 12, 12), "would come out 12x12"),
        (("center-crop-wide", 12, 8), "would come out 12x12"),
        (("center-crop-wide", 8, 16), "more than --width"),
        ((None, 0, 8), "--width must be at least 1"),
        ((None, 2, 2), "would come out 2x2"),
    ],
)
def test_senseless_transforms_are_refused(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Transform(*args)


# --- folders and zips


def test_folder_to_zip_to_folder(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", {f"{i % 2}/{i}.png": pixels(i) for i in range(4)})
    report = import_dataset(source, tmp_path / "new" / "out.zip", workers=1)
    assert (report.num_images, report.resolution, report.num_channels, report.label_dim, report.skipped) == (
        4,
        8,
        3,
        0,
        [],
    )
    images, labels = read_zip(tmp_path / "new" / "out.zip")
    np.testing.assert_array_equal(images, [pixels(i) for i in (0, 2, 1, 3)])
    assert labels is None
    import_dataset(tmp_path / "new" / "out.zip", tmp_path / "out", workers=1)
    a, b = ImageFolderDataset(tmp_path / "new" / "out.zip"), ImageFolderDataset(tmp_path / "out")
    assert all((a[i][0] == b[i][0]).all() for i in range(4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "new", "out"]


def test_an_empty_destination_folder_may_exist(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", {"a.png": pixels(0)})
    (tmp_path / "out").mkdir()
    import_dataset(source, tmp_path / "out", workers=1)
    assert (tmp_path / "out" / "00000" / "img00000000.png").is_file()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "in").stat().st_mode


def test_labels_of_the_source_go_along(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", {"a.png": pixels(0), "b.png": pixels(1), "c.png": pixels(2)})
    (source / "dataset.json").write_text(json.dumps({"labels": [["c.png", 1], ["a.png", 4], ["b.png", 0]]}))
    report = import_dataset(source, tmp_path / "out.zip", max_images=2, workers=1)
    assert (report.num_images, report.label_dim) == (2, 5)
    assert read_zip(tmp_path / "out.zip")[1] == [4, 0]
    import_dataset(source, tmp_path / "out.zip", labels="none", workers=1)
    assert read_zip(tmp_path / "out.zip")[1] is None
    vectors = [["a.png", [0.5, 1]], ["b.png", [1, 2]], ["c.png", [2, 3]]]
    (source / "dataset.json").write_text(json.dumps({"labels": vectors}))
    assert import_dataset(source, tmp_path / "out.zip", labels="dataset.json", workers=1).label_dim == 2
    assert read_zip(tmp_path / "out.zip")[1] == [[0.5, 1], [1, 2], [2, 3]]


def test_labels_from_subfolders(tmp_path: Path) -> None:
    source = make_folder(
        tmp_path / "in", {f"train/{name}/{i}/x.png": pixels(i) for name in ("cat", "ant") for i in range(2)}
    )
    report = import_dataset(source, tmp_path / "out.zip", labels="subfolders", workers=1)
    assert report.label_dim == 2
    _, labels = read_zip(tmp_path / "out.zip")
    assert labels == [0, 0, 1, 1]
    dataset = ImageFolderDataset(tmp_path / "out.zip", use_labels=True)
    assert dataset.label_dim == 2
    with pytest.raises(UserError, match=r"'a\.png' in 'here' lies in no subfolder"):
        subfolder_labels(["a.png", "b/c.png"], "here")
    assert subfolder_labels(["b/1.png", "b/2.png"], "here") == ([0, 0], ["b"])
    assert report.classes == [(0, "ant", 2), (1, "cat", 2)]
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert json.loads(archive.read("dataset.json"))["class_names"] == ["ant", "cat"]
    again = import_dataset(tmp_path / "out.zip", tmp_path / "again.zip", workers=1)
    assert again.classes == report.classes


def test_folders_that_are_numbers_are_numbered_by_them(tmp_path: Path) -> None:
    names = [f"{number}/x.png" for number in (0, 1, 10, 2, 9)]
    assert subfolder_labels(names, "here") == ([0, 1, 4, 2, 3], ["0", "1", "2", "9", "10"])
    assert subfolder_labels(["07/x.png", "7/x.png", "3/x.png", "000/x.png", f"{'1' * 5000}/x.png"], "here")[
        0
    ] == [2, 3, 1, 0, 4]
    assert subfolder_labels(["10/x.png", "9a/x.png"], "here")[1] == ["10", "9a"], (
        "names as soon as one is no number"
    )


@pytest.mark.parametrize(
    "folders",
    [("train", "val"), ("Train", "TEST"), ("training", "validation"), ("test",), ("dev", "valid", "train")],
)
def test_parts_of_a_data_set_are_no_classes(folders: tuple[str, ...]) -> None:
    names = [f"{folder}/{kind}.png" for folder in folders for kind in "ab"]
    with pytest.raises(
        UserError, match=f"'{min(folders)}'.* parts of a data set; give the folder of one part"
    ):
        subfolder_labels(names, "here")
    assert subfolder_labels([*names, "cats/x.png"], "here")[1] == sorted([*folders, "cats"])


@pytest.mark.parametrize(
    ("count", "shares"),
    [(1, {0: 1}), (3, {0: 1, 1: 1, 2: 1}), (10, {0: 6, 1: 3, 2: 1}), (99, {0: 20, 1: 10, 2: 3})],
)
def test_each_class_has_its_share_of_fewer_images(count: int, shares: dict[int, int]) -> None:
    labels = [0] * 20 + [1] * 10 + [2] * 3
    places = share_of_each_class(labels, count)
    assert places == sorted(places)
    assert class_counts([labels[place] for place in places]) == shares
    assert all(place - labels.index(labels[place]) < shares[labels[place]] for place in places)  # type: ignore[index]  # the first of each


def test_max_images_of_subfolders(tmp_path: Path) -> None:
    source = make_folder(
        tmp_path / "in", {f"{kind}/{i}.png": pixels(i) for kind in ("ant", "cat") for i in range(4)}
    )
    report = import_dataset(source, tmp_path / "out.zip", labels="subfolders", max_images=4, workers=1)
    assert report.classes == [(0, "ant", 2), (1, "cat", 2)]
    images, labels = read_zip(tmp_path / "out.zip")
    assert labels == [0, 0, 1, 1]
    np.testing.assert_array_equal(images, [pixels(i) for i in (0, 1, 0, 1)])


def test_what_an_import_leaves_out_is_said(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", {"a.png": pixels(0)})
    (source / "b.HEIC").write_bytes(b"")
    (source / "dataset.json").write_text('{"labels": [["a.png", 3], ["gone.png", 1]]}')
    left_out, labels, classes, one = import_dataset(source, tmp_path / "out.zip", workers=1).notes
    assert "1 .heic. Convert HEIC files" in left_out
    assert "1 label for images that are not there, 'gone.png' first" in labels
    assert "3 of the 4 classes from 0 up have no image (0 first)" in classes
    assert one.startswith("There is one image")


@pytest.mark.parametrize(
    "dest", ["in/out", "in/out.zip", "in/b/deep/out", "link/out", "in/../in/b/out", "elsewhere/out", "in"]
)
def test_a_destination_inside_the_source_is_refused(tmp_path: Path, dest: str) -> None:
    source = make_folder(tmp_path / "in", {"a.png": pixels(0), "b/c.png": pixels(1)})
    make_folder(tmp_path / "elsewhere", {"d.png": pixels(2)})
    (tmp_path / "link").symlink_to(source)
    (source / "linked").symlink_to(tmp_path / "elsewhere")  # its files are part of the source
    before = sorted(tmp_path.rglob("*"))
    message = complaint(source, tmp_path / dest)
    assert (
        "are the same" in message
        if dest == "in"
        else "what is written would become part of the data" in message
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_labels_are_named(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", {"a.png": pixels(0), "b.png": pixels(1)})
    assert "has no labels in a dataset.json" in complaint(source, tmp_path / "out.zip", labels="dataset.json")
    (source / "dataset.json").write_text('{"labels": [["a.png", 1]]}')
    assert "'b.png' first" in complaint(source, tmp_path / "out.zip")


@pytest.mark.parametrize("order", ["grey first", "colour first"])
def test_a_mixed_set_becomes_rgb(tmp_path: Path, order: str) -> None:
    grey, colour = pixels(0, (8, 8)), pixels(1)
    images = [grey] * 20 + [colour]
    source = make_folder(
        tmp_path / "in",
        {f"{i:02d}.png": x for i, x in enumerate(images if order == "grey first" else images[::-1])},
    )
    for workers in (1, 2):
        assert import_dataset(source, tmp_path / "out.zip", workers=workers).num_channels == 3
        out, _ = read_zip(tmp_path / "out.zip")
        out = out if order == "grey first" else out[::-1]
        np.testing.assert_array_equal(out, [np.dstack([grey] * 3)] * 20 + [colour])


def test_a_grey_set_stays_grey(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", {"a.png": pixels(0, (8, 8)), "b.png": pixels(1, (8, 8))})
    assert (
        import_dataset(
            source, tmp_path / "out.zip", transform=Transform(None, 16, 16), workers=1
        ).num_channels
        == 1
    )
    assert read_zip(tmp_path / "out.zip")[0][0].shape == (16, 16)


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    source = make_folder(
        tmp_path / "in", {f"{i % 3}/{i}.png": pixels(i, (16 + i % 5, 20, 3)) for i in range(60)}
    )
    contents = set()
    for workers in (1, 2, 3):
        dest = tmp_path / f"{workers}.zip"
        import_dataset(
            source, dest, transform=Transform("center-crop", 8, 8), labels="subfolders", workers=workers
        )
        contents.add(dest.read_bytes())
    assert len(contents) == 1


def test_metadata_does_not_reach_the_output(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    exif = PIL.Image.Exif()
    exif[0x010F] = "a maker of cameras"
    content = encode(PIL.Image.fromarray(pixels(0)), exif=exif, icc_profile=b"profile" * 30, dpi=(300, 300))
    (tmp_path / "in" / "a.png").write_bytes(content)
    import_dataset(tmp_path / "in", tmp_path / "out", workers=1)
    with PIL.Image.open(tmp_path / "out" / "00000" / "img00000000.png") as image:
        assert image.info == {}


# --- what goes wrong


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_image_stops_or_is_skipped(tmp_path: Path, workers: int) -> None:
    source = make_folder(tmp_path / "in", {f"{i:02d}.png": pixels(i) for i in range(30)})
    (source / "07.png").write_bytes(b"nothing")
    (source / "29.png").write_bytes((source / "29.png").read_bytes()[:100])
    (source / "dataset.json").write_text(json.dumps({"labels": [[f"{i:02d}.png", i] for i in range(30)]}))
    with pytest.raises(UserError, match=r"'07\.png' in .* cannot be used"):
        import_dataset(source, tmp_path / "sub" / "out.zip", workers=workers)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    report = import_dataset(source, tmp_path / "out.zip", on_error="skip", workers=workers)
    assert report.num_images == 28
    assert [line.split("'")[1] for line in report.skipped] == ["07.png", "29.png"]
    images, labels = read_zip(tmp_path / "out.zip")
    assert labels == [i for i in range(30) if i not in (7, 29)]
    np.testing.assert_array_equal(images[7], pixels(8))


def test_nothing_but_broken_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"nothing")
    assert "none of the 1 images could be used" in complaint(
        tmp_path / "in", tmp_path / "out", on_error="skip"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_sizes_that_disagree_or_cannot_be(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", {"a.png": pixels(0), "b.png": pixels(1, (16, 16, 3))})
    message = complaint(source, tmp_path / "out.zip", on_error="skip")
    assert "'b.png'" in message
    assert "16x16, those before it 8x8" in message
    message = complaint(make_folder(tmp_path / "odd", {"a.png": pixels(0, (8, 9, 3))}), tmp_path / "out.zip")
    assert "'a.png'" in message
    assert "would come out 9x8" in message


def test_images_too_small_for_a_wide_crop_are_named(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", {"a.png": pixels(0, (8, 16, 3)), "b.png": pixels(0, (3, 16, 3))})
    wide = Transform("center-crop-wide", 8, 4)
    assert "'b.png' in" in complaint(source, tmp_path / "out.zip", transform=wide)
    assert (
        import_dataset(source, tmp_path / "out.zip", transform=wide, on_error="skip", workers=1).num_images
        == 1
    )


def test_sources_that_are_none(tmp_path: Path) -> None:
    dest = tmp_path / "out.zip"
    assert "nowhere' does not exist" in complaint(tmp_path / "nowhere", dest)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in complaint(tmp_path / "empty", dest)
    for name, words in [
        ("x.zip", "is no zip"),
        ("x.bin", "no source that is known"),
        ("x.tar.gz", "as CIFAR-10"),
        ("x.gz", "unpacked"),
    ]:
        (tmp_path / name).write_bytes(b"rubbish")
        assert words in complaint(tmp_path / name, dest)
    assert not dest.exists()
    assert "--max-images" in complaint(tmp_path / "empty", dest, max_images=0)


def test_destinations_that_are_taken(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", {"a.png": pixels(0)})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "is not empty" in complaint(source, tmp_path / "full")
    assert "is a file" in complaint(source, tmp_path / "full" / "mine.txt")
    (tmp_path / "dir.zip").mkdir()
    assert "is a folder" in complaint(source, tmp_path / "dir.zip")
    assert "cannot write" in complaint(source, tmp_path / "full" / "mine.txt" / "out.zip")
    assert "are the same" in complaint(source, source)
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("dest", ["out.zip", "out", "deep/er/out.zip"])
def test_an_interrupt_leaves_nothing_and_the_old_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dest: str
) -> None:
    source = make_folder(tmp_path / "in", {f"{i}.png": pixels(i) for i in range(9)})
    if dest == "out.zip":
        (tmp_path / dest).write_bytes(b"old")
    before = sorted(tmp_path.rglob("*"))

    def interrupt(_self: Any, _png: bytes, _label: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.data.importing.writer.DatasetWriter.add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_dataset(source, tmp_path / dest, workers=2)
    assert sorted(tmp_path.rglob("*")) == before
    if dest == "out.zip":
        assert (tmp_path / dest).read_bytes() == b"old"


# --- MNIST, CIFAR-10, LSUN


def write_mnist(folder: Path, images: np.ndarray, labels: list[int] | None) -> Path:
    folder.mkdir(exist_ok=True)
    header = struct.pack(">IIII", 0x803, *images.shape)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(header + images.tobytes()))
    if labels is not None:
        content = struct.pack(">II", 0x801, len(labels)) + bytes(labels)
        (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    return path


def test_mnist_pairs_are_padded_and_labelled(tmp_path: Path) -> None:
    digits = pixels(0, (5, 28, 28))
    source = write_mnist(tmp_path / "in", digits, [3, 1, 4, 1, 9])
    report = import_dataset(source, tmp_path / "out.zip", max_images=4, workers=1)
    assert (report.num_images, report.resolution, report.num_channels, report.label_dim) == (4, 32, 1, 5)
    images, labels = read_zip(tmp_path / "out.zip")
    np.testing.assert_array_equal(images, np.pad(digits[:4], [(0, 0), (2, 2), (2, 2)]))
    assert labels == [3, 1, 4, 1]
    assert import_dataset(source, tmp_path / "out.zip", labels="none", workers=1).label_dim == 0
    assert "brings its own labels" in complaint(source, tmp_path / "out.zip", labels="subfolders")
    assert "is the source" in complaint(source.parent, tmp_path / "out.zip")


def test_mnist_files_that_are_wrong(tmp_path: Path) -> None:
    dest = tmp_path / "out.zip"
    source = write_mnist(tmp_path / "in", pixels(0, (5, 28, 28)), None)
    assert "beside it as 'train-labels-idx1-ubyte.gz'" in complaint(source, dest)
    assert import_dataset(source, dest, labels="none", workers=1).num_images == 5
    write_mnist(tmp_path / "in", pixels(0, (5, 28, 28)), [1, 2])
    assert "has 2 labels for the 5 images" in complaint(source, dest)
    assert "no IDX file" in complaint(tmp_path / "in" / "train-labels-idx1-ubyte.gz", dest)
    whole = gzip.decompress(source.read_bytes())
    source.write_bytes(gzip.compress(whole[:-1]))
    assert "holds 3919 bytes of data" in complaint(source, dest)
    source.write_bytes(gzip.compress(whole)[:-20])
    assert "cannot be unpacked" in complaint(source, dest)
    assert "images of 20x28" in complaint(write_mnist(tmp_path / "in", pixels(0, (5, 28, 20)), [1] * 5), dest)


def write_cifar(path: Path, batches: list[bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for number, content in enumerate(batches, 1):
            info = tarfile.TarInfo(f"cifar-10-batches-py/data_batch_{number}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_cifar_batches(tmp_path: Path) -> None:
    data = pixels(0, (10, 3, 32, 32))
    batches = [
        pickle.dumps({"data": data[2 * i : 2 * i + 2].reshape(2, -1), "labels": [i, 9]}, protocol=2)
        for i in range(5)
    ]
    source = write_cifar(tmp_path / "cifar-10-python.tar.gz", batches)
    report = import_dataset(source, tmp_path / "out.zip", workers=2)
    assert (report.num_images, report.resolution, report.num_channels, report.label_dim) == (10, 32, 3, 10)
    images, labels = read_zip(tmp_path / "out.zip")
    np.testing.assert_array_equal(images, data.transpose(0, 2, 3, 1))
    assert labels == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]


def short(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def dtype(name: str, state: bytes) -> bytes:
    return b"cnumpy\ndtype\n" + short(name) + b"K\x00K\x01\x87R" + state


#: A structured type whose one field is an object, with flags that deny it: numpy would follow forged
#: pointers.
FORGED = dtype(
    "V8",
    b"(K\x03"
    + short("|")
    + b"N("
    + short("f")
    + b"t}"
    + short("f")
    + dtype("O8", b"")
    + b"K\x00\x86sK\x08K\x01K\x00tb",
)
SHELL = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
HOSTILE_CIFAR = {
    "forged pointers": SHELL
    + b"K\x00\x85C\x01b\x87R(K\x01K\x04\x85"
    + FORGED
    + b"\x89C\x20"
    + b"A" * 32
    + b"tb",
    "uninitialised": b"cnumpy\nndarray\n(K\x02M\x00\x0c\x86" + short("u1") + b"tR",
    "uninitialised by NEWOBJ": b"cnumpy\nndarray\n(K\x02M\x00\x0c\x86" + short("u1") + b"t\x81",
    "without contents": SHELL + b"(K\x02M\x00\x0c\x86C\x01b\x87R",
    "16 TB": b"cnumpy\nndarray\n(\x8a\x06\x00\x00\x00\x00\x00\x10\x85" + short("u1") + b"tR",
    "memo": b"Nr\xff\xff\xff\x7f",
    "shared halves": b"(K\x01K\x01t" + b"2\x86" * 60,
    "frombuffer of text": b"c_codecs\nencode\n" + short("a" * 6144) + short("utf-8") + b"\x86R",
}


@pytest.mark.parametrize("data", HOSTILE_CIFAR.values(), ids=HOSTILE_CIFAR)
def test_a_hostile_cifar_pickle_is_refused_in_bounded_memory(tmp_path: Path, data: bytes) -> None:
    content = b"\x80\x03}(" + short("data") + data + short("labels") + b"](K\x01K\x01eu."
    source = write_cifar(tmp_path / "cifar-10-python.tar.gz", [content] * 5)
    tracemalloc.start()
    try:
        assert "cannot be read as CIFAR-10's" in complaint(source, tmp_path / "out.zip")
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_a_cifar_pickle_of_python_2(tmp_path: Path) -> None:
    """The published file is one: texts are byte strings, and so are the contents of arrays."""
    data = pixels(0, (2, 3072))

    def py2(value: bytes) -> bytes:
        return (
            b"U" + bytes([len(value)]) + value
            if len(value) < 256
            else b"T" + struct.pack("<I", len(value)) + value
        )

    kind = (
        b"cnumpy\ndtype\n("
        + py2(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + py2(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t"
        + py2(b"b")
        + b"tR(K\x01K\x02M\x00\x0c\x86"
        + kind
        + b"\x89"
    )
    content = (
        b"\x80\x02}("
        + py2(b"data")
        + array
        + py2(data.tobytes())
        + b"tb"
        + py2(b"labels")
        + b"](K\x03K\x04eu."
    )
    write_cifar(tmp_path / "cifar-10-python.tar.gz", [content] * 5)
    _, images, labels = read_cifar10(tmp_path / "cifar-10-python.tar.gz")
    np.testing.assert_array_equal(images[:2], data.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1))
    assert labels == [3, 4] * 5


def test_archives_that_unpack_to_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED", 20_000)
    write_cifar(tmp_path / "a.tar.gz", [bytes(30_000)] * 5)
    assert "unpacks to more than the 20000 bytes" in complaint(tmp_path / "a.tar.gz", tmp_path / "out.zip")
    (tmp_path / "a-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(30_000)))
    assert "unpacks to more than the 20000 bytes" in complaint(
        tmp_path / "a-idx3-ubyte.gz", tmp_path / "out.zip"
    )


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_pickle_in_the_tar_runs_nothing(tmp_path: Path) -> None:
    source = write_cifar(tmp_path / "cifar-10-python.tar.gz", [pickle.dumps(Evil(tmp_path / "touched"))] * 5)
    assert "it asks for" in complaint(source, tmp_path / "out.zip")
    assert not (tmp_path / "touched").exists()
    odd = [pickle.dumps({"data": pixels(0, (2, 100)), "labels": [0, 1]}, protocol=2)] * 5
    assert "uint8 [2, 100] with 2 labels" in complaint(
        write_cifar(tmp_path / "odd.tar.gz", odd), tmp_path / "out.zip"
    )


def test_lsun_database(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    environment = lmdb.open(str(tmp_path / "cat_lmdb"), map_size=2**20)
    with environment.begin(write=True) as transaction:
        for i in range(20):
            transaction.put(f"{i:05d}".encode(), encode(PIL.Image.fromarray(pixels(i, (10, 12, 3)))))
        transaction.put(b"00007", b"nothing")
    environment.close()
    contents = set()
    for workers in (1, 2):
        dest = tmp_path / f"{workers}.zip"
        report = import_dataset(
            tmp_path / "cat_lmdb",
            dest,
            transform=Transform("center-crop", 8, 8),
            max_images=18,
            on_error="skip",
            workers=workers,
        )
        assert (report.num_images, report.label_dim) == (17, 0)
        assert report.skipped[0].startswith(f"'00007' in '{tmp_path / 'cat_lmdb'}'")
        contents.add(dest.read_bytes())
    assert len(contents) == 1


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes]]:
    """A database of several levels with small and large values, and its records."""
    lmdb = pytest.importorskip("lmdb")
    folder = tmp_path_factory.mktemp("db") / "a_lmdb"
    random = np.random.RandomState(0)
    written = {
        b"%05d" % i * 3: random.bytes(int(random.choice([0, 9, 700, 5000]))) for i in random.permutation(1500)
    }
    environment = lmdb.open(str(folder), map_size=2**24)
    for part in range(0, 1500, 500):  # in several transactions, with some records taken out again
        with environment.begin(write=True) as transaction:
            for key in list(written)[part : part + 500]:
                transaction.put(key, written[key])
    with environment.begin(write=True) as transaction:
        for key in list(written)[::7]:
            transaction.delete(key)
            del written[key]
    environment.close()
    return folder, written


def test_databases_are_read_as_the_library_reads_them(records: tuple[Path, dict[bytes, bytes]]) -> None:
    folder, written = records
    opened = pickle.loads(pickle.dumps(LmdbFile(folder / "data.mdb")))
    assert opened.keys == sorted(written)
    assert all(opened.read(index) == written[key] for index, key in enumerate(opened.keys))
    opened.close()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.98])
def test_a_truncated_database_is_named(
    records: tuple[Path, dict[bytes, bytes]], tmp_path: Path, share: float
) -> None:
    whole = (records[0] / "data.mdb").read_bytes()
    (tmp_path / "cat_lmdb").mkdir()
    (tmp_path / "cat_lmdb" / "data.mdb").write_bytes(whole[: int(len(whole) * share)])
    assert "truncated" in complaint(tmp_path / "cat_lmdb", tmp_path / "out.zip")


@pytest.mark.parametrize(
    "at", [2, 10, 12, 14, 16, 18], ids=["number", "kind", "lower", "upper", "first node", "second node"]
)
def test_damaged_pages_of_a_database_are_named(
    records: tuple[Path, dict[bytes, bytes]], tmp_path: Path, at: int
) -> None:
    """The lmdb library ends the process on such pages."""
    content = bytearray((records[0] / "data.mdb").read_bytes())
    for page in range(2 * 4096, len(content), 4096):
        content[page + at : page + at + 2] = b"\xff\x7f"
    (tmp_path / "cat_lmdb").mkdir()
    (tmp_path / "cat_lmdb" / "data.mdb").write_bytes(content)
    assert "no lmdb database that can be read" in complaint(tmp_path / "cat_lmdb", tmp_path / "out.zip")


def test_a_database_whose_pages_go_in_a_circle_is_named(
    records: tuple[Path, dict[bytes, bytes]], tmp_path: Path
) -> None:
    content = bytearray((records[0] / "data.mdb").read_bytes())
    for page in range(2, len(content) // 4096):
        number, _, kind, lower = struct.unpack_from("<QHHH", content, page * 4096)
        if (number, kind) == (page, 1):  # a branch: let all of its children be itself
            for (place,) in struct.iter_unpack("<H", content[page * 4096 + 16 : page * 4096 + lower]):
                struct.pack_into("<HHH", content, page * 4096 + place, page, 0, 0)
    (tmp_path / "cat_lmdb").mkdir()
    (tmp_path / "cat_lmdb" / "data.mdb").write_bytes(content)
    assert "in a circle" in complaint(tmp_path / "cat_lmdb", tmp_path / "out.zip")


def test_a_broken_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat_lmdb").mkdir()
    (tmp_path / "cat_lmdb" / "data.mdb").write_bytes(b"rubbish")
    assert "no lmdb database that can be read" in complaint(tmp_path / "cat_lmdb", tmp_path / "out.zip")


def test_lanczos() -> None:
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((16, 16), PIL.Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(np.asarray(Transform(None, 16, 16).apply(image)), expected)


def test_the_background_reaches_the_pixels(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    PIL.Image.new("RGBA", (8, 8), (9, 9, 9, 0)).save(tmp_path / "in" / "a.png")
    import_dataset(tmp_path / "in", tmp_path / "out", background=(0, 0, 255), workers=1)
    with PIL.Image.open(tmp_path / "out" / "00000" / "img00000000.png") as image:
        assert image.getpixel((3, 3)) == (0, 0, 255)


def test_a_source_inside_a_zip_and_a_destination_that_is_there(tmp_path: Path) -> None:
    make_folder(tmp_path / "in" / "images", {"a.png": pixels(0)})
    path = shutil.make_archive(str(tmp_path / "pairs"), "zip", tmp_path / "in")
    (tmp_path / "out.zip").write_bytes(b"old")
    assert import_dataset(f"{path}/images", tmp_path / "out.zip", workers=1).num_images == 1
    assert "are the same" in complaint(f"{path}/images", path)


def test_a_link_to_an_empty_folder_is_a_destination(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", {"a.png": pixels(0)})
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "empty")
    import_dataset(source, tmp_path / "out", workers=1)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "empty" / "00000" / "img00000000.png").is_file()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["empty"]


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_folder(tmp_path / "in", {"a.png": pixels(0)})
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path / "disk")
    assert "is where a disk is mounted" in complaint(source, tmp_path / "disk")


class Stuck:
    """A source whose images are never read, by workers that block all signals that can be blocked."""

    labels = class_names = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 64

    def image_name(self, index: int) -> str:
        return f"{index}.png"

    def load(self, index: int) -> np.ndarray:
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        time.sleep(60)
        raise AssertionError


@pytest.fixture
def stuck_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_soon: Callable[[signal.Signals], None]
) -> Callable[[], None]:
    """An import whose workers block, and which gets SIGTERM after a second."""
    monkeypatch.setattr(convert, "open_source", lambda *_: Stuck())

    def start() -> None:
        signal_soon(signal.SIGTERM)
        import_dataset(tmp_path / "images", tmp_path / "out.zip", workers=2)

    return start


def test_workers_that_block_do_not_keep_the_import_from_its_end(
    tmp_path: Path, stuck_import: Callable[[], None]
) -> None:
    start = time.monotonic()
    with pytest.raises(SystemExit) as end:
        stuck_import()
    assert end.value.code == 128 + signal.SIGTERM
    assert time.monotonic() - start < 8
    assert not list(tmp_path.iterdir())
    assert not multiprocessing.active_children()


def test_nor_do_workers_that_cannot_be_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stuck_import: Callable[[], None]
) -> None:
    parent, leave = os.getpid(), os._exit

    def cannot(processes: list[Any]) -> list[Any]:
        return end_processes(processes) or processes

    def ends(status: int) -> None:
        if os.getpid() != parent:  # a worker, which has to end
            leave(status)
        raise InterruptedError(status)

    monkeypatch.setattr(convert, "end_processes", cannot)
    monkeypatch.setattr(os, "_exit", ends)
    with pytest.raises(InterruptedError) as end:
        stuck_import()
    assert end.value.args == (128 + signal.SIGTERM,)
    assert not list(tmp_path.iterdir())
