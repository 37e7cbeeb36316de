"""Closed walks: they pass their points, are smooth where they close, and do not depend on the batch."""

from typing import Any

import pytest
import torch

from dnnlib.errors import UserError
from tests.support.small_networks import small_generator
from training.inference.generation import images_from_seeds
from training.inference.interpolation import looping_path, walk_images
from training.inference.renderer import GeneratorRenderer


def test_the_path_passes_its_points_and_closes_smoothly() -> None:
    keys = torch.randn([5, 3], generator=torch.Generator().manual_seed(0))
    path = looping_path(keys, 200)
    assert path.shape == (1000, 3)
    assert path.dtype == torch.float32
    assert torch.allclose(path[::200], keys, atol=1e-6)
    steps = path.double().roll(-1, 0) - path.double()
    assert (
        steps.roll(-1, 0) - steps
    ).abs().max() < 0.05 * steps.abs().max()  # no jump in speed, nor where it closes


def test_two_points_are_enough_and_one_is_not() -> None:
    assert looping_path(torch.tensor([[0.0], [1.0]]), 4).shape == (8, 1)
    with pytest.raises(UserError, match="at least two seeds, got 1"):
        looping_path(torch.zeros([1, 2]), 4)


@pytest.mark.parametrize("space", ["z", "w"])
def test_walks_pass_the_seeds_pictures(space: Any) -> None:
    renderer = GeneratorRenderer(small_generator())
    walks = [[1, 2, 3], [4, 5, 6]]
    found = list(walk_images(renderer, walks, 4, space=space, truncation_psi=0.7, batch=5))
    assert len(found) == 12
    pictures = dict(images_from_seeds(renderer, range(7), truncation_psi=0.7))
    for frame, seeds in ((0, (1, 4)), (4, (2, 5)), (8, (3, 6))):
        for cell, seed in enumerate(seeds):
            assert (found[frame][cell].int() - pictures[seed].int()).abs().max() <= 1
    for one, other in zip(
        found, walk_images(renderer, walks, 4, space=space, truncation_psi=0.7, batch=1), strict=True
    ):
        assert torch.equal(one, other)


def test_spaces_differ_between_the_seeds() -> None:
    renderer = GeneratorRenderer(small_generator())
    z, w = (list(walk_images(renderer, [[1, 2]], 2, space=space)) for space in ("z", "w"))
    assert not torch.equal(z[1], w[1])


def test_what_is_wrong_shows_at_once() -> None:
    with pytest.raises(UserError, match="at least two seeds"):
        walk_images(GeneratorRenderer(small_generator()), [[1]], 4)
