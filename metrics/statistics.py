"""What the metrics need to know of a stream of features: moments, or the features themselves."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean ``[F]`` and unbiased covariance ``[F, F]``, float64, of ``count`` samples."""

    count: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features ``[count, F]``, float32, in the order in which they came."""

    features: NDArray[np.float32]

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.features)

    def on(self, device: torch.device) -> torch.Tensor:
        """The features as a tensor on a device (on the CPU, one that shares their memory)."""
        return torch.from_numpy(self.features).to(device)


class _Collector:
    """Takes batches of features ``[N, F]`` until ``max_count`` rows have come; further rows are left out."""

    def __init__(self, max_count: int) -> None:
        if max_count < 1:
            raise ValueError(f"at least one row must be collected, not {max_count}")
        self.max_count = max_count
        self.count = 0
        self.width: int | None = None

    @property
    def full(self) -> bool:
        """Whether all rows have come."""
        return self.count >= self.max_count

    def append(self, features: ArrayLike) -> None:
        """Take a batch ``[N, F]``. Raises :class:`ValueError` on other shapes and where F changes."""
        batch = np.asarray(features, np.float32)
        if batch.ndim != 2 or (self.width is not None and batch.shape[1] != self.width):
            raise ValueError(f"features must be [N, {self.width or 'F'}], not {list(batch.shape)}")
        self.width = batch.shape[1]
        batch = batch[: self.max_count - self.count]
        if len(batch):
            self._take(batch, self.width)
            self.count += len(batch)

    def _take(self, batch: NDArray[np.float32], width: int) -> None:
        raise NotImplementedError


class MomentsCollector(_Collector):
    """Streaming mean and covariance of the first ``max_count`` rows, in float64.

    Rows are summed in blocks of BLOCK, whatever the batches were, so that batch size changes no bit; and
    relative to the first row, so that features far from zero lose no digits.
    """

    BLOCK = 512

    def __init__(self, max_count: int) -> None:
        super().__init__(max_count)
        self._pending: NDArray[np.float64] = np.empty((0, 0))
        self._filled = 0
        self._origin: NDArray[np.float64] = np.empty(0)
        self._sum: NDArray[np.float64] = np.empty(0)
        self._outer: NDArray[np.float64] = np.empty((0, 0))

    def _take(self, batch: NDArray[np.float32], width: int) -> None:
        if self.count == 0:
            self._pending = np.empty((self.BLOCK, width))
            self._origin = batch[0].astype(np.float64)
            self._sum = np.zeros(width)
            self._outer = np.zeros((width, width))
        while len(batch):
            part = batch[: self.BLOCK - self._filled]
            self._pending[self._filled : self._filled + len(part)] = part - self._origin
            self._filled += len(part)
            batch = batch[len(part) :]
            if self._filled == self.BLOCK:
                self._sum, self._outer = self._with_pending()
                self._filled = 0

    def _with_pending(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = self._pending[: self._filled]
        return self._sum + rows.sum(0), self._outer + rows.T @ rows

    def result(self) -> Moments:
        """Moments of what has come. Raises :class:`ValueError` with fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two samples, not {self.count}")
        total, outer = self._with_pending()
        shift = total / self.count
        covariance = (outer - self.count * np.outer(shift, shift)) / (self.count - 1)
        return Moments(self.count, self._origin + shift, covariance)


class FeatureCollector(_Collector):
    """Keeps the first ``max_count`` rows."""

    def __init__(self, max_count: int) -> None:
        super().__init__(max_count)
        self._rows: NDArray[np.float32] = np.empty((0, 0), np.float32)

    def _take(self, batch: NDArray[np.float32], width: int) -> None:
        if self.count == 0:
            self._rows = np.empty((self.max_count, width), np.float32)
        self._rows[self.count : self.count + len(batch)] = batch

    def result(self) -> FeatureSet:
        """The rows that have come."""
        return FeatureSet(self._rows[: self.count])
