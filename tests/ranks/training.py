"""Training steps in groups of one, two and four processes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.ranks import become
from tests.support.phases import compute_gradients
from tests.support.runs import plain_data, small_config
from torch_utils import distributed
from training.config.schema import TrainConfig
from training.data.batches import EndlessShuffle
from training.phases import Reals, build_phases, filled_gradients
from training.run.state import RunState
from training.training_loop import run_phase

BATCH, MICROBATCH, IMAGES = 8, 2, 24


class Labels:
    """A data set as far as drawing labels is concerned."""

    def __len__(self) -> int:
        return IMAGES

    def get_label(self, index: int) -> np.ndarray:
        label: np.ndarray = np.eye(3, dtype=np.float32)[index % 3]
        return label


def config(gpus: int, **options: Any) -> TrainConfig:
    classes = 3 if options.get("reg_type") == "seg" else 0
    data = plain_data(label_dim=3) if options.pop("cond", False) else plain_data(annotation_classes=classes)
    whole = small_config(data, batch=BATCH, mbstd_group=2, gamma=10, **options)
    whole = dataclasses.replace(whole, schedule=dataclasses.replace(whole.schedule, batch_gpu=MICROBATCH))
    return dataclasses.replace(whole, runtime=dataclasses.replace(whole.runtime, gpus=gpus))


def train(state: RunState, steps: int) -> dict[str, torch.Tensor]:
    """Train on drawn images in the order that a run would take.

    Before the steps, every phase is run once without a step of its optimiser, so that all see the same
    weights; gives the gradients of that, by phase and parameter.
    """
    images = torch.rand([IMAGES, 3, 32, 32], generator=torch.Generator().manual_seed(0)) * 2 - 1
    classes = torch.randint(
        3, [IMAGES, 32, 32], generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    share = BATCH // distributed.world_size()
    order = iter(
        EndlessShuffle(
            IMAGES, seed=0, rank=distributed.rank(), world_size=distributed.world_size(), block=share
        )
    )
    found = {}
    for step in range(-1, steps):
        picked = torch.tensor([next(order) for _ in range(share)])
        labels = torch.eye(3)[picked % 3] if state.config.data.label_dim else torch.zeros([share, 0])
        annotations = classes[picked] if state.config.seg else None
        for phase in build_phases(state):
            if step == -1:
                compute_gradients(state, phase, Reals(images[picked], labels, annotations, Labels()))
                found.update(
                    {f"{phase.name}.{i}": g.clone() for i, g in enumerate(filled_gradients(phase.module))}
                )
                phase.optimizer.zero_grad(set_to_none=True)
            elif step % phase.interval == 0:
                run_phase(state, phase, Reals(images[picked], labels, annotations, Labels()))
        state.update_average()
        state.count_step()
        state.adapt_augmentation()
    return found


def result(state: RunState, found: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What must not depend on the number of processes."""
    parts = {"G": state.G, "D": state.D, "G_ema": state.G_ema}
    weights = {
        f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()
    }
    pipe = {} if state.pipe is None else {"p": state.pipe.p}
    ada = (
        {} if state.ada is None else {"totals": state.ada.totals, "batches": torch.tensor(state.ada.batches)}
    )
    state.stats.gather()
    stats = {name: (s.num, s.mean, s.std) for name, s in state.stats.flush().items()}
    return {
        "gradients": found,
        "weights": weights,
        "rest": {"pl_mean": state.objective.pl_mean, **pipe, **ada},
        "stats": stats,
    }


def compare_group_sizes(rank: int, folder: Path, port: int, *, cases: dict[str, dict[str, Any]]) -> None:
    """Each case by rank 0 alone, by ranks 0 and 1, by all four; ``CASE-SIZE.pt`` keeps the results."""
    for size in (1, 2, 4):
        become(rank, size, port)
        if rank >= size:
            continue
        with distributed.joined(cuda=False, timeout=60):
            for name, options in cases.items():
                state = RunState.fresh(config(size, **options), torch.device("cpu"))
                content = result(state, train(state, 4))
                if rank == 0:
                    torch.save(content, folder / f"{name}-{size}.pt")
                distributed.maxima([0], f"case {name}")
