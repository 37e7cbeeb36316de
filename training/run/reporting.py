"""What a run prints and shows: status line, warnings, statistics, image grids."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from dnnlib.durations import format_duration
from dnnlib.files import AppendFile
from metrics.sampling import ImageDataset
from torch_utils import distributed
from torch_utils.pixels import to_uint8
from torch_utils.seeding import derive_seed
from torch_utils.training_stats import Summary
from training.data.pictures import save_grid


@dataclass(frozen=True)
class SampleGrid:
    """The images that a run shows: the same latents and labels each time.

    Attributes:
        columns, rows: of the grid.
        reals: uint8 ``[columns · rows, C, H, W]``.
        z: ``[columns · rows, z_dim]``.
        c: ``[columns · rows, c_dim]``, the labels of ``reals``.
    """

    columns: int
    rows: int
    reals: torch.Tensor
    z: torch.Tensor
    c: torch.Tensor

    @staticmethod
    def draw(dataset: ImageDataset, resolution: int, z_dim: int, seed: int) -> "SampleGrid":
        """Choose real images and latents. With labels, each row shows one class.

        The picture is about 2048×1024 pixels for large images, and at most 16×8 images for small ones.
        """
        columns, rows = int(np.clip(2048 // resolution, 4, 16)), int(np.clip(1024 // resolution, 2, 8))
        rng = np.random.default_rng(derive_seed(seed, "grid"))
        order = rng.permutation(len(dataset))
        indices = (
            order[: columns * rows]
            if dataset.label_dim == 0
            else _row_per_class(dataset, order, columns, rows)
        )
        indices = np.resize(indices, columns * rows)
        items = [dataset[int(i)] for i in indices]
        return SampleGrid(
            columns,
            rows,
            reals=torch.from_numpy(np.stack([image for image, _ in items])),
            z=torch.from_numpy(rng.standard_normal([columns * rows, z_dim])).float(),
            c=torch.from_numpy(np.stack([label for _, label in items])).float(),
        )

    def save_reals(self, path: Path) -> None:
        """Write the real images."""
        save_grid(self.reals, path, self.columns)

    @torch.no_grad()
    def save_fakes(self, path: Path, G: nn.Module, device: torch.device, batch_size: int) -> None:
        """Write the images that ``G`` generates from the latents, with constant noise."""
        images = []
        for z, c in zip(self.z.split(batch_size), self.c.split(batch_size), strict=True):
            images.append(to_uint8(G(z.to(device), c.to(device), noise_mode="const")).cpu())
        save_grid(torch.cat(images), path, self.columns)


def _row_per_class(dataset: ImageDataset, order: np.ndarray, columns: int, rows: int) -> np.ndarray:
    groups: dict[tuple[float, ...], list[int]] = {}
    for index in order:
        groups.setdefault(tuple(dataset.get_label(int(index)).tolist()), []).append(int(index))
    classes = sorted(groups, reverse=True)
    found = []
    for row in range(rows):  # a class that has several rows goes on in the next one
        group, first = groups[classes[row % len(classes)]], row // len(classes) * columns
        found.append(np.take(group, range(first, first + columns), mode="wrap"))
    return np.concatenate(found)


class RunLog:
    """``stats.jsonl``, and TensorBoard event files where tensorboard is installed.

    Args:
        run_dir: where they are written.
        images_seen: where the run goes on. What TensorBoard has beyond that is hidden.
    """

    def __init__(self, run_dir: Path, images_seen: int = 0) -> None:
        self._stats = AppendFile(run_dir / "stats.jsonl")
        self._tensorboard, self.tensorboard_status = _open_tensorboard(run_dir, images_seen)

    def __enter__(self) -> Self:
        print(self.tensorboard_status)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._stats.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def write(self, summaries: Mapping[str, Summary], images_seen: int) -> None:
        """Write a line ``{name: {num, mean, std}, timestamp}``, and the means to TensorBoard."""
        now = time.time()
        fields: dict[str, Any] = {
            name: dict(num=s.num, mean=s.mean, std=s.std) for name, s in summaries.items()
        }
        self._stats.write(json.dumps({**fields, "timestamp": now}) + "\n")
        self.write_scalars({name: s.mean for name, s in summaries.items()}, images_seen, now)

    def write_scalars(self, values: Mapping[str, float], images_seen: int, now: float | None = None) -> None:
        """Write scalars to TensorBoard, with thousands of images as the step."""
        if self._tensorboard is None:
            return
        try:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, global_step=images_seen // 1000, walltime=now)
            self._tensorboard.flush()
        except OSError as error:  # its writer does not recover from a full disk; stats.jsonl has everything
            warn(
                f"TensorBoard's event file cannot be written ({error.strerror}); there will be no more events"
            )
            self._tensorboard = None


def _open_tensorboard(run_dir: Path, images_seen: int) -> tuple[Any, str]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None, "TensorBoard: not installed, no event files (pip install 'tensorboard')"
    except Exception as error:  # noqa: BLE001 - one that does not fit the other packages raises anything
        first = str(error).strip().split("\n")[0]
        return None, f"TensorBoard: cannot be used, no event files ({type(error).__name__}: {first})"
    writer = SummaryWriter(str(run_dir), purge_step=images_seen // 1000 + 1 if images_seen else None)
    return writer, "TensorBoard: event files are written to the run directory"


@dataclass
class TickTimer:
    """Seconds of the current tick, and of the maintenance before it: start-up, snapshots, metrics."""

    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.start = self.mark = self.clock()
        self.training = False
        self.tick = self.maintenance = 0.0  # up to `mark`; what has passed since belongs to one of them

    def begin_tick(self) -> None:
        """Training goes on. What passed since the last :meth:`summary`, or the start, was maintenance."""
        now = self.clock()
        self.maintenance += now - self.mark
        self.mark, self.training = now, True

    def summary(self, images: int) -> dict[str, float]:
        """The ``Timing/*`` statistics of a tick of ``images`` images. Maintenance begins."""
        state = self.state_dict()
        total, seconds = state["total"], state["tick"]
        self.mark, self.training, self.tick, self.maintenance = self.start + total, False, 0.0, 0.0
        return {
            "Timing/sec_per_tick": seconds,
            "Timing/sec_per_kimg": seconds / max(images, 1) * 1000,
            "Timing/maintenance_sec": state["maintenance"],
            "Timing/total_sec": total,
            "Timing/total_hours": total / 3600,
            "Timing/total_days": total / 86400,
        }

    def state_dict(self) -> dict[str, float]:
        """Seconds so far of the run, its current tick, and the maintenance before that."""
        now = self.clock()
        since = now - self.mark
        tick, maintenance = (
            (self.tick + since, self.maintenance) if self.training else (self.tick, self.maintenance + since)
        )
        return {"total": now - self.start, "tick": tick, "maintenance": maintenance}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on counting from what :meth:`state_dict` returned; the time in between is left out."""
        self.start = self.mark = self.clock()
        self.start -= state["total"]
        self.tick, self.maintenance, self.training = state["tick"], state["maintenance"], False


def warn(message: str) -> None:
    """Print a warning on rank 0, to standard error."""
    if distributed.is_rank0():
        print(f"Warning: {message}", file=sys.stderr, flush=True)


def status_line(tick: int, images_seen: int, values: Mapping[str, float], p: float | None) -> str:
    """The line that is printed at every tick; ``p`` is the augmentation's probability, or None."""
    fields = [
        f"tick {tick:<5d}",
        f"kimg {images_seen / 1000:<8.1f}",
        f"time {format_duration(values['Timing/total_sec']):<12s}",
        f"sec/tick {values['Timing/sec_per_tick']:<7.1f}",
        f"sec/kimg {values['Timing/sec_per_kimg']:<7.2f}",
        f"maintenance {values['Timing/maintenance_sec']:<6.1f}",
        f"cpumem {values['Resources/cpu_mem_gb']:<6.2f}",
    ]
    if "Resources/peak_gpu_mem_gb" in values:
        fields.append(f"gpumem {values['Resources/peak_gpu_mem_gb']:<6.2f}")
    if p is not None:
        fields.append(f"augment {p:.3f}")
    return " ".join(fields)


def single_values(values: Mapping[str, float]) -> dict[str, Summary]:
    """Scalars as the statistics of one observation each."""
    return {name: Summary(1, value, 0.0) for name, value in values.items()}


def loss_line(summaries: Mapping[str, Summary], names: Sequence[str]) -> str:
    """The losses of a tick, for the progress bar."""
    return " ".join(
        f"{name.removeprefix('Loss/')} {summaries[name].mean:.3f}" for name in names if name in summaries
    )
