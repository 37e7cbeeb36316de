"""Gradients that are not finite, and memory: what shows that a long run is in trouble."""

from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import torch

from dnnlib.errors import UserError
from torch_utils.training_stats import Summary

#: A run stops when the gradients of one phase were not finite this many times in a row.
LIMIT = 16

#: From this many in a row on, neither snapshots nor checkpoints are kept. A single one says little: in
#: float16 some gradients overflow.
SUSPECT = 3

#: Steps between two looks at the counters. Looking waits for the device.
CHECK_INTERVAL = 16


class GradientHealth:
    """Counts for each phase the gradients that were not finite, without waiting for the device.

    Training replaces such gradients (:func:`training.phases.clean`), so nothing else would tell.

    Args:
        phases: their names.
        device: of the gradients.
    """

    def __init__(self, phases: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.phases = tuple(phases)
        self._counts = torch.zeros(len(self.phases), dtype=torch.int64, device=device)  # since the last flush
        self._rows = torch.zeros_like(self._counts)  # in a row, up to now

    @torch.no_grad()
    def observe(self, phase: str, gradients: Sequence[torch.Tensor]) -> None:
        """Look at the gradients of one execution of a phase, before they are cleaned."""
        index = self.phases.index(phase)
        bad = ~torch.stack(torch._foreach_norm(list(gradients), 1)).isfinite().all()  # noqa: SLF001 - no public name
        self._counts[index] += bad
        self._rows[index] = torch.where(bad, self._rows[index] + 1, 0)

    def rows(self) -> dict[str, int]:
        """How often in a row the last gradients of each phase were not finite. Waits for the device."""
        return dict(zip(self.phases, self._rows.tolist(), strict=True))

    def failing(self) -> str | None:
        """Which gradients were not finite :data:`SUSPECT` times in a row, in words, or None.

        This waits for the device.
        """
        worst, row = max(self.rows().items(), key=lambda item: item[1])
        return f"the last {row} gradients of {worst} were not finite" if row >= SUSPECT else None

    def check(self, images_seen: int) -> None:
        """Raise :class:`UserError` when a phase reached :data:`LIMIT`. This waits for the device."""
        for phase, row in self.rows().items():
            if row >= LIMIT:
                raise UserError(
                    f"stopped at {images_seen / 1000:g} kimg: the gradients of {phase} were not finite {row} "
                    "times in a row. The run keeps its checkpoint from before; continuing repeats this "
                    "exactly, so start from its last good snapshot (--resume) with lower --glr and --dlr or "
                    "with --fp32=1, or pass --on-nonfinite=ignore"
                )

    def flush(self) -> dict[str, int]:
        """The number for each phase since the last flush; starts anew."""
        counts = dict(zip(self.phases, self._counts.tolist(), strict=True))
        self._counts.zero_()
        return counts

    def state_dict(self) -> dict[str, Any]:
        """The counts, by phase."""
        return {"counts": dict(zip(self.phases, self._counts.tolist(), strict=True)), "rows": self.rows()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        for name, tensor in (("counts", self._counts), ("rows", self._rows)):
            tensor.copy_(torch.tensor([state[name][phase] for phase in self.phases], dtype=tensor.dtype))


def health_statistics(
    gradients: Mapping[str, int], summaries: Mapping[str, Summary], losses: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """The ``Health/*`` statistics of a tick: how many gradients and loss values were not finite.

    Args:
        gradients: for each phase, from :meth:`GradientHealth.flush`.
        summaries: the statistics of the tick.
        losses: for each phase, the names of its losses (:attr:`training.objective.Objective.losses`).
    """
    values: dict[str, float] = {}
    for phase, count in gradients.items():
        values[f"Health/nonfinite_gradients/{phase}"] = float(count)
        values[f"Health/nonfinite_losses/{phase}"] = float(
            sum(summaries[name].nonfinite for name in losses[phase] if name in summaries)
        )
    return values


class MemoryMeter:
    """Memory of this process and of its GPU in GiB, and its growth since the first reading."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._first: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """The ``Resources/*`` statistics. Peaks are those since the last reading."""
        values = {"Resources/cpu_mem_gb": self._process.memory_info().rss / 2**30}
        if self._device.type == "cuda":
            values["Resources/gpu_mem_gb"] = torch.cuda.memory_allocated(self._device) / 2**30
            values["Resources/peak_gpu_mem_gb"] = torch.cuda.max_memory_allocated(self._device) / 2**30
            torch.cuda.reset_peak_memory_stats(self._device)
        self._first = self._first or values
        grown = {
            f"{name.removesuffix('_gb')}_growth_gb": value - self._first[name]
            for name, value in values.items()
            if "peak" not in name
        }
        return {**values, **grown}
