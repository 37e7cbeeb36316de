"""What an augmentation is: its strengths, and the parameters drawn for one batch. Nothing here touches a
pixel.

Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (ADA), appendix B and
figure 19.

Randomness. One call of :func:`draw` takes, in this order, one uniform table, one normal table and, only if
the noise group is on, one normal field of the images' shape. The tables have one row a sample and one column
a random quantity, for *every* transform whether it is on or off. So the parameters depend neither on the
resolution nor on which other transforms are on, and the same generator state gives the same flips and angles
to an image at any size.
"""

import math
from dataclasses import dataclass, fields, replace

import torch

from torch_utils import device as devices

WAVELET_BANDS = 4

# Columns of the random tables, in the order of the paper's pseudo-code. New quantities go to the end.
_GATES = (
    *("xflip", "rotate90", "xint", "scale", "pre_rotate", "aniso", "post_rotate", "xfrac"),
    *("brightness", "contrast", "lumaflip", "hue", "saturation"),
    *(f"band{i}" for i in range(WAVELET_BANDS)),
    *("noise", "cutout"),
)
_UNIFORMS = (
    "xflip",
    "rotate90",
    "xint_x",
    "xint_y",
    "pre_rotate",
    "post_rotate",
    "lumaflip",
    "hue",
    "cutout_x",
    "cutout_y",
)
_NORMALS = (
    *("scale", "aniso", "xfrac_x", "xfrac_y", "brightness", "contrast", "saturation"),
    *(f"band{i}" for i in range(WAVELET_BANDS)),
    "noise",
)


P_SLACK = 1e-4  # more than float32 rounds p and its products with multipliers by


@dataclass(frozen=True)
class AugmentSpec:
    """Which transforms are on, and how strong they are. Names, meanings and defaults are those of the
    reference.

    A multiplier of 0 turns a transform off; 1 applies it with probability p, other values with multiplier ·
    p.

    Raises:
        ValueError: a negative or non-finite value, or not four ``imgfilter_bands``.
    """

    # Pixel blitting: probability multipliers, and the largest integer shift as a fraction of the image's
    # size.
    xflip: float = 0
    rotate90: float = 0
    xint: float = 0
    xint_max: float = 0.125
    # General geometric: probability multipliers, log2 standard deviation of isotropic scale, largest rotation
    # (1 is a half turn either way), log2 standard deviation of anisotropic scale, standard deviation of the
    # shift as a fraction of the image's size.
    scale: float = 0
    rotate: float = 0
    aniso: float = 0
    xfrac: float = 0
    scale_std: float = 0.2
    rotate_max: float = 1
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    # Colour: probability multipliers, standard deviation of brightness, log2 standard deviation of contrast,
    # largest hue rotation (1 is a half turn either way), log2 standard deviation of saturation.
    brightness: float = 0
    contrast: float = 0
    lumaflip: float = 0
    hue: float = 0
    saturation: float = 0
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1
    saturation_std: float = 1
    # Image-space filtering: probability multiplier, the same for each band (low to high), log2 standard
    # deviation.
    imgfilter: float = 0
    imgfilter_bands: tuple[float, ...] = (1, 1, 1, 1)
    imgfilter_std: float = 1
    # Corruptions: probability multipliers, standard deviation of the noise level, side of the hole as a
    # fraction of the image's size.
    noise: float = 0
    cutout: float = 0
    noise_std: float = 0.1
    cutout_size: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "imgfilter_bands", tuple(float(band) for band in self.imgfilter_bands))
        if len(self.imgfilter_bands) != WAVELET_BANDS:
            raise ValueError(
                f"imgfilter_bands must have {WAVELET_BANDS} values, got {len(self.imgfilter_bands)}"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not (math.isfinite(number) and number >= 0):
                    raise ValueError(
                        f"augmentation setting {field.name} must be a finite number of at least 0, got "
                        f"{number}"
                    )

    @property
    def has_geometric(self) -> bool:
        """Whether any transform moves pixels."""
        return any(
            m > 0
            for m in (self.xflip, self.rotate90, self.xint, self.scale, self.rotate, self.aniso, self.xfrac)
        )

    @property
    def has_color(self) -> bool:
        """Whether any transform changes colours."""
        return any(m > 0 for m in (self.brightness, self.contrast, self.lumaflip, self.hue, self.saturation))


@dataclass(frozen=True)
class GeometricParams:
    """Inverse of the geometric transform, resolution-free. See
    :func:`training.augment.geometric.inverse_matrix`."""

    blit: torch.Tensor  # [N, 2, 2] inverse of flip and quarter turns
    shift: (
        torch.Tensor
    )  # [N, 2] integer translation (x, y) before rounding to pixels, as a fraction of the size
    linear: torch.Tensor  # [N, 2, 2] inverse of scale, rotations and anisotropic scale
    offset: torch.Tensor  # [N, 2] sub-pixel translation (x, y) as a fraction of the size
    reach: float | None = (
        None  # bound, see :func:`_reach`; None where the host can look at the matrices without waiting
    )


@dataclass(frozen=True)
class AugmentParams:
    """Everything drawn for one batch of N images; a group that is off is None.

    All fields but ``noise`` are free of the resolution. ``noise`` is the ready-made noise image: it is drawn
    here and not on application, so that applying the same parameters twice gives the same result.
    """

    batch_size: int
    geometric: GeometricParams | None = None
    color: torch.Tensor | None = None  # [N, 3, 4] affine map of RGB
    band_gains: torch.Tensor | None = None  # [N, 4] amplification of the frequency bands, low to high
    noise: torch.Tensor | None = None  # [N, C, H, W] added to the images
    cutout: torch.Tensor | None = (
        None  # [N, 3] centre x, centre y and side of the hole as fractions of the size
    )


class _Draws:
    """Named columns of the random tables; with ``percentile`` every gate is open and every quantity at that
    percentile."""

    def __init__(
        self, uniform: torch.Tensor, normal: torch.Tensor, p: torch.Tensor, percentile: float | None
    ) -> None:
        self.p, self.percentile = p, percentile
        self.shape, self.device = (len(uniform),), uniform.device
        self.gates = dict(zip(_GATES, uniform[:, : len(_GATES)].unbind(1), strict=True))
        self.uniforms = dict(zip(_UNIFORMS, uniform[:, len(_GATES) :].unbind(1), strict=True))
        self.normals = dict(zip(_NORMALS, normal.unbind(1), strict=True))

    def uniform(self, name: str) -> torch.Tensor:
        """``[N]`` in [0, 1)."""
        return (
            self.uniforms[name]
            if self.percentile is None
            else torch.full(self.shape, self.percentile, device=self.device)
        )

    def symmetric(self, name: str) -> torch.Tensor:
        """``[N]`` in [-1, 1)."""
        return self.uniform(name) * 2 - 1

    def normal(self, name: str) -> torch.Tensor:
        """``[N]`` standard normal."""
        if self.percentile is None:
            return self.normals[name]
        return torch.erfinv(torch.full(self.shape, self.percentile, device=self.device) * 2 - 1)

    def half_normal(self, name: str) -> torch.Tensor:
        """``[N]`` magnitude of a standard normal."""
        if self.percentile is None:
            return self.normals[name].abs()
        return torch.erfinv(torch.full(self.shape, self.percentile, device=self.device))

    def gated(
        self, name: str, multiplier: float, value: torch.Tensor, probability: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``value`` where the transform is applied; elsewhere 0, which has no effect by each caller's
        parametrisation.

        The probability is ``multiplier`` · p unless given. ``multiplier`` 0 means off, also under a
        percentile.
        """
        if multiplier == 0:
            return torch.zeros_like(value)
        if self.percentile is not None:
            return value
        return torch.where(
            self.gates[name] < (multiplier * self.p if probability is None else probability), value, 0
        )


def _tables(n: int, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
    """``[N, uniforms]`` and ``[N, normals]``, on the host unless the generator is elsewhere."""
    source = "cpu" if generator is None else generator.device
    uniform = torch.rand([n, len(_GATES) + len(_UNIFORMS)], device=source, generator=generator)
    return uniform, torch.randn([n, len(_NORMALS)], device=source, generator=generator)


def rotation(theta: torch.Tensor) -> torch.Tensor:
    """``[N]`` angles in radians to ``[N, 2, 2]`` rotation matrices, x to the right and y down."""
    cos, sin = torch.cos(theta), torch.sin(theta)
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))


def compose(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Matrix product of ``[..., i, j]`` and ``[..., j, k]``, in full precision also where TF32 is allowed for
    ``@``."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(dim=-2)


def _draw_geometric(spec: AugmentSpec, d: _Draws) -> GeometricParams:
    """Flip, quarter turns, integer shift; scale, two rotations around anisotropic scale, shift. Each as its
    inverse."""
    zero, one = torch.zeros(d.shape, device=d.device), torch.ones(d.shape, device=d.device)
    mirror = 1 - 2 * d.gated("xflip", spec.xflip, (d.uniform("xflip") * 2).floor())
    turns = d.gated("rotate90", spec.rotate90, (d.uniform("rotate90") * 4).floor())
    cos, sin = (
        (turns == 0).float() - (turns == 2).float(),
        (turns == 1).float() - (turns == 3).float(),
    )  # exact integers
    unflip = torch.stack([mirror, zero, zero, one], dim=-1).unflatten(-1, (2, 2))
    unturn = torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))
    shift = [d.gated("xint", spec.xint, d.symmetric(f"xint_{axis}") * spec.xint_max) for axis in "xy"]

    scale = torch.exp2(d.gated("scale", spec.scale, d.normal("scale") * spec.scale_std))
    aniso = torch.exp2(d.gated("aniso", spec.aniso, d.normal("aniso") * spec.aniso_std))
    p_rot = _rotation_probability(spec, d.p)
    half_turn = math.pi * spec.rotate_max
    pre = d.gated("pre_rotate", spec.rotate, d.symmetric("pre_rotate") * half_turn, p_rot)
    post = d.gated("post_rotate", spec.rotate, d.symmetric("post_rotate") * half_turn, p_rot)
    if d.percentile is not None:
        post = zero  # as in the reference: under a percentile the two rotations would be one and the same
    unstretch = torch.stack([1 / (scale * aniso), zero, zero, aniso / scale], dim=-1).unflatten(-1, (2, 2))
    offset = [d.gated("xfrac", spec.xfrac, d.normal(f"xfrac_{axis}") * spec.xfrac_std) for axis in "xy"]
    return GeometricParams(
        blit=compose(unflip, unturn),
        shift=torch.stack(shift, dim=-1),
        linear=compose(compose(rotation(pre), unstretch), rotation(post)),
        offset=torch.stack(offset, dim=-1),
    )


def _rotation_probability(spec: AugmentSpec, p: torch.Tensor) -> torch.Tensor:
    """Of each of the two rotations, so that at least one of them has probability p."""
    return 1 - (1 - spec.rotate * p).clamp(0, 1).sqrt()


def _reach(spec: AugmentSpec, d: _Draws) -> float:
    """How far beyond the edge the transformed images can look, at most, as a fraction of their size.

    It is computed from the draws on the host and an upper bound of p. A transform that this bound could
    switch on counts as on where it reaches further, and as off where it reaches less far. So the host knows
    how much to extend images by without waiting for the device that has p.
    """
    shrink = d.gated("scale", spec.scale, (-d.normal("scale") * spec.scale_std).clamp(min=0))
    stretch = torch.exp2(shrink + d.gated("aniso", spec.aniso, (d.normal("aniso") * spec.aniso_std).abs()))
    offsets = [d.gated("xfrac", spec.xfrac, d.normal(f"xfrac_{axis}") * spec.xfrac_std) for axis in "xy"]
    shifts = [d.gated("xint", spec.xint, d.symmetric(f"xint_{axis}").abs() * spec.xint_max) for axis in "xy"]
    p_rot = _rotation_probability(spec, d.p)
    pre, post = (
        d.gated(name, spec.rotate, torch.ones(d.shape), p_rot) for name in ("pre_rotate", "post_rotate")
    )
    corner = torch.where(pre + post > 0, math.sqrt(2), 1.0) / 2
    return float((stretch * (corner + torch.hypot(*offsets)) + torch.maximum(*shifts)).max()) - 0.5


def _draw_color(spec: AugmentSpec, d: _Draws) -> torch.Tensor:
    """``[N, 3, 4]``: brightness, contrast, luma flip, hue, saturation, each an affine map after the previous
    one."""
    eye = torch.eye(3, device=d.device)
    luma = torch.full(
        [3, 3], 1 / 3, device=d.device
    )  # projection onto the grey axis v = (1, 1, 1) / sqrt 3: v v^T
    shifted = eye.roll(1, dims=1)
    cross = (shifted.T - shifted) / math.sqrt(3)  # x -> v × x

    def column(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None]

    brightness = column(d.gated("brightness", spec.brightness, d.normal("brightness") * spec.brightness_std))
    contrast = column(
        torch.exp2(d.gated("contrast", spec.contrast, d.normal("contrast") * spec.contrast_std))
    )
    flip = column(d.gated("lumaflip", spec.lumaflip, (d.uniform("lumaflip") * 2).floor()))
    theta = column(d.gated("hue", spec.hue, d.symmetric("hue") * (math.pi * spec.hue_max)))
    saturation = column(
        torch.exp2(d.gated("saturation", spec.saturation, d.normal("saturation") * spec.saturation_std))
    )

    rotate_hue = theta.cos() * eye + theta.sin() * cross + (1 - theta.cos()) * luma  # Rodrigues
    saturate = saturation * eye + (1 - saturation) * luma
    linear = compose(compose(saturate, rotate_hue), eye - 2 * flip * luma) * contrast
    return torch.cat([linear, compose(linear, brightness.expand(-1, 3, 1))], dim=2)


def _draw_band_gains(spec: AugmentSpec, d: _Draws) -> torch.Tensor:
    """``[N, 4]``: each band in turn is amplified, then all are scaled to keep the expected power of a 1/f
    spectrum."""
    power = torch.ones([WAVELET_BANDS], device=d.device)
    power[0] = 10
    power = power / power.sum()
    gains = torch.ones([*d.shape, WAVELET_BANDS], device=d.device)
    for i, strength in enumerate(spec.imgfilter_bands):
        log2_gain = d.gated(f"band{i}", spec.imgfilter * strength, d.normal(f"band{i}") * spec.imgfilter_std)
        step = torch.ones_like(gains)
        step[:, i] = torch.exp2(log2_gain)
        gains = gains * step / (power * step.square()).sum(dim=1, keepdim=True).sqrt()
    return gains


def draw(
    spec: AugmentSpec,
    p: torch.Tensor,
    images: torch.Tensor,
    generator: torch.Generator | None = None,
    debug_percentile: float | None = None,
    p_bound: float = math.inf,
) -> AugmentParams:
    """Draw the parameters for ``images`` (``[N, C, H, W]``, of which only shape, type and device are used).

    Args:
        spec: the transforms.
        p: scalar tensor on the images' device; probability of each transform.
        images: see above.
        generator: source of randomness on any device; the default generators if None, the host's for all but
            the noise field. (What is drawn on the host, it knows without waiting for a GPU.)
        debug_percentile: for tests. Every transform that is on is applied and every quantity takes its value
            at this percentile, where normal ones count as erfinv(2 · percentile − 1), without the factor √2,
            and the second rotation is left out: the reference's conventions. The noise field is random
            nevertheless.
        p_bound: what the host knows of ``p`` where that is on a device: a bound.

    Raises:
        ValueError: ``debug_percentile`` outside [0, 1).
    """
    if debug_percentile is not None and not 0 <= debug_percentile < 1:
        raise ValueError(f"debug_percentile must be in [0, 1), got {debug_percentile}")
    device = images.device
    uniform, normal = _tables(len(images), generator)
    d = _Draws(devices.to_device(uniform, device), devices.to_device(normal, device), p, debug_percentile)
    geometric = _draw_geometric(spec, d) if spec.has_geometric else None
    if geometric is not None and not devices.host_sees(p):
        bound = torch.tensor(min(p_bound, 1 / P_SLACK) * (1 + P_SLACK) + P_SLACK)
        geometric = replace(
            geometric, reach=_reach(spec, _Draws(uniform.cpu(), normal.cpu(), bound, debug_percentile))
        )
    cutout = noise = None
    if spec.cutout > 0:
        size = d.gated("cutout", spec.cutout, torch.full(d.shape, float(spec.cutout_size), device=device))
        cutout = torch.stack([d.uniform("cutout_x"), d.uniform("cutout_y"), size], dim=-1)
    if spec.noise > 0:
        sigma = d.gated("noise", spec.noise, d.half_normal("noise") * spec.noise_std)
        source = device if generator is None else generator.device
        field = torch.randn(images.shape, device=source, generator=generator).to(device)
        noise = (field * sigma[:, None, None, None]).to(images.dtype)
    return AugmentParams(
        batch_size=len(images),
        geometric=geometric,
        color=_draw_color(spec, d) if spec.has_color else None,
        band_gains=_draw_band_gains(spec, d) if spec.imgfilter > 0 else None,
        noise=noise,
        cutout=cutout,
    )
