"""Segmentation of real images by the discriminator's decoder (Lee et al. 2022, section 2.1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from training.data.paired import UNLABELLED
from training.objective import PassOutputs, Term


def pixel_cross_entropy(scores: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Cross-entropy averaged over the labelled pixels of each sample, ``[N]``; 0 where a sample has none.

    Args:
        scores: ``[N, K, H, W]``, before the softmax.
        classes: integers ``[N, H, W]``, from 0 to K − 1, or :data:`training.data.paired.UNLABELLED`.

    Raises:
        ValueError: the shapes do not match.
    """
    if scores.ndim != 4 or (len(scores), *scores.shape[2:]) != classes.shape:
        raise ValueError(f"scores {tuple(scores.shape)} do not go with classes {tuple(classes.shape)}")
    losses = F.cross_entropy(scores, classes.long(), ignore_index=UNLABELLED, reduction="none")
    return losses.sum(dim=[1, 2]) / (classes != UNLABELLED).sum(dim=[1, 2]).clamp(min=1)


@dataclass(frozen=True)
class SegmentationRegularizer(Term):
    """D's term on real images: its decoder predicts the classes of the pixels.

    Attributes:
        resolution: of the images, and of the decoder's last map, the class scores.
        weight: of the cross-entropy.
    """

    name = "Loss/D/loss_seg"
    where = "D_real"
    reads_decoder = True

    resolution: int
    weight: float = 1

    def __call__(self, outputs: PassOutputs) -> torch.Tensor:
        """``weight ·`` :func:`pixel_cross_entropy` for each sample, ``[N]``.

        Annotations move as their images did. Pixels from beyond the border are unlabelled. Other
        augmentations leave annotations alone.

        Raises:
            ValueError: the batch has no annotations.
        """
        if outputs.batch.annotations is None:
            raise ValueError("segmentation needs annotations, and the batch has none")
        classes = outputs.augmentation.warp_classes(outputs.batch.annotations, UNLABELLED)
        return self.weight * pixel_cross_entropy(outputs.decoder_maps[self.resolution], classes)
