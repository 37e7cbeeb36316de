"""What each phase computes, what its gradients reach, and that GGDR off is the baseline."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.runs import small_state
from tests.support.terms import decoded
from torch_utils.training_stats import StatsCollector
from training import loss
from training.augment import AugmentPipe, preset
from training.config.schema import LossConfig
from training.ggdr import GuidedRegularizer, cosine_distance
from training.networks import Discriminator, Generator
from training.objective import Augmentation, Microbatch, Objective
from training.phases import Reals, build_phases
from training.training_loop import run_phase

PHASES = ("G_main", "G_reg", "D_main", "D_reg")


def make_batch(state: Any, n: Any = 4) -> Any:
    generator = torch.Generator().manual_seed(1)
    data = state.config.data
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    labels = (
        torch.eye(data.label_dim)[torch.arange(n) % max(data.label_dim, 1)]
        if data.label_dim
        else torch.zeros([n, 0])
    )
    return Microbatch(
        draw(n, data.num_channels, data.resolution, data.resolution).clamp(-1, 1), labels, draw(n, 8), labels
    )


def accumulate(state: Any, name: Any, images_seen: Any = 0, seed: Any = 0) -> None:
    """Run one phase's term on a batch; gradients end up in its network."""
    module = state.G if name.startswith("G") else state.D
    module.requires_grad_(True)
    torch.manual_seed(seed)
    state.objective.phases[name](make_batch(state), 1.0, images_seen)
    module.requires_grad_(False)


def mix_styles(state: Any, probability: float) -> None:
    objective = state.objective
    objective.weights = dataclasses.replace(objective.weights, style_mixing_prob=probability)


def gradients(module: Any) -> Any:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("aug", ["noaug", "ada"])
@pytest.mark.parametrize("name", PHASES)
def test_a_phase_reaches_its_own_network_only(name: Any, aug: Any) -> None:
    state = small_state(reg_type="ggdr", aug=aug)
    accumulate(state, name)
    own, other = (state.G, state.D) if name.startswith("G") else (state.D, state.G)
    assert any(g.any() for g in gradients(own).values())
    assert gradients(other) == {}


def test_ggdr_gradient_reaches_decoder_and_encoder_and_never_g() -> None:
    """The guidance term alone, with everything that could carry a gradient into G left open."""
    state = small_state(reg_type="ggdr", aug="fixed", p=0.5)
    state.G.requires_grad_(True)
    state.D.requires_grad_(True)
    images, features = state.G(torch.randn([4, 8]), None, capture=(8,))
    params = state.pipe.sample(images)
    _, maps = state.D(state.pipe.apply(images.detach(), params), None, return_features=True)
    GuidedRegularizer((8,))(decoded(maps, Augmentation(state.pipe, params), features)).mean().backward()
    assert gradients(state.G) == {}
    reached = {name for name, g in gradients(state.D).items() if g.any()}
    encoder = {name for name, _ in state.D.named_parameters() if name.startswith(("b32.", "b16.", "b8."))}
    assert {"b8_dec.weight", "b8_dec.bias"} <= reached
    assert encoder <= reached
    assert not any(name.startswith("b4.") for name in reached)


@pytest.mark.parametrize("phase", ["G_main", "G_reg", "D_reg"])
def test_other_phases_leave_the_decoder_alone(phase: Any) -> None:
    state = small_state(reg_type="ggdr")
    state.D.requires_grad_(True)
    calls = []
    state.D.b8_dec.register_forward_hook(lambda *_: calls.append(1))
    accumulate(state, phase)
    assert calls == []


def test_ggdr_value_is_lambda_times_cosine_distance() -> None:
    state = small_state(reg_type="ggdr", aug="noaug", ggdr_weight=3)
    accumulate(state, "D_main")
    logged = state.stats.flush()["Loss/D/loss_gen_reg"].mean
    torch.manual_seed(0)
    batch = make_batch(state)
    with torch.no_grad():
        (images, features), _ = state.objective.generate(batch.z, batch.gen_labels, capture=(8,))
        _, maps = state.D(images, batch.gen_labels, return_features=True)
    assert logged == pytest.approx(3 * cosine_distance(maps[8], features[8]).mean().item(), rel=1e-5)


def test_ggdr_waits_for_its_start() -> None:
    state = small_state(reg_type="ggdr", ggdr_start_kimg=2)
    calls = []
    state.D.b8_dec.register_forward_hook(lambda *_: calls.append(1))
    accumulate(state, "D_main", images_seen=1999)
    assert calls == []
    assert "Loss/D/loss_gen_reg" not in state.stats.flush()
    assert "b8_dec.weight" not in gradients(state.D)
    accumulate(state, "D_main", images_seen=2000)
    assert "Loss/D/loss_gen_reg" in state.stats.flush()
    assert gradients(state.D)["b8_dec.weight"].any()


def test_the_target_moves_with_its_image() -> None:
    """A decoder that predicts the warped map exactly is at distance 0."""
    pipe = AugmentPipe(xflip=1, rotate90=1, scale=1)
    features = {8: torch.randn([8, 6, 8, 8])}
    params = pipe.sample(torch.zeros([8, 3, 32, 32]))
    moved = {8: pipe.warp(features[8], params)}
    augmentation = Augmentation(pipe, params)
    assert GuidedRegularizer((8,))(decoded(moved, augmentation, features)).max() < 1e-4
    assert GuidedRegularizer((8,))(decoded(features, augmentation, features)).mean() > 0.5
    assert GuidedRegularizer((8,))(decoded(features, Augmentation(), features)).max() < 1e-4


def test_path_length_takes_half_the_batch() -> None:
    state = small_state()
    accumulate(state, "G_reg")
    assert state.stats.flush()["Loss/pl_penalty"].num == 2


@pytest.mark.parametrize("aug", ["noaug", "ada"])
def test_with_weight_zero_training_is_the_baseline_bit_for_bit(aug: Any) -> None:
    """Draws, losses and all weights but the decoder's are equal, over steps that include every phase."""
    results = []
    for options in ({"reg_type": "none"}, {"reg_type": "ggdr", "ggdr_weight": 0}):
        state = small_state(aug=aug, **options)
        take_steps(state, 5)
        results.append((state.G.state_dict(), state.D.state_dict(), state.stats.flush()))
    (G0, D0, stats0), (G1, D1, stats1) = results
    assert all(torch.equal(G0[key], G1[key]) for key in G0)
    assert all(torch.equal(D0[key], D1[key]) for key in D0)
    assert {name: summary for name, summary in stats1.items() if name != "Loss/D/loss_gen_reg"} == stats0


def test_ggdr_changes_training() -> None:
    weights = []
    for options in ({"reg_type": "none"}, {"reg_type": "ggdr"}):
        state = small_state(**options)
        take_steps(state, 2)
        weights.append(state.D.b32.conv0.weight)
    assert not torch.equal(*weights)


def take_steps(state: Any, steps: Any) -> None:
    real = make_batch(state).real_images
    for _ in range(steps):
        for phase in build_phases(state):
            if state.steps % phase.interval == 0:
                run_phase(state, phase, Reals(real, torch.zeros([len(real), 0]), None, None))
        state.steps += 1


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
    values, slopes = [], []
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


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 1, 1)])
def test_cosine_distance(shape: Any) -> None:
    x = torch.rand(shape) + 0.1
    torch.testing.assert_close(cosine_distance(x, 3 * x), torch.zeros(shape[0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine_distance(x, -x), torch.full([shape[0]], 2.0))
    with pytest.raises(ValueError, match="equal shapes"):
        cosine_distance(x, x[:, :, :, :0])


def test_several_targets_are_averaged() -> None:
    """The mean of the single terms; one target alone is exactly what it was."""
    features = {res: torch.randn([4, 6, res, res]) for res in (8, 16)}
    maps = {res: torch.randn([4, 6, res, res]) for res in (8, 16)}
    pipe = AugmentPipe(xflip=1)
    params = pipe.sample(torch.zeros([4, 3, 32, 32]))
    both, first, second = (
        GuidedRegularizer(targets, weight=3)(decoded(maps, Augmentation(pipe, params), features))
        for targets in ((8, 16), (8,), (16,))
    )
    torch.testing.assert_close(both, (first + second) / 2)
    assert not torch.allclose(first, second)
    assert torch.equal(first, 3 * cosine_distance(maps[8], pipe.warp(features[8], params)))


@pytest.mark.parametrize("options", [{"ggdr_res": (8, 16)}, {"ggdr_kernel": 3, "ggdr_act": "lrelu"}])
def test_ablations_train(options: Any) -> None:
    state = small_state(reg_type="ggdr", **options)
    before = {name: p.clone() for name, p in state.D.named_parameters()}
    take_steps(state, 1)
    assert state.stats.flush()["Loss/D/loss_gen_reg"].num == 4
    decoder = [name for name in before if "_dec." in name]
    assert len(decoder) == (4 if "ggdr_res" in options else 2)
    assert all(not torch.equal(before[name], state.D.get_parameter(name)) for name in decoder)


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


def test_the_target_moves_as_the_fakes_that_d_gets() -> None:
    state = small_state(reg_type="ggdr", aug="fixed", p=1, augpipe="blit")
    applied, warped, apply, warp = [], [], state.pipe.apply, state.pipe.warp
    state.pipe.apply = lambda x, params: (applied.append(params), apply(x, params))[1]
    state.pipe.warp = lambda x, params: (warped.append(params), warp(x, params))[1]
    accumulate(state, "D_main")
    fakes, _reals = applied
    assert [params is fakes for params in warped] == [True]


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


def test_the_loss_of_g_falls_as_d_is_fooled() -> None:
    assert loss.generator_loss(torch.tensor([[-10.0], [0.0], [10.0]])).tolist() == pytest.approx(
        [10, np.log(2), 0], abs=1e-4
    )


def test_path_noise_and_penalty() -> None:
    noise = loss.path_noise(torch.zeros([100, 3, 16, 32]))
    assert float(noise.std()) == pytest.approx((16 * 32) ** -0.5, rel=0.02)
    assert loss.path_length_penalty(torch.tensor([1.0, 5.0]), torch.tensor(2.0)).tolist() == [1, 9]


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
