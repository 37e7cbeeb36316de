"""The order of the transforms. Parameters are drawn once and applied to images and feature maps alike."""

import math
from typing import Any

import torch

from torch_utils.ops import upfirdn2d
from torch_utils.pickles.registry import storable
from training.augment import color, corrupt, geometric
from training.augment.params import AugmentParams, AugmentSpec, draw


@storable("augment_pipe")
class AugmentPipe(torch.nn.Module):
    """ADA's augmentations with probability ``p`` each.

    Args:
        spec: fields of :class:`training.augment.params.AugmentSpec`, e.g. ``**preset("bgc")``. All are off by
            default.

    Buffers, with the reference's names: ``p``, scalar, 1 at first; ``Hz_geom`` ``[12]`` and ``Hz_fbank``
    ``[4, 43]``, the wavelet filters.

    ``p_bound`` is at least ``p``. With ``p`` on a GPU, which nobody waits for, images are extended by as much
    as the transforms could need under this bound. It changes no result beyond rounding.

    Raises:
        TypeError: unknown keyword.
        ValueError: see :class:`AugmentSpec`.
    """

    p: torch.Tensor
    Hz_geom: torch.Tensor
    Hz_fbank: torch.Tensor

    def __init__(self, **spec: Any) -> None:
        super().__init__()
        self.spec = AugmentSpec(**spec)
        self.init_kwargs: dict[str, Any] = dict(spec)
        self.register_buffer("p", torch.ones([]))
        self.p_bound = math.inf
        self.register_buffer("Hz_geom", upfirdn2d.setup_filter(geometric.SYM6))
        self.register_buffer("Hz_fbank", corrupt.band_filters())

    def forward(
        self,
        images: torch.Tensor,
        debug_percentile: float | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """:meth:`apply` after :meth:`sample`. Images and result are ``[N, C, H, W]``."""
        return self.apply(images, self.sample(images, debug_percentile, generator=generator))

    def sample(
        self,
        images: torch.Tensor,
        debug_percentile: float | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> AugmentParams:
        """Draw parameters for ``images``, ``[N, C, H, W]``; see :func:`training.augment.params.draw`."""
        self._check_channels(images)
        with torch.no_grad():
            return draw(self.spec, self.p, images, generator, debug_percentile, self.p_bound)

    def apply(self, images: torch.Tensor, params: AugmentParams) -> torch.Tensor:  # type: ignore[override]
        """Augment images.

        This takes the name of :meth:`torch.nn.Module.apply`, which is of no use here.

        Args:
            images: ``[N, C, H, W]``, values in [-1, 1] nominally; C is 1 or 3 where there are colour
                transforms.
            params: from :meth:`sample` for these images.

        Returns:
            ``[N, C, H, W]``, differentiable any number of times in ``images``.

        Raises:
            ValueError: another number of channels, or parameters drawn for another number or shape of images.
        """
        self._check_channels(images)
        self._check_batch(images, params)
        if params.geometric is not None:
            images = geometric.warp(images, params.geometric, self.Hz_geom, self.Hz_geom)
        if params.color is not None:
            images = color.transform(images, params.color)
        if params.band_gains is not None:
            images = corrupt.filter_bands(images, params.band_gains, self.Hz_fbank)
        if params.noise is not None:
            images = corrupt.add_noise(images, params.noise)
        if params.cutout is not None:
            images = corrupt.cut_out(images, params.cutout)
        return images

    def warp(self, features: torch.Tensor, params: AugmentParams) -> torch.Tensor:
        """Move a feature map as :meth:`apply` moves the images, and do nothing else to it (GGDR).

        Two things differ from images. Integer shifts are rounded at the map's own resolution. And the map is
        upsampled bilinearly before it is warped, as in the reference: this softens every map a little and
        displaces it by a quarter of its own pixels to the right and down, also at p = 0. Without geometric
        transforms in the pipe the map is returned as it is.

        Args:
            features: ``[N, C, H, W]``, any C, H and W.
            params: from :meth:`sample` for N images of any resolution.

        Returns:
            ``[N, C, H, W]``, differentiable any number of times in ``features``.

        Raises:
            ValueError: parameters drawn for another number of images.
        """
        self._check_batch(features, params)
        if params.geometric is None:
            return features
        return geometric.warp(features, params.geometric, None, self.Hz_geom)

    def warp_classes(self, classes: torch.Tensor, params: AugmentParams, outside: int) -> torch.Tensor:
        """Move class maps as :meth:`apply` moves the images, and do nothing else to them.

        Each pixel takes the class of the nearest one. The images show a reflection beyond their border, the
        class maps ``outside``.

        Args:
            classes: integers ``[N, H, W]``, of the images' resolution.
            params: from :meth:`sample` for these images.
            outside: the class of what comes from beyond the border.

        Returns:
            ``[N, H, W]``.

        Raises:
            ValueError: parameters drawn for another number of images.
        """
        self._check_batch(classes, params)
        if params.geometric is None:
            return classes
        return geometric.warp_nearest(classes, params.geometric, outside)

    def _check_channels(self, images: torch.Tensor) -> None:
        if self.spec.has_color:
            color.check_channels(images)

    @staticmethod
    def _check_batch(x: torch.Tensor, params: AugmentParams) -> None:
        if len(x) != params.batch_size:
            raise ValueError(
                f"augmentation parameters were drawn for {params.batch_size} images, not {len(x)}"
            )
