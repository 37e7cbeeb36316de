import math
from typing import Any

import pytest
import torch

from tests.support.runs import resolved_config
from torch_utils.ops import upfirdn2d
from training.augment import PRESETS, AugmentPipe, preset
from training.augment import resample as resampling
from training.augment.geometric import SYM6
from training.augment.rows import reflect_pad
from training.build import build_augment_pipe

EVERYTHING = preset("bgcfnc")


def make_pipe(p: Any = 1.0, **spec: Any) -> Any:
    pipe = AugmentPipe(**spec)
    pipe.p.fill_(p)
    return pipe


def seeded(seed: Any = 0) -> Any:
    return torch.Generator().manual_seed(seed)


def images(n: Any = 4, channels: Any = 3, size: Any = 16, seed: Any = 0, dtype: Any = torch.float32) -> Any:
    return torch.randn([n, channels, size, size], generator=seeded(seed)).to(dtype)


def blob(size: Any, x: Any, y: Any) -> Any:
    """One soft dot, at (x, y) as fractions of the size, ``[1, 3, size, size]``."""
    at = (torch.arange(size) + 0.5) / size
    dot = torch.exp(-((at[None, :] - x) ** 2 + (at[:, None] - y) ** 2) / (2 * max(0.05, 1 / size) ** 2))
    return dot.expand(1, 3, -1, -1).clone()


def centroid(picture: Any) -> Any:
    """Where the bright part lies, as fractions of the size."""
    weight = (picture[0].mean(dim=0) - 0.2).clamp(min=0)
    at = (torch.arange(picture.shape[-1]) + 0.5) / picture.shape[-1]
    return float((weight.sum(0) * at).sum() / weight.sum()), float((weight.sum(1) * at).sum() / weight.sum())


# ---- What every pipe promises


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_presets_keep_shape_and_change_images(name: Any, channels: Any) -> None:
    x = images(8, channels)
    y = make_pipe(**preset(name))(x, generator=seeded(1))
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert y.isfinite().all()
    assert not torch.equal(x, y)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_happens_at_p_0(name: Any, channels: Any) -> None:
    x = images(8, channels)
    assert torch.equal(make_pipe(0.0, **preset(name))(x), x)


def test_nothing_happens_without_transforms() -> None:
    pipe, x, features = make_pipe(), images(), torch.randn(4, 7, 8, 8)
    params = pipe.sample(x)
    assert pipe.apply(x, params) is x
    assert pipe.warp(features, params) is features


def test_a_companion_map_changes_nothing_for_the_images() -> None:
    x, features = images(8), torch.randn(8, 5, 4, 4)
    results: list[Any] = []
    for companion in (False, True):
        torch.manual_seed(3)
        pipe = make_pipe(0.6, **EVERYTHING)
        results.append([])
        for _ in range(2):
            params = pipe.sample(x)
            if companion:
                pipe.warp(features, params)
            results[-1].append(pipe.apply(x, params))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_drawing_is_repeatable_and_applying_draws_nothing() -> None:
    pipe, x = make_pipe(0.6, **EVERYTHING), images(8)
    params = pipe.sample(x, generator=seeded(5))
    state = torch.get_rng_state()
    first = pipe.apply(x, params)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, pipe.apply(x, params))
    assert torch.equal(first, pipe(x, generator=seeded(5)))
    assert not torch.equal(first, pipe(x, generator=seeded(6)))


def test_draws_depend_neither_on_resolution_nor_on_other_groups() -> None:
    bare = make_pipe(0.6, **preset("bg")).sample(images(32, size=8), generator=seeded(2)).geometric
    full = make_pipe(0.6, **EVERYTHING).sample(images(32, 1, size=64), generator=seeded(2)).geometric
    for name in ("blit", "shift", "linear", "offset"):
        assert torch.equal(getattr(bare, name), getattr(full, name))


def test_a_sample_is_augmented_the_same_alone_and_in_a_batch() -> None:
    pipe, x = make_pipe(**preset("bg")), torch.nn.functional.avg_pool2d(images(16, size=34), 3, 1)
    params = pipe.sample(x, generator=seeded(4))
    whole = pipe.apply(x, params)
    for i in range(16):
        one = type(params.geometric)(
            *(getattr(params.geometric, name)[i : i + 1] for name in ("blit", "shift", "linear", "offset"))
        )
        alone = pipe.apply(x[i : i + 1], type(params)(batch_size=1, geometric=one))
        assert torch.allclose(
            alone, whole[i : i + 1], atol=2e-4
        )  # the padding is the batch's, the filter's tails see it


def test_state_has_the_references_names() -> None:
    state = make_pipe(**preset("bgc")).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == {
        "p": [],
        "Hz_geom": [12],
        "Hz_fbank": [4, 43],
    }
    assert float(AugmentPipe().p) == 1


# ---- Bad input


def test_bad_input_is_refused() -> None:
    pipe = make_pipe(**EVERYTHING)
    for channels in (2, 4):
        with pytest.raises(ValueError, match=r"1 \(greyscale\) or 3 \(RGB\)"):
            pipe.sample(images(2, channels))
    params = pipe.sample(images(4))
    with pytest.raises(ValueError, match="drawn for 4 images, not 3"):
        pipe.apply(images(3), params)
    with pytest.raises(ValueError, match="drawn for 4 images, not 3"):
        pipe.warp(torch.zeros(3, 5, 8, 8), params)
    with pytest.raises(ValueError, match="noise was drawn for"):
        pipe.apply(images(4, size=8), params)
    with pytest.raises(ValueError, match="debug_percentile"):
        pipe.sample(images(4), debug_percentile=1.0)
    with pytest.raises(ValueError, match="4 values"):
        AugmentPipe(imgfilter=1, imgfilter_bands=[1, 1])
    with pytest.raises(ValueError, match="scale_std"):
        AugmentPipe(scale_std=-1)
    with pytest.raises(TypeError, match="blur"):
        AugmentPipe(blur=1)
    with pytest.raises(ValueError, match="unknown augmentation pipeline 'all'"):
        preset("all")


# ---- Gradients


@pytest.mark.parametrize("channels", [1, 3])
def test_apply_differentiates_twice(channels: Any) -> None:
    pipe = make_pipe(**EVERYTHING)
    x = images(2, channels, 5, dtype=torch.float64).requires_grad_(True)
    params = pipe.sample(x, generator=seeded(1))
    assert torch.autograd.gradcheck(lambda x: pipe.apply(x, params), (x,))
    assert torch.autograd.gradgradcheck(lambda x: pipe.apply(x, params).square(), (x,))


def test_warp_differentiates_twice() -> None:
    pipe = make_pipe(**EVERYTHING)
    x = images(2, 2, 6, dtype=torch.float64).requires_grad_(True)
    params = pipe.sample(images(2), generator=seeded(1))
    assert torch.autograd.gradcheck(lambda x: pipe.warp(x, params), (x,))
    assert torch.autograd.gradgradcheck(lambda x: pipe.warp(x, params).square(), (x,))


def test_first_use_in_inference_mode_does_not_spoil_training() -> None:
    resampling._up_matrix.cache_clear()
    resampling._down_matrix.cache_clear()
    pipe = make_pipe(**EVERYTHING)
    with torch.inference_mode():
        pipe(images())
    x = images().requires_grad_(True)
    pipe(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("bilinear", [False, True])
def test_dense_resampling_equals_the_reference(bilinear: Any) -> None:
    taps = upfirdn2d.setup_filter(SYM6)
    x = torch.randn([2, 3, 10, 7], generator=seeded(), dtype=torch.float64, requires_grad=True)
    z = torch.randn([2, 3, 32, 26], generator=seeded(1), dtype=torch.float64, requires_grad=True)
    for margin in ((0, 0, 0, 0), (2, 5, 3, 0), (6, 6, 9, 9)):
        for source, function in (
            (
                x,
                lambda x, dense, margin=margin: resampling.upsample(
                    x, None if bilinear else taps, margin, dense=dense
                ),
            ),
            (z, lambda z, dense: resampling.downsample(z, taps, dense=dense)),
        ):
            results: list[Any] = []
            for dense in (False, True):
                y = function(source, dense)
                (dx,) = torch.autograd.grad(y.pow(3).sum(), source, create_graph=True)
                (ddx,) = torch.autograd.grad(dx.square().sum(), source)
                results.append((y, dx, ddx))
            for reference, fast in zip(*results, strict=True):
                assert torch.allclose(
                    reference, fast, rtol=1e-6, atol=1e-6 * float(reference.detach().abs().max())
                )


def test_reflection_of_any_width() -> None:
    x = images(1, 1, 3)
    wide = reflect_pad(x, (7, 5, 0, 4))
    row = x[0, 0, 0].tolist()
    assert wide[0, 0, 0].tolist() == [row[i] for i in (1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1)]
    assert wide.shape == (1, 1, 7, 15)
    assert torch.equal(reflect_pad(x, (1, 2, 2, 0)), torch.nn.functional.pad(x, (1, 2, 2, 0), mode="reflect"))
    assert torch.equal(reflect_pad(x[..., :1, :1], (2, 1, 1, 1)), x[..., :1, :1].expand(1, 1, 3, 4))


# ---- Geometry


@pytest.mark.parametrize("map_size", [8, 16, 64, 256])
@pytest.mark.parametrize(
    ("spec", "percentile", "expected"),
    [
        ({"xflip": 1}, 0.5, lambda x, y: (1 - x, y)),
        ({"rotate90": 1}, 0.3, lambda x, y: (y, 1 - x)),
        ({"rotate90": 1}, 0.5, lambda x, y: (1 - x, 1 - y)),
        ({"xint": 1, "xint_max": 0.25}, 0.75, lambda x, y: (x + 0.125, y + 0.125)),
        ({"xfrac": 1, "xfrac_std": 0.125}, 0.5 + 0.5 * math.erf(1), lambda x, y: (x + 0.125, y + 0.125)),
        (
            {"scale": 1, "scale_std": 0.5},
            0.5 + 0.5 * math.erf(1),
            lambda x, y: (0.5 + (x - 0.5) * 2**0.5, 0.5 + (y - 0.5) * 2**0.5),
        ),
    ],
    ids=["flip", "quarter turn", "half turn", "integer shift", "fractional shift", "scale"],
)
def test_a_blob_moves_alike_in_image_and_map(
    spec: Any, percentile: Any, expected: Any, map_size: Any
) -> None:
    where = (0.45, 0.56)
    image, features = blob(32, *where), blob(map_size, *where)
    pipe = make_pipe(**spec)
    params = pipe.sample(image, debug_percentile=percentile)
    assert centroid(pipe.apply(image, params)) == pytest.approx(expected(*where), abs=0.005)
    # As in the reference, the way through bilinear upsampling moves a map by a quarter of its pixels; see
    # AugmentPipe.warp.
    quarter = 0.25 / map_size
    assert centroid(pipe.warp(features, params)) == pytest.approx(
        expected(*(at + quarter for at in where)), abs=0.012
    )


def test_pixel_blitting_is_exact_away_from_the_border() -> None:
    x = torch.nn.functional.avg_pool2d(images(1, size=34), 3, 1)
    pipe = make_pipe(xint=1)
    shifted = pipe.apply(x, pipe.sample(x, debug_percentile=0.875))  # 0.75 · 0.125 · 32 = 3 pixels
    assert torch.allclose(shifted[..., 6:-6, 6:-6], x[..., 3:-9, 3:-9], atol=1e-5)


def test_maps_round_shifts_at_their_own_resolution() -> None:
    pipe, x = make_pipe(xint=1), images(1, size=32)
    params = pipe.sample(x, debug_percentile=0.6)  # 0.2 · 0.125 = 0.025: 0.8 pixels of 32, 0.2 of 8
    still = make_pipe(0.0, xint=1)
    at_8, at_32 = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 32, 32)
    assert torch.equal(pipe.warp(at_8, params), still.warp(at_8, still.sample(x)))
    assert not torch.allclose(pipe.warp(at_32, params), still.warp(at_32, still.sample(x)), atol=0.1)


def test_maps_are_left_alone_by_colour_filter_and_corruptions() -> None:
    x, features = images(4), torch.randn(4, 5, 8, 8)
    pipe = make_pipe(**{**PRESETS["color"], **PRESETS["filter"], **PRESETS["noise"], **PRESETS["cutout"]})
    assert pipe.warp(features, pipe.sample(x)) is features


# ---- Statistics of the draws, with p = 1/2

N = 20_000


def fraction(flags: Any) -> Any:
    return float(flags.float().mean())


def draw(p: Any = 0.5, **spec: Any) -> Any:
    return make_pipe(p, **spec).sample(torch.empty(N, 3, 1, 1), generator=seeded(8))


def test_gates_of_geometric_transforms() -> None:
    eye = torch.eye(2)
    assert fraction(torch.linalg.det(draw(xflip=1).geometric.blit) < 0) == pytest.approx(0.5 / 2, abs=0.015)
    assert fraction((draw(rotate90=1).geometric.blit != eye).any(dim=(1, 2))) == pytest.approx(
        0.5 * 3 / 4, abs=0.015
    )
    assert fraction((draw(xint=1).geometric.shift != 0).any(dim=1)) == pytest.approx(0.5, abs=0.015)
    for name in ("scale", "aniso", "rotate"):
        assert fraction((draw(**{name: 1}).geometric.linear != eye).any(dim=(1, 2))) == pytest.approx(
            0.5, abs=0.015
        ), name
    assert fraction((draw(xfrac=1).geometric.offset != 0).any(dim=1)) == pytest.approx(0.5, abs=0.015)
    assert fraction((draw(xfrac=0.4).geometric.offset != 0).any(dim=1)) == pytest.approx(0.2, abs=0.015)


def test_gates_of_other_transforms() -> None:
    colours = ("brightness", "contrast", "hue", "saturation")
    for name in colours:
        assert fraction((draw(**{name: 1}).color != torch.eye(3, 4)).any(dim=(1, 2))) == pytest.approx(
            0.5, abs=0.015
        ), name
    assert fraction((draw(lumaflip=1).color != torch.eye(3, 4)).any(dim=(1, 2))) == pytest.approx(
        0.25, abs=0.015
    )
    assert fraction((draw(imgfilter=1).band_gains != 1).any(dim=1)) == pytest.approx(1 - 0.5**4, abs=0.015)
    assert fraction(
        (draw(imgfilter=1, imgfilter_bands=[0, 1, 0, 0]).band_gains != 1).any(dim=1)
    ) == pytest.approx(0.5, abs=0.015)
    assert fraction((draw(noise=1).noise != 0).any(dim=(1, 2, 3))) == pytest.approx(0.5, abs=0.015)
    assert fraction(draw(cutout=1).cutout[:, 2] > 0) == pytest.approx(0.5, abs=0.015)


def test_gates_open_alone() -> None:
    g = draw(xflip=1, xint=1, scale=1).geometric
    flags = torch.stack(
        [torch.linalg.det(g.blit) < 0, (g.shift != 0).any(dim=1), torch.linalg.det(g.linear) != 1]
    ).float()
    assert (torch.corrcoef(flags) - torch.eye(3)).abs().max() < 0.03


def test_sizes_of_geometric_transforms() -> None:
    shift = draw(1.0, xint=1).geometric.shift
    assert shift.abs().max() <= 0.125
    assert float(shift.std()) == pytest.approx(0.25 / 12**0.5, rel=0.03)
    assert float(draw(1.0, xfrac=1).geometric.offset.std()) == pytest.approx(0.125, rel=0.03)
    scale = draw(1.0, scale=1).geometric.linear
    assert torch.equal(scale[:, 0, 0], scale[:, 1, 1])
    assert float(scale[:, 0, 0].log2().std()) == pytest.approx(0.2, rel=0.03)
    aniso = draw(1.0, aniso=1).geometric.linear
    assert torch.allclose(torch.linalg.det(aniso), torch.ones(N))
    assert float(aniso[:, 0, 0].log2().std()) == pytest.approx(0.2, rel=0.03)
    angle = draw(1.0, rotate=1, rotate_max=0.1).geometric.linear
    assert torch.atan2(angle[:, 1, 0], angle[:, 0, 0]).abs().max() <= 0.2 * math.pi + 1e-5


def test_sizes_of_other_transforms() -> None:
    color = draw(1.0, brightness=1).color
    assert float(color[:, 0, 3].std()) == pytest.approx(0.2, rel=0.03)
    assert float(draw(1.0, contrast=1).color[:, 0, 0].log2().std()) == pytest.approx(0.5, rel=0.03)
    power = (
        draw(1.0, imgfilter=1, imgfilter_bands=[1, 0, 0, 0]).band_gains.square()
        * torch.tensor([10, 1, 1, 1])
        / 13
    ).sum(dim=1)
    assert torch.allclose(power, torch.ones(N), atol=1e-5)
    assert float(draw(1.0, noise=1).noise.std()) == pytest.approx(0.1, rel=0.03)
    assert float(draw(1.0, cutout=1).cutout[:, :2].mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("p", [1.0, 1.7])
def test_every_gate_is_open_from_p_1_on(p: Any) -> None:
    params = draw(p, **EVERYTHING)
    assert (params.geometric.shift != 0).any(dim=1).all()
    assert (draw(p, rotate=1).geometric.linear != torch.eye(2)).any(dim=(1, 2)).all()
    assert (params.cutout[:, 2] > 0).all()
    assert params.geometric.linear.isfinite().all()


# ---- Colour, filter, corruptions


def test_greyscale_is_the_mean_of_grey_rgb() -> None:
    grey = images(8, 1)
    pipe = make_pipe(**preset("color"))
    params = pipe.sample(grey, generator=seeded(1))
    expected = pipe.apply(grey.expand(-1, 3, -1, -1), params).mean(dim=1, keepdim=True)
    assert torch.allclose(pipe.apply(grey, params), expected, atol=1e-5)


def test_hue_and_saturation_leave_greyscale_alone() -> None:
    grey = images(8, 1)
    assert torch.allclose(make_pipe(hue=1, saturation=1)(grey, generator=seeded()), grey, atol=1e-5)
    assert not torch.allclose(make_pipe(contrast=1)(grey, generator=seeded()), grey, atol=1e-2)


def test_hue_keeps_and_luma_flip_negates_the_mean_of_the_channels() -> None:
    x = images(8)
    turned = make_pipe(hue=1)(x, generator=seeded())
    assert torch.allclose(turned.mean(dim=1), x.mean(dim=1), atol=1e-5)
    assert torch.allclose(turned.square().sum(dim=1), x.square().sum(dim=1), atol=1e-4)
    pipe = make_pipe(lumaflip=1)
    assert torch.allclose(
        pipe.apply(x, pipe.sample(x, debug_percentile=0.5)).mean(dim=1), -x.mean(dim=1), atol=1e-5
    )


def test_bands_split_the_spectrum() -> None:
    pipe = AugmentPipe()
    pulse = torch.zeros(43)
    pulse[21] = 1
    assert torch.allclose(pipe.Hz_fbank.sum(dim=0), pulse, atol=1e-6)
    response = torch.fft.rfft(pipe.Hz_fbank, n=1024).abs()
    for band, frequency in enumerate((0.03, 0.19, 0.38, 0.8)):  # of Nyquist, one in each band
        assert int(response[:, int(frequency * 512)].argmax()) == band


def test_filtering_works_on_images_smaller_than_the_filter() -> None:
    x = images(2, size=8)
    y = make_pipe(imgfilter=1)(x, generator=seeded())
    assert y.isfinite().all()
    flat = torch.ones(2, 3, 8, 8)
    assert float(make_pipe(imgfilter=1)(flat, generator=seeded()).std(dim=(2, 3)).max()) < 1e-5


def test_cutout_is_a_square_of_zeros() -> None:
    x = torch.ones(1, 3, 16, 16)
    pipe = make_pipe(cutout=1)
    hole = pipe.apply(x, pipe.sample(x, debug_percentile=0.5)) == 0
    assert hole[0, 0].sum() == 64
    assert hole[0, :, 4:12, 4:12].all()


def test_noise_has_one_level_a_sample() -> None:
    x = torch.zeros(8, 3, 64, 64)
    levels = make_pipe(noise=1).sample(x, generator=seeded()).noise.std(dim=(1, 2, 3))
    halves = make_pipe(noise=1).sample(x, generator=seeded()).noise[:, :, :32].std(dim=(1, 2, 3))
    assert torch.allclose(levels, halves, rtol=0.05)
    assert float(levels.max() / levels.min()) > 2


def discs(n: Any = 8, size: Any = 64) -> Any:
    """Class maps of a disc each, at different places, uint8 ``[n, size, size]``."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.stack([((x - 20 - 2 * i) ** 2 + (y - 25 - i) ** 2 < 120).to(torch.uint8) for i in range(n)])


@pytest.mark.parametrize(
    "spec",
    [{"xflip": 1}, {"rotate90": 1}, {"xint": 1}, {"scale": 1, "aniso": 1}, {"rotate": 1}, {"xfrac": 1}],
)
def test_class_maps_move_with_their_images(spec: Any) -> None:
    """Each pixel of the moved disc is 1 where the moved image of it is bright, but for the one-pixel edge."""
    pipe, classes = make_pipe(**spec), discs()
    images = classes[:, None].float()
    params = pipe.sample(images, generator=seeded())
    moved, seen = pipe.warp_classes(classes, params, 255), pipe.apply(images, params)[:, 0]
    assert moved.dtype == torch.uint8
    assert set(moved.unique().tolist()) <= {0, 1, 255}
    assert not torch.equal(moved, classes)
    inside = moved != 255
    wrong = (inside & ((seen > 0.5) != (moved == 1))).float().mean()
    assert wrong == 0 if len(spec) == 1 and not {"rotate", "xfrac"} & set(spec) else wrong < 0.01
    assert inside.all() or "xint" in spec or not {"xflip", "rotate90"} & set(spec)


def test_class_maps_from_beyond_the_border_are_outside() -> None:
    """Shifted right and down by an eighth, near the 100th percentile: strips at left and top are unknown."""
    pipe, classes = make_pipe(xint=1), torch.full([1, 64, 64], 3)
    moved = pipe.warp_classes(classes, pipe.sample(torch.zeros([1, 3, 64, 64]), 0.9999), 7)
    expected = torch.full([1, 64, 64], 3)
    expected[:, :8] = expected[:, :, :8] = 7
    assert torch.equal(moved, expected)


def test_class_maps_are_otherwise_left_alone() -> None:
    classes = discs(4, 16)
    for pipe in (make_pipe(p=0, **preset("bgcfnc")), make_pipe(brightness=1, noise=1, cutout=1, imgfilter=1)):
        assert torch.equal(pipe.warp_classes(classes, pipe.sample(images()), 255), classes)
    with pytest.raises(ValueError, match="drawn for 4 images, not 2"):
        pipe.warp_classes(classes[:2], pipe.sample(images()), 255)


@pytest.mark.parametrize(
    ("options", "there"),
    [({"p": 0}, False), ({"p": 0.2}, True), ({"aug": "ada"}, True), ({"aug": "noaug"}, False)],
)
def test_a_fixed_probability_of_zero_has_no_pipe(options: dict[str, Any], there: bool) -> None:
    """A pipe would displace GGDR's targets even then."""
    assert (build_augment_pipe(resolved_config(**{"aug": "fixed", **options})) is not None) == there
