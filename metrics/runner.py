"""Evaluate metrics: plan statistics, collect them from reals and fakes, compute values."""

import functools
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import UserError
from metrics.cache import NoCache, StatisticsCache
from metrics.collecting import Collector, StatisticKey, Statistics
from metrics.features import Detector, open_detector
from metrics.overlap import FromOverlap, Overlap, overlaps
from metrics.perceptual_path_length import PathSampling
from metrics.registry import Metric, parse_metrics
from metrics.results import MetricResult
from metrics.sampling import ImageDataset, real_images
from metrics.statistics import FeatureSet, Moments
from torch_utils.device import full_float32
from torch_utils.distributed import is_rank0, world_size
from torch_utils.parallel import all_ranks, on_rank0


def preflight(
    metrics: str | Sequence[str],
    detector: str,
    dataset: ImageDataset,
    *,
    images: ImageDataset | None = None,
    mirror: bool = False,
    device: torch.device | str = "cpu",
    cache_dir: str | os.PathLike[str] | None = None,
    use_cache: bool = True,
) -> None:
    """Find out before a training what would stop :func:`evaluate` in the middle of it.

    Checks the metrics' names and counts, the number and kind of reals (and of ``images``, where those are
    measured), the cache folder, and each detector, which is downloaded if need be, loaded on ``device`` and
    run on an image. In a group of processes every rank calls this, and rank 0 alone downloads.
    Arguments are those of :func:`evaluate`. Raises :class:`UserError`.
    """
    parsed = parse_metrics(metrics)
    if parsed:
        _check_images(parsed, dataset, images, mirror=mirror)
        _open_cache(cache_dir, use_cache=use_cache)
        # Two images: one would not reveal a detector that averages over images.
        pair = next(real_images(dataset, 1, 1)).repeat(2, 1, 1, 1)
        opened = _open_detectors(parsed, detector, device)
        for metric in parsed:
            _try_out(metric, opened[metric.detector_name(detector)], pair)


@full_float32()
def evaluate(  # noqa: PLR0913 - the Python interface; all but the first two have defaults
    metrics: str | Sequence[str],
    *,
    dataset: ImageDataset,
    generator: Any = None,
    images: ImageDataset | None = None,
    mirror: bool = False,
    detector: str = "auto",
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    use_cache: bool = True,
) -> list[MetricResult]:
    """Evaluate ``metrics`` of a generator, or of image files, against a data set, in the order given.

    Metrics of one detector share one pass; smaller counts take the first images. TF32 is off, as in the
    reference's metrics.

    In a group of processes every rank calls this with the same arguments, each on its device, and gets the
    same results. The ranks share the images. What fails on one rank fails on all.

    Args:
        metrics: names, as a list or separated by commas.
        dataset: the reals, all of them and not mirrored; with labels if the generator is conditional.
        generator: a :class:`training.networks.Generator` on ``device``, or anything with its calls and
            attributes. Either this or ``images`` is given.
        images: image files, in order. Where there are fewer than a metric's count, a note says so and the
            result's ``count`` is their number.
        mirror: whether mirrored copies follow the images for the reference's older metrics (``fid50k``,
            ``kid50k``, ``pr50k3``).
        detector: ``auto`` (the metric's own) or what :func:`metrics.features.open_detector` takes.
        device: where the detectors run.
        batch_size: images that a detector is given at a time; values do not depend on it.
        seed: of latents, labels and noise (see :func:`metrics.sampling.fake_images`).
        progress: bars on a terminal.
        cache_dir: where statistics of reals are kept; None for the usual folder.
        use_cache: False neither reads nor writes them.

    Raises:
        UserError: on anything :func:`preflight` finds, and when generator and data set do not fit.
    """
    started = time.time()
    parsed = parse_metrics(metrics)
    if not parsed:
        return []
    parsed = _check(parsed, dataset, generator, images, mirror=mirror)
    cache = on_rank0(lambda: _open_cache(cache_dir, use_cache=use_cache), "opening the cache of statistics")
    detectors = _open_detectors(parsed, detector, device)
    collector = Collector(detectors, torch.device(device), batch_size, progress)
    jobs = [_job(metric, detector, dataset, mirror=mirror) for metric in parsed]
    reals = collector.reals((job.real for job in jobs if job.real is not None), dataset, cache)
    keys = [job.fake for job in jobs]
    if images is None:
        fakes = collector.fakes(keys, generator, dataset, seed)
    else:
        fakes = collector.images(keys, images)
    values = on_rank0(lambda: _all_values(jobs, reals, fakes, collector.device), "computing the metrics")
    return [_result(job, found, dataset, seed, started) for job, found in zip(jobs, values, strict=True)]


@dataclass(frozen=True)
class _Job:
    """A metric, and the statistics it is computed from; ``real`` is None where it looks at no reals."""

    metric: Metric
    real: StatisticKey | None
    fake: StatisticKey


def _job(metric: Metric, detector: str, dataset: ImageDataset, *, mirror: bool) -> _Job:
    detector, statistic = metric.detector_name(detector), metric.family.statistic
    count = metric.real_count(_available(metric, dataset, mirror=mirror))
    real = StatisticKey(detector, statistic, count, mirrored=count > len(dataset)) if count else None
    return _Job(metric, real, StatisticKey(detector, statistic, metric.count))


def _result(
    job: _Job, values: dict[str, float], dataset: ImageDataset, seed: int, started: float
) -> MetricResult:
    return MetricResult(
        metric=job.metric.name,
        values=values,
        detector=job.fake.detector,
        count=job.metric.count,
        num_real=0 if job.real is None else job.real.count,
        seed=seed,
        dataset=dataset.name,
        mirror=job.real is not None and job.real.mirrored,
        resolution=dataset.resolution,
        total_time=time.time() - started,
        num_gpus=world_size(),
        timestamp=time.time(),
    )


def _check(
    metrics: Sequence[Metric],
    dataset: ImageDataset,
    generator: Any,
    images: ImageDataset | None,
    *,
    mirror: bool,
) -> list[Metric]:
    """The metrics, with the counts that ``images`` allow. Raises :class:`UserError` where data do not fit."""
    if (generator is None) is (images is None):
        raise ValueError("evaluate: either a generator or images must be given")
    _check_images(metrics, dataset, images, mirror=mirror)
    if images is None:
        _check_generator(generator, dataset)
        return list(metrics)
    return [_limited(metric, images) for metric in metrics]


def _check_images(
    metrics: Sequence[Metric], dataset: ImageDataset, images: ImageDataset | None, *, mirror: bool
) -> None:
    for metric in metrics:
        if metric.family.reals != "none":
            available = _available(metric, dataset, mirror=mirror)
            _check_number(metric, metric.real_count(available), "real", dataset)
        if images is not None:
            if isinstance(metric.family.statistic, PathSampling):
                raise UserError(
                    f"the metric '{metric.name}' walks through a network's latent space; image files have "
                    "none: leave it out"
                )
            _check_number(metric, len(images), "measured", images)
    if dataset.num_channels not in (1, 3):
        raise UserError(
            f"metrics need greyscale or RGB images, but those of '{dataset.name}' have "
            f"{dataset.num_channels} channels"
        )
    if images is not None and _size(images) != _size(dataset):
        raise UserError(
            f"the images of '{images.name}' are {_size(images)}, but those of the data set "
            f"'{dataset.name}' are {_size(dataset)}; make them alike with dataset_tool.py"
        )


def _size(images: ImageDataset) -> str:
    return _described(images.resolution, images.num_channels)


def _described(resolution: int, channels: int) -> str:
    return f"{resolution}x{resolution} with {channels} channel{'' if channels == 1 else 's'}"


def _check_number(metric: Metric, number: int, kind: str, dataset: ImageDataset) -> None:
    if number < metric.family.min_images:
        raise UserError(
            f"the metric '{metric.name}' needs at least {metric.family.min_images} {kind} images, "
            f"but the data set '{dataset.name}' has {len(dataset)}"
        )


def _check_generator(generator: Any, dataset: ImageDataset) -> None:
    made = _described(generator.img_resolution, generator.img_channels)
    if made != _size(dataset):
        raise UserError(
            f"the network renders images of {made}, but those of the data set '{dataset.name}' are "
            f"{_size(dataset)}"
        )
    if generator.c_dim > 0 and generator.c_dim != dataset.label_dim:
        raise UserError(
            f"the network takes labels of {generator.c_dim} numbers, but those of the data set "
            f"'{dataset.name}' have {dataset.label_dim}"
        )


def _limited(metric: Metric, images: ImageDataset) -> Metric:
    if metric.count <= len(images):
        return metric
    if is_rank0():
        available = "the one image" if len(images) == 1 else f"all {len(images)} images"
        print(
            f"Note: {metric.name} measures {available} of '{images.name}', not {metric.count}",
            file=sys.stderr,
        )
    return replace(metric, count=len(images))


def _available(metric: Metric, dataset: ImageDataset, *, mirror: bool) -> int:
    """How many reals there are for a metric, mirrored copies included where it takes them."""
    return len(dataset) * (2 if mirror and metric.family.reals == "as trained" else 1)


def _open_cache(folder: str | os.PathLike[str] | None, *, use_cache: bool) -> StatisticsCache | NoCache:
    if not use_cache:
        return NoCache()
    return StatisticsCache(None if folder is None else Path(folder))


def _open_detectors(
    metrics: Sequence[Metric], detector: str, device: torch.device | str
) -> dict[str, Detector]:
    names = dict.fromkeys(metric.detector_name(detector) for metric in metrics)
    found: dict[str, Detector] = {}

    def load() -> None:
        found.update({name: open_detector(name, device) for name in names})

    on_rank0(load, "opening the detectors")  # first and alone, because it may have to download them
    all_ranks(load, "opening the detectors")
    return found


def _try_out(metric: Metric, detector: Detector, images: Tensor) -> None:
    if isinstance(metric.family.statistic, PathSampling):
        detector.perceptual(images.to(detector.device, torch.float32))
    elif metric.family.statistic == "probabilities":
        detector.probabilities(images)
    else:
        detector(images)


def _all_values(
    jobs: Sequence[_Job], reals: Statistics, fakes: Statistics, device: torch.device
) -> list[dict[str, float]]:
    """The values of each metric. Metrics that come from the overlap of the same features share it."""
    overlap: dict[tuple[StatisticKey | None, StatisticKey], dict[int, Overlap]] = {}
    values = []
    for job in jobs:
        pair = job.real, job.fake
        real, fake = None if job.real is None else reals[job.real], fakes[job.fake]
        if isinstance(job.metric.family.compute, FromOverlap) and pair not in overlap:
            assert real is not None
            alike = [other.metric for other in jobs if (other.real, other.fake) == pair]
            overlap[pair] = _overlaps(alike, real, fake, device)
        values.append(_values(job.metric, real, fake, overlap.get(pair, {})))
    return values


def _overlaps(
    metrics: Sequence[Metric], real: FeatureSet, fake: FeatureSet, device: torch.device
) -> dict[int, Overlap]:
    """The overlap that those of the metrics that need one share, by neighbourhood."""
    wanted = [metric.family.compute for metric in metrics if isinstance(metric.family.compute, FromOverlap)]
    recall = any(one.recall for one in wanted)
    return overlaps(real.on(device), fake.on(device), {one.nhood_size for one in wanted}, recall=recall)


def _values(metric: Metric, real: Any, fake: Any, overlap: Mapping[int, Overlap]) -> dict[str, float]:
    compute = metric.family.compute
    try:
        if isinstance(compute, FromOverlap):
            values = compute.values(overlap[compute.nhood_size])
        else:
            values = compute(real, fake)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise UserError(f"the metric '{metric.name}' can't be computed: {error}") from error
    if isinstance(fake, Moments):
        _warn_of_few_samples(metric, min(real.count, fake.count), len(fake.mean))
    return {metric.name + key: value for key, value in values.items()}


def _warn_of_few_samples(metric: Metric, samples: int, dimensions: int) -> None:
    if samples <= dimensions:
        _warn_once(
            f"Warning: {metric.name} fits a covariance of {dimensions} features to {samples} images, so it "
            "is singular and the value high; compare it only with values of the same counts"
        )


@functools.cache
def _warn_once(text: str) -> None:
    print(text, file=sys.stderr)
