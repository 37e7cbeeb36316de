"""experiments.show_segmentation: what is counted, what is shown, and what cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from experiments import show_segmentation
from experiments.show_segmentation import confusion, paint_classes, predict, scores
from tests.support.analysis import make_pairs, write_snapshot
from tests.support.runs import small_state
from torch_utils.persistence import load_network_pkl
from training.data.paired import UNLABELLED, PairedDataset


def test_scores() -> None:
    """Two of three classes are there; the third was guessed once."""
    found = scores(np.array([[5, 1, 0], [2, 1, 1], [0, 0, 0]]))
    assert found == {
        "pixel accuracy": 6 / 10,
        "always the same class": 6 / 10,
        "mean IoU": pytest.approx((5 / 8 + 1 / 5) / 2),
    }


def test_every_labelled_pixel_is_counted_once(tmp_path: Path) -> None:
    root = make_pairs(tmp_path / "pairs", count=5)
    PIL.Image.fromarray(np.full([32, 32], UNLABELLED, dtype=np.uint8)).save(root / "annotations" / "0001.png")
    D, pairs = small_state(reg_type="seg").D.eval(), PairedDataset(root)
    guess = predict(D, [pairs[i][0] for i in range(5)], torch.device("cpu"))
    counts = confusion(D, pairs, torch.device("cpu"))
    assert counts.sum() == 4 * 32 * 32
    for a in range(2):
        for b in range(2):
            assert counts[a, b] == sum(((pairs.classes(i) == a) & (guess[i] == b)).sum() for i in range(5))


def test_colours_tell_classes_apart() -> None:
    painted = paint_classes(np.arange(256).reshape(1, 1, 256))
    assert len({tuple(colour) for colour in painted[0, :, 0].T.tolist()}) > 250
    assert painted[0, :, 0, UNLABELLED].tolist() == [255, 255, 255]


def test_the_command(tmp_path: Path, succeed: Any) -> None:
    pairs = make_pairs(tmp_path / "pairs", count=5)
    first = write_snapshot(tmp_path / "a.pkl", reg_type="seg")
    second = write_snapshot(tmp_path / "b.pkl", reg_type="seg", seed=1, kimg=20)
    out = tmp_path / "out" / "x.png"
    output = succeed(
        show_segmentation.main,
        f"--network={first}",
        f"--network={second}",
        f"--data={pairs}",
        "--num=3",
        f"--out={out}",
    )
    lines = [line for line in output.splitlines() if str(tmp_path) in line]
    assert [line.split(": ")[0] for line in lines] == [
        str(first),
        str(second),
        str(tmp_path / "out" / "x.png"),
    ]
    D = load_network_pkl(second)["D"]
    expected = scores(confusion(D, PairedDataset(pairs), torch.device("cpu")))["pixel accuracy"]
    assert f"pixel accuracy {expected:.4f}" in lines[1]
    with PIL.Image.open(tmp_path / "out" / "x.png") as picture:
        assert picture.size == (120 + 3 * 66, 4 * 66)


def test_what_cannot_be_shown(tmp_path: Path, complaint: Any) -> None:
    pairs = make_pairs(tmp_path / "pairs", count=3)
    seg, ggdr = (
        write_snapshot(tmp_path / "seg.pkl", reg_type="seg"),
        write_snapshot(tmp_path / "ggdr.pkl", reg_type="ggdr"),
    )
    small = write_snapshot(tmp_path / "small.pkl", reg_type="seg", resolution=16)
    out = f"--out={tmp_path / 'x.png'}"

    def refused(*arguments: str) -> str:
        return str(complaint(show_segmentation.main, [*arguments, out]))

    assert "does not say which pairs" in refused(f"--network={seg}")
    assert "has to be trained with --reg_type=seg" in refused(f"--network={ggdr}", f"--data={pairs}")
    assert "takes 3-channel images of 16x16" in refused(f"--network={small}", f"--data={pairs}")
    assert "images/images' is not there" in refused(f"--network={seg}", f"--data={pairs}/images")
    PIL.Image.new("L", (32, 32), 5).save(pairs / "annotations" / "0000.png")
    assert "has 6 classes, the discriminator of" in refused(f"--network={seg}", f"--data={pairs}")
    assert not (tmp_path / "x.png").exists()
