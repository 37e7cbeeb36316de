"""Running statistics of named scalars, kept where the values are until somebody reads them."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Summary:
    """Count, mean and (population) standard deviation of what was reported under one name."""

    num: int
    mean: float
    std: float


class StatsCollector:
    """Collects count, sum and sum of squares of everything reported, without waiting for the device.

    Args:
        device: where the sums live, in float64.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._moments: dict[str, torch.Tensor] = {}

    def report(self, name: str, value: torch.Tensor | float) -> None:
        """Add every element of ``value`` to the statistics of ``name``. Gradients are not tracked."""
        x = torch.as_tensor(value, dtype=torch.float64, device=self.device).detach().flatten()
        moments = torch.stack([torch.full_like(x.sum(), x.numel()), x.sum(), x.square().sum()])
        self._moments[name] = self._moments[name] + moments if name in self._moments else moments

    def flush(self) -> dict[str, Summary]:
        """Summaries of all names since the last flush, sorted by name; starts anew. This waits for the device."""
        names = sorted(self._moments)
        rows = torch.stack([self._moments[name] for name in names]).tolist() if names else []
        self._moments = {}
        return {name: _summary(*row) for name, row in zip(names, rows, strict=True)}


def _summary(num: float, total: float, squares: float) -> Summary:
    if num == 0:
        return Summary(0, float("nan"), float("nan"))
    mean = total / num
    return Summary(int(num), mean, max(squares / num - mean**2, 0.0) ** 0.5)
