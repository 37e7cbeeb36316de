"""GGDR: its value, what its gradients reach, and that GGDR off is the baseline."""

from typing import Any

import pytest
import torch

from tests.support.phases import accumulate, gradients, make_batch, take_steps
from tests.support.runs import small_state
from tests.support.terms import decoded
from training.augment import AugmentPipe
from training.ggdr import GuidedRegularizer, cosine_distance
from training.objective import Augmentation


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 1, 1)])
def test_cosine_distance(shape: Any) -> None:
    x = torch.rand(shape) + 0.1
    torch.testing.assert_close(cosine_distance(x, 3 * x), torch.zeros(shape[0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine_distance(x, -x), torch.full([shape[0]], 2.0))
    with pytest.raises(ValueError, match="equal shapes"):
        cosine_distance(x, x[:, :, :, :0])


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


def test_the_target_moves_as_the_fakes_that_d_gets() -> None:
    state = small_state(reg_type="ggdr", aug="fixed", p=1, augpipe="blit")
    applied, warped, apply, warp = [], [], state.pipe.apply, state.pipe.warp
    state.pipe.apply = lambda x, params: (applied.append(params), apply(x, params))[1]
    state.pipe.warp = lambda x, params: (warped.append(params), warp(x, params))[1]
    accumulate(state, "D_main")
    fakes, _reals = applied
    assert [params is fakes for params in warped] == [True]


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
