import errno
import multiprocessing
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from dnnlib.errors import UserError
from metrics import cache as module
from metrics.cache import NoCache, StatisticsCache, fingerprint
from metrics.features import Detector
from metrics.runner import evaluate
from metrics.statistics import FeatureSet, Moments
from tests.support.runs import make_images
from training.data.dataset import ImageFolderDataset

ROOT = Path(__file__).resolve().parents[2]
KEY: dict[str, str | int] = {"dataset": "d", "detector": "e", "statistic": "features", "count": 4}
FEATURES = FeatureSet(np.arange(8, dtype=np.float32).reshape(4, 2))


def test_round_trip(tmp_path: Path) -> None:
    cache = StatisticsCache(tmp_path)
    assert cache.load(KEY) is None
    cache.store(KEY, FEATURES)
    found = cache.load(KEY)
    assert isinstance(found, FeatureSet)
    assert np.array_equal(found.features, FEATURES.features)
    moments = Moments(7, np.ones(3), np.eye(3))
    cache.store({**KEY, "statistic": "moments"}, moments)
    found = cache.load({**KEY, "statistic": "moments"})
    assert isinstance(found, Moments)
    assert found.count == 7
    assert np.array_equal(found.covariance, np.eye(3))
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    "change", [{"dataset": "x"}, {"detector": "x"}, {"count": 5}, {"statistic": "moments"}]
)
def test_every_part_of_the_key_counts(tmp_path: Path, change: dict[str, Any]) -> None:
    cache = StatisticsCache(tmp_path)
    cache.store(KEY, FEATURES)
    assert cache.load({**KEY, **change}) is None


def test_other_code_does_not_find_older_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StatisticsCache(tmp_path).store(KEY, FEATURES)
    monkeypatch.setattr(module, "CODE_VERSION", module.CODE_VERSION + 1)
    assert StatisticsCache(tmp_path).load(KEY) is None


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped", "other arrays", "not finite"])
def test_a_damaged_file_is_named_and_not_used(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = StatisticsCache(tmp_path)
    cache.store(KEY, FEATURES)
    path = cache.path(KEY)
    content = path.read_bytes()
    middle = content.index(FEATURES.features.tobytes()) + 5
    path.write_bytes(
        {
            "truncated": content[:-30],
            "empty": b"",
            "text": b"hello",
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        }.get(damage, content)
    )
    if damage == "other arrays":
        np.savez(path, something=np.ones(3))
    if damage == "not finite":
        np.savez(path, features=np.full((4, 2), np.nan, np.float32))
    assert cache.load(KEY) is None
    message = capsys.readouterr().err
    assert str(path) in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("value", [FEATURES, Moments(7, np.ones(2), np.eye(2))], ids=["features", "moments"])
def test_no_single_damaged_byte_goes_through(
    tmp_path: Path, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = StatisticsCache(tmp_path)
    cache.store(KEY, value)
    path = cache.path(KEY)
    content = path.read_bytes()
    for place in range(len(content)):
        flip = (0x01, 0x08)[place % 2]
        path.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
        found = cache.load(KEY)
        assert found is None or all(
            np.array_equal(getattr(found, name), array) for name, array in vars(value).items()
        )
    assert len(capsys.readouterr().err.splitlines()) > len(content) / 2


@pytest.mark.parametrize(("owner", "name"), [(os, "listdir"), (tempfile, "TemporaryFile")])
def test_a_folder_that_may_not_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(owner, name, refuse)
    with pytest.raises(
        UserError, match=r"can't be written or read \(Permission denied\); set GGDR_CACHE_DIR"
    ):
        StatisticsCache(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError,
        match=r"cache folder .*below can't be written or read \(Not a directory\); set GGDR_CACHE_DIR",
    ):
        StatisticsCache(tmp_path / "file" / "below")


def test_a_full_disk_loses_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = StatisticsCache(tmp_path)
    monkeypatch.setattr(module, "atomic_write", full)
    cache.store(KEY, FEATURES)
    assert capsys.readouterr().err == (
        f"Warning: {cache.path(KEY)} can't be written (No space left on device); next time it is computed "
        "anew\n"
    )


def test_no_cache() -> None:
    cache = NoCache()
    cache.store(KEY, FEATURES)
    assert cache.load(KEY) is None


def store_and_load(folder: Path) -> None:
    features = np.arange(200_000, dtype=np.float32).reshape(-1, 10)
    cache = StatisticsCache(folder)
    for _ in range(15):
        cache.store(KEY, FeatureSet(features))
        found = cache.load(KEY)
        assert isinstance(found, FeatureSet)
        assert np.array_equal(found.features, features)


def test_several_processes(tmp_path: Path) -> None:
    """A process that reads while others write finds the whole value."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=store_and_load, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 1


def test_fingerprint_is_the_content(make_dataset: Any) -> None:
    first = fingerprint(make_dataset())
    renamed = make_dataset()
    renamed.name = "other"
    assert fingerprint(renamed) == first
    changed = make_dataset()
    changed.images[33, 2, 7, 7] ^= 1
    swapped = make_dataset()
    swapped.images[[3, 4]] = swapped.images[[4, 3]]
    shorter = make_dataset()
    shorter.images = shorter.images[:-1]
    assert len({first, fingerprint(changed), fingerprint(swapped), fingerprint(shorter)}) == 4


def test_a_data_set_may_know_its_own_fingerprint(make_dataset: Any) -> None:
    dataset = make_dataset()
    dataset.fingerprint = lambda: "mine"
    assert fingerprint(dataset) == "mine"


@pytest.fixture
def reals_seen(
    make_generator: Any, detector_file: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, float]]:
    """Evaluate against the images at a path: how many reals the detector was shown, and the value."""
    shown: list[int] = []
    plain = Detector.__call__

    def counting(self: Detector, images: torch.Tensor) -> np.ndarray:
        shown.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(Detector, "__call__", counting)

    def run(
        path: Path, metric: str = "fid20_full", detector: str = "pooled", **options: Any
    ) -> tuple[int, float]:
        shown.clear()
        dataset = ImageFolderDataset(path)
        generator = make_generator(resolution=16)
        (result,) = evaluate(
            metric,
            generator=generator,
            dataset=dataset,
            detector=detector_file(detector),
            progress=False,
            **options,
        )
        return sum(shown) - result.count, result.values[metric]

    return run


def change_one_pixel(path: Path) -> None:
    """And leave name, size and time as they were."""
    pixels = np.array(PIL.Image.open(path))
    pixels[3, 4, 1] ^= 1
    stat = path.stat()
    PIL.Image.fromarray(pixels).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.writestr(file.name, file.read_bytes())
    return path


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_content_counts_and_nothing_else(reals_seen: Any, tmp_path: Path, kind: str) -> None:
    images = make_images(tmp_path / "images", resolution=16)

    def data(name: str) -> Path:
        return images if kind == "folder" else zipped(images, tmp_path / name)

    path = data("images.zip")
    first = reals_seen(path)
    assert first[0] == 16
    assert reals_seen(path) == (0, first[1])
    moved = tmp_path / "elsewhere" / "b"
    moved.parent.mkdir()
    shutil.move(path, moved)
    assert reals_seen(moved) == (0, first[1])
    shutil.move(moved, path)
    change_one_pixel(images / "0005.png")
    changed = reals_seen(data("images.zip"))
    assert changed[0] == 16
    assert changed[1] != first[1]


def test_detector_count_mirroring_and_code_count(
    reals_seen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(tmp_path / "images", resolution=16)
    _, plain = reals_seen(images)
    seen, other = reals_seen(images, detector="reference")
    assert seen == 16
    assert other != plain
    assert reals_seen(images)[0] == 0
    seen, mirrored = reals_seen(images, metric="fid20", mirror=True)
    assert seen == 20
    seen, fewer = reals_seen(images, metric="fid20")
    assert seen == 0  # the same 16 images as those of fid20_full
    assert reals_seen(images, metric="fid10")[0] == 10
    assert mirrored != fewer
    assert reals_seen(images, metric="fid20", mirror=True) == (0, mirrored)
    monkeypatch.setattr(module, "CODE_VERSION", module.CODE_VERSION + 1)
    assert reals_seen(images) == (16, plain)


def test_without_the_cache(reals_seen: Any, tmp_path: Path, cache_root: Path) -> None:
    images = make_images(tmp_path / "images", resolution=16)
    first = reals_seen(images, use_cache=False)
    assert first[0] == 16
    assert not cache_root.exists()
    reals_seen(images)
    assert reals_seen(images, use_cache=False) == first


def moments(**changes: Any) -> dict[str, Any]:
    return {"count": np.int64(5), "mean": np.zeros(3), "covariance": np.eye(3), **changes}


@pytest.mark.parametrize(
    "arrays",
    [
        moments(count=np.int64(0)),
        moments(count=np.array([1, 2])),
        moments(count=np.array("x")),
        moments(count=np.array(np.nan)),
        moments(mean=np.array(["a", "b", "c"])),
        moments(mean=np.zeros(3, "M8[s]")),
        moments(mean=np.zeros(3, np.complex128)),
        moments(mean=np.zeros(3, np.float16)),
        moments(covariance=-np.eye(3)),
        {"features": np.zeros((0, 0), np.float32)},
        {"features": np.array(["a"])},
    ],
    ids=lambda arrays: ", ".join(
        f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items()
    ),
)
def test_arrays_of_another_form_are_not_used(
    tmp_path: Path, arrays: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = StatisticsCache(tmp_path)
    np.savez(cache.path(KEY), **arrays)
    assert cache.load(KEY) is None
    assert "is damaged" in capsys.readouterr().err


def test_a_cache_file_that_unpacks_to_more_than_it_has_or_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = StatisticsCache(tmp_path)
    np.savez_compressed(cache.path(KEY), features=np.zeros((1000, 1000), np.float32))
    assert cache.load(KEY) is None
    assert "unpacks to" in capsys.readouterr().err
    cache.path(KEY).unlink()
    os.mkfifo(cache.path(KEY))
    assert cache.load(KEY) is None
