"""From images to statistics: one pass over the reals (unless cached) and one over the fakes.

The ranks of a group share both.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from metrics.cache import Key, NoCache, StatisticsCache, fingerprint
from metrics.features import Detector
from metrics.perceptual_path_length import PathSampling, path_distances
from metrics.registry import Statistic
from metrics.sampling import ImageDataset, Mirrored, fake_images, microbatches, real_images
from metrics.statistics import FeatureCollector, MomentsCollector
from torch_utils.distributed import is_rank0, rank, world_size
from torch_utils.parallel import all_ranks, on_rank0

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class StatisticKey:
    """A statistic of the first ``count`` images as one detector sees them.

    Attributes:
        detector: its name.
        statistic: what is collected.
        count: of images.
        mirrored: whether mirrored copies follow the images.
    """

    detector: str
    statistic: Statistic
    count: int
    mirrored: bool = False

    @property
    def output(self) -> "Output":
        """The detector's output that it is made from."""
        return self.detector, "probabilities" if self.statistic == "probabilities" else "features"


#: A detector's name, and "features" or "probabilities".
Output = tuple[str, str]

#: Moments, FeatureSet or, for PathSampling, distances float64 ``[count]``. Rank 0 has them; others have none.
Statistics = dict[StatisticKey, Any]


@dataclass(frozen=True)
class Collector:
    """Collects statistics of images.

    Attributes:
        detectors: by name.
        device: where networks are.
        batch_size: images that a detector is given at a time, rounded up to whole chunks.
        progress: bars on a terminal.
    """

    detectors: Mapping[str, Detector]
    device: torch.device
    batch_size: int
    progress: bool

    def reals(
        self, wanted: Iterable[StatisticKey], dataset: ImageDataset, cache: StatisticsCache | NoCache
    ) -> Statistics:
        """Statistics of real images, from the cache or from a pass (two where some are mirrored)."""
        wanted = dict.fromkeys(wanted)
        if not wanted:
            return {}
        cache_keys: dict[StatisticKey, Key] = {}
        found: Statistics = {}

        def look_up() -> list[StatisticKey]:
            content = fingerprint(dataset)
            for key in wanted:
                cache_keys[key] = self._cache_key(key, content, dataset)
                cached = cache.load(cache_keys[key])
                if cached is not None:
                    found[key] = cached
            return [key for key in wanted if key not in found]

        missing = on_rank0(look_up, "the statistics of real images kept from before")
        for mirrored in (False, True):
            part = [key for key in missing if key.mirrored is mirrored]
            if part:
                found.update(self._files(part, Mirrored(dataset) if mirrored else dataset, "real images"))
        on_rank0(
            lambda: [cache.store(cache_keys[key], found[key]) for key in missing],
            "keeping the statistics of real images",
        )
        return found

    def images(self, wanted: Iterable[StatisticKey], images: ImageDataset) -> Statistics:
        """Statistics of image files that are measured in place of a generator."""
        return self._files(list(dict.fromkeys(wanted)), images, "images")

    def fakes(
        self, wanted: Iterable[StatisticKey], generator: Any, labels: ImageDataset, seed: int
    ) -> Statistics:
        """Statistics of generated images, and distances along paths through the generator's latent space."""
        wanted = list(dict.fromkeys(wanted))
        plain = [key for key in wanted if not isinstance(key.statistic, PathSampling)]
        found: Statistics = {}
        if plain:
            count = max(key.count for key in plain)
            batches = fake_images(generator, labels, count, seed=seed, device=self.device, **self._share())
            found.update(self._collect(plain, batches, "generated images"))
        for key in wanted:
            if isinstance(key.statistic, PathSampling):
                found.update(self._paths(key, key.statistic, generator, labels, seed))
        return found

    def _share(self) -> dict[str, int]:
        return {"batch_size": self.batch_size, "rank": rank(), "world_size": world_size()}

    def _cache_key(self, key: StatisticKey, content: str, dataset: ImageDataset) -> Key:
        return {
            "dataset": content,
            "mirrored": int(key.mirrored),
            "resolution": dataset.resolution,
            "count": key.count,
            "detector": self.detectors[key.detector].digest,
            "statistic": str(key.statistic),
        }

    def _files(self, wanted: list[StatisticKey], images: ImageDataset, title: str) -> Statistics:
        count = max(key.count for key in wanted)
        return self._collect(wanted, real_images(images, count, **self._share()), title)

    def _collect(self, wanted: list[StatisticKey], batches: Iterator[Tensor], title: str) -> Statistics:
        """Show each detector as many images as it needs, and gather statistics on rank 0, in order."""
        collectors: dict[StatisticKey, MomentsCollector | FeatureCollector] = {}
        counts: dict[Output, int] = {}
        for key in wanted:
            counts[key.output] = max(key.count, counts.get(key.output, 0))
            if is_rank0():
                kind = MomentsCollector if key.statistic == "moments" else FeatureCollector
                collectors[key] = kind(key.count)

        def detect(images: Tensor, place: range) -> dict[Output, NDArray[np.float32]]:
            parts = {output: images[: max(0, count - place.start)] for output, count in counts.items()}
            return {output: self._output(output, part) for output, part in parts.items() if len(part)}

        for outputs in self._rounds(batches, detect, max(counts.values()), title):
            for key, collector in collectors.items():
                if key.output in outputs and not collector.full:
                    collector.append(outputs[key.output])
        return {key: collector.result() for key, collector in collectors.items()}

    def _output(self, output: Output, images: Tensor) -> NDArray[np.float32]:
        detector = self.detectors[output[0]]
        return detector.probabilities(images) if output[1] == "probabilities" else detector(images)

    def _paths(
        self, key: StatisticKey, paths: PathSampling, generator: Any, labels: ImageDataset, seed: int
    ) -> Statistics:
        shares = microbatches(key.count, **self._share())
        detector = self.detectors[key.detector]
        distances = path_distances(generator, labels, detector, paths, shares, seed=seed, device=self.device)
        parts = list(self._rounds(distances, lambda part, place: part, key.count, "paths"))
        return {key: np.concatenate(parts)} if is_rank0() else {}

    @staticmethod
    def _turn(items: Iterator[T], places: list[range], work: Callable[[T, range], R]) -> list[R]:
        return [work(next(items), place) for place in places]

    def _rounds(
        self, items: Iterator[T], work: Callable[[T, range], R], count: int, title: str
    ) -> Iterator[R]:
        """Apply ``work`` to the items and places of all ranks' microbatches.

        Every rank gets all results, in the order of microbatches.
        """
        shares = [microbatches(count, self.batch_size, r, world_size()) for r in range(world_size())]
        mine = shares[rank()]
        with tqdm(
            total=count,
            desc=title,
            unit="img",
            leave=False,
            disable=None if self.progress and is_rank0() else True,
        ) as bar:
            for turn in range(len(shares[0])):
                place = mine[turn : turn + 1]
                for part in all_ranks(functools.partial(self._turn, items, place, work), title):
                    yield from part
                bar.update(sum(len(place) for share in shares for place in share[turn : turn + 1]))
