"""Statistics of real images on disk, keyed by what they were computed from."""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dnnlib.arrays import read_arrays
from dnnlib.environment import CACHE, cache_root, make_cache_folder, open_cache_file
from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from dnnlib.untrusted import parsing
from metrics.sampling import ImageDataset, real_images
from metrics.statistics import FeatureSet, Moments

# Count up when features or statistics are computed otherwise: older files are then not found.
CODE_VERSION = 1

MAX_STATISTICS = 2**34  # bytes of a file: features of 2 million images

Key = Mapping[str, str | int]
Statistics = Moments | FeatureSet


def fingerprint(dataset: ImageDataset) -> str:
    """SHA-256 of a data set's content: of all pixels in order, mirrored copies included.

    Reads every image. A data set may have a method ``fingerprint()`` instead: a digest of all that decides
    its pixels (file contents, choice, order, mirroring).
    """
    own = getattr(dataset, "fingerprint", None)
    if own is not None:
        return str(own())
    digest = hashlib.sha256()
    for batch in real_images(dataset, len(dataset), batch_size=64):
        digest.update(str(tuple(batch.shape[1:])).encode())
        digest.update(batch.numpy().tobytes())
    return digest.hexdigest()


class StatisticsCache:
    """A folder of ``.npz`` files, one for each key.

    Files are written atomically, so processes may share the folder.

    Raises :class:`UserError` at construction when the folder can't be made, read or written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_root() / "statistics" if folder is None else Path(folder)
        try:
            make_cache_folder(self.folder)
            os.listdir(self.folder)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise UserError(
                f"the cache folder {self.folder} can't be written or read ({error.strerror}); set {CACHE} to "
                "another"
            ) from error

    def path(self, key: Key) -> Path:
        """The file of a key."""
        text = json.dumps({**key, "code_version": CODE_VERSION}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"

    def load(self, key: Key) -> Statistics | None:
        """What :meth:`store` was given for the key; None where there is no file.

        A damaged file gives None too, with a warning on standard error.
        """
        path = self.path(key)
        if not path.exists():
            return None
        try:
            arrays = read_arrays(path, f"the cache file {path}", limit=MAX_STATISTICS, packed=False)
            with parsing(f"the cache file {path}", "is damaged"):
                return _checked(arrays)
        except UserError as error:
            print(f"Warning: {error}; computing it anew", file=sys.stderr)
            return None

    def store(self, key: Key, value: Statistics) -> None:
        """Keep a value. A file that cannot be written is only warned about, on standard error."""
        if isinstance(value, Moments):
            arrays = {"count": np.int64(value.count), "mean": value.mean, "covariance": value.covariance}
        else:
            arrays = {"features": value.features}
        try:
            with atomic_write(self.path(key), opener=open_cache_file) as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            print(
                f"Warning: {self.path(key)} can't be written ({error.strerror}); next time it is computed "
                "anew",
                file=sys.stderr,
            )


class NoCache:
    """In place of a :class:`StatisticsCache`: keeps nothing."""

    def load(self, key: Key) -> Statistics | None:
        """Nothing."""
        return None

    def store(self, key: Key, value: Statistics) -> None:
        """Drop the value."""


def _checked(arrays: dict[str, np.ndarray]) -> Statistics:
    if "features" in arrays:
        features = arrays["features"]
        if (
            features.ndim != 2
            or features.size == 0
            or features.dtype != np.float32
            or not np.isfinite(features).all()
        ):
            raise ValueError("its features are not finite float32 [N, F]")
        return FeatureSet(features)
    count, mean, covariance = arrays["count"], arrays["mean"], arrays["covariance"]
    if count.shape or count.dtype != np.int64 or count < 1:
        raise ValueError("its count is not a whole number from 1")
    if (
        mean.ndim != 1
        or covariance.shape != mean.shape * 2
        or (mean.dtype, covariance.dtype) != (np.float64, np.float64)
    ):
        raise ValueError("its moments are not float64 [F] and [F, F]")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all() and (covariance.diagonal() >= 0).all()):
        raise ValueError("its moments are not finite, or a variance is negative")
    return Moments(int(count), mean, covariance)
