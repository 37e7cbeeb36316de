"""What a step does on a GPU, as far as a machine without one can tell.

The ``meta`` device takes every branch that is not the CPU's, and raises where the host looks at a value: a
tensor there has none. So a step that runs on it never waits for its device.
"""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tests.ranks.training
from tests.support.runs import plain_data, small_config
from torch_utils import device
from training import training_loop
from training.augment import AugmentPipe, preset
from training.augment.geometric import inverse_matrix, required_margin, sufficient_margin
from training.networks.layers import HalfPrecision
from training.phases import Reals, build_phases
from training.run.state import RunState
from training.training_loop import run_phase

META = torch.device("meta")


class FromHost(TorchDispatchMode):
    """Notes the shapes of what is copied from the host to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            function is torch.ops.aten._to_copy.default
            and args[0].device.type == "cpu"
            and kwargs.get("device") == META
        ):
            self.shapes.append(tuple(args[0].shape))
        if function is torch.ops.aten.copy_.default and args[0].device != args[1].device:
            self.shapes.append(tuple(args[1].shape))
        return function(*args, **kwargs)


@pytest.mark.parametrize(
    "options",
    [
        {"reg_type": "none", "aug": "noaug"},
        {"reg_type": "ggdr"},
        {"reg_type": "ggdr", "augpipe": "bgcfnc", "batch_gpu": 2, "mbstd_group": 2},
        {"reg_type": "ggdr", "label_dim": 3, "cfg": "cifar", "mbstd_group": 4},
        {"reg_type": "ggdr", "precision": "bf16", "nhwc": True},
        {"reg_type": "seg", "annotation_classes": 3},
    ],
    ids=["baseline", "ggdr", "all augmentations", "conditional", "bfloat16", "segmentation"],
)
def test_a_step_never_waits_for_its_device(monkeypatch: pytest.MonkeyPatch, options: Any) -> None:
    monkeypatch.setattr(HalfPrecision, "half_types", {"meta": torch.float16})
    options = dict(options)
    data = plain_data(**{name: options.pop(name, 0) for name in ("label_dim", "annotation_classes")})
    config = small_config(data, **{"gamma": 10, "aug": "ada", **options})
    state = RunState.build(config, META)
    real, labels = (
        torch.rand([4, 3, 32, 32], device="meta"),
        torch.zeros([4, config.data.label_dim], device="meta"),
    )
    annotations = (
        torch.zeros([4, 32, 32], dtype=torch.uint8, device="meta") if data.annotation_classes else None
    )
    with FromHost() as copies:
        for phase in build_phases(state):
            # PyTorch has no fused Adam for this device.
            plain = dataclasses.replace(
                phase, optimizer=torch.optim.Adam(phase.module.parameters(), foreach=True)
            )
            run_phase(state, plain, Reals(real, labels, annotations, tests.ranks.training.Labels()))
        state.update_average()
        if state.ada is not None:
            for state.ada.batches in (1, 2, 3, 4):
                state.ada.update(state.pipe.p)
    assert all(len(shape) <= 2 for shape in copies.shapes), (
        "only tables of random numbers and labels come from the host"
    )


def test_the_meta_device_does_raise_where_the_host_looks() -> None:
    for look in (lambda x: x.cpu(), lambda x: x.item(), lambda x: bool(x), lambda x: x.nonzero().tolist()):
        with pytest.raises((RuntimeError, NotImplementedError)):
            look(torch.zeros([], device="meta"))


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors are treated as if they were on a device that the host does not wait for."""
    monkeypatch.setattr(device, "host_sees", lambda x: False)


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_augmentation_without_waiting_gives_the_same(monkeypatch: pytest.MonkeyPatch, p: Any) -> None:
    pipe = AugmentPipe(**preset("bgcf"))
    pipe.p.fill_(p)
    images, features = torch.rand([6, 3, 32, 32], requires_grad=True), torch.rand([6, 5, 16, 16])
    results = []
    for seen in (True, False):
        monkeypatch.setattr(device, "host_sees", lambda x, seen=seen: seen)
        params = pipe.sample(images, generator=torch.Generator().manual_seed(1))
        assert (params.geometric.reach is None) == seen
        found = pipe.apply(images, params)
        results.append(
            [found, pipe.warp(features, params), torch.autograd.grad(found.square().sum(), images)[0]]
        )
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=2e-4)
    if p == 0:
        assert torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize(
    "settings",
    [preset("bg"), {"rotate": 1}, {"scale": 1, "scale_std": 1}, {"xfrac": 1, "aniso": 1}, {"xint": 1}],
)
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_the_margin_that_is_known_without_looking_is_large_enough(unseen: Any, settings: Any, p: Any) -> None:
    """Also where only some transforms apply, whose effects others would have cancelled."""
    pipe = AugmentPipe(**settings)
    pipe.p.fill_(p)
    generator = torch.Generator().manual_seed(0)
    for size in (16, 64):
        for _ in range(20):
            params = pipe.sample(torch.empty([8, 3, size, size]), generator=generator).geometric
            needed = required_margin(inverse_matrix(params, size, size), size, size)
            known = sufficient_margin(params.reach, size, size)
            assert all(k >= n for k, n in zip(known, needed, strict=True)), (known, needed)
            assert max(known) <= size - 1


def test_the_margin_is_not_always_the_largest(unseen: Any) -> None:
    pipe = AugmentPipe(xint=1)
    params = pipe.sample(torch.empty([8, 3, 64, 64]), generator=torch.Generator().manual_seed(0)).geometric
    assert max(sufficient_margin(params.reach, 64, 64)) < 20


@pytest.mark.parametrize(
    "settings", [preset("bgc"), {"rotate": 1}, {"scale": 0.5, "aniso": 1, "xfrac": 1, "xint": 1}]
)
@pytest.mark.parametrize(
    ("p", "bound"), [(0.0, 0.0), (0.001, 0.001), (0.1, 0.1), (0.1, 0.12), (0.4, 0.4), (3.0, 3.0)]
)
def test_a_bound_of_p_makes_the_margin_smaller_and_it_stays_large_enough(
    unseen: Any, settings: Any, p: Any, bound: Any
) -> None:
    pipe = AugmentPipe(**settings)
    pipe.p.fill_(p)
    smaller, generator = 0, torch.Generator()
    for seed in range(60):
        found = []
        for pipe.p_bound in (math.inf, bound):
            found.append(
                pipe.sample(torch.empty([8, 3, 64, 64]), generator=generator.manual_seed(seed)).geometric
            )
        needed = required_margin(inverse_matrix(found[1], 64, 64), 64, 64)
        anyhow, known = (sufficient_margin(params.reach, 64, 64) for params in found)
        assert all(a >= k >= n for a, k, n in zip(anyhow, known, needed, strict=True))
        assert all(
            torch.equal(getattr(found[0], name), getattr(found[1], name))
            for name in ("blit", "shift", "linear", "offset")
        )
        smaller += known < anyhow
        if p == 0:
            assert max(known) == 7
    assert smaller >= (15 if p <= 0.1 else 0)


def test_the_bound_follows_p(monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves with each step of ADA, is exact at a tick, and a state has it."""
    config = small_config(plain_data(), aug="ada")
    state = RunState.fresh(config, torch.device("cpu"))
    assert state.p_bound == 0
    monkeypatch.setattr(training_loop, "run_phase", lambda *args: None)
    real, labels = torch.zeros([4, 3, 32, 32], dtype=torch.uint8), torch.zeros([4, 0])
    for _ in range(8):
        state.ada.totals = torch.tensor([-4.0, 4.0])
        training_loop.step(state, build_phases(state), Reals.of((real, labels), None, torch.device("cpu")))
    assert (float(state.pipe.p), state.p_bound) == (0, pytest.approx(2 * state.ada.step_size))
    other = RunState.fresh(config, torch.device("cpu"))
    other.load_state_dict(state.state_dict())
    assert other.p_bound == state.p_bound
