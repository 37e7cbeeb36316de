"""What each phase computes, and what its gradients reach."""

import dataclasses
from typing import Any

import pytest
import torch

from tests.support.phases import accumulate, gradients, make_batch
from tests.support.runs import small_state
from torch_utils.training_stats import StatsCollector
from training import loss
from training.augment import AugmentPipe, preset
from training.config.schema import LossConfig
from training.networks import Discriminator, Generator
from training.objective import Microbatch, Objective

PHASES = ("G_main", "G_reg", "D_main", "D_reg")


def mix_styles(state: Any, probability: float) -> None:
    objective = state.objective
    objective.weights = dataclasses.replace(objective.weights, style_mixing_prob=probability)


@pytest.mark.parametrize("aug", ["noaug", "ada"])
@pytest.mark.parametrize("name", PHASES)
def test_a_phase_reaches_its_own_network_only(name: Any, aug: Any) -> None:
    state = small_state(reg_type="ggdr", aug=aug)
    accumulate(state, name)
    own, other = (state.G, state.D) if name.startswith("G") else (state.D, state.G)
    assert any(g.any() for g in gradients(own).values())
    assert gradients(other) == {}


def test_path_length_takes_half_the_batch() -> None:
    state = small_state()
    accumulate(state, "G_reg")
    assert state.stats.flush()["Loss/pl_penalty"].num == 2


def test_d_loss_is_the_true_sum_of_both_terms() -> None:
    state = small_state(aug="noaug")
    accumulate(state, "D_main")
    stats = state.stats.flush()
    softplus = torch.nn.functional.softplus
    torch.manual_seed(0)
    batch = make_batch(state)
    with torch.no_grad():
        images, _ = state.objective.generate(batch.z, batch.gen_labels)
        expected = softplus(state.D(images, None)) + softplus(-state.D(batch.real_images, None))
    assert stats["Loss/D/loss"].mean == pytest.approx(expected.mean().item(), rel=1e-5)
    assert {"Loss/scores/real", "Loss/scores/fake", "Loss/signs/real", "Loss/signs/fake"} <= set(stats)


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("phase", ["G_reg", "D_reg"])
def test_gradient_penalties_against_finite_differences(phase: Any, augmented: Any) -> None:
    """R1 and path length, differentiated twice through networks and augmentation, along one direction.

    Activations are smooth here: with leaky ReLU the penalties themselves jump where a unit changes sides. The
    running mean of path lengths follows the batch, and gradients pass through its share.
    """
    torch.manual_seed(2)
    sizes = {"channel_base": 128, "channel_max": 8}
    G = Generator(
        8, 0, 8, 32, 3, {"num_layers": 2, "activation": "softplus"}, {**sizes, "activation": "softplus"}
    )
    smooth = {"activation": "softplus"}
    D = Discriminator(0, 32, 3, **sizes, block_kwargs=smooth, epilogue_kwargs=smooth)
    pipe = AugmentPipe(**preset("bgcfnc")) if augmented else None
    G.requires_grad_(False)
    D.requires_grad_(False)
    objective = Objective(
        G,
        D,
        pipe,
        StatsCollector(),
        LossConfig(r1_gamma=10, pl_weight=2, style_mixing_prob=0.9, pl_decay=0.3),
    )
    (G if phase == "G_reg" else D).requires_grad_(True)
    weight = (
        G.get_parameter("synthesis.b16.conv0.weight")
        if phase == "G_reg"
        else D.get_parameter("b16.conv0.weight")
    )
    original, direction = weight.detach().clone(), torch.randn(weight.shape)
    values: list[float] = []
    slopes: list[float] = []
    for shift in (-1e-2, 0.0, 1e-2):
        weight.data.copy_(original + shift * direction)
        weight.grad = None
        objective.pl_mean = torch.zeros([])
        torch.manual_seed(0)
        objective.phases[phase](
            Microbatch(
                torch.rand([4, 3, 32, 32]), torch.zeros([4, 0]), torch.randn([4, 8]), torch.zeros([4, 0])
            ),
            1.0,
            0,
        )
        values.append(objective.stats.flush()["Loss/G/reg" if phase == "G_reg" else "Loss/D/reg"].mean)
        assert weight.grad is not None
        slopes.append(float((weight.grad * direction).sum()))
    assert slopes[1] == pytest.approx((values[2] - values[0]) / 2e-2, rel=0.03)


def test_weights_of_the_gradient_penalties() -> None:
    """γ/2 of R1, and the path length weight; what is reported is what is differentiated (above)."""
    state = small_state(gamma=10)
    for name in ("D_reg", "G_reg"):
        accumulate(state, name)
    stats = state.stats.flush()
    assert stats["Loss/D/reg"].mean == pytest.approx(5 * stats["Loss/r1_penalty"].mean)
    assert stats["Loss/G/reg"].mean == pytest.approx(2 * stats["Loss/pl_penalty"].mean)


def test_the_running_mean_of_path_lengths() -> None:
    """It moves by a hundredth of the way to the batch's mean, and holds no graph."""
    state = small_state()
    accumulate(state, "G_reg")
    torch.manual_seed(0)
    batch = make_batch(state)
    state.G.requires_grad_(True)
    images, ws = state.objective.generate(batch.z[:2], batch.gen_labels[:2])
    lengths = loss.path_lengths(images, ws, loss.path_noise(images))
    torch.testing.assert_close(state.objective.pl_mean, lengths.detach().mean() * 0.01)
    assert not state.objective.pl_mean.requires_grad


def test_switched_off_terms_are_no_phases() -> None:
    state = small_state(cfg="cifar", mbstd_group=4)
    assert list(state.objective.phases) == ["G_main", "D_main", "D_reg"]
    assert state.config.loss.style_mixing_prob == 0


def test_style_mixing_takes_later_layers_from_another_latent() -> None:
    state = small_state()
    batch = make_batch(state)
    base = state.G.mapping(batch.z, None)
    mix_styles(state, 1.0)
    _, ws = state.objective.generate(batch.z, None)
    changed = (ws != base).any(dim=2).all(dim=0)
    assert not changed[0]
    assert changed[-1]
    assert changed.tolist() == sorted(changed.tolist())
    mix_styles(state, 0.0)
    assert torch.equal(state.objective.generate(batch.z, None)[1], base)


@pytest.mark.parametrize(("name", "count"), [("G_main", 1), ("G_reg", 0), ("D_main", 2), ("D_reg", 1)])
@pytest.mark.parametrize("reg_type", ["none", "ggdr"])
def test_all_that_d_sees_is_augmented(name: Any, count: Any, reg_type: Any) -> None:
    state = small_state(reg_type=reg_type, aug="fixed", p=1, augpipe="blit", gamma=10)
    made, seen, apply = [], [], state.pipe.apply
    state.pipe.apply = lambda images, params: made.append(apply(images, params)) or made[-1]
    state.D.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    accumulate(state, name)
    assert len(seen) == count
    assert all(a is b for a, b in zip(made, seen, strict=True))


def test_annotations_move_as_the_reals_that_d_gets() -> None:
    state = small_state(reg_type="seg", aug="fixed", p=1, augpipe="blit")
    applied, given, apply = [], [], state.pipe.apply
    state.pipe.apply = lambda x, params: (applied.append(params), apply(x, params))[1]
    state.pipe.warp_classes = lambda classes, params, outside: (given.append(params), classes)[1]
    state.D.requires_grad_(True)
    state.objective.d_main(
        dataclasses.replace(make_batch(state), annotations=torch.zeros([4, 32, 32], dtype=torch.uint8)),
        1.0,
        0,
    )
    _fakes, reals = applied
    assert [params is reals for params in given] == [True]


@pytest.mark.parametrize("reg_type", ["none", "ggdr"])
def test_images_are_discriminated_by_their_own_labels(reg_type: Any) -> None:
    state = small_state(label_dim=3, reg_type=reg_type, gamma=10)
    batch = make_batch(state)
    batch = dataclasses.replace(batch, gen_labels=batch.real_labels.roll(1, dims=1))
    seen = []
    state.D.register_forward_pre_hook(
        lambda _module, args: seen.append("gen" if torch.equal(args[1], batch.gen_labels) else "real")
    )
    for name, expected in {"G_main": ["gen"], "D_main": ["gen", "real"], "D_reg": ["real"]}.items():
        (state.G if name == "G_main" else state.D).requires_grad_(True)
        state.objective.phases[name](batch, 1.0, 0)
        assert seen == expected, name
        seen.clear()


def test_r1_counts_for_ada_and_the_statistics() -> None:
    state = small_state(gamma=10)
    for name, count in (("D_main", 4), ("D_reg", 8)):
        accumulate(state, name)
        assert state.ada.pending[1] == count
    stats = state.stats.flush()
    assert (stats["Loss/scores/real"].num, stats["Loss/signs/real"].num) == (8, 8)
    signs = stats["Loss/signs/real"]
    assert signs.mean**2 + signs.std**2 == pytest.approx(1)


def test_style_mixing_follows_its_probability_and_leaves_the_first_layer() -> None:
    state = small_state()
    batch = make_batch(state)
    mix_styles(state, 0.5)
    base, mixed = state.G.mapping(batch.z, None), []
    for seed in range(100):
        torch.manual_seed(seed)
        state.G.mapping.w_avg.zero_()
        changed = (state.objective.generate(batch.z, None)[1] != base).any(dim=2).all(dim=0)
        assert not changed[0]
        mixed.append(bool(changed.any()))
    assert 30 < sum(mixed) < 70
    torch.testing.assert_close(
        state.G.mapping.w_avg, 0.005 * base[:, 0].mean(dim=0)
    )  # the second latents do not count
