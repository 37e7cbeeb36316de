"""Calls of one fixed size, and noise from seeds."""

from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from tests.support.small_networks import small_generator
from torch_utils.pixels import to_uint8
from training.inference.generation import images_from_seeds, ws_from_seeds
from training.inference.renderer import (
    CALL_SIZE,
    GeneratorRenderer,
    in_fixed_calls,
    noise_from_seeds,
    synthesize,
)
from training.networks import Generator


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_every_call_has_the_same_size(count: Any) -> None:
    sizes = []

    def function(x: Any, y: Any) -> Any:
        sizes.append((len(x), len(y)))
        return x * 10 + y[:, 0, 0, None]

    x, y = torch.arange(count * 2.0).reshape(count, 2), torch.arange(float(count)).reshape(count, 1, 1)
    result = in_fixed_calls(function, (x, y), torch.device("cpu"), call_size=4)
    assert torch.equal(result, x * 10 + y[:, 0])
    assert sizes == [(4, 4)] * -(-count // 4)


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("noise_mode", ["const", "random"])
def test_pictures_depend_on_their_seed_alone(
    monkeypatch: pytest.MonkeyPatch, size: Any, noise_mode: Any
) -> None:
    monkeypatch.setitem(CALL_SIZE, "cpu", size)
    renderer = GeneratorRenderer(small_generator(channel_max=32))

    def draw(seeds: Any, batch: Any) -> Any:
        return dict(images_from_seeds(renderer, seeds, noise_mode=noise_mode, batch=batch))

    expected = draw(list(range(11)), 16)
    for batch in (1, 2, 5):
        for seed, image in draw(list(range(11)), batch).items():
            assert torch.equal(image, expected[seed])
    assert torch.equal(draw([7], 16)[7], expected[7])


def test_random_noise_is_what_the_network_would_draw() -> None:
    G = small_generator()
    ws = G.mapping(torch.randn([1, 8]), None)
    torch.manual_seed(5)
    expected = G.synthesis(ws, noise_mode="random")
    torch.manual_seed(5)
    noise = [torch.randn([1, 1, res, res]) for res in (4, 8, 8, 16, 16)]
    assert torch.equal(synthesize(G.synthesis, ws, noise), expected)


def test_noise_maps_are_each_seeds_own() -> None:
    many, alone = noise_from_seeds([3, 4], [4, 8]), noise_from_seeds([4], [4, 8])
    assert [tuple(values.shape) for values in many] == [(2, 1, 4, 4), (2, 1, 8, 8)]
    for both, one in zip(many, alone, strict=True):
        assert torch.equal(both[1:], one)
        assert not torch.equal(both[:1], one)


def test_truncation_needs_an_average() -> None:
    G = Generator(
        8, 0, 8, 8, 3, {"num_layers": 1, "w_avg_beta": None}, {"channel_base": 64, "channel_max": 8}
    )
    renderer = GeneratorRenderer(G)
    assert len(list(images_from_seeds(renderer, [0, 1]))) == 2
    for function in (
        lambda: images_from_seeds(renderer, [0], truncation_psi=0.5),
        lambda: ws_from_seeds(renderer, [0], None, 0.5),
    ):
        with pytest.raises(UserError, match="leave --trunc at 1"):
            function()


def test_what_is_wrong_shows_before_the_first_picture() -> None:
    renderer = GeneratorRenderer(small_generator())
    for options in ({"class_idx": 0}, {"seeds": [2**32]}):
        with pytest.raises(UserError):
            images_from_seeds(renderer, **{"seeds": [0], **options})
    with pytest.raises(UserError):
        ws_from_seeds(renderer, [2**32], None, 1)


@pytest.mark.parametrize("noise_mode", ["const", "random"])
def test_a_network_without_noise(noise_mode: Any) -> None:
    G = small_generator(use_noise=False)
    renderer = GeneratorRenderer(G)
    assert renderer.noise_resolutions == []
    z = torch.from_numpy(np.random.RandomState(3).randn(1, 8)).float()
    ((_, image),) = images_from_seeds(renderer, [3], noise_mode=noise_mode)
    assert torch.equal(image, to_uint8(G(z, None))[0])
