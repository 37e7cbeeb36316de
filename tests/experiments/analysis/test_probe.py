"""experiments.analysis.probe: the head learns, and the discriminator never changes."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from experiments.analysis import probe
from experiments.analysis.probe import (
    FrozenFeatures,
    ProbeOptions,
    SegmentationHead,
    batches,
    fresh_head,
    majority_accuracy,
    pixel_accuracy,
    segmentation_loss,
    split,
    train_epoch,
    train_probe,
)
from tests.support.analysis import make_pairs
from tests.support.runs import small_state
from training.data.paired import PairedDataset

CPU = torch.device("cpu")
OPTIONS = ProbeOptions(resolutions=(8, 16), epochs=3, batch=4, val_fraction=0.25)


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> PairedDataset:
    return PairedDataset(make_pairs(tmp_path_factory.mktemp("data") / "pairs", count=24))


@pytest.fixture(scope="module", params=["ggdr", "none"])
def discriminator(request: Any) -> Any:
    return small_state(reg_type=request.param).D


def test_the_discriminator_never_changes_and_the_head_learns(discriminator: Any, data: PairedDataset) -> None:
    discriminator.train().requires_grad_(True)
    before = copy.deepcopy(discriminator.state_dict())
    result = train_probe(discriminator, data, OPTIONS, seed=0, device=CPU)
    after = discriminator.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    assert discriminator.training
    assert len(result.accuracy) == 4
    assert result.accuracy[-1] > max(result.majority_accuracy, result.accuracy[0]) + 0.02
    assert 0.5 < result.majority_accuracy < 1


def test_the_seed_decides_everything(data: PairedDataset) -> None:
    D = small_state().D
    torch.manual_seed(1)
    first = train_probe(D, data, OPTIONS, seed=0, device=CPU)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert train_probe(D, data, OPTIONS, seed=0, device=CPU) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert train_probe(D, data, OPTIONS, seed=1, device=CPU) != first


def test_first_weights_come_from_the_seed() -> None:
    first, same, other = (fresh_head(3, 4, 2, seed).conv0.weight for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_heads_are_measured_on_what_was_held_back(
    data: PairedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def recording(data: PairedDataset, indices: np.ndarray, *others: Any) -> Any:
        seen.append(indices.tolist())
        return batches(data, indices, *others)

    monkeypatch.setattr(probe, "batches", recording)
    train_probe(small_state().D, data, OPTIONS, seed=0, device=CPU)
    train, val = (part.tolist() for part in split(24, 0.25, seed=0))
    assert seen[::2] == [val] * 4
    assert [sorted(indices) for indices in seen[1::2]] == [sorted(train)] * 3
    assert seen[1] != seen[3]


def test_features_are_the_encoders_and_carry_no_gradient(discriminator: Any) -> None:
    images = torch.randint(0, 256, [2, 3, 32, 32], dtype=torch.uint8)
    maps = FrozenFeatures(discriminator, [4, 16], CPU)(images)
    expected = discriminator.encode(images.float() / 127.5 - 1)[0]
    for values, res in zip(maps, (4, 16), strict=True):
        assert not values.requires_grad
        torch.testing.assert_close(values, expected[res])


def test_the_head_takes_maps_of_any_scale() -> None:
    torch.manual_seed(0)
    head = SegmentationHead(3 + 5, 4, num_classes=2)
    maps = [torch.randn(4, 3, 8, 8), torch.randn(4, 5, 16, 16)]
    scores = head(maps)
    assert scores.shape == (4, 2, 16, 16)
    scaled = head([maps[0] * 1000 + 7, maps[1] * 50 - 3])
    torch.testing.assert_close(scaled, scores, atol=1e-3, rtol=1e-3)


def test_training_and_measuring_keep_their_statistics_apart(data: PairedDataset) -> None:
    torch.manual_seed(0)
    features, head = FrozenFeatures(small_state().D, [16], CPU), SegmentationHead(8, 4, num_classes=2)
    head.eval()
    pairs = list(batches(data, np.arange(9), 3, CPU))
    train_epoch(head, torch.optim.SGD(head.parameters(), lr=0), features, pairs)
    assert head.norm.num_batches_tracked == 3
    assert head.norm.running_mean.abs().max() > 0
    gradient = head.conv1.weight.grad
    head.zero_grad()
    segmentation_loss(
        head(features(pairs[-1][0])), pairs[-1][1]
    ).backward()  # each step has the gradient of its own batch
    torch.testing.assert_close(gradient, head.conv1.weight.grad)
    before = copy.deepcopy(head.state_dict())
    accuracy = pixel_accuracy(head, features, pairs)
    assert accuracy == pixel_accuracy(head, features, batches(data, np.arange(9), 1, CPU))
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_unlabelled_pixels_do_not_count() -> None:
    scores = torch.randn(2, 3, 4, 4)
    classes = torch.randint(0, 3, [2, 4, 4])
    hidden = classes.clone()
    hidden[:, :2] = 255
    expected = torch.nn.functional.cross_entropy(scores[:, :, 2:], classes[:, 2:])
    torch.testing.assert_close(segmentation_loss(scores, hidden), expected)
    assert segmentation_loss(scores, torch.full_like(classes, 255)) == 0


def test_the_split_is_the_same_for_every_discriminator() -> None:
    train, val = split(20, 0.25, seed=3)
    assert (len(train), len(val)) == (15, 5)
    assert sorted([*train, *val]) == list(range(20))
    np.testing.assert_array_equal(val, split(20, 0.25, seed=3)[1])
    assert list(val) != list(split(20, 0.25, seed=4)[1])
    for fraction in (0.0, 0.01, 1.0):
        with pytest.raises(UserError, match="both parts need images"):
            split(20, fraction, seed=0)


def test_the_most_frequent_class_comes_from_the_training_part() -> None:
    class Maps:
        """Image 0 is mostly of class 0, image 1 of class 1, with an unlabelled row."""

        def classes(self, index: int) -> np.ndarray:
            values = np.full([4, 4], index, np.uint8)
            values[0] = 1 - index
            values[3] = 255
            return values

    maps: Any = Maps()
    assert majority_accuracy(maps, np.array([0]), np.array([1])) == pytest.approx(4 / 12)
    assert majority_accuracy(maps, np.array([1]), np.array([1])) == pytest.approx(8 / 12)


def test_wrong_resolutions_and_images(tmp_path: Path, data: PairedDataset) -> None:
    D = small_state().D
    for resolutions in ((8, 32), ()):
        with pytest.raises(UserError, match=r"has maps at \[16, 8, 4\]"):
            FrozenFeatures(D, resolutions, CPU)
    with pytest.raises(UserError, match="takes 3-channel images of 32x32"):
        train_probe(
            D, PairedDataset(make_pairs(tmp_path / "small", resolution=16)), OPTIONS, seed=0, device=CPU
        )
