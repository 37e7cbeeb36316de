"""training.data.reals: which images a network is measured against."""

from pathlib import Path

import pytest

from dnnlib.errors import UserError
from tests.support.runs import make_images, small_state
from training.data.reals import open_reals


def test_the_training_set_or_another_one(tmp_path: Path) -> None:
    D = small_state().D
    trained, other = make_images(tmp_path / "trained", count=4), make_images(tmp_path / "other", count=3)
    assert len(open_reals({"path": str(trained), "xflip": True, "max_size": 2}, None, D)) == 4
    assert len(open_reals({"path": str(trained)}, str(other), D)) == 3
    assert open_reals(None, str(other), small_state().G).label_dim == 0
    labelled = make_images(tmp_path / "labelled", count=3, classes=2)
    assert open_reals(None, str(labelled), D).label_dim == 0
    assert open_reals(None, str(labelled), small_state(label_dim=2).G).label_dim == 2


def test_no_data_or_data_of_another_kind(tmp_path: Path) -> None:
    D = small_state().D
    make_images(tmp_path / "pairs" / "images", count=2)
    make_images(tmp_path / "pairs" / "annotations", count=2)
    for known, data, message in (
        (None, str(tmp_path / "pairs"), "has images and annotations; give .*images"),
        (None, None, "give --data"),
        ({"path": str(tmp_path / "gone")}, None, "is not there"),
        (None, str(make_images(tmp_path / "small", resolution=16)), "16x16"),
        (None, str(make_images(tmp_path / "grey", channels=1)), "have 1 channel, the network's 3"),
    ):
        with pytest.raises(UserError, match=message):
            open_reals(known, data, D)
