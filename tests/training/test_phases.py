"""Microbatches of a batch: what each shows and draws, and how a phase puts them together."""

from typing import Any

import pytest
import torch

import tests.ranks.training
from tests.support import step_checks
from tests.support.phases import compute_gradients
from tests.support.runs import plain_data, small_config, small_state
from training.objective import Objective
from training.phases import (
    MicrobatchMeans,
    Reals,
    build_phases,
    filled_gradients,
    microbatches,
    replace_nonfinite,
)
from training.run.state import RunState
from training.training_loop import run_phase, step

REAL = torch.rand([4, 3, 32, 32], generator=torch.Generator().manual_seed(0))
NO_LABELS = torch.zeros([4, 0])


def state_with(batch_gpu: Any, label_dim: Any = 0, **options: Any) -> Any:
    """A run with batches of 4 images, in microbatches of ``batch_gpu``."""
    return RunState.fresh(
        small_config(plain_data(label_dim=label_dim), batch_gpu=batch_gpu, **options), torch.device("cpu")
    )


def phase_of(state: Any, name: Any) -> Any:
    (phase,) = (phase for phase in build_phases(state) if phase.name == name)
    return phase


@pytest.mark.parametrize("name", ["G_main", "G_reg", "D_main", "D_reg"])
def test_a_phase_has_the_mean_of_its_microbatches_gradients(name: Any) -> None:
    """Each computed alone, from the same state, with the draws of its microbatch."""
    whole = state_with(2, mbstd_group=2, gamma=10)
    compute_gradients(whole, phase_of(whole, name), Reals(REAL, NO_LABELS, None, None))
    alone = []
    for picked in range(2):
        state = state_with(2, mbstd_group=2, gamma=10)
        phase = phase_of(state, name)
        phase.module.requires_grad_(True)
        for k, batch in enumerate(microbatches(state, name, Reals(REAL, NO_LABELS, None, None))):
            if k == picked:
                state.objective.phases[name](batch, phase.interval, 0)
        alone.append(filled_gradients(phase.module))
    for mean, first, second in zip(filled_gradients(phase_of(whole, name).module), *alone, strict=True):
        torch.testing.assert_close(mean, (first + second) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "term"),
    [("G_main", "g_main"), ("G_reg", "g_path_length"), ("D_main", "d_main"), ("D_reg", "d_r1")],
)
def test_losses_are_whole_in_the_backward_pass_however_many_microbatches(
    monkeypatch: pytest.MonkeyPatch, name: Any, term: Any
) -> None:
    """In float16 gradients of a loss that was divided first would underflow."""
    gains = []
    original = getattr(Objective, term)
    monkeypatch.setattr(
        Objective,
        term,
        lambda self, batch, gain, seen: (gains.append(gain), original(self, batch, gain, seen)),
    )
    state = state_with(2, mbstd_group=2, gamma=10)
    phase = phase_of(state, name)
    compute_gradients(state, phase, Reals(REAL, NO_LABELS, None, None))
    assert gains == [phase.interval] * 2


def test_microbatches_show_consecutive_images_and_draw_by_step_phase_and_place() -> None:
    state = state_with(2, label_dim=3)
    labels = torch.eye(3)[[0, 1, 2, 0]]
    first, second = microbatches(state, "G_main", Reals(REAL, labels, None, tests.ranks.training.Labels()))
    assert torch.equal(torch.cat([first.real_images, second.real_images]), REAL)
    assert torch.equal(torch.cat([first.real_labels, second.real_labels]), labels)
    assert first.gen_labels.shape == (2, 3)
    drawn = [first.z, second.z]
    torch.rand([100])  # what was drawn before does not matter
    again = [
        batch.z
        for batch in microbatches(state, "G_main", Reals(REAL, labels, None, tests.ranks.training.Labels()))
    ]
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    drawn += [
        batch.z
        for batch in microbatches(state, "D_main", Reals(REAL, labels, None, tests.ranks.training.Labels()))
    ]
    state.steps += 1
    drawn += [
        batch.z
        for batch in microbatches(state, "G_main", Reals(REAL, labels, None, tests.ranks.training.Labels()))
    ]
    assert len({tuple(z.flatten().tolist()) for z in drawn}) == 6


def test_annotations_go_with_their_images() -> None:
    state = state_with(2)
    annotations = torch.arange(4)[:, None, None].expand(4, 32, 32)
    for batch in microbatches(state, "D_main", Reals(REAL, NO_LABELS, annotations, None)):
        assert batch.annotations is not None
        assert torch.equal(REAL[batch.annotations[:, 0, 0].long()], batch.real_images)
    assert next(microbatches(state, "D_main", Reals(REAL, NO_LABELS, None, None))).annotations is None


def test_labels_are_drawn_anew_for_each_microbatch() -> None:
    state = state_with(2, label_dim=3)
    found = []
    for state.steps in range(8):
        drawn = microbatches(
            state, "G_main", Reals(REAL, torch.zeros([4, 3]), None, tests.ranks.training.Labels())
        )
        found.append([tuple(batch.gen_labels.argmax(dim=1).tolist()) for batch in drawn])
    assert any(first != second for first, second in found)
    assert len({first for first, _ in found}) > 2


def test_the_rest_of_the_draws_follows_the_microbatch_too() -> None:
    """Style mixing, noise and augmentation come from the global generator, which each microbatch seeds."""
    state = state_with(2)
    after = []
    for _ in microbatches(state, "G_main", Reals(REAL, NO_LABELS, None, None)):
        after.append(torch.rand([3]))
    assert not torch.equal(*after)
    torch.manual_seed(1)
    assert torch.equal(
        after[0],
        next(torch.rand([3]) for _ in microbatches(state, "G_main", Reals(REAL, NO_LABELS, None, None))),
    )


def test_running_means_begin_where_the_phase_found_them() -> None:
    mean = torch.tensor([1.0, 2.0])
    means = MicrobatchMeans([mean], count=4)
    for k in range(4):
        means.rewind()
        assert mean.tolist() == [1, 2]
        mean += k
        means.collect()
    means.settle()
    assert mean.tolist() == [2.5, 3.5]


def test_one_microbatch_moves_the_running_means_as_it_finds_fit() -> None:
    state, direct = small_state(), small_state()
    run_phase(state, phase_of(state, "G_reg"), Reals(REAL, NO_LABELS, None, None))
    direct.G.requires_grad_(True)
    for batch in microbatches(direct, "G_reg", Reals(REAL, NO_LABELS, None, None)):
        direct.objective.phases["G_reg"](batch, 4, 0)
    for ours, theirs in zip(state.objective.running_means, direct.objective.running_means, strict=True):
        assert ours.any()
        assert torch.equal(ours, theirs)


def test_a_phase_leaves_the_mean_of_what_its_microbatches_made_of_the_running_means() -> None:
    whole, alone = state_with(2, mbstd_group=2), []
    compute_gradients(whole, phase_of(whole, "G_reg"), Reals(REAL, NO_LABELS, None, None))
    for picked in range(2):
        state = state_with(2, mbstd_group=2)
        state.G.requires_grad_(True)
        for k, batch in enumerate(microbatches(state, "G_reg", Reals(REAL, NO_LABELS, None, None))):
            if k == picked:
                state.objective.phases["G_reg"](batch, 4, 0)
        alone.append([mean.clone() for mean in state.objective.running_means])
    for mean, first, second in zip(whole.objective.running_means, *alone, strict=True):
        assert not torch.equal(first, second)
        torch.testing.assert_close(mean, (first + second) / 2)


def test_a_step_counts_the_whole_batch() -> None:
    state = state_with(2, mbstd_group=2)
    images = torch.zeros([4, 3, 32, 32], dtype=torch.uint8)
    step(state, build_phases(state), Reals.of((images, NO_LABELS), None, torch.device("cpu")))
    assert (state.images_seen, state.steps) == (4, 1)


def test_the_phase_counts_what_ada_observes() -> None:
    state = state_with(2)
    run_phase(state, phase_of(state, "D_main"), Reals(REAL, NO_LABELS, None, None))
    assert state.ada.totals[1] == 4
    assert not state.ada.pending.any()


def test_unreached_parameters_get_a_zero_gradient_and_bad_values_are_replaced() -> None:
    module = torch.nn.Linear(2, 1)
    module.weight.grad = torch.tensor([[float("nan"), -float("inf")]])
    replace_nonfinite(filled_gradients(module))
    assert module.weight.grad.tolist() == [[0, -1e5]]
    assert module.bias.grad.tolist() == [0]
    module.weight.grad = torch.tensor([[float("inf"), 2.0]])
    replace_nonfinite(filled_gradients(module))
    assert module.weight.grad.tolist() == [[1e5, 2]]


def test_another_seed_is_another_run() -> None:
    states = [small_state(seed=seed, label_dim=3) for seed in (0, 1)]
    assert not torch.equal(states[0].G.synthesis.b4.const, states[1].G.synthesis.b4.const)
    real, c = torch.zeros([4, 3, 32, 32]), torch.zeros([4, 3])
    a, b = (
        next(microbatches(state, "G_main", Reals(real, c, None, tests.ranks.training.Labels())))
        for state in states
    )
    assert not torch.equal(a.z, b.z)
    assert not torch.equal(a.gen_labels, b.gen_labels)


def test_a_step_moves_the_average_by_what_was_seen_before_it() -> None:
    state = small_state()
    assert state.config.schedule.ema_rampup == 0.05
    state.images_seen = 4000
    name = "synthesis.b8.conv0.weight"
    before = state.G_ema.get_parameter(name).clone()
    with torch.no_grad():
        state.G.get_parameter(name).add_(1)
    step(
        state,
        build_phases(state),
        Reals.of(
            (torch.zeros([4, 3, 32, 32], dtype=torch.uint8), torch.zeros([4, 0])), None, torch.device("cpu")
        ),
    )
    share = 1 - 0.5 ** (4 / (4000 * 0.05))
    torch.testing.assert_close(
        state.G_ema.get_parameter(name),
        before.lerp(state.G.get_parameter(name), share),
        rtol=0,
        atol=1e-7,
    )


@pytest.mark.parametrize("options", [{}, {"batch_gpu": 2}], ids=str)
def test_gradients_in_half_precision(monkeypatch: pytest.MonkeyPatch, options: Any) -> None:
    """In float16 as a GPU has it, which a CPU can compute too."""
    step_checks.check_half_precision(monkeypatch, torch.device("cpu"), **options)
