"""Parts of a training step, for tests of what they compute."""

from typing import Any

import torch
from torch import nn

from training.objective import Microbatch
from training.phases import Phase, Reals, build_phases, clean, reduce
from training.phases import accumulate as accumulate_microbatches
from training.run.state import RunState
from training.training_loop import run_phase


def compute_gradients(state: RunState, phase: Phase, reals: Reals) -> None:
    """All of a phase but its optimiser: the parameters' gradients are there afterwards."""
    accumulated = accumulate_microbatches(state, phase, reals)
    reduce(state, phase, accumulated)
    clean(state, phase, accumulated.gradients)


def make_batch(state: RunState, n: int = 4) -> Microbatch:
    """A microbatch for :func:`small_state`'s networks, always the same."""
    generator, data = torch.Generator().manual_seed(1), state.config.data
    images = torch.randn([n, data.num_channels, data.resolution, data.resolution], generator=generator)
    z = torch.randn([n, 8], generator=generator)
    classes = torch.arange(n) % max(data.label_dim, 1)
    labels = torch.eye(data.label_dim)[classes] if data.label_dim else torch.zeros([n, 0])
    return Microbatch(images.clamp(-1, 1), labels, z, labels)


def accumulate(state: RunState, phase: str, batch: Microbatch | None = None, *, images_seen: int = 0) -> None:
    """Run one phase on a batch; gradients end up in its network."""
    module = state.G if phase.startswith("G") else state.D
    module.requires_grad_(requires_grad=True)
    torch.manual_seed(0)
    state.objective.phases[phase](make_batch(state) if batch is None else batch, 1.0, images_seen)
    module.requires_grad_(requires_grad=False)


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients that there are, by parameter."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def take_steps(state: RunState, steps: int, real: torch.Tensor | None = None) -> None:
    """Run the due phases on the same unlabelled images, and nothing else of a step."""
    images = make_batch(state).real_images if real is None else real
    reals: Any = Reals(images, torch.zeros([len(images), 0]), None, None)
    for _ in range(steps):
        for phase in build_phases(state):
            if phase.is_due(state.steps):
                run_phase(state, phase, reals)
        state.steps += 1
