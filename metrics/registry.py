"""Names of metrics. FAMILIES is the one table: a metric is a family and a count of generated images."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dnnlib.errors import UserError
from metrics.frechet_inception_distance import fid
from metrics.precision_recall import pr3

Statistic = Literal["moments", "features"]


@dataclass(frozen=True)
class MetricFamily:
    """What metrics that differ in their count alone have in common.

    Attributes:
        template: the name, with ``{count}`` in it.
        description: one line.
        reference_detector: what ``--detector=auto`` means.
        statistic: what of the features is collected, of reals and of fakes.
        max_real: reals beyond this number are left out (as in the reference); None takes all.
        min_images: fewest reals and fewest fakes that the metric is defined for.
        compute: from the two statistics (see :mod:`metrics.statistics`) to results; a key is appended to the name.
    """

    template: str
    description: str
    reference_detector: str
    statistic: Statistic
    max_real: int | None
    min_images: int
    compute: Callable[[Any, Any], dict[str, float]]

    def match(self, name: str) -> int | None:
        """The count in ``name``, if it is of this family: ``fid5k_full`` gives 5000."""
        before, after = (re.escape(part) for part in self.template.split("{count}"))
        found = re.fullmatch(rf"{before}([1-9][0-9]*)(k?){after}", name)
        return int(found[1]) * (1000 if found[2] else 1) if found else None


FAMILIES: tuple[MetricFamily, ...] = (
    MetricFamily(
        template="fid{count}_full",
        description="Fréchet inception distance to all training images",
        reference_detector="inception",
        statistic="moments",
        max_real=None,
        min_images=2,
        compute=fid,
    ),
    MetricFamily(
        template="pr{count}3_full",
        description="precision and recall against all training images (at most 200,000), neighbourhood 3",
        reference_detector="vgg16",
        statistic="features",
        max_real=200_000,
        min_images=4,
        compute=pr3,
    ),
)


@dataclass(frozen=True)
class Metric:
    """One metric as it was asked for: ``name`` as typed, ``count`` generated images."""

    name: str
    family: MetricFamily
    count: int

    def detector_name(self, detector: str) -> str:
        """The detector's name, with ``auto`` resolved."""
        return self.family.reference_detector if detector == "auto" else detector

    def real_count(self, available: int) -> int:
        """How many of the ``available`` reals are used."""
        return available if self.family.max_real is None else min(available, self.family.max_real)


def known_names() -> str:
    """The metrics that exist, for error messages and help texts."""
    names = ", ".join(family.template.format(count="50k") for family in FAMILIES)
    return f"{names}, each with any count in place of 50k (such as 200 or 5k)"


def parse_metric(name: str) -> Metric:
    """``fid5k_full`` to its family and count. Raises :class:`UserError` on an unknown name or too small a count."""
    for family in FAMILIES:
        count = family.match(name)
        if count is not None:
            if count < family.min_images:
                raise UserError(f"the metric '{name}' needs a count of at least {family.min_images}")
            return Metric(name, family, count)
    raise UserError(f"unknown metric '{name}'; known are {known_names()}")


def parse_metrics(names: str | Sequence[str]) -> list[Metric]:
    """A comma-separated text or a list of names to metrics, in order, each once; ``none`` and nothing give an empty list.

    Raises :class:`UserError` as :func:`parse_metric` does.
    """
    parts = [part.strip() for part in (names.split(",") if isinstance(names, str) else names)]
    if parts in ([], [""], ["none"]):
        return []
    return [parse_metric(name) for name in dict.fromkeys(parts)]
