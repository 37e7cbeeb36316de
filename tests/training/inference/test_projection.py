"""The search for a latent: schedule, regularisation, and that an own picture comes back."""

import math
from typing import Any

import pytest
import torch

from tests.support.small_networks import small_generator
from torch_utils.pixels import to_uint8
from training.inference import projection
from training.inference.projection import (
    ProjectionConfig,
    learning_rate_factor,
    noise_regularization,
    perceptual_distance,
    project,
    shrink,
    w_noise_factor,
    w_statistics,
)
from training.inference.renderer import synthesize


def flat(images: Any) -> Any:
    """A "perceptual" distance that is the mean squared difference, in units of [0, 1]."""
    values = images.flatten(1)
    return values / 255 / math.sqrt(values.shape[1])


def test_learning_rate_schedule() -> None:
    factors = [learning_rate_factor(t, 0.05, 0.25) for t in (0, 0.025, 0.05, 0.5, 0.75, 0.875, 1)]
    assert factors == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0])


def test_schedule_of_the_noise_on_w() -> None:
    factors = [w_noise_factor(t, 0.05, 0.75) for t in (0, 0.375, 0.75, 0.9)]
    assert factors == pytest.approx([0.05, 0.0125, 0, 0])
    target = torch.full([3, 8, 8], 200, dtype=torch.uint8)
    noisy, still, long = (
        search(small_generator(resolution=8), target, num_steps=8, **options)
        for options in ({}, {"w_noise": 0.0}, {"w_noise_length": 1.0})
    )
    assert noisy[0].distance != still[0].distance
    assert noisy[1].distance != long[1].distance


def test_regularisation_of_white_noise_is_small_at_every_scale() -> None:
    noise = torch.randn([1, 1, 64, 64], generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 3
    assert noise_regularization(noise) < 0.1
    assert noise_regularization(smooth) > 0.5


def test_regularisation_by_hand() -> None:
    rows = (
        torch.tensor([1.0, -1.0]).repeat(4)[:, None].expand(8, 8)[None, None]
    )  # stripes: neighbours agree in x, differ in y
    assert noise_regularization(rows).item() == pytest.approx(1 + 1)
    coarse = torch.ones([1, 1, 16, 16])  # at 16: 1 + 1; at 8, twice as large: 16 + 16
    assert noise_regularization(coarse).item() == pytest.approx(2 + 32)
    assert noise_regularization(torch.ones([1, 1, 4, 4])).item() == pytest.approx(2)
    shifted = torch.zeros([1, 1, 8, 8])
    shifted[..., 0], shifted[..., -1] = 1, 1  # neighbours only around the edge
    assert noise_regularization(shifted).item() == pytest.approx((8 / 64) ** 2 + (16 / 64) ** 2)


def test_noise_maps_keep_their_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.randn([1, 1, 8, 8]) * 3 + 5
    shape = noise - noise.mean()
    projection.standardize_(noise)
    assert noise.mean().item() == pytest.approx(0, abs=1e-6)
    assert noise.square().mean().item() == pytest.approx(1)
    assert torch.allclose(noise / noise.norm(), shape / shape.norm(), atol=1e-6)
    seen = []
    monkeypatch.setattr(projection, "standardize_", lambda values: seen.append(values.shape[-1]))
    search(small_generator(), torch.zeros([3, 16, 16], dtype=torch.uint8), num_steps=2)
    assert seen == [4, 8, 8, 16, 16] * 2


def test_large_pictures_are_averaged_down() -> None:
    images = torch.arange(512.0).expand(1, 1, 512, 512)
    assert torch.equal(shrink(images)[0, 0, 0], torch.arange(256.0) * 2 + 0.5)
    assert shrink(images[:, :, :256, :256]).shape == (1, 1, 256, 256)


def test_statistics_of_w() -> None:
    G = small_generator()
    mean, std = w_statistics(G, torch.zeros([1, 0]), samples=3000, seed=1)
    w = G.mapping(torch.randn([20000, 8]), None)[:, 0]
    assert mean.shape == (1, 1, 8)
    assert torch.allclose(mean[0, 0], w.mean(dim=0), atol=0.1)
    assert std == pytest.approx(w.var(dim=0).sum().sqrt().item(), rel=0.05)
    conditional = small_generator(c_dim=2)
    first, second = (
        w_statistics(conditional, torch.eye(2)[i : i + 1], samples=100, seed=1)[0] for i in (0, 1)
    )
    assert not torch.allclose(first, second)


def search(G: Any, target: Any, c: Any = None, **options: Any) -> Any:
    config = ProjectionConfig(**{"num_steps": 100, "w_samples": 1000, **options})
    return list(project(G, target, torch.zeros([1, 0]) if c is None else c, flat, config))


@pytest.mark.parametrize(("channels", "c_dim"), [(3, 0), (1, 2)])
def test_an_own_picture_comes_back(channels: Any, c_dim: Any) -> None:
    G = small_generator(channels=channels, c_dim=c_dim)
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(0.02)  # as in a trained network: little of the picture comes from noise
    c = torch.eye(c_dim)[:1] if c_dim else torch.zeros([1, 0])
    before = {name: value.clone() for name, value in G.state_dict().items()}
    target = to_uint8(
        G(torch.randn([1, 8], generator=torch.Generator().manual_seed(3)), c, noise_mode="const")
    )[0]
    steps = search(G, target, c)
    assert len(steps) == 100

    def distance(w: Any) -> Any:
        image = to_uint8(synthesize(G.synthesis, w.expand(-1, G.num_ws, -1), "const"))[0]
        return perceptual_distance(flat, image, target)

    assert distance(steps[-1].w) < 0.2 * distance(steps[0].start)
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
    assert not any(p.requires_grad for p in G.parameters())
    assert torch.equal(steps[1].start, steps[0].w)
    assert all(step.loss >= step.distance > 0 for step in steps)


def test_the_search_depends_on_its_seed_alone() -> None:
    G = small_generator(resolution=8)
    target = torch.full([3, 8, 8], 200, dtype=torch.uint8)
    torch.manual_seed(1)
    first = search(G, target, num_steps=10)
    torch.manual_seed(2)
    again, other = search(G, target, num_steps=10), search(G, target, num_steps=10, seed=1)
    assert torch.equal(first[-1].w, again[-1].w)
    assert [step.loss for step in first] == [step.loss for step in again]
    assert not torch.equal(first[-1].w, other[-1].w)


def test_noise_maps_take_part_and_are_kept_from_carrying_the_picture() -> None:
    G = small_generator()
    target = torch.randint(256, [3, 16, 16], generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    free, held = (search(G, target, noise_weight=weight) for weight in (0.0, 1e5))
    assert free[-1].distance < 0.95 * held[-1].distance
    assert all(step.loss == step.distance for step in free)


def test_a_network_without_noise() -> None:
    steps = search(
        small_generator(resolution=8, use_noise=False), torch.zeros([3, 8, 8], dtype=torch.uint8), num_steps=2
    )
    assert all(step.loss == step.distance for step in steps)


def test_the_first_step_of_the_ramp_is_still() -> None:
    steps = search(small_generator(resolution=8), torch.zeros([3, 8, 8], dtype=torch.uint8), num_steps=4)
    assert torch.equal(steps[0].w, steps[0].start)
    assert not torch.equal(steps[1].w, steps[1].start)


def test_target_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"expected a target of shape \(3, 16, 16\)"):
        search(small_generator(), torch.zeros([3, 8, 8], dtype=torch.uint8))


def test_a_network_in_training_is_left_as_it_is() -> None:
    G = small_generator(resolution=8).train().requires_grad_(True)
    search(G, torch.zeros([3, 8, 8], dtype=torch.uint8), num_steps=2)
    assert G.training
    assert all(p.requires_grad and p.grad is None for p in G.parameters())
