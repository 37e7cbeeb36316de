"""Running statistics of named scalars, kept on the device until they are read."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from torch_utils import distributed


@dataclass(frozen=True)
class Summary:
    """Count, mean and (population) standard deviation of what was reported under one name.

    ``nonfinite`` counts the values that were not finite. With any, mean and deviation are not finite either.
    """

    num: int
    mean: float
    std: float
    nonfinite: int = 0


class StatsCollector:
    """Count, sum, sum of squares and non-finite count of everything reported, without waiting for the device.

    Once reported, a name stays. Without new values its summary has ``num`` 0 and the last mean and deviation.

    Args:
        device: of the sums, which are float64.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._moments: dict[str, torch.Tensor] = {}
        self._last: dict[str, list[float]] = {}

    def report(self, name: str, value: torch.Tensor | float) -> None:
        """Add every element of ``value`` to the statistics of ``name``. Gradients are not tracked."""
        x = torch.as_tensor(value, dtype=torch.float64, device=self.device).detach().flatten()
        moments = torch.stack(
            [torch.full_like(x.sum(), x.numel()), x.sum(), x.square().sum(), (~x.isfinite()).sum()]
        )
        self._moments[name] = self._moments[name] + moments if name in self._moments else moments

    def flush(self) -> dict[str, Summary]:
        """Return summaries of what came since the last flush, sorted by name. Waits for the device."""
        rows = torch.stack(list(self._moments.values())).tolist() if self._moments else []
        new = {name: row for name, row in zip(self._moments, rows, strict=True) if row[0] > 0}
        self._last |= new
        self._moments = {}
        known = {name: _summary(*row) for name, row in sorted(self._last.items())}
        return {
            name: summary if name in new else replace(summary, num=0, nonfinite=0)
            for name, summary in known.items()
        }

    def gather(self) -> None:
        """Move what all ranks reported since the last flush to rank 0, in the order of ranks.

        The other ranks keep nothing.
        """
        if distributed.world_size() == 1:
            return
        parts = distributed.all_gather(
            {name: moments.tolist() for name, moments in self._moments.items()}, "statistics"
        )
        self._moments = {}
        if distributed.is_rank0():
            for name in sorted({name for part in parts for name in part}):
                rows = torch.tensor(
                    [part[name] for part in parts if name in part], dtype=torch.float64, device=self.device
                )
                self._moments[name] = rows.sum(dim=0)

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last flush, and the last values of each name."""
        return {
            "moments": {name: moments.clone() for name, moments in self._moments.items()},
            "last": dict(self._last),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._moments = {
            name: row.to(self.device, torch.float64).clone() for name, row in state["moments"].items()
        }
        self._last = {name: list(row) for name, row in state["last"].items()}


def _summary(num: float, total: float, squares: float, nonfinite: float) -> Summary:
    mean = total / num
    return Summary(int(num), mean, max(squares / num - mean * mean, 0.0) ** 0.5, int(nonfinite))
