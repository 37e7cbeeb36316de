from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from metrics.sampling import CHUNK, Mirrored, fake_images, microbatches, real_images

CPU = torch.device("cpu")


def fakes(generator: Any, dataset: Any, count: int, seed: int = 0) -> torch.Tensor:
    return torch.cat(list(fake_images(generator, dataset, count, seed=seed, device=CPU)))


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("batch", [1, 16, 32, 100])
def test_reals_come_in_order(make_dataset: Any, batch: int, in_memory: bool) -> None:
    dataset = make_dataset(count=40)
    dataset.in_memory = in_memory
    batches = list(real_images(dataset, 33, batch))
    assert [len(b) for b in batches][:-1] == [max(batch, CHUNK)] * (len(batches) - 1)
    assert np.array_equal(torch.cat(batches).numpy(), dataset.images[:33])


def test_an_error_of_the_data_set_arrives(make_dataset: Any) -> None:
    dataset = make_dataset(count=40)

    class Broken(type(dataset)):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            if index == 21:
                raise UserError("image 21 is broken")
            return super().__getitem__(index)

    with pytest.raises(UserError, match="image 21"):
        list(real_images(Broken(count=40), 40, 4))
    with pytest.raises(UserError, match="has 40 images, not 41"):
        list(real_images(dataset, 41, 4))


def test_image_i_depends_on_seed_and_i_alone(make_dataset: Any, make_generator: Any) -> None:
    dataset = make_dataset()
    long = fakes(make_generator(), dataset, 3 * CHUNK)
    assert torch.equal(fakes(make_generator(), dataset, 2 * CHUNK + 3), long[: 2 * CHUNK + 3])
    assert not torch.equal(fakes(make_generator(), dataset, 5, seed=1), long[:5])
    assert len(torch.unique(long.flatten(1), dim=0)) == len(long)


def test_every_chunk_has_noise_of_its_own(make_dataset: Any, make_generator: Any) -> None:
    generator = make_generator()
    generator.weight.zero_()
    assert len(torch.unique(fakes(generator, make_dataset(), 3 * CHUNK).flatten(1), dim=0)) == 3 * CHUNK


def test_global_random_state_neither_matters_nor_changes(make_dataset: Any, make_generator: Any) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = fakes(make_generator(), make_dataset(), 20)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(fakes(make_generator(), make_dataset(), 20), first)


def test_bytes_as_in_the_reference(make_dataset: Any, make_generator: Any) -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])
    generator = make_generator()
    generator.forward = lambda z, c: values.reshape(1, 1, 1, 6).expand(len(z), 3, 1, 6)
    assert fakes(generator, make_dataset(), 1)[0, 0, 0].tolist() == [0, 0, 128, 191, 255, 255]


def test_labels_are_drawn_from_the_data_set(make_dataset: Any, make_generator: Any) -> None:
    dataset = make_dataset(classes=4)
    dataset.classes[:] = np.where(
        np.arange(40) % 4 == 0, 3, 1
    )  # classes 0 and 2 never, 1 three times as often as 3
    generator = make_generator(c_dim=4)
    fakes(generator, dataset, 800)
    counts = torch.cat(generator.labels).sum(0)
    assert counts[[0, 2]].tolist() == [0, 0]
    assert 500 < counts[1] < 700


def test_the_generator_keeps_its_mode(make_dataset: Any, make_generator: Any) -> None:
    generator = make_generator().train()
    fakes(generator, make_dataset(), 4)  # the toy asserts that it runs in evaluation mode
    assert generator.training


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_generator_is_an_error(make_dataset: Any, make_generator: Any, value: float) -> None:
    generator = make_generator()
    generator.weight[0, 0] = value
    with pytest.raises(UserError, match="not finite"):
        fakes(generator, make_dataset(), 4)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("batch", [1, 16, 17, 1000])
@pytest.mark.parametrize("count", [1, 16, 100, 2000])
def test_microbatches_are_whole_chunks_taken_in_turns(count: int, batch: int, world_size: int) -> None:
    shares = [microbatches(count, batch, rank, world_size) for rank in range(world_size)]
    in_order = [share[turn] for turn in range(len(shares[0])) for share in shares if turn < len(share)]
    assert [i for microbatch in in_order for i in microbatch] == list(range(count))
    assert all(
        microbatch.start % CHUNK == 0 and len(microbatch) <= max(batch + CHUNK - 1, CHUNK)
        for microbatch in in_order
    )
    assert sum(map(bool, shares)) == min(world_size, -(-count // CHUNK))  # nobody is idle who needn't be


def test_ranks_together_render_the_same_images(make_dataset: Any, make_generator: Any) -> None:
    dataset, where = make_dataset(classes=3), {"seed": 0, "device": CPU}
    alone = fakes(make_generator(c_dim=3), dataset, 100)
    shares = [
        list(fake_images(make_generator(c_dim=3), dataset, 100, batch_size=20, rank=r, world_size=2, **where))
        for r in range(2)
    ]
    assert [len(part) for share in shares for part in share] == [32, 32, 32, 4]
    assert torch.equal(torch.cat([shares[0][0], shares[1][0], shares[0][1], shares[1][1]]), alone)


def test_a_mirrored_copy_follows(make_dataset: Any) -> None:
    plain = make_dataset(count=5, classes=2)
    both = Mirrored(plain)
    assert (len(both), both.name, both.resolution, both.num_channels, both.label_dim) == (
        10,
        "arrays",
        8,
        3,
        2,
    )
    images = torch.cat(list(real_images(both, 10, 4))).numpy()
    assert np.array_equal(images, np.concatenate([plain.images, plain.images[..., ::-1]]))
    assert np.array_equal(both.get_label(7), plain.get_label(2))
    assert np.array_equal(both[7][1], plain.get_label(2))
    with pytest.raises(IndexError):
        both[10]
