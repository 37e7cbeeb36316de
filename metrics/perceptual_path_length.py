"""Perceptual path length (Karras et al. 2019, section 4.1).

How far images move, as LPIPS sees it, for a small step in latent space.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from metrics.sampling import CHUNK, ImageDataset, draw_labels, evaluating, finite
from torch_utils.seeding import derive_seed

# Pairs of images rendered at a time; fixed, so that the detector's batch size changes no bit.
PAIRS = 4


@dataclass(frozen=True)
class PathSampling:
    """Which paths are measured.

    Attributes:
        space: interpolate spherically in ``z`` or linearly in ``w``.
        sampling: steps start anywhere on the path (``full``) or at its first end (``end``).
        crop: look at the middle of the image alone, where an aligned face is.
        epsilon: length of the step, as a fraction of the path.
    """

    space: Literal["z", "w"]
    sampling: Literal["full", "end"]
    crop: bool
    epsilon: float = 1e-4


class PerceptualDetector(Protocol):
    """What :func:`path_distances` needs of a detector."""

    def perceptual(self, images: Tensor, /) -> Tensor:
        """See :meth:`metrics.features.Detector.perceptual`."""
        ...


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points at fraction ``t`` of the great circles from a to b: ``[N, F], [N, F], [N, 1] -> [N, F]``.

    ``(sin((1-t)θ) a + sin(tθ) b) / sin θ`` for the unit vectors a and b with angle θ (Shoemake 1985).
    """
    a, b = (v / v.norm(dim=1, keepdim=True) for v in (a, b))
    angle = (a * b).sum(1, keepdim=True).clamp(-1, 1).acos()
    return (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()


def path_length(distances: ArrayLike) -> float:
    """Mean of the distances ``[N]`` between their 1st and 99th percentile, as in the reference.

    The 1st is rounded down to a sample, the 99th up.

    Raises :class:`ValueError` unless there are distances and all are finite.
    """
    values = np.asarray(distances, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"finite distances [N] are needed, not {values.shape}")
    low = np.percentile(values, 1, method="lower")
    high = np.percentile(values, 99, method="higher")
    return float(values[(values >= low) & (values <= high)].mean())


def ppl(real: None, fake: NDArray[np.float64]) -> dict[str, float]:
    """The metric on distances ``[N]``. The key is what follows the metric's name in the results."""
    return {"": path_length(fake)}


def path_distances(
    generator: Any,
    labels: ImageDataset,
    detector: PerceptualDetector,
    paths: PathSampling,
    places: Iterable[range],
    *,
    seed: int,
    device: torch.device,
) -> Iterator[NDArray[np.float64]]:
    """``|f(G(t)) - f(G(t + ε))|² / ε²`` of random paths, float64 ``[N]`` for each of ``places``.

    ``places`` are :func:`metrics.sampling.microbatches` of paths. Both ends of a step have the same label and
    the same noise images, drawn anew for every CHUNK of paths as in the reference; ``G`` renders in float32.
    f is the detector's perceptual embedding of the image in 0 to 255, averaged over squares down to 256
    pixels where the network renders more. A crop is rows 3/8 to 7/8, columns 2/8 to 6/8. Everything random
    for paths ``16 k`` to ``16 k + 15`` comes from ``(seed, k)``.

    Raises:
        UserError: the generator renders values that are not finite, or the detector raises it.
    """
    for place in places:
        chunks = [
            _chunk(generator, labels, detector, paths, k, seed=seed, device=device)
            for k in range(place.start // CHUNK, -(-place.stop // CHUNK))
        ]
        yield np.concatenate(chunks)[: len(place)]


def _chunk(
    generator: Any,
    labels: ImageDataset,
    detector: PerceptualDetector,
    paths: PathSampling,
    k: int,
    *,
    seed: int,
    device: torch.device,
) -> NDArray[np.float64]:
    rng = np.random.RandomState(derive_seed(seed, "path lengths", k) % 2**32)
    start, end = (torch.from_numpy(rng.randn(CHUNK, generator.z_dim)).to(device) for _ in range(2))
    t = torch.from_numpy(rng.rand(CHUNK, 1) * (paths.sampling == "full")).to(device)
    c = draw_labels(labels, rng, CHUNK, generator.c_dim).to(device)
    noise = _noise_images(generator.synthesis, derive_seed(seed, "path lengths noise", k))
    distances = []
    with torch.no_grad(), evaluating(generator):
        ws = torch.stack(_both_ends(generator, start, end, t, c, paths), dim=1)  # [CHUNK, 2, num_ws, w_dim]
        for pairs in ws.split(PAIRS):
            arguments = {"noise_mode": "const", "force_fp32": True}
            images = torch.func.functional_call(generator.synthesis, noise, (pairs.flatten(0, 1),), arguments)
            embedded = (
                detector.perceptual(_framed(finite(images), crop=paths.crop)).double().unflatten(0, (-1, 2))
            )
            distances.append((embedded[:, 0] - embedded[:, 1]).square().sum(1) / paths.epsilon**2)
    return cast(NDArray[np.float64], torch.cat(distances).cpu().numpy())


def _both_ends(
    generator: Any, start: Tensor, end: Tensor, t: Tensor, c: Tensor, paths: PathSampling
) -> tuple[Tensor, Tensor]:
    """The intermediate latents at ``t`` and at ``t + ε``.

    Interpolation is in float64: ε is close to float32's resolution.
    """
    both = torch.cat([c, c])
    if paths.space == "z":
        z = torch.cat([slerp(start, end, t), slerp(start, end, t + paths.epsilon)])
        at_t, after = generator.mapping(z.float(), both).chunk(2)
        return at_t, after
    w = generator.mapping(torch.cat([start, end]).float(), both)
    w_start, w_end = w.double().chunk(2)
    t = t.unsqueeze(2)
    at_t, after = (torch.lerp(w_start, w_end, f).to(w.dtype) for f in (t, t + paths.epsilon))
    return at_t, after


def _noise_images(synthesis: Any, seed: int) -> dict[str, Tensor]:
    """Fresh values for the buffers that ``noise_mode='const'`` shows.

    They are drawn on the CPU, so they do not depend on the device.
    """
    source = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(buffer.shape, generator=source).to(buffer)
        for name, buffer in synthesis.named_buffers()
        if name.endswith("noise_const")
    }


def _framed(images: Tensor, *, crop: bool) -> Tensor:
    """Images -1..1 ``[N, C, H, W]`` as the detector takes them, 0..255."""
    factor = images.shape[2] // 256
    if crop:
        eighth = images.shape[2] // 8
        images = images[:, :, 3 * eighth : 7 * eighth, 2 * eighth : 6 * eighth]
    if factor > 1:
        images = torch.nn.functional.avg_pool2d(images, factor)
    return (images + 1) * 127.5
