"""Names of metrics. FAMILIES is the one table: a metric is a family and a count of generated images."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from dnnlib.errors import UserError
from dnnlib.untrusted import one_line
from metrics.density_coverage import DC5
from metrics.frechet_inception_distance import fid
from metrics.inception_score import is10
from metrics.kernel_inception_distance import kid
from metrics.overlap import FromOverlap
from metrics.perceptual_path_length import PathSampling, ppl
from metrics.precision_recall import PR3

# What of the generated images, and of the reals where they are looked at, is collected. PathSampling stands
# for distances along paths in latent space, which need a network rather than images.
Statistic = Literal["moments", "features", "probabilities"] | PathSampling

# Which reals a metric compares with: nothing, all as they are, or at most as many as generated images, of the
# images as the training saw them (mirrored copies included), which the reference's older metrics do.
Reals = Literal["none", "all", "as trained"]

DEFAULT_COUNT = 50_000
COUNT = "([1-9][0-9]*k?)"


@dataclass(frozen=True)
class MetricFamily:
    """What metrics that differ in their count alone have in common.

    Attributes:
        template: the name, with ``{count}`` in it, or with ``[{count}_]`` where the count may be left out (it
            is 50,000 then).
        description: one line.
        reference_detector: what ``--detector=auto`` means.
        statistic: what is collected.
        reals: which reals are looked at.
        max_real: reals beyond this number are left out (as in the reference); None takes all.
        min_images: fewest reals, where there are any, and fewest fakes that the metric is defined for.
        compute: from the statistics of reals (None without any) and fakes (see :mod:`metrics.statistics`) to
            results; a key is appended to the metric's name. Or from the overlap of two sets of features,
            which metrics of the same images share.
    """

    template: str
    description: str
    reference_detector: str
    statistic: Statistic
    reals: Reals
    min_images: int
    compute: Callable[[Any, Any], dict[str, float]] | FromOverlap
    max_real: int | None = None

    def match(self, name: str) -> int | None:
        """The count in ``name``, if it is of this family: ``fid5k_full`` gives 5000."""
        pattern = re.escape(self.template)
        pattern = pattern.replace(re.escape("[{count}_]"), f"(?:{COUNT}_)?").replace(
            re.escape("{count}"), COUNT
        )
        found = re.fullmatch(pattern, name)
        if found is None:
            return None
        count = found[1] or str(DEFAULT_COUNT)
        return int(count[:-1]) * 1000 if count.endswith("k") else int(count)

    @property
    def reference_name(self) -> str:
        """The name with the reference's count: ``fid50k_full``, ``ppl2_wend``."""
        return self.template.replace("[{count}_]", "").format(count="50k")


FID = MetricFamily(
    template="fid{count}_full",
    description="Fréchet inception distance to all training images",
    reference_detector="inception",
    statistic="moments",
    reals="all",
    min_images=2,
    compute=fid,
)
KID = MetricFamily(
    template="kid{count}_full",
    description=(
        "kernel inception distance to all training images (at most 1,000,000), 100 subsets of at most 1,000"
    ),
    reference_detector="inception",
    statistic="features",
    reals="all",
    min_images=2,
    compute=kid,
    max_real=1_000_000,
)
PR = MetricFamily(
    template="pr{count}3_full",
    description="precision and recall against all training images (at most 200,000), neighbourhood 3",
    reference_detector="vgg16",
    statistic="features",
    reals="all",
    min_images=4,
    compute=PR3,
    max_real=200_000,
)
DC = MetricFamily(
    template="dc{count}5_full",
    description="density and coverage against all training images (at most 200,000), neighbourhood 5",
    reference_detector="vgg16",
    statistic="features",
    reals="all",
    min_images=6,
    compute=DC5,
    max_real=200_000,
)
IS = MetricFamily(
    template="is{count}",
    description="inception score, mean and standard deviation over 10 parts",
    reference_detector="inception",
    statistic="probabilities",
    reals="none",
    min_images=10,
    compute=is10,
)
PPL2 = MetricFamily(
    template="ppl2_[{count}_]wend",
    description="perceptual path length in W, at the paths' ends, whole images",
    reference_detector="vgg16",
    statistic=PathSampling("w", "end", crop=False),
    reals="none",
    min_images=2,
    compute=ppl,
)


def _as_trained(family: MetricFamily, template: str, description: str) -> MetricFamily:
    return replace(family, template=template, description=description, reals="as trained", max_real=None)


def _cropped_ppl(space: Literal["z", "w"], sampling: Literal["full", "end"]) -> MetricFamily:
    where = "anywhere on the paths" if sampling == "full" else "at the paths' ends"
    return replace(
        PPL2,
        template=f"ppl_[{{count}}_]{space}{sampling}",
        description=f"perceptual path length in {space.upper()}, {where}, middle of the images",
        statistic=PathSampling(space, sampling, crop=True),
    )


# In the reference's order: those that it recommends, density and coverage (new here), its older ones.
FAMILIES: tuple[MetricFamily, ...] = (
    FID,
    KID,
    PR,
    DC,
    PPL2,
    IS,
    _as_trained(FID, "fid{count}", "Fréchet inception distance to as many training images as are generated"),
    _as_trained(KID, "kid{count}", "kernel inception distance to as many training images as are generated"),
    _as_trained(PR, "pr{count}3", "precision and recall against as many training images as are generated"),
    _cropped_ppl("z", "full"),
    _cropped_ppl("w", "full"),
    _cropped_ppl("z", "end"),
    _cropped_ppl("w", "end"),
)


@dataclass(frozen=True)
class Metric:
    """One metric of a list: ``name`` as typed, ``count`` of generated images (of pairs for path lengths)."""

    name: str
    family: MetricFamily
    count: int

    def detector_name(self, detector: str) -> str:
        """The detector's name, with ``auto`` resolved."""
        return self.family.reference_detector if detector == "auto" else detector

    def real_count(self, available: int) -> int:
        """How many of the ``available`` reals are used."""
        limits = {"none": 0, "all": self.family.max_real or available, "as trained": self.count}
        return min(available, limits[self.family.reals])


def known_names() -> str:
    """The metrics that exist, for error messages and help texts."""
    names = ", ".join(family.reference_name for family in FAMILIES)
    return f"{names}, each with any count in place of 50k (such as fid5k_full; ppl2_5k_wend for path lengths)"


def parse_metric(name: str) -> Metric:
    """``fid5k_full`` to its family and count. Raises :class:`UserError` on unknown names and small counts."""
    for family in FAMILIES:
        count = family.match(name)
        if count is not None:
            if count < family.min_images:
                raise UserError(f"the metric '{name}' needs a count of at least {family.min_images}")
            return Metric(name, family, count)
    raise UserError(f"unknown metric '{one_line(name, 60)}'; known are {known_names()}")


def parse_metrics(names: str | Sequence[str]) -> list[Metric]:
    """Names, as a list or separated by commas, to metrics, in order, each once.

    ``none`` (in any case) and nothing give an empty list.

    Raises :class:`UserError` as :func:`parse_metric` does.
    """
    parts = [part.strip() for part in (names.split(",") if isinstance(names, str) else names)]
    if [part.lower() for part in parts] in ([], [""], ["none"]):
        return []
    return [parse_metric(name) for name in dict.fromkeys(parts)]
