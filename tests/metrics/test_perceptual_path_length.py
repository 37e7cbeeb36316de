from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from metrics.perceptual_path_length import PAIRS, PathSampling, path_distances, path_length, slerp
from metrics.sampling import CHUNK, microbatches

PATHS = [PathSampling(space, sampling, crop=False) for space in ("z", "w") for sampling in ("full", "end")]
GREY = 127.5  # what a step of 1 in the generator's output is in 0..255


class Flat:
    """A linear detector: the pixels. Keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[torch.Tensor] = []

    def perceptual(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.append(images)
        return images.flatten(1)


def measure(
    generator: Any,
    dataset: Any,
    paths: PathSampling,
    count: int,
    detector: Flat | None = None,
    **options: int,
) -> np.ndarray:
    where: dict[str, Any] = {"seed": options.pop("seed", 0), "device": torch.device("cpu")}
    places = microbatches(count, **{"batch_size": CHUNK, **options})
    return np.concatenate(
        list(path_distances(generator, dataset, detector or Flat(), paths, places, **where))
    )


def test_w_closed_form(make_linear_generator: Any, make_dataset: Any) -> None:
    """An isometry s of w, shown by an isometry: the length is s² |w1 - w0|², on average 2 s² w_dim."""
    distances = measure(
        make_linear_generator(z_dim=40, scale=0.1),
        make_dataset(),
        PathSampling("w", "full", crop=False),
        1600,
    )
    assert distances.mean() == pytest.approx(
        (GREY * 0.1) ** 2 * 2 * 40, rel=0.02
    )  # its standard error is 0.6 %


def test_z_closed_form(make_linear_generator: Any, make_dataset: Any) -> None:
    """Angles θ on the sphere have density sin(θ)/2, so the length is s² E[θ²] = s² (π² - 4)/2."""
    distances = measure(
        make_linear_generator(z_dim=3, scale=0.1), make_dataset(), PathSampling("z", "full", crop=False), 3200
    )
    assert distances.mean() == pytest.approx(
        (GREY * 0.1) ** 2 * (np.pi**2 - 4) / 2, rel=0.04
    )  # its standard error is 1.2 %
    assert distances.max() <= (GREY * 0.1 * np.pi) ** 2 * 1.01


@pytest.mark.parametrize("paths", PATHS, ids=str)
def test_every_distance_is_that_of_its_pair(
    make_linear_generator: Any, make_dataset: Any, paths: PathSampling
) -> None:
    """The steps that were rendered have the length ε of the path, and the distances are theirs."""
    generator = make_linear_generator(z_dim=20)
    distances = measure(generator, make_dataset(), paths, CHUNK)
    steps = torch.cat(generator.synthesis.given).double()[:, 0].unflatten(0, (-1, 2))
    moved = (steps[:, 1] - steps[:, 0]) / paths.epsilon
    assert torch.from_numpy(distances) == pytest.approx((GREY * 0.1 * moved).square().sum(1), rel=0.02)
    if paths.space == "w":
        start, end = generator.mapped[0].flip(1).double().chunk(2)  # as the mapping gives them
        assert moved == pytest.approx(end - start, rel=1e-2, abs=5e-3)
        t = ((steps[:, 0] - start) * (end - start)).sum(1) / (end - start).square().sum(1)
        assert steps[:, 0] == pytest.approx(start + t[:, None] * (end - start), abs=1e-5)
    else:
        assert steps.norm(dim=2) == pytest.approx(torch.ones(CHUNK, 2), abs=1e-6)
        start, _ = generator_at_start(make_linear_generator, make_dataset, paths)
        t = (steps[:, 0] * start).sum(1).clamp(-1, 1).acos() / moved.norm(dim=1)
    if paths.sampling == "end":
        assert t == pytest.approx(torch.zeros(CHUNK), abs=1e-3)
    else:
        assert t.min() > 0
        assert t.max() < 1
        assert t.std() > 0.15


def generator_at_start(
    make_linear_generator: Any, make_dataset: Any, paths: PathSampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the paths in z begin and which way they go: the same seed, sampled at the end."""
    generator = make_linear_generator(z_dim=20)
    measure(generator, make_dataset(), PathSampling("z", "end", crop=False), CHUNK)
    steps = torch.cat(generator.synthesis.given).double()[:, 0].unflatten(0, (-1, 2))
    return steps[:, 0], steps[:, 1]


def test_both_ends_share_label_and_noise_and_every_chunk_has_its_own(
    make_linear_generator: Any, make_dataset: Any
) -> None:
    generator = make_linear_generator(c_dim=3)
    generator.synthesis.weight.requires_grad_()  # as a network's are that is being trained
    measure(generator, make_dataset(classes=3), PATHS[0], 2 * CHUNK)
    assert all(torch.equal(*labels.chunk(2)) for labels in generator.labels)
    assert len(torch.cat(generator.labels).unique(dim=0)) > 1
    noise = torch.stack(generator.synthesis.noise)
    assert noise[0].std() > 0.5
    assert len(noise.unique(dim=0)) == 2  # one for each chunk, though a chunk is rendered in parts
    assert not generator.synthesis.noise_const.any()  # the network is left as it was


@pytest.mark.parametrize(
    ("resolution", "crop", "shape"),
    [
        (16, False, (16, 16)),
        (16, True, (8, 8)),
        (256, False, (256, 256)),
        (512, False, (256, 256)),
        (512, True, (128, 128)),
    ],
)
def test_framing(
    make_linear_generator: Any, make_dataset: Any, resolution: int, crop: bool, shape: tuple[int, int]
) -> None:
    generator, detector = make_linear_generator(channels=1, resolution=resolution), Flat()
    ramp = torch.linspace(-1, 1, resolution)
    picture = ramp[:, None] * 0.5 + ramp[None] * 0.25
    generator.synthesis.forward = lambda ws, **_: picture.expand(len(ws), 1, -1, -1)
    measure(generator, make_dataset(channels=1), PathSampling("w", "end", crop), 1, detector)
    shown = detector.shown[0]
    assert shown.shape == (2 * PAIRS, 1, *shape)
    whole = (picture + 1) * GREY
    if crop:
        whole = whole[resolution * 3 // 8 : resolution * 7 // 8, resolution // 4 : resolution * 3 // 4]
    factor = len(whole) // shape[0]
    expected = whole.unflatten(0, (-1, factor)).mean(1).unflatten(1, (-1, factor)).mean(2)
    assert shown[0, 0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("paths", PATHS, ids=str)
def test_path_i_depends_on_seed_and_i_alone(
    make_linear_generator: Any, make_dataset: Any, paths: PathSampling
) -> None:
    def run(count: int, **options: int) -> np.ndarray:
        return measure(make_linear_generator(c_dim=2), make_dataset(classes=2), paths, count, **options)

    long = run(3 * CHUNK)
    assert np.array_equal(run(CHUNK + 3), long[: CHUNK + 3])
    assert np.array_equal(run(3 * CHUNK, batch_size=100), long)
    assert np.array_equal(
        np.concatenate([run(2 * CHUNK + 5, rank=rank, world_size=3) for rank in range(3)]),
        long[: 2 * CHUNK + 5],
    )
    assert not np.isclose(run(CHUNK, seed=1), long[:CHUNK], rtol=1e-3).any()
    assert len(np.unique(long)) == len(long)


def test_global_random_state_neither_matters_nor_changes(
    make_linear_generator: Any, make_dataset: Any
) -> None:
    before = torch.get_rng_state()
    first = measure(make_linear_generator(), make_dataset(), PATHS[0], CHUNK)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert np.array_equal(measure(make_linear_generator(), make_dataset(), PATHS[0], CHUNK), first)


def test_a_diverged_generator_is_an_error(make_linear_generator: Any, make_dataset: Any) -> None:
    generator = make_linear_generator()
    generator.synthesis.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        measure(generator, make_dataset(), PATHS[0], CHUNK)


def test_slerp_walks_the_great_circle_at_constant_speed() -> None:
    a, b = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    points = torch.cat([slerp(a, b, torch.tensor([[t]])) for t in (0.0, 1 / 3, 1.0)])
    assert points == pytest.approx(torch.tensor([[1, 0, 0], [3**0.5 / 2, 0.5, 0], [0, 1, 0]]), abs=1e-6)


def test_path_length_leaves_out_both_tails() -> None:
    values = np.arange(1001.0)
    values[[0, 1000]] = -1e9, 1e9
    assert path_length(np.random.RandomState(0).permutation(values)) == pytest.approx(500)
    assert path_length([1.0, 2.0, 6.0]) == 3  # few values are all kept
    # Of 100 values the percentiles fall between the two outermost on either side, and widen to the outer one.
    assert path_length([-100.0] + [1.0] * 98 + [300.0]) == pytest.approx(2.98)
    for wrong in ([], [[1.0]], [1.0, np.nan]):
        with pytest.raises(ValueError, match="finite distances"):
            path_length(wrong)
