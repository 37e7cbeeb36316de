"""One phase of a step: gradients over all portions of the global batch, averaged over the ranks, and an
optimiser step.

The global batch is cut into portions (:attr:`training.config.schema.TrainConfig.portion`). Portion k shows
the same images and makes the same random draws whichever rank works on it, so the number of processes changes
a run by the order of its additions only.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from torch_utils import distributed
from torch_utils.device import to_device
from torch_utils.seeding import derive_seed, seed_everything
from training.data.dataset import ImageFolderDataset
from training.objective import Batch
from training.run.state import RunState


@dataclass(frozen=True)
class Phase:
    """One of the steps within a step: of ``module``'s parameters, by ``optimizer``, at every ``interval``-th
    step."""

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    interval: int


def build_phases(state: RunState) -> list[Phase]:
    """The phases of a step, in order."""
    optim = state.config.optim
    known = {
        "G_main": Phase("G_main", state.G, state.G_opt, 1),
        "G_reg": Phase("G_reg", state.G, state.G_opt, optim.G_reg_interval),
        "D_main": Phase("D_main", state.D, state.D_opt, 1),
        "D_reg": Phase("D_reg", state.D, state.D_opt, optim.D_reg_interval),
    }
    return [known[name] for name in state.objective.terms]


def run_phase(
    state: RunState,
    phase: Phase,
    real: torch.Tensor,
    labels: torch.Tensor,
    dataset: ImageFolderDataset,
    annotations: torch.Tensor | None = None,
) -> None:
    """Compute the gradients of a phase, step its optimiser, and drop them.

    Args:
        real, labels, annotations: this rank's part of the global batch, ``[batch_size / ranks, ...]``.
    """
    compute_gradients(state, phase, real, labels, dataset, annotations)
    phase.optimizer.step()
    phase.optimizer.zero_grad(set_to_none=True)  # now, as the next phase needs the memory for another network


def compute_gradients(
    state: RunState,
    phase: Phase,
    real: torch.Tensor,
    labels: torch.Tensor,
    dataset: ImageFolderDataset,
    annotations: torch.Tensor | None = None,
) -> None:
    """Mean of the gradients over the portions of all ranks, with what is not finite replaced.

    Args:
        real, labels, annotations: this rank's part of the global batch, ``[batch_size / ranks, ...]``.
    """
    count = state.config.schedule.batch_size // state.config.portion
    term = state.objective.terms[phase.name]
    means = PortionMeans(state.objective.running_means, count)
    phase.module.requires_grad_(True)
    for batch in portions(state, phase.name, real, labels, dataset, annotations):
        means.rewind()
        term(batch, phase.interval, state.images_seen)
        means.collect()
    phase.module.requires_grad_(False)
    observed = [] if state.ada is None else [state.ada.pending]
    # Everything that the ranks have to tell each other travels in one message.
    found = filled_gradients(phase.module)
    distributed.sum_flat_([*found, *means.totals, *observed], f"the gradients of {phase.name}")
    if count > 1:  # here and not in the loss: in float16 a smaller loss has gradients that underflow
        torch._foreach_mul_(found, 1 / count)
    means.settle()
    if state.ada is not None:
        state.ada.settle()
    state.health.observe(phase.name, found)
    clean(found)


def portions(
    state: RunState,
    phase: str,
    real: torch.Tensor,
    labels: torch.Tensor,
    dataset: ImageFolderDataset,
    annotations: torch.Tensor | None = None,
) -> Iterator[Batch]:
    """This rank's portions (:attr:`training.config.schema.TrainConfig.portion`), with fresh latents and
    labels drawn from the data set's.

    Each is led by seeding the global generators for it, so it has to be used up before the next one is asked
    for.
    """
    config, size = state.config, state.config.portion
    first = distributed.rank() * len(real) // size
    parts: list[Sequence[Any]] = [real.split(size), labels.split(size)]
    parts.append([None] * len(parts[0]) if annotations is None else annotations.split(size))
    for k, (images, c, annotated) in enumerate(zip(*parts, strict=True), start=first):
        seed_everything(config.seed, "step", state.steps, phase, k)
        z = torch.randn([len(images), config.generator.z_dim], device=state.device)
        gen_labels = torch.zeros([len(images), 0], device=state.device)
        if config.data.label_dim > 0:
            rng = np.random.default_rng(derive_seed(config.seed, "labels", state.steps, phase, k))
            drawn = np.stack(
                [dataset.get_label(int(i)) for i in rng.integers(len(dataset), size=len(images))]
            )
            gen_labels = to_device(torch.from_numpy(drawn), state.device)
        yield Batch(images, c, z, gen_labels, annotated)


class PortionMeans:
    """Running means that every portion of a phase moves from where the phase found them; the phase leaves the
    mean of the results.

    So it does not matter which rank works on which portion, and a single portion moves them as the reference
    does.

    Args:
        tensors: changed in place by what runs between :meth:`rewind` and :meth:`collect`.
        count: portions of all ranks.
    """

    def __init__(self, tensors: list[torch.Tensor], count: int) -> None:
        self._tensors = tensors
        self._count = count
        self._start = [tensor.clone() for tensor in tensors]
        self.totals = [torch.zeros_like(tensor) for tensor in tensors]

    def rewind(self) -> None:
        """Back to where the phase found them; before each portion."""
        torch._foreach_copy_(self._tensors, self._start)

    def collect(self) -> None:
        """Take note of what a portion left."""
        torch._foreach_add_(self.totals, self._tensors)

    def settle(self) -> None:
        """Set the means, after ``totals`` was summed over the ranks."""
        torch._foreach_copy_(self._tensors, torch._foreach_div(self.totals, self._count))


def filled_gradients(module: nn.Module) -> list[torch.Tensor]:
    """The gradients of all parameters, in their order, after those that a phase did not reach have got a zero
    gradient.

    With it, Adam's second moment decays for them too, as in the reference.
    """
    for param in module.parameters():
        if param.grad is None:
            param.grad = torch.zeros_like(param)
    return [param.grad for param in module.parameters() if param.grad is not None]


def clean(gradients: Iterable[torch.Tensor]) -> None:
    """In place: NaN to 0, ±infinity to ±1e5 (as in the reference)."""
    for gradient in gradients:
        torch.nan_to_num(gradient, nan=0, posinf=1e5, neginf=-1e5, out=gradient)
