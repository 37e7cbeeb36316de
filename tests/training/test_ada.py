from typing import Any

import pytest
import torch

from training.augment import AdaController, AugmentPipe, preset

STEP = 32 * 4 / 500_000


def run(controller: Any, p: Any, batches: Any, logits: Any) -> Any:
    return [batch(controller, p, logits) for _ in range(batches)]


def batch(controller: Any, p: Any, logits: Any) -> Any:
    controller.observe(logits)
    controller.settle()
    return controller.update(p)


@pytest.mark.parametrize(
    ("logits", "direction"), [([1.0, 2.0, 0.1, 3.0], 1), ([1.0, -2.0, 0.1, -3.0], -1), ([-9.0], -1)]
)
def test_p_moves_by_a_fixed_step_every_interval(logits: Any, direction: Any) -> None:
    controller, p = AdaController(target=0.6, batch_size=32), torch.tensor(0.3)
    assert run(controller, p, 3, torch.tensor(logits)) == [False] * 3
    assert float(p) == pytest.approx(0.3, abs=1e-7)
    assert run(controller, p, 5, torch.tensor(logits)) == [True, False, False, False, True]
    assert float(p) == pytest.approx(0.3 + 2 * direction * STEP, abs=1e-7)


def test_p_stays_on_target() -> None:
    controller, p = AdaController(target=0.5, batch_size=32), torch.tensor(0.3)
    run(controller, p, 4, torch.tensor([1.0, 1, 1, -1]))
    assert float(p) == pytest.approx(0.3, abs=1e-7)


def test_p_never_goes_below_0_and_is_moved_in_place() -> None:
    pipe = AugmentPipe(**preset("bgc"))
    pipe.p.fill_(1.5 * STEP)
    controller, p = AdaController(target=0.6, batch_size=32), pipe.p
    run(controller, p, 12, torch.tensor([-1.0]))
    assert pipe.p is p
    assert float(p) == 0


def test_p_may_exceed_1() -> None:
    controller, p = AdaController(target=0.6, batch_size=100, interval=1, kimg=0.1), torch.tensor(0.5)
    run(controller, p, 1, torch.tensor([1.0]))
    assert float(p) == 1.5


def test_each_move_sees_only_the_logits_since_the_last() -> None:
    controller, p = AdaController(target=0.0, batch_size=32), torch.tensor(0.3)
    run(controller, p, 4, torch.ones(100))
    run(controller, p, 4, -torch.ones(5))
    assert float(p) == pytest.approx(0.3, abs=1e-7)


def test_signs_are_averaged_over_logits_not_batches() -> None:
    controller, p = AdaController(target=0.0, batch_size=32, interval=2), torch.tensor(0.3)
    batch(controller, p, torch.ones(10, 1))
    batch(controller, p, -torch.ones(4, 1))
    assert float(p) > 0.3


def test_without_logits_p_stays() -> None:
    controller, p = AdaController(target=0.6, batch_size=32), torch.tensor(0.3)
    assert [controller.update(p) for _ in range(4)][-1]
    assert float(p) == pytest.approx(0.3, abs=1e-7)


def test_ranks_agree() -> None:
    ranks = [AdaController(target=0.0, batch_size=32, interval=1) for _ in range(2)]
    ranks[0].observe(torch.ones(3))
    ranks[1].observe(-torch.ones(8))
    total = ranks[0].pending + ranks[1].pending
    ps = [torch.tensor(0.3), torch.tensor(0.3)]
    for controller, p in zip(ranks, ps, strict=True):
        controller.pending.copy_(total)  # as the phase does, which sums over the ranks
        controller.settle()
        assert controller.totals.tolist() == [-5, 11]
        controller.settle()
        assert controller.totals.tolist() == [-5, 11], "counted once"
        controller.update(p)
    assert float(ps[0]) == float(ps[1]) < 0.3


def test_what_is_pending_does_not_count_yet() -> None:
    controller, p = AdaController(target=0.0, batch_size=32, interval=1), torch.tensor(0.3)
    controller.observe(torch.ones(3))
    controller.update(p)
    assert float(p) == pytest.approx(0.3, abs=1e-7)
    batch(controller, p, torch.ones(3))
    assert float(p) > 0.3


def test_continuing_from_a_state_changes_nothing() -> None:
    batches = [torch.randn(8, generator=torch.Generator().manual_seed(i)) for i in range(11)]
    straight, p = AdaController(target=0.1, batch_size=32), torch.tensor(0.3)
    moved = [batch(straight, p, b) for b in batches]
    first, q = AdaController(target=0.1, batch_size=32), torch.tensor(0.3)
    again = [batch(first, q, b) for b in batches[:6]]
    state = first.state_dict()
    first.observe(torch.ones(100))  # must not reach the saved state
    first.settle()
    second = AdaController(target=0.1, batch_size=32)
    second.load_state_dict(state)
    again += [batch(second, q, b) for b in batches[6:]]
    assert again == moved
    assert float(p) == float(q) != 0.3


@pytest.mark.parametrize("bad", [{"target": 1.5}, {"interval": 0}, {"kimg": 0}, {"batch_size": -1}])
def test_bad_settings_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        AdaController(**{"target": 0.6, "batch_size": 32, **bad})


def test_observing_needs_no_gradient() -> None:
    controller = AdaController(target=0.6, batch_size=32)
    controller.observe(torch.ones(4, requires_grad=True) * 2)
    assert not controller.pending.requires_grad
