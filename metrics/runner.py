"""Evaluate metrics: which statistics they need, one pass over the reals (cached) and one over the fakes, values, records."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.durations import format_duration
from dnnlib.errors import UserError
from metrics.cache import Key, StatisticsCache, fingerprint
from metrics.features import Detector, open_detector
from metrics.registry import Metric, Statistic, parse_metrics
from metrics.sampling import ImageDataset, fake_images, real_images, rebatched
from metrics.statistics import FeatureCollector, FeatureSet, Moments, MomentsCollector


@dataclass(frozen=True)
class Need:
    """A statistic of the first ``count`` images as one detector sees them."""

    detector: str
    statistic: Statistic
    count: int


Found = dict[Need, Moments | FeatureSet]


@dataclass(frozen=True)
class MetricResult:
    """One evaluated metric.

    ``values`` has the reference's keys (``fid50k_full``; ``pr50k3_full_precision``, ``pr50k3_full_recall``); ``count``
    and ``num_real`` are numbers of images; ``mirror`` says whether the reals include mirrored copies; ``total_time`` is in
    seconds from the start of the evaluation that the metric was part of.
    """

    metric: str
    values: dict[str, float]
    detector: str
    count: int
    num_real: int
    seed: int
    dataset: str
    mirror: bool
    resolution: int
    total_time: float
    num_gpus: int
    timestamp: float

    def record(self, snapshot_pkl: str | None = None) -> dict[str, Any]:
        """A line of ``metric-<name>.jsonl``: the reference's keys, then how the value came about."""
        return {
            "results": self.values,
            "metric": self.metric,
            "total_time": self.total_time,
            "total_time_str": format_duration(self.total_time),
            "num_gpus": self.num_gpus,
            "snapshot_pkl": snapshot_pkl,
            "timestamp": self.timestamp,
            "detector": self.detector,
            "count": self.count,
            "num_real": self.num_real,
            "seed": self.seed,
            "dataset": self.dataset,
            "mirror": self.mirror,
            "resolution": self.resolution,
        }

    def json_line(self, snapshot_pkl: str | None = None) -> str:
        """:meth:`record` as JSON, without the end of the line."""
        return json.dumps(self.record(snapshot_pkl))


def preflight(
    metrics: str | Sequence[str],
    detector: str,
    dataset: ImageDataset,
    *,
    device: torch.device | str = "cpu",
    cache_dir: str | os.PathLike[str] | None = None,
) -> None:
    """Find out before a training what would stop :func:`evaluate` in the middle of it.

    Checks the metrics' names and counts, the number of reals, the cache folder, and each detector (downloaded if need
    be, loaded on ``device``, run on one image). Raises :class:`UserError`.
    """
    parsed = parse_metrics(metrics)
    _check_reals(parsed, dataset)
    if parsed:
        StatisticsCache(None if cache_dir is None else Path(cache_dir))
        image = next(real_images(dataset, 1, 1))
        for opened in _open_detectors(parsed, detector, device).values():
            opened(image)


def evaluate(
    metrics: str | Sequence[str],
    *,
    generator: Any,
    dataset: ImageDataset,
    detector: str = "auto",
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[MetricResult]:
    """Evaluate ``metrics`` of a generator against a data set, in the order given.

    Every metric of one detector shares one pass: each image is generated and seen by the detector once, and a metric
    with a smaller count takes the first images. Values do not depend on ``batch_size`` (the detector's, in images).

    Args:
        metrics: names, as a list or separated by commas.
        generator: ``G(z, c)`` gives images -1..1 ``[N, C, H, W]``; with ``z_dim c_dim img_resolution img_channels``. On ``device``.
        dataset: the reals, already mirrored if they are to be; labels switched on if the generator is conditional.
        detector: ``auto`` for each metric's reference detector, or what :func:`metrics.features.open_detector` takes.
        seed: which latents, labels and noise (see :func:`metrics.sampling.fake_images`).
        progress: bars on a terminal.
        cache_dir: where statistics of reals are kept; None for the usual folder.

    Raises :class:`UserError` on anything :func:`preflight` finds, and when generator and data set do not fit.
    """
    started = time.time()
    parsed = parse_metrics(metrics)
    if not parsed:
        return []
    where = torch.device(device)
    _check_reals(parsed, dataset)
    _check_generator(generator, dataset)
    cache = StatisticsCache(None if cache_dir is None else Path(cache_dir))
    detectors = _open_detectors(parsed, detector, where)
    wanted = [
        (
            metric,
            Need(metric.detector_name(detector), metric.family.statistic, metric.real_count(len(dataset))),
            Need(metric.detector_name(detector), metric.family.statistic, metric.count),
        )
        for metric in parsed
    ]
    reals = _real_statistics({real for _, real, _ in wanted}, dataset, detectors, cache, batch_size, progress)
    needs = {fake for _, _, fake in wanted}
    images = fake_images(generator, dataset, max(need.count for need in needs), seed=seed, device=where)
    fakes = _collect(needs, rebatched(images, batch_size), detectors, "generated images" if progress else None)
    return [
        MetricResult(
            metric=metric.name,
            values={metric.name + key: value for key, value in metric.family.compute(reals[real], fakes[fake]).items()},
            detector=real.detector,
            count=metric.count,
            num_real=real.count,
            seed=seed,
            dataset=dataset.name,
            mirror=bool(getattr(dataset, "xflip", False)),
            resolution=dataset.resolution,
            total_time=time.time() - started,
            num_gpus=1,
            timestamp=time.time(),
        )
        for metric, real, fake in wanted
    ]


def append_result(result: MetricResult, run_dir: str | os.PathLike[str], snapshot: str | os.PathLike[str]) -> str:
    """Append a result to ``metric-<name>.jsonl`` in a run directory, in one write. Gives the line, without its end.

    The snapshot's path is recorded relative to the run directory, as in the reference.
    Raises :class:`UserError` when the file can't be written.
    """
    path = Path(run_dir) / f"metric-{result.metric}.jsonl"
    line = result.json_line(os.path.relpath(snapshot, run_dir))
    try:
        with open(path, "ab", buffering=0) as stream:
            stream.write(f"{line}\n".encode())
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}") from error
    return line


def _check_reals(metrics: Sequence[Metric], dataset: ImageDataset) -> None:
    for metric in metrics:
        if metric.real_count(len(dataset)) < metric.family.min_images:
            raise UserError(
                f"the metric '{metric.name}' needs at least {metric.family.min_images} real images, "
                f"but the data set '{dataset.name}' has {len(dataset)}"
            )
    if dataset.num_channels not in (1, 3):
        raise UserError(f"metrics need greyscale or RGB images, but those of '{dataset.name}' have {dataset.num_channels} channels")


def _check_generator(generator: Any, dataset: ImageDataset) -> None:
    made = (generator.img_resolution, generator.img_channels)
    real = (dataset.resolution, dataset.num_channels)
    if made != real:
        raise UserError(
            f"the network renders {made[0]}x{made[0]} images with {made[1]} channels, but the data set '{dataset.name}' "
            f"has {real[0]}x{real[0]} with {real[1]}"
        )
    if generator.c_dim > 0 and generator.c_dim != dataset.label_dim:
        raise UserError(
            f"the network takes labels of {generator.c_dim} numbers, but those of the data set '{dataset.name}' have {dataset.label_dim}"
        )


def _open_detectors(metrics: Sequence[Metric], detector: str, device: torch.device | str) -> dict[str, Detector]:
    names = dict.fromkeys(metric.detector_name(detector) for metric in metrics)
    return {name: open_detector(name, device) for name in names}


def _real_statistics(
    needs: Iterable[Need], dataset: ImageDataset, detectors: dict[str, Detector], cache: StatisticsCache, batch_size: int, progress: bool
) -> Found:
    """From the cache, and the rest in one pass over the data set."""
    content = fingerprint(dataset)
    keys: dict[Need, Key] = {
        need: {"dataset": content, "detector": detectors[need.detector].digest, "statistic": need.statistic, "count": need.count}
        for need in needs
    }
    cached = {need: cache.load(key) for need, key in keys.items()}
    found: Found = {need: value for need, value in cached.items() if value is not None}
    missing = {need for need in keys if need not in found}
    if missing:
        images = real_images(dataset, max(need.count for need in missing), batch_size)
        computed = _collect(missing, images, detectors, "real images" if progress else None)
        for need, value in computed.items():
            cache.store(keys[need], value)
        found.update(computed)
    return found


def _collect(needs: set[Need], batches: Iterator[Tensor], detectors: dict[str, Detector], title: str | None) -> Found:
    """Show the images to the detectors, each as far as it is needed, and gather the statistics."""
    collectors = {need: (MomentsCollector if need.statistic == "moments" else FeatureCollector)(need.count) for need in needs}
    enough = {name: max((need.count for need in needs if need.detector == name), default=0) for name in detectors}
    seen = 0
    with tqdm(total=max(enough.values()), desc=title, unit="img", leave=False, disable=None if title else True) as bar:
        for images in batches:
            for name, detector in detectors.items():
                if seen >= enough[name]:
                    continue
                features: np.ndarray = detector(images[: enough[name] - seen])
                for need, collector in collectors.items():
                    if need.detector == name and not collector.full:
                        collector.append(features)
            seen += len(images)
            bar.update(len(images))
    return {need: collector.result() for need, collector in collectors.items()}
