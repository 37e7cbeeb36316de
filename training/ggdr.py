"""Generator-guided discriminator regularisation (Lee et al. 2022, equation 2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from training.objective import PassOutputs, Term


def cosine_distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """``1 − cos(prediction, target)`` over channels, averaged over pixels; one value a sample, ``[N]``.

    Args:
        prediction: ``[N, C, H, W]``.
        target: ``[N, C, H, W]``.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"cosine distance needs equal shapes, got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    return 1 - F.cosine_similarity(prediction, target, dim=1).mean(dim=[1, 2])


@dataclass(frozen=True)
class GuidedRegularizer(Term):
    """D's term on generated images: its decoder predicts one or several of the generator's feature maps.

    Attributes:
        captures: resolutions of the maps.
        weight: λ.
        start_kimg: thousands of images before the term applies.
    """

    name = "Loss/D/loss_gen_reg"
    where = "D_fake"
    reads_decoder = True

    captures: tuple[int, ...]
    weight: float = 10
    start_kimg: float = 0

    def active(self, images_seen: int) -> bool:
        """Whether it applies after ``images_seen`` images."""
        return images_seen >= self.start_kimg * 1000

    def __call__(self, outputs: PassOutputs) -> torch.Tensor:
        """``λ · (1 − cos)`` for each sample, ``[N]``.

        The distances of several maps are averaged, so that λ keeps its meaning (equation 2 has one map).
        Targets move as their images did. They are detached: G would otherwise collapse its features
        (section 3).
        """
        distances = []
        for resolution in self.captures:
            target = outputs.augmentation.warp(outputs.generator_maps[resolution].detach())
            distances.append(cosine_distance(outputs.decoder_maps[resolution], target))
        return self.weight * torch.stack(distances).mean(dim=0)
