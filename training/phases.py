"""One phase of a step: gradients over the microbatches of all ranks, and an optimiser step.

The global batch is cut into microbatches (:attr:`training.config.schema.TrainConfig.microbatch`). Microbatch
k shows the same images and makes the same random draws whichever rank works on it, so results do not depend
on the number of processes, up to the order of summation.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from torch_utils import distributed
from torch_utils.device import to_device
from torch_utils.seeding import derive_seed, seed_everything
from training.data.batches import ImageBatch
from training.data.dataset import ImageFolderDataset
from training.data.pictures import from_uint8
from training.objective import Microbatch
from training.run.state import RunState


@dataclass(frozen=True)
class Reals:
    """This rank's part of one global batch, on its device. All phases of a step use the same.

    Attributes:
        images: float32 ``[n, C, H, W]`` in [-1, 1].
        labels: ``[n, c_dim]``.
        annotations: uint8 ``[n, H, W]``; None where the data set has none.
        dataset: labels of generated images are drawn from it.
    """

    images: torch.Tensor
    labels: torch.Tensor
    annotations: torch.Tensor | None
    dataset: ImageFolderDataset

    @staticmethod
    def of(batch: ImageBatch, dataset: ImageFolderDataset, device: torch.device) -> "Reals":
        """A batch of :func:`training.data.batches.image_batches`, moved to ``device``."""
        images, labels, *annotations = batch
        return Reals(
            from_uint8(images, device),
            labels.to(device, non_blocking=True),
            annotations[0].to(device, non_blocking=True) if annotations else None,
            dataset,
        )


@dataclass(frozen=True)
class Phase:
    """One of the optimisations within a step.

    Attributes:
        name: of the objective's phase.
        module: the network whose parameters move.
        optimizer: of that network.
        interval: it runs in every ``interval``-th step, with its loss multiplied by ``interval``.
    """

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    interval: int

    def is_due(self, step: int) -> bool:
        """Whether it runs in a step."""
        return step % self.interval == 0


def build_phases(state: RunState) -> list[Phase]:
    """The phases of a step, in order."""
    optim = state.config.optim
    known = {
        "G_main": Phase("G_main", state.G, state.G_opt, 1),
        "G_reg": Phase("G_reg", state.G, state.G_opt, optim.G_reg_interval),
        "D_main": Phase("D_main", state.D, state.D_opt, 1),
        "D_reg": Phase("D_reg", state.D, state.D_opt, optim.D_reg_interval),
    }
    return [known[name] for name in state.objective.phases]


@dataclass(frozen=True)
class Accumulated:
    """What a phase accumulated on this rank.

    Attributes:
        gradients: of all parameters of the phase's network, summed over this rank's microbatches.
        means: the running means over its microbatches.
    """

    gradients: list[torch.Tensor]
    means: "MicrobatchMeans"


def accumulate(state: RunState, phase: Phase, reals: Reals) -> Accumulated:
    """Run a phase's passes forward and backward over this rank's microbatches."""
    means = MicrobatchMeans(state.objective.running_means, state.config.num_microbatches)
    run = state.objective.phases[phase.name]
    phase.module.requires_grad_(requires_grad=True)
    for batch in microbatches(state, phase.name, reals):
        means.rewind()
        run(batch, phase.interval, state.images_seen)
        means.collect()
    phase.module.requires_grad_(requires_grad=False)
    return Accumulated(filled_gradients(phase.module), means)


def reduce(state: RunState, phase: Phase, accumulated: Accumulated) -> None:
    """Average gradients and running means over the microbatches of all ranks, in one message."""
    observed = [] if state.ada is None else [state.ada.pending]
    gradients, means, count = accumulated.gradients, accumulated.means, state.config.num_microbatches
    distributed.sum_flat_([*gradients, *means.totals, *observed], f"the gradients of {phase.name}")
    if count > 1:  # here and not in the loss: in float16 a smaller loss has gradients that underflow
        torch._foreach_mul_(gradients, 1 / count)
    means.settle()
    if state.ada is not None:
        state.ada.settle()


def clean(state: RunState, phase: Phase, gradients: Sequence[torch.Tensor]) -> None:
    """Count gradients that are not finite, and replace their values."""
    state.health.observe(phase.name, gradients)
    replace_nonfinite(gradients)


def replace_nonfinite(gradients: Iterable[torch.Tensor]) -> None:
    """Replace in place NaN by 0, and ±infinity by ±1e5, as the reference does."""
    for gradient in gradients:
        torch.nan_to_num(gradient, nan=0, posinf=1e5, neginf=-1e5, out=gradient)


def optimize(phase: Phase) -> None:
    """Step the optimiser and free the gradients: the next phase needs the memory for the other network."""
    phase.optimizer.step()
    phase.optimizer.zero_grad(set_to_none=True)


def microbatches(state: RunState, phase: str, reals: Reals) -> Iterator[Microbatch]:
    """This rank's microbatches, with fresh latents, and labels drawn from the data set.

    The global generators are seeded for each, so use one up before taking the next.
    """
    config, size = state.config, state.config.microbatch
    count = len(reals.images) // size
    annotations = [None] * count if reals.annotations is None else reals.annotations.split(size)
    parts = zip(reals.images.split(size), reals.labels.split(size), annotations, strict=True)
    for k, (images, labels, annotated) in enumerate(parts, start=distributed.rank() * count):
        seed_everything(config.seed, "step", state.steps, phase, k)
        z = torch.randn([len(images), config.generator.z_dim], device=state.device)
        gen_labels = torch.zeros([len(images), 0], device=state.device)
        if config.data.label_dim > 0:
            rng = np.random.default_rng(derive_seed(config.seed, "labels", state.steps, phase, k))
            drawn = rng.integers(len(reals.dataset), size=len(images))
            labels_drawn = np.stack([reals.dataset.get_label(int(i)) for i in drawn])
            gen_labels = to_device(torch.from_numpy(labels_drawn), state.device)
        yield Microbatch(images, labels, z, gen_labels, annotated)


class MicrobatchMeans:
    """Running means over the microbatches of a phase.

    Each microbatch starts from the values before the phase; the phase ends with the mean of the results. So
    the order of microbatches and their place on ranks do not matter, and with a single one the result is the
    reference's.

    Args:
        tensors: the running means, which change in place between :meth:`rewind` and :meth:`collect`.
        count: microbatches of all ranks.
    """

    def __init__(self, tensors: list[torch.Tensor], count: int) -> None:
        self._tensors = tensors
        self._count = count
        self._start = [tensor.clone() for tensor in tensors]
        self.totals = [torch.zeros_like(tensor) for tensor in tensors]

    def rewind(self) -> None:
        """Restore the values before the phase; call it before each microbatch."""
        torch._foreach_copy_(self._tensors, self._start)

    def collect(self) -> None:
        """Add the results of a microbatch; call it after each."""
        torch._foreach_add_(self.totals, self._tensors)

    def settle(self) -> None:
        """Set the means from ``totals``, summed over the ranks."""
        torch._foreach_div_(self.totals, self._count)
        torch._foreach_copy_(self._tensors, self.totals)


def filled_gradients(module: nn.Module) -> list[torch.Tensor]:
    """The gradients of all parameters, in their order. Parameters without one get zeros.

    So Adam's second moment decays for them too, as in the reference.
    """
    for param in module.parameters():
        if param.grad is None:
            param.grad = torch.zeros_like(param)
    return [param.grad for param in module.parameters() if param.grad is not None]
