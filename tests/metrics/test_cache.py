from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnnlib.errors import UserError
from metrics import cache as module
from metrics.cache import StatisticsCache, fingerprint
from metrics.statistics import FeatureSet, Moments

KEY = {"dataset": "d", "detector": "e", "statistic": "features", "count": 4}
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


@pytest.mark.parametrize("change", [{"dataset": "x"}, {"detector": "x"}, {"count": 5}, {"statistic": "moments"}])
def test_every_part_of_the_key_counts(tmp_path: Path, change: dict[str, Any]) -> None:
    cache = StatisticsCache(tmp_path)
    cache.store(KEY, FEATURES)
    assert cache.load({**KEY, **change}) is None


def test_other_code_does_not_find_older_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StatisticsCache(tmp_path).store(KEY, FEATURES)
    monkeypatch.setattr(module, "CODE_VERSION", module.CODE_VERSION + 1)
    assert StatisticsCache(tmp_path).load(KEY) is None


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped", "other arrays", "not finite"])
def test_a_damaged_file_is_named_and_not_used(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="GGDR_CACHE_DIR"):
        StatisticsCache(tmp_path / "file" / "below")


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
