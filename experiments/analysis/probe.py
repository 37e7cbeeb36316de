"""A shallow segmentation head on a discriminator's frozen features (Lee et al. 2022, figure 7b)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dnnlib.errors import UserError
from torch_utils.seeding import derive_seed
from training.data.paired import UNLABELLED, PairedDataset
from training.data.pictures import from_uint8
from training.networks import Discriminator

#: Images uint8 ``[N, C, H, W]`` and classes int64 ``[N, H, W]``.
Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How a head is trained.

    Attributes:
        resolutions: of the encoder's maps that it reads.
        epochs: passes over the training part.
        batch: images a step.
        lr: learning rate of Adam.
        hidden: channels between the head's two 1×1 convolutions.
        val_fraction: fraction of the images that is held back; the seed alone decides which.
    """

    resolutions: Sequence[int]
    epochs: int = 10
    batch: int = 32
    lr: float = 0.01
    hidden: int = 32
    val_fraction: float = 0.2


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies on the images held back.

    Attributes:
        accuracy: pixel accuracy before the training and after each epoch.
        majority_accuracy: pixel accuracy of always answering the most frequent class of the training part.
    """

    accuracy: list[float]
    majority_accuracy: float


class SegmentationHead(nn.Module):
    """Two 1×1 convolutions with a ReLU between, from feature maps to class scores.

    Each channel of the maps is normalised first, so that the scale of a discriminator's features has no
    effect.

    Args:
        channels: total of all maps.
        hidden: channels between the convolutions.
        num_classes: number of scores.
    """

    def __init__(self, channels: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.conv0 = nn.Conv2d(channels, hidden, 1)
        self.conv1 = nn.Conv2d(hidden, num_classes, 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps ``[N, C_i, R_i, R_i]`` to scores ``[N, num_classes, R, R]``, where R is the largest R_i."""
        size = max(values.shape[-1] for values in maps)
        x = torch.cat(
            [
                F.interpolate(values, size=(size, size), mode="bilinear", align_corners=False)
                for values in maps
            ],
            dim=1,
        )
        scores: torch.Tensor = self.conv1(F.relu(self.conv0(self.norm(x))))
        return scores


class FrozenFeatures:
    """Encoder maps of ``D`` at some resolutions for images uint8 ``[N, C, H, W]``, without gradient."""

    def __init__(self, D: Discriminator, resolutions: Sequence[int], device: torch.device) -> None:
        self._D = D.to(device)
        self._device = device
        self._resolutions = list(resolutions)
        known = [res // 2 for res in D.block_resolutions]
        unknown = sorted(set(resolutions) - set(known))
        if unknown or not resolutions:
            raise UserError(
                f"the discriminator's encoder has maps at {known}, not at {unknown or 'none'}; choose among "
                "them"
            )

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Maps ``[N, C, R, R]`` for each resolution R."""
        features, _ = self._D.encode(from_uint8(images, self._device), force_fp32=True)
        return [features[res] for res in self._resolutions]


def check_takes(D: Discriminator, data: PairedDataset) -> None:
    """Raise :class:`UserError` for images that ``D`` does not take."""
    if (data.num_channels, data.resolution) != (D.img_channels, D.img_resolution):
        raise UserError(
            f"'{data.path}' has {data.num_channels}-channel images of {data.resolution}x{data.resolution}; "
            f"the discriminator takes {D.img_channels}-channel images of "
            f"{D.img_resolution}x{D.img_resolution}"
        )


def train_probe(
    D: Discriminator, data: PairedDataset, options: ProbeOptions, *, seed: int, device: torch.device
) -> ProbeResult:
    """Train a head on ``D``'s features of one part of the images, and measure it on the other part.

    ``seed`` decides the split, the head's initial weights and the order of the images. On one CPU the result
    is the same for one seed. ``D`` is not changed.

    Raises:
        UserError: ``D`` has no map at a resolution or does not take the images, or there are too few images.
    """
    check_takes(D, data)
    features = FrozenFeatures(D, options.resolutions, device)
    train, val = split(len(data), options.val_fraction, seed)
    channels = sum(values.shape[1] for values in features(torch.from_numpy(data[0][0])[None]))
    head = fresh_head(channels, options.hidden, data.num_classes, seed).to(device)
    optimizer = torch.optim.Adam(head.parameters(), lr=options.lr)
    accuracy = [pixel_accuracy(head, features, batches(data, val, options.batch, device))]
    for epoch in range(options.epochs):
        order = np.random.default_rng(derive_seed(seed, "probe order", epoch)).permutation(train)
        train_epoch(head, optimizer, features, batches(data, order, options.batch, device))
        accuracy.append(pixel_accuracy(head, features, batches(data, val, options.batch, device)))
    return ProbeResult(accuracy, majority_accuracy(data, train, val))


def train_epoch(
    head: nn.Module, optimizer: torch.optim.Optimizer, features: FrozenFeatures, pairs: Iterable[Pair]
) -> None:
    """Make one step of the optimiser for each batch of images and classes."""
    head.train()
    for images, classes in pairs:
        optimizer.zero_grad()
        segmentation_loss(head(features(images)), classes).backward()
        optimizer.step()


def segmentation_loss(scores: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over labelled pixels, 0 without any.

    Args:
        scores: ``[N, K, r, r]``; they are enlarged to the size of the classes.
        classes: int64 ``[N, H, W]``.
    """
    total = F.cross_entropy(_enlarged(scores, classes), classes, ignore_index=UNLABELLED, reduction="sum")
    return total / (classes != UNLABELLED).sum().clamp(min=1)


def split(count: int, val_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and indices to hold back, drawn by ``seed``.

    Raises:
        UserError: one of the two is empty.
    """
    held_back = round(count * val_fraction)
    if not 0 < held_back < count:
        raise UserError(
            f"{held_back} of {count} images would be held back, and both parts need images; change "
            "--val-fraction or the data"
        )
    order = np.random.default_rng(derive_seed(seed, "probe split")).permutation(count)
    return order[held_back:], np.sort(order[:held_back])


@torch.no_grad()
def pixel_accuracy(head: nn.Module, features: FrozenFeatures, pairs: Iterable[Pair]) -> float:
    """Fraction of the labelled pixels to which the head gives the right class."""
    head.eval()
    right = total = 0
    for images, classes in pairs:
        guess = _enlarged(head(features(images)), classes).argmax(dim=1)
        right += int((guess == classes).sum())
        total += int((classes != UNLABELLED).sum())
    return right / max(total, 1)


def majority_accuracy(data: PairedDataset, train: np.ndarray, val: np.ndarray) -> float:
    """Fraction of the labelled pixels of ``val`` that have the most frequent class of ``train``."""
    seen, held_back = (
        sum(np.bincount(data.classes(int(i)).ravel(), minlength=UNLABELLED + 1) for i in part)[:UNLABELLED]  # type: ignore[index]
        for part in (train, val)
    )
    return float(held_back[seen.argmax()] / max(held_back.sum(), 1))


def fresh_head(channels: int, hidden: int, num_classes: int, seed: int) -> SegmentationHead:
    """A head with weights drawn by ``seed``; the global random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "probe head"))
        return SegmentationHead(channels, hidden, num_classes)


def _enlarged(scores: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return F.interpolate(scores, size=classes.shape[-2:], mode="bilinear", align_corners=False)


def batches(data: PairedDataset, indices: np.ndarray, batch: int, device: torch.device) -> Iterator[Pair]:
    """Batches of images uint8 ``[N, C, H, W]``, and classes int64 ``[N, H, W]`` on ``device``."""
    for start in range(0, len(indices), batch):
        images, _, classes = zip(*(data.sample(int(i)) for i in indices[start : start + batch]), strict=True)
        yield torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(classes)).long().to(device)
