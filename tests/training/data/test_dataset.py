"""Data sets of folders and zips, the endless order, and batches from this process and from workers."""

import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from dnnlib.errors import UserError
from dnnlib.interrupt import InterruptFlag
from training.data.batches import EndlessShuffle, epoch_order, image_batches
from training.data.dataset import ImageFolderDataset
from training.data.file_tree import FileTree, folder_exists
from training.training_loop import take

ROOT = Path(__file__).resolve().parents[3]


def pixels(seed: int, shape: tuple[int, ...] = (8, 8, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_folder(folder: Path, count: int = 6, shape: tuple[int, ...] = (8, 8, 3), labels: Any = None) -> Path:
    """Images ``0/0.png``, ``1/1.png``, ``0/2.png``...; sorted by name, image k is not at place k."""
    for i in range(count):
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels(i, shape)).save(folder / str(i % 2) / f"{i}.png")
    if labels is not None:
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def make_zip(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return target


ORDER = [0, 2, 4, 1, 3, 5]  # make_folder's six images in the order of their names
CLASSES = [[f"{i % 2}/{i}.png", i % 3] for i in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "faces.v2", labels=CLASSES)


@pytest.mark.parametrize("budget", [1024, 0])
@pytest.mark.parametrize("kind", ["folder", "zip", "zip of the folder"])
def test_items_are_the_images_in_order_of_name(folder: Path, tmp_path: Path, kind: str, budget: int) -> None:
    prefix = "faces/" if kind == "zip of the folder" else ""
    path = folder if kind == "folder" else make_zip(folder, tmp_path / "faces.zip", prefix)
    dataset = ImageFolderDataset(path, use_labels=True, memory_budget_mb=budget)
    assert dataset.name == "faces"
    assert dataset.in_memory == (budget > 0)
    assert (len(dataset), dataset.num_images, dataset.image_shape) == (6, 6, [3, 8, 8])
    assert (dataset.resolution, dataset.num_channels, dataset.label_dim, dataset.label_shape) == (
        8,
        3,
        3,
        [3],
    )
    assert dataset.has_labels
    for item, seed in enumerate(ORDER):
        image, label = dataset[item]
        assert image.dtype == np.uint8
        assert label.dtype == np.float32
        np.testing.assert_array_equal(image, pixels(seed).transpose(2, 0, 1))
        np.testing.assert_array_equal(label, np.eye(3)[seed % 3])
        np.testing.assert_array_equal(label, dataset.get_label(item))


def test_items_are_copies(folder: Path) -> None:
    dataset = ImageFolderDataset(folder)
    dataset[0][0][:] = 0
    np.testing.assert_array_equal(dataset[0][0], pixels(0).transpose(2, 0, 1))


@pytest.mark.parametrize("budget", [1024, 0])
def test_mirrored_copies_come_after_the_images(folder: Path, budget: int) -> None:
    dataset = ImageFolderDataset(folder, xflip=True, use_labels=True, memory_budget_mb=budget)
    assert (len(dataset), dataset.num_images) == (12, 6)
    for item in range(6):
        np.testing.assert_array_equal(dataset[item + 6][0], dataset[item][0][:, :, ::-1])
        np.testing.assert_array_equal(dataset[item + 6][1], dataset[item][1])
    with pytest.raises(IndexError):
        dataset[12]


def test_subset_is_the_references_and_keeps_label_dim(tmp_path: Path) -> None:
    names = sorted(f"{i % 2}/{i}.png" for i in range(20))
    path = make_folder(tmp_path / "x", count=20, labels=[[name, place] for place, name in enumerate(names)])
    everything = ImageFolderDataset(path)
    for seed in (0, 5):
        dataset = ImageFolderDataset(path, use_labels=True, max_size=7, random_seed=seed, xflip=True)
        shuffled = np.arange(20)
        np.random.RandomState(seed).shuffle(shuffled)
        expected = sorted(shuffled[:7])
        assert [int(dataset.get_label(i).argmax()) for i in range(14)] == [*expected, *expected]
        assert dataset.label_dim == 20
        for item, raw in enumerate(expected):
            np.testing.assert_array_equal(dataset[item][0], everything[int(raw)][0])
    assert len(ImageFolderDataset(path, max_size=20)) == len(ImageFolderDataset(path, max_size=1000)) == 20


def test_labels_off_and_absent(folder: Path, tmp_path: Path) -> None:
    off = ImageFolderDataset(folder)
    assert (off.has_labels, off.use_labels, off.label_dim, off[0][1].shape) == (True, False, 0, (0,))
    absent = ImageFolderDataset(make_folder(tmp_path / "bare"))
    assert (absent.has_labels, absent.label_dim) == (False, 0)
    partial = ImageFolderDataset(make_folder(tmp_path / "partial", labels=CLASSES[:3]))
    assert partial.has_labels is False


def test_vector_labels_stay_as_they_are(tmp_path: Path) -> None:
    path = make_folder(
        tmp_path / "x", count=2, labels=[["0/0.png", [0.5, -1, 2]], ["1\\1.png", [3, 4.25, 5]]]
    )
    dataset = ImageFolderDataset(path, use_labels=True)
    assert (dataset.label_dim, dataset.label_shape) == (3, [3])
    np.testing.assert_array_equal(dataset.get_label(1), [3, 4.25, 5])
    assert dataset.get_label(1).dtype == np.float32


def test_greyscale_has_one_channel(tmp_path: Path) -> None:
    dataset = ImageFolderDataset(make_folder(tmp_path / "x", shape=(8, 8)))
    assert dataset.image_shape == [1, 8, 8]
    np.testing.assert_array_equal(dataset[1][0][0], pixels(2, (8, 8)))


def test_hidden_files_are_no_images(folder: Path, tmp_path: Path) -> None:
    (folder / "0" / "._0.png").write_bytes(b"resource fork")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "0.png").write_bytes(b"resource fork")
    assert (
        len(ImageFolderDataset(folder)) == len(ImageFolderDataset(make_zip(folder, tmp_path / "x.zip"))) == 6
    )


def test_budget_counts_the_subset(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "x")
    one_image = 3 * 8 * 8 / 2**20
    assert not ImageFolderDataset(path, memory_budget_mb=5.9 * one_image).in_memory
    assert ImageFolderDataset(path, memory_budget_mb=6 * one_image).in_memory
    assert ImageFolderDataset(path, memory_budget_mb=5.9 * one_image, max_size=5).in_memory


@pytest.mark.parametrize("budget", [1024, 0])
def test_a_pickled_copy_carries_no_pixels_and_gives_the_same(
    folder: Path, tmp_path: Path, budget: int
) -> None:
    dataset = ImageFolderDataset(
        make_zip(folder, tmp_path / "x.zip"), memory_budget_mb=budget, xflip=True, use_labels=True
    )
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert not copy.in_memory
    for item in range(12):
        np.testing.assert_array_equal(copy[item][0], dataset[item][0])
        np.testing.assert_array_equal(copy[item][1], dataset[item][1])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_process_opens_the_zip_itself(folder: Path, tmp_path: Path) -> None:
    tree = FileTree(make_zip(folder, tmp_path / "x.zip"))
    content = tree.read("1/3.png")
    handle = tree._zip()
    assert tree._zip() is handle

    def check() -> None:
        assert tree.read("1/3.png") == content
        assert (
            tree._zip() is not handle
        )  # a shared one shares its place in the file, so reads would get mixed up

    process = multiprocessing.get_context("fork").Process(target=check)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    tree.close()


def complaint(path: Path, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        ImageFolderDataset(path, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_paths_that_hold_no_images(tmp_path: Path) -> None:
    assert "nowhere' does not exist" in complaint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no images" in complaint(tmp_path / "empty")
    (tmp_path / "fake.zip").write_bytes(b"not a zip")
    assert "fake.zip' is no zip" in complaint(tmp_path / "fake.zip")
    whole = make_zip(make_folder(tmp_path / "x"), tmp_path / "cut.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    assert "cut.zip' is no zip" in complaint(tmp_path / "cut.zip")


@pytest.mark.parametrize("shape", [(8, 16, 3), (12, 12, 3), (2, 2, 3)])
def test_sizes_that_networks_cannot_have(tmp_path: Path, shape: tuple[int, ...]) -> None:
    message = complaint(make_folder(tmp_path / "x", shape=shape), memory_budget_mb=0)
    assert f"'0/0.png' in '{tmp_path / 'x'}' is {shape[1]}x{shape[0]}" in message
    assert "dataset_tool.py" in message


def test_resolution_other_than_asked_for(folder: Path) -> None:
    assert "are 8x8, not 16x16" in complaint(folder, resolution=16)
    assert ImageFolderDataset(folder, resolution=8).resolution == 8


def test_subset_of_nothing(folder: Path) -> None:
    assert "at least 1 image, not 0" in complaint(folder, max_size=0)


BAD_IMAGES = {
    "another size": (PIL.Image.fromarray(pixels(9, (16, 16, 3))), "is 16x16 RGB, but '0/0.png' is 8x8 RGB"),
    "greyscale among RGB": (PIL.Image.fromarray(pixels(9, (8, 8))), "is 8x8 greyscale, but"),
    "RGBA": (PIL.Image.fromarray(pixels(9, (8, 8, 4))), "is RGBA, not RGB"),
    "palette": (PIL.Image.fromarray(pixels(9)).quantize(16), "is P, not RGB"),
    "16-bit": (
        PIL.Image.fromarray(pixels(9, (8, 8)).astype(np.uint16)),
        r"is I;16 (more than 8 bits a value), not RGB",
    ),
    "transparent colour": (PIL.Image.fromarray(pixels(9)), "is RGB with transparency, not RGB"),
    "broken": (None, "is broken"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_named_at_construction_or_when_it_is_read(folder: Path, case: str) -> None:
    image, message = BAD_IMAGES[case]
    options: dict[str, Any] = {"transparency": (0, 0, 0)} if case == "transparent colour" else {}
    (image or PIL.Image.fromarray(pixels(3))).save(folder / "1" / "3.png", **options)
    if image is None:
        (folder / "1" / "3.png").write_bytes((folder / "1" / "3.png").read_bytes()[:100])
    assert f"'1/3.png' in '{folder}' {message}" in complaint(folder)
    dataset = ImageFolderDataset(folder, memory_budget_mb=0)
    dataset[0]
    with pytest.raises(UserError, match=r"'1/3\.png'"):
        dataset[4]


def test_a_damaged_zip_member_is_named(folder: Path, tmp_path: Path) -> None:
    path = make_zip(folder, tmp_path / "x.zip")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("1/3.png").header_offset
    content[start + 60] ^= 0xFF
    path.write_bytes(content)
    assert "'1/3.png'" in complaint(path)


BAD_LABELS = {
    "no JSON": ("{", "no valid JSON"),
    "a list": ("[1]", "must be of the form"),
    "no labels in it": ("{}", "must be of the form"),
    "labels a number": ('{"labels": 3}', "must be a list of [name, label]"),
    "entry of three": ('{"labels": [["0/0.png", 1, 2]]}', "entry 0 of 'labels' must be [name, label]"),
    "negative": ('{"labels": [["0/0.png", -1]]}', "the label of '0/0.png' is -1"),
    "fraction": ('{"labels": [["0/0.png", 1.5]]}', "the label of '0/0.png' is 1.5"),
    "true": ('{"labels": [["0/0.png", true]]}', "the label of '0/0.png' is true"),
    "text": ('{"labels": [["0/0.png", "cat"]]}', "the label of '0/0.png' is \"cat\""),
    "not a number": ('{"labels": [["0/0.png", [NaN]]]}', "the label of '0/0.png' is [NaN]"),
    "an id": ('{"labels": [["0/0.png", 20260101120000]]}', "the label of '0/0.png' is 20260101120000"),
    "some only": ('{"labels": [["0/0.png", 1]]}', "has no label for 5 of 6 images, '0/2.png' first"),
    "null": ('{"labels": null}', "has no labels"),
    "mixed kinds": (
        json.dumps({"labels": [*CLASSES[:5], ["1/5.png", [1.0]]]}),
        "the label of '1/5.png' is a list of 1 numbers",
    ),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels_are_refused_when_used_and_count_as_none_otherwise(folder: Path, case: str) -> None:
    content, message = BAD_LABELS[case]
    (folder / "dataset.json").write_text(content)
    assert message in complaint(folder, use_labels=True)
    assert ImageFolderDataset(folder).has_labels is False


def test_labels_wanted_without_label_file(tmp_path: Path) -> None:
    assert "has no labels" in complaint(make_folder(tmp_path / "x"), use_labels=True)


# --- the order


def first(count: int, **kwargs: Any) -> list[int]:
    return list(itertools.islice(EndlessShuffle(**kwargs), count))


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    order = first(50, size=10, seed=3)
    epochs = [tuple(order[i : i + 10]) for i in range(0, 50, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == 5
    assert first(50, size=10, seed=3) == order
    assert first(50, size=10, seed=4) != order


@pytest.mark.parametrize("start", [0, 1, 9, 10, 37])
def test_any_position_is_reached_at_once(start: int) -> None:
    assert first(20, size=10, seed=1, start=start) == first(start + 20, size=10, seed=1)[start:]


def test_a_far_position_costs_nothing() -> None:
    assert first(1, size=1000, seed=0, start=10**12) == [int(epoch_order(1000, 0, 10**9)[0])]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_one_order(world_size: int) -> None:
    ranks = [
        first(14, size=5, seed=2, start=4, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert [item for items in zip(*ranks, strict=True) for item in items] == first(
        14 * world_size, size=5, seed=2, start=4
    )


def test_no_item_comes_twice_running_at_a_seam() -> None:
    for seed in range(5):
        order = first(300, size=3, seed=seed)
        assert all(a != b for a, b in itertools.pairwise(order))
        assert all(sorted(order[i : i + 3]) == [0, 1, 2] for i in range(0, 300, 3))


def test_the_order_is_the_one_that_runs_were_begun_with() -> None:
    assert first(12, size=6, seed=7) == [1, 5, 4, 0, 2, 3, 5, 4, 3, 0, 1, 2]


@pytest.mark.parametrize(
    "kwargs", [{"size": 0, "seed": 0}, {"size": 3, "seed": -1}, {"size": 3, "seed": 0, "rank": 1}]
)
def test_senseless_orders_are_refused(kwargs: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="EndlessShuffle"):
        EndlessShuffle(**kwargs)


# --- batches


@pytest.mark.parametrize(("budget", "workers"), [(1024, 2), (0, 0), (0, 2)])
def test_batches_follow_the_order_however_they_are_read(
    folder: Path, tmp_path: Path, budget: int, workers: int
) -> None:
    path = make_zip(folder, tmp_path / "x.zip")
    dataset = ImageFolderDataset(path, use_labels=True, xflip=True, memory_budget_mb=budget)
    if budget == 0:
        dataset[0]  # opens a zip handle, which workers must not share
    before = torch.get_rng_state()
    with contextlib.closing(
        image_batches(dataset, batch_size=5, seed=1, start=3, workers=workers)
    ) as batches:
        taken = list(itertools.islice(batches, 8))
    assert not multiprocessing.active_children()
    assert torch.equal(torch.get_rng_state(), before)
    for number, (images, labels) in enumerate(taken):
        assert (images.dtype, images.shape) == (torch.uint8, (5, 3, 8, 8))
        assert (labels.dtype, labels.shape) == (torch.float32, (5, 3))
        for place, item in enumerate(first(5, size=12, seed=1, start=3 + 5 * number)):
            np.testing.assert_array_equal(images[place], dataset[item][0])
            np.testing.assert_array_equal(labels[place], dataset[item][1])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_take_consecutive_parts_of_each_global_batch(folder: Path, world_size: int) -> None:
    dataset = ImageFolderDataset(folder)
    ranks = [
        list(
            itertools.islice(
                image_batches(dataset, batch_size=2, seed=0, start=3, rank=rank, world_size=world_size), 4
            )
        )
        for rank in range(world_size)
    ]
    whole = list(itertools.islice(image_batches(dataset, batch_size=2 * world_size, seed=0, start=3), 4))
    for step, (images, _) in enumerate(whole):
        assert torch.equal(torch.cat([batches[step][0] for batches in ranks]), images)


def test_unlabelled_batches_have_empty_labels(folder: Path) -> None:
    assert next(image_batches(ImageFolderDataset(folder), batch_size=4, seed=0))[1].shape == (4, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_in_a_worker_is_one_line_with_its_name(folder: Path, workers: int) -> None:
    (folder / "1" / "3.png").write_bytes(b"nothing")
    dataset = ImageFolderDataset(folder, memory_budget_mb=0)
    batches = image_batches(dataset, batch_size=2, seed=0, workers=workers)
    with pytest.raises(UserError) as caught:
        list(itertools.islice(batches, 4))
    assert str(caught.value).startswith(f"'1/3.png' in '{folder}' is broken")
    assert "\n" not in str(caught.value)


def test_senseless_batches_are_refused_at_once(folder: Path) -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        image_batches(ImageFolderDataset(folder), batch_size=0, seed=0)


CTRL_C = """
import sys, time
from training.data.batches import image_batches
from training.data.dataset import ImageFolderDataset
batches = image_batches(ImageFolderDataset(sys.argv[1], memory_budget_mb=0), batch_size=4, seed=0, workers=2)
next(batches)
try:
    print("ready", flush=True)
    while True:
        next(batches)
        time.sleep(0.001)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_leaves_no_words_and_no_workers(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CTRL_C, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)  # the pipes close when the last worker is gone
    assert (process.returncode, out, err) == (0, "interrupted\n", "")


class Stuck(ImageFolderDataset):
    """Item 5 is never read, by a worker that blocks all signals that can be blocked."""

    def sample(self, index: int) -> tuple[np.ndarray, ...]:
        if index == 5:
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            time.sleep(600)
        return super().sample(index)


def test_a_worker_that_blocks_does_not_keep_a_run_from_its_end(
    folder: Path, signal_soon: Callable[[signal.Signals], None]
) -> None:
    batches = image_batches(Stuck(folder, memory_budget_mb=0), batch_size=4, seed=0, workers=1)
    with InterruptFlag(announce=False) as flag, contextlib.closing(batches):
        signal_soon(signal.SIGTERM)
        while (batch := take(batches, flag, ImageFolderDataset(folder))) is not None:
            assert len(batch[0]) == 4
        assert flag.received == signal.SIGTERM
        start = time.monotonic()
    assert time.monotonic() - start < 3
    assert not multiprocessing.active_children()


def test_where_other_ranks_wait_a_batch_that_does_not_come_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch_utils.distributed.world_size", lambda: 2)
    monkeypatch.setattr("training.training_loop.PATIENCE", 0.2)

    def never() -> Iterator[Any]:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(600)
        yield

    with (
        InterruptFlag(announce=False) as flag,
        pytest.raises(UserError, match=r"within 0\.2 seconds after SIGTERM; go on from the last"),
    ):
        take(never(), flag, ImageFolderDataset(folder))


def test_a_worker_that_is_killed_is_one_line(folder: Path) -> None:
    batches = image_batches(ImageFolderDataset(folder, memory_budget_mb=0), batch_size=4, seed=0, workers=1)
    with contextlib.closing(batches):
        next(batches)
        (worker,) = multiprocessing.active_children()
        worker.kill()
        worker.join(30)
        with pytest.raises(
            UserError, match=r"a process that reads images of '.*' was killed, .*use fewer --workers"
        ):
            next(batches)


def test_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    """Paths and times don't matter; pixels, choice and mirroring do."""
    folder = tmp_path / "a"
    folder.mkdir()
    for i in range(4):
        PIL.Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    plain = ImageFolderDataset(folder).fingerprint()
    shutil.copytree(folder, tmp_path / "b")
    os.utime(tmp_path / "b" / "0.png", (0, 0))
    assert ImageFolderDataset(tmp_path / "b").fingerprint() == plain
    others = {
        ImageFolderDataset(folder, xflip=True).fingerprint(),
        ImageFolderDataset(folder, max_size=3).fingerprint(),
    }
    PIL.Image.new("RGB", (8, 8), (9, 0, 0)).save(tmp_path / "b" / "0.png")
    others.add(ImageFolderDataset(tmp_path / "b").fingerprint())
    for name in ("c.zip", "d.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for i in range(4):
                archive.write(folder / f"{i}.png", f"{name}/{i}.png")
    zips = {ImageFolderDataset(tmp_path / name).fingerprint() for name in ("c.zip", "d.zip")}
    assert zips == {plain}
    assert len(others | {plain}) == 4


def test_the_identity_of_data(tmp_path: Path) -> None:
    """What a continued run knows its data by: not the path, but content, labels, order and mirroring."""
    labels = [[f"{i % 2}/{i}.png", i % 3] for i in range(6)]
    folder = make_folder(tmp_path / "a", labels=labels)
    shutil.copytree(folder, tmp_path / "b")
    (known,) = {
        ImageFolderDataset(folder, use_labels=True, memory_budget_mb=budget).identity()
        for budget in (0, 1024)
    }
    other = ImageFolderDataset(tmp_path / "b", use_labels=True)
    assert other.identity() == known
    assert (
        len(
            {
                ImageFolderDataset(folder, xflip=flip, use_labels=use).identity()
                for flip in (0, 1)
                for use in (0, 1)
            }
        )
        == 4
    )
    for name, change in (("0/0.png", "0/2.png"), ("dataset.json", None)):
        path = tmp_path / "b" / name
        before = path.read_bytes()
        path.write_bytes(
            (tmp_path / "b" / change).read_bytes() if change else before.replace(b", 1]", b", 2]")
        )
        assert ImageFolderDataset(tmp_path / "b", use_labels=True).identity() != known, name
        path.write_bytes(before)
    packed = ImageFolderDataset(make_zip(folder, tmp_path / "a.zip"), use_labels=True)
    assert packed.identity() == known
    assert packed.is_known_as(known)
    assert not ImageFolderDataset(folder).is_known_as(known)


def collide(target: bytes, other: bytes) -> bytes:
    """``other`` with four bytes behind it that give it the CRC-32 of ``target``."""
    table = [zlib.crc32(bytes([i])) ^ zlib.crc32(b"\0") for i in range(256)]
    wanted, places = zlib.crc32(target) ^ 0xFFFFFFFF, []
    for _ in range(4):
        place = next(i for i in range(256) if table[i] >> 24 == wanted >> 24)
        wanted = ((wanted ^ table[place]) << 8) & 0xFFFFFFFF
        places.append(place)
    now, tail = zlib.crc32(other) ^ 0xFFFFFFFF, b""
    for place in reversed(places):
        tail += bytes([(now ^ place) & 0xFF])
        now = (now >> 8) ^ table[place]
    assert zlib.crc32(other + tail) == zlib.crc32(target)
    return other + tail


def test_files_made_to_have_one_checksum_are_other_data(tmp_path: Path) -> None:
    """What a zip's directory says is no identity: CRC-32 and size can be had at will."""
    contents = []
    for seed in (0, 1):
        stream = io.BytesIO()
        PIL.Image.fromarray(pixels(seed)).save(stream, "png")
        contents.append(stream.getvalue())
    size = max(map(len, contents))
    first = contents[0].ljust(size + 4, b"\0")
    second = collide(first, contents[1].ljust(size, b"\0"))
    datasets = []
    for name, content in (("a.zip", first), ("b.zip", second)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("0.png", content)
        datasets.append(ImageFolderDataset(tmp_path / name))
    a, b = datasets
    assert a.earlier_identity() == b.earlier_identity(), "the forgery failed"
    assert len({a.identity(), b.identity()}) == len({a.fingerprint(), b.fingerprint()}) == 2
    assert a.quick_identity() != b.quick_identity()
    assert not b.is_known_as(a.identity())


@pytest.mark.parametrize("kind", ["zip", "large folder", "small folder"])
def test_states_of_before_know_their_data_again(
    folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(folder, tmp_path / "x.zip") if kind == "zip" else folder
    names = [f"{i % 2}/{i}.png" for i in ORDER]
    if kind == "zip":
        with zipfile.ZipFile(path) as archive:
            text = "".join(f"{info.CRC:08x} {info.file_size}\n" for info in map(archive.getinfo, names))
    elif kind == "large folder":
        monkeypatch.setattr("training.data.dataset.READ_BEFORE", 0)
        text = "\n".join(f"{name} {(folder / name).stat().st_size}" for name in names)
    files = hashlib.sha256(text.encode()).hexdigest() if kind != "small folder" else None
    dataset = ImageFolderDataset(path, use_labels=True)
    labels = np.array([i % 3 for i in ORDER], dtype=np.int64)
    before = (
        dataset.identity()
        if files is None
        else hashlib.sha256(f"{files} 6 ".encode() + labels.tobytes()).hexdigest()
    )
    assert dataset.is_known_as(before)
    assert (dataset.identity() == before) == (kind == "small folder")
    PIL.Image.new("RGB", (8, 8)).save(folder / "0" / "0.png")
    changed = make_zip(folder, tmp_path / "y.zip") if kind == "zip" else folder
    assert not ImageFolderDataset(changed, use_labels=True).is_known_as(before)


def test_the_quick_identity_reads_a_part_of_large_data(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ImageFolderDataset(folder).quick_identity()
    shutil.copytree(folder, tmp_path / "b")
    assert ImageFolderDataset(tmp_path / "b").quick_identity() == known
    read: list[str] = []
    monkeypatch.setattr(FileTree, "read", lambda tree, name: read.append(name) or b"")
    size = sum((folder / f"{i % 2}/{i}.png").stat().st_size for i in range(6))
    monkeypatch.setattr("training.data.file_tree.QUICK_BYTES", size // 2)
    tree = FileTree(folder)
    tree.quick_digest(tree.image_names)
    assert 1 <= len(read) <= 3
    (tmp_path / "b" / "0" / "0.png").rename(tmp_path / "b" / "0" / "00.png")
    monkeypatch.undo()
    assert ImageFolderDataset(tmp_path / "b").quick_identity() != known


@pytest.mark.parametrize("threads", [1, 8])
def test_a_digest_does_not_depend_on_how_many_read(
    tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [bytes([i]) * i for i in range(20)]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for i, content in enumerate(contents):
            archive.writestr(f"{i:02d}.png", content)
    monkeypatch.setattr("training.data.file_tree.READERS", threads)
    monkeypatch.setattr("training.data.file_tree.READ_IN_TURN", 3)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    tree = FileTree(tmp_path / "x.zip")
    expected = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()
    assert tree.digest(tree.image_names) == expected


WORKERS_UNDER_FIRE = """
import multiprocessing, os, signal, subprocess, sys, time
from dnnlib.interrupt import SIGNALS
from training.data.batches import image_batches
from training.data.dataset import ImageFolderDataset
batches = image_batches(ImageFolderDataset(sys.argv[1], memory_budget_mb=0), batch_size=4, seed=0, workers=2)
next(batches), next(batches)  # one from each worker: both have begun
workers = multiprocessing.active_children()
for number in SIGNALS:
    for worker in workers:
        # From another process, like a scheduler's.
        subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
    time.sleep(0.05)
    next(batches)
assert [worker.is_alive() for worker in workers] == [True, True]
print("alive", flush=True)
"""


def test_workers_let_the_main_process_answer_signals(folder: Path) -> None:
    """A scheduler signals all processes of a job, and the main one needs its workers to finish its step.

    When the main process ends, even without closing the batches, so do they.
    """
    command = [sys.executable, "-c", WORKERS_UNDER_FIRE, str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )  # pipes close with the last one
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


def test_a_folder_inside_a_zip(folder: Path, tmp_path: Path) -> None:
    """It is the data set that it would be on disk, metadata included; what lies beside it does not count."""
    path = make_zip(folder, tmp_path / "x.zip", "a/faces/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/faces2/other.png", b"")
        archive.writestr("b.png", b"")
    found, expected = (
        ImageFolderDataset(f"{path}/a/faces", use_labels=True),
        ImageFolderDataset(folder, use_labels=True),
    )
    assert len(found) == len(expected)
    assert (found.name, found.label_dim) == ("faces", expected.label_dim)
    for i in range(len(found)):
        assert all(np.array_equal(a, b) for a, b in zip(found[i], expected[i], strict=True))
    assert found.fingerprint() == ImageFolderDataset(make_zip(folder, tmp_path / "y.zip")).fingerprint()
    assert folder_exists(f"{path}/a/faces")
    assert folder_exists(folder)
    assert not folder_exists(f"{path}/a/fac")
    assert not folder_exists(tmp_path / "nowhere" / "x")
    assert f"'{path}/c' does not exist" in complaint(path / "c")


@pytest.mark.parametrize(
    "spell", [lambda name: f"./{name}", lambda name: name.replace("/", "\\")], ids=["dot", "backslash"]
)
def test_other_spellings_of_names_in_a_zip(folder: Path, tmp_path: Path, spell: Any) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, spell(str(path.relative_to(folder))))
    found, expected = (
        ImageFolderDataset(tmp_path / "x.zip", use_labels=True),
        ImageFolderDataset(folder, use_labels=True),
    )
    assert len(found) == len(expected) == 6
    for i in range(6):
        assert all(np.array_equal(a, b) for a, b in zip(found[i], expected[i], strict=True))
    assert found.fingerprint() == ImageFolderDataset(make_zip(folder, tmp_path / "y.zip")).fingerprint()


def test_names_that_are_not_unicode(folder: Path) -> None:
    os.rename(os.fsencode(folder / "0" / "0.png"), os.fsencode(folder / "0") + b"/\xff\xe9.png")
    assert len(ImageFolderDataset(folder, memory_budget_mb=0).identity()) == 64
