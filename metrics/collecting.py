"""From images to statistics: one pass over the reals (unless cached), one over the fakes, shared by all ranks
of a group."""

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
    """A statistic of the first ``count`` images as one detector sees them; ``mirrored``: copies follow the
    images."""

    detector: str
    statistic: Statistic
    count: int
    mirrored: bool = False

    @property
    def output(self) -> "Output":
        """What of the detector it is made from."""
        return self.detector, "probabilities" if self.statistic == "probabilities" else "features"


Output = tuple[str, str]  # a detector's name; features or probabilities
Found = dict[
    StatisticKey, Any
]  # Moments, FeatureSet, or for PathSampling distances float64 [count]; empty but on rank 0


@dataclass(frozen=True)
class Collector:
    """How images are gone through.

    Attributes:
        detectors: by the names that needs have.
        device: where networks are.
        batch_size: images that a detector is given at a time, rounded up to whole chunks.
        progress: bars on a terminal.
    """

    detectors: Mapping[str, Detector]
    device: torch.device
    batch_size: int
    progress: bool

    def reals(
        self, needs: Iterable[StatisticKey], dataset: ImageDataset, cache: StatisticsCache | NoCache
    ) -> Found:
        """From the cache, and the rest in one pass over the data set (one more over its mirrored copy)."""
        needs = dict.fromkeys(needs)
        if not needs:
            return {}
        keys: dict[StatisticKey, Key] = {}
        found: Found = {}

        def look_up() -> list[StatisticKey]:
            content = fingerprint(dataset)
            for need in needs:
                keys[need] = self._key(need, content, dataset)
                cached = cache.load(keys[need])
                if cached is not None:
                    found[need] = cached
            return [need for need in needs if need not in found]

        missing = on_rank0(look_up, "the statistics of real images kept from before")
        for mirrored in (False, True):
            part = [need for need in missing if need.mirrored is mirrored]
            if part:
                found.update(self._files(part, Mirrored(dataset) if mirrored else dataset, "real images"))
        on_rank0(
            lambda: [cache.store(keys[need], found[need]) for need in missing],
            "keeping the statistics of real images",
        )
        return found

    def images(self, needs: Iterable[StatisticKey], images: ImageDataset) -> Found:
        """Of image files in place of a generator."""
        return self._files(list(dict.fromkeys(needs)), images, "images")

    def fakes(self, needs: Iterable[StatisticKey], generator: Any, labels: ImageDataset, seed: int) -> Found:
        """Of generated images and, where needs say so, of paths through the generator's latent space."""
        needs = list(dict.fromkeys(needs))
        plain = [need for need in needs if not isinstance(need.statistic, PathSampling)]
        found: Found = {}
        if plain:
            count = max(need.count for need in plain)
            batches = fake_images(generator, labels, count, seed=seed, device=self.device, **self._share())
            found.update(self._collect(plain, batches, "generated images"))
        for need in needs:
            if isinstance(need.statistic, PathSampling):
                found.update(self._paths(need, need.statistic, generator, labels, seed))
        return found

    def _share(self) -> dict[str, int]:
        return {"batch_size": self.batch_size, "rank": rank(), "world_size": world_size()}

    def _key(self, need: StatisticKey, content: str, dataset: ImageDataset) -> Key:
        return {
            "dataset": content,
            "mirrored": int(need.mirrored),
            "resolution": dataset.resolution,
            "count": need.count,
            "detector": self.detectors[need.detector].digest,
            "statistic": str(need.statistic),
        }

    def _files(self, needs: list[StatisticKey], images: ImageDataset, title: str) -> Found:
        return self._collect(
            needs, real_images(images, max(need.count for need in needs), **self._share()), title
        )

    def _collect(self, needs: list[StatisticKey], batches: Iterator[Tensor], title: str) -> Found:
        """Show the images to the detectors, each as far as it is needed, and gather the statistics on rank 0,
        in order."""
        kinds = {
            need: MomentsCollector if need.statistic == "moments" else FeatureCollector for need in needs
        }
        collectors = {need: kind(need.count) for need, kind in kinds.items() if is_rank0()}
        enough = {
            need.output: max(other.count for other in needs if other.output == need.output) for need in needs
        }

        def look(images: Tensor, place: range) -> dict[Output, NDArray[np.float32]]:
            seen = {output: images[: max(0, count - place.start)] for output, count in enough.items()}
            return {output: self._output(output, part) for output, part in seen.items() if len(part)}

        for seen in self._rounds(batches, look, max(enough.values()), title):
            for need, collector in collectors.items():
                if need.output in seen and not collector.full:
                    collector.append(seen[need.output])
        return {need: collector.result() for need, collector in collectors.items()}

    def _output(self, output: Output, images: Tensor) -> NDArray[np.float32]:
        detector = self.detectors[output[0]]
        return detector.probabilities(images) if output[1] == "probabilities" else detector(images)

    def _paths(
        self, need: StatisticKey, paths: PathSampling, generator: Any, labels: ImageDataset, seed: int
    ) -> Found:
        detector = self.detectors[need.detector]
        distances = path_distances(
            generator, labels, detector, paths, need.count, seed=seed, device=self.device, **self._share()
        )
        parts = list(self._rounds(distances, lambda part, place: part, need.count, "paths"))
        return {need: np.concatenate(parts)} if is_rank0() else {}

    @staticmethod
    def _turn(items: Iterator[T], places: list[range], look: Callable[[T, range], R]) -> list[R]:
        return [look(next(items), place) for place in places]

    def _rounds(
        self, items: Iterator[T], look: Callable[[T, range], R], count: int, title: str
    ) -> Iterator[R]:
        """What ``look`` makes of the items and places of all ranks' microbatches, in the order of
        microbatches; on every rank."""
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
                for part in all_ranks(functools.partial(self._turn, items, place, look), title):
                    yield from part
                bar.update(sum(len(place) for share in shares for place in share[turn : turn + 1]))
