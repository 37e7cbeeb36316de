"""Evaluate metrics: which statistics they need, one pass over the reals (cached) and one over the fakes,
values, records."""

import functools
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import UserError
from metrics.cache import NoCache, StatisticsCache
from metrics.collecting import Collector, StatisticKey
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
    measured), the cache folder, and each detector: downloaded if need be, loaded on ``device``, run on an
    image for what the metrics ask of it. In a group of processes every rank calls this, and rank 0 alone
    downloads. Raises :class:`UserError`.
    """
    parsed = parse_metrics(metrics)
    if parsed:
        _check_images(parsed, dataset, images, mirror)
        _open_cache(cache_dir, use_cache)
        pair = next(real_images(dataset, 1, 1)).repeat(
            2, 1, 1, 1
        )  # one image would not tell a detector that averages over images
        opened = _open_detectors(parsed, detector, device)
        for metric in parsed:
            _try_out(metric, opened[metric.detector_name(detector)], pair)


@full_float32()
def evaluate(
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

    Every metric of one detector shares one pass: each image is generated and seen by the detector once, and a
    metric with a smaller count takes the first images. Values do not depend on ``batch_size`` (the
    detector's, in images). TF32 is off, as in the reference's metrics, also where training allows it:
    statistics are shared through the cache.

    In a group of processes (see :mod:`torch_utils.distributed`) every rank calls this with the same
    arguments, each on its device. They share the images; rank 0 gathers, computes and keeps statistics, and
    every rank gets the same results. What fails on one rank fails on all.

    Args:
        metrics: names, as a list or separated by commas.
        dataset: the reals, all of them and not mirrored; labels switched on if the generator is conditional.
        generator: ``G(z, c)`` gives images -1..1 ``[N, C, H, W]``; with ``z_dim c_dim img_resolution
            img_channels``, and for path lengths ``mapping`` and ``synthesis``. On ``device``. Either this or
            ``images`` is given.
        images: measured in place of a generator's, the first ones in order. Where there are fewer than a
            metric's count, all are taken, a line on standard error says so, and the result's ``count`` tells
            their number.
        mirror: whether the training saw mirrored copies. Only the reference's older metrics (``fid50k``,
            ``kid50k``, ``pr50k3``) ask; they take the images in order, then the copies, as many as their
            count.
        detector: ``auto`` for each metric's reference detector, or what
            :func:`metrics.features.open_detector` takes.
        seed: which latents, labels and noise (see :func:`metrics.sampling.fake_images`).
        progress: bars on a terminal.
        cache_dir: where statistics of reals are kept; None for the usual folder.
        use_cache: False neither reads nor writes them.

    Raises :class:`UserError` on anything :func:`preflight` finds, and when generator and data set do not fit.
    """
    if (generator is None) is (images is None):
        raise ValueError("evaluate: either a generator or images must be given")
    started = time.time()
    parsed = parse_metrics(metrics)
    if not parsed:
        return []
    _check_images(parsed, dataset, images, mirror)
    if images is None:
        _check_generator(generator, dataset)
    else:
        parsed = [_limited(metric, images) for metric in parsed]
    cache = on_rank0(lambda: _open_cache(cache_dir, use_cache), "opening the cache of statistics")
    collector = Collector(
        _open_detectors(parsed, detector, device), torch.device(device), batch_size, progress
    )
    needs = [_needs(metric, metric.detector_name(detector), dataset, mirror) for metric in parsed]
    reals = collector.reals((real for real, _ in needs if real is not None), dataset, cache)
    wanted = [fake for _, fake in needs]
    fakes = (
        collector.fakes(wanted, generator, dataset, seed)
        if images is None
        else collector.images(wanted, images)
    )

    def compute() -> list[dict[str, float]]:
        shared: dict[tuple[StatisticKey | None, StatisticKey], dict[int, Overlap]] = {}
        found = []
        for metric, (real, fake) in zip(parsed, needs, strict=True):
            if (
                real is not None
                and isinstance(metric.family.compute, FromOverlap)
                and (real, fake) not in shared
            ):
                alike = [other for other, of in zip(parsed, needs, strict=True) if of == (real, fake)]
                shared[real, fake] = _overlaps(alike, reals[real], fakes[fake], collector.device)
            overlap = shared.get((real, fake), {})
            found.append(_values(metric, None if real is None else reals[real], fakes[fake], overlap))
        return found

    return [
        MetricResult(
            metric=metric.name,
            values=values,
            detector=fake.detector,
            count=metric.count,
            num_real=0 if real is None else real.count,
            seed=seed,
            dataset=dataset.name,
            mirror=real is not None and real.mirrored,
            resolution=dataset.resolution,
            total_time=time.time() - started,
            num_gpus=world_size(),
            timestamp=time.time(),
        )
        for metric, (real, fake), values in zip(
            parsed, needs, on_rank0(compute, "computing the metrics"), strict=True
        )
    ]


def _check_images(
    metrics: Sequence[Metric], dataset: ImageDataset, images: ImageDataset | None, mirror: bool
) -> None:
    for metric in metrics:
        if metric.family.reals != "none":
            _check_number(metric, metric.real_count(_available(metric, dataset, mirror)), "real", dataset)
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
    if images is not None and _size(images.resolution, images.num_channels) != _size(
        dataset.resolution, dataset.num_channels
    ):
        raise UserError(
            f"the images of '{images.name}' are {_size(images.resolution, images.num_channels)}, but those "
            "of the data set "
            f"'{dataset.name}' are {_size(dataset.resolution, dataset.num_channels)}; make them alike with "
            "dataset_tool.py"
        )


def _size(resolution: int, channels: int) -> str:
    return f"{resolution}x{resolution} with {channels} channel{'' if channels == 1 else 's'}"


def _check_number(metric: Metric, number: int, kind: str, dataset: ImageDataset) -> None:
    if number < metric.family.min_images:
        raise UserError(
            f"the metric '{metric.name}' needs at least {metric.family.min_images} {kind} images, "
            f"but the data set '{dataset.name}' has {len(dataset)}"
        )


def _check_generator(generator: Any, dataset: ImageDataset) -> None:
    made, real = (
        _size(generator.img_resolution, generator.img_channels),
        _size(dataset.resolution, dataset.num_channels),
    )
    if made != real:
        raise UserError(
            f"the network renders images of {made}, but those of the data set '{dataset.name}' are {real}"
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


def _available(metric: Metric, dataset: ImageDataset, mirror: bool) -> int:
    """How many reals there are for a metric, mirrored copies included where it takes them."""
    return len(dataset) * (2 if mirror and metric.family.reals == "as trained" else 1)


def _needs(
    metric: Metric, detector: str, dataset: ImageDataset, mirror: bool
) -> tuple[StatisticKey | None, StatisticKey]:
    """Of the reals (where the metric looks at any), and of the fakes."""
    statistic, count = metric.family.statistic, metric.real_count(_available(metric, dataset, mirror))
    real = StatisticKey(detector, statistic, count, mirrored=count > len(dataset)) if count else None
    return real, StatisticKey(detector, statistic, metric.count)


def _open_cache(folder: str | os.PathLike[str] | None, use_cache: bool) -> StatisticsCache | NoCache:
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


def _overlaps(
    metrics: Sequence[Metric], real: FeatureSet, fake: FeatureSet, device: torch.device
) -> dict[int, Overlap]:
    """What those of the metrics that come from it share, by neighbourhood."""
    wanted = [metric.family.compute for metric in metrics if isinstance(metric.family.compute, FromOverlap)]
    recall = any(one.recall for one in wanted)
    return overlaps(real.on(device), fake.on(device), {one.nhood_size for one in wanted}, recall=recall)


def _values(metric: Metric, real: Any, fake: Any, shared: Mapping[int, Overlap]) -> dict[str, float]:
    compute = metric.family.compute
    try:
        computed = (
            compute.values(shared[compute.nhood_size])
            if isinstance(compute, FromOverlap)
            else compute(real, fake)
        )
    except (ValueError, np.linalg.LinAlgError) as error:
        raise UserError(f"the metric '{metric.name}' can't be computed: {error}") from error
    if isinstance(fake, Moments):
        _warn_of_few_samples(metric, min(real.count, fake.count), len(fake.mean))
    return {metric.name + key: value for key, value in computed.items()}


def _warn_of_few_samples(metric: Metric, samples: int, dimensions: int) -> None:
    if samples <= dimensions:
        _say_once(
            f"Warning: {metric.name} fits a covariance of {dimensions} features to {samples} images, so it "
            "is singular and the value "
            "high; compare it only with values of the same counts"
        )


@functools.cache
def _say_once(text: str) -> None:
    print(text, file=sys.stderr)
