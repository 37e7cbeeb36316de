"""Generator-guided discriminator regularisation (Lee et al. 2022, equation 2)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from training.augment import AugmentParams, AugmentPipe


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
class GuidedRegularizer:
    """The fake-image term of D that makes its decoder predict the generator's feature map, or several of
    them.

    Attributes:
        resolutions: of the maps.
        weight: λ.
        start_kimg: the term is off before this many thousand images.
    """

    resolutions: tuple[int, ...]
    weight: float = 10
    start_kimg: float = 0

    def active(self, images_seen: int) -> bool:
        """Whether the term applies after ``images_seen`` images."""
        return images_seen >= self.start_kimg * 1000

    def __call__(
        self,
        generator_features: Mapping[int, torch.Tensor],
        decoder_maps: Mapping[int, torch.Tensor],
        pipe: AugmentPipe | None,
        params: AugmentParams | None,
    ) -> torch.Tensor:
        """``λ · (1 − cos)`` for each sample, ``[N]``.

        Of several maps the distances are averaged, so that λ keeps its meaning (equation 2 has one map). The
        targets are detached: the generator never learns from this term (it would collapse its features,
        section 3).

        Args:
            generator_features: ``{resolution: [N, C, resolution, resolution]}`` of the fake images.
            decoder_maps: ``{resolution: [N, C, resolution, resolution]}`` that D predicts from the
                (augmented) images.
            pipe, params: how the images were augmented; None if they were not.
        """
        distances = []
        for resolution in self.resolutions:
            target = generator_features[resolution].detach()
            if pipe is not None and params is not None:
                target = pipe.warp(target, params)
            distances.append(cosine_distance(decoder_maps[resolution], target))
        return self.weight * torch.stack(distances).mean(dim=0)
