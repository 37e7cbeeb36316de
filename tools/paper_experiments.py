"""The experiments of tables 1, 2 and 3 of Lee et al. 2022 (GGDR): how to redo each, and what the paper reports for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Scores = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One baseline, without and with GGDR.

    Attributes:
        baseline: its name in the paper.
        aug: ``--aug`` of it.
        without, with_ggdr: what the paper reports, by score. Figures after ± are standard deviations over three trainings.
    """

    baseline: str
    aug: str
    without: Scores
    with_ggdr: Scores

    @property
    def slug(self) -> str:
        """The baseline's name for folders."""
        return self.baseline.lower()


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A row of a table.

    Attributes:
        title, table: for people.
        source: what has to be there before, under the folder for originals.
        origin: where people get it.
        convert: options of ``dataset_tool.py`` beside ``--source`` and ``--dest``.
        data: name of the data set made of it.
        resolution: of its images.
        options: options of ``train.py``, as fields of :class:`training.presets.TrainOptions`, the same with and without GGDR.
        mirror, subset: the same two of ``train.py``.
        ggdr_res: resolution of the target map.
        metrics: measured at the end.
        comparisons: what the paper compares.
        notes: what the paper leaves open and how it is filled here.
    """

    title: str
    table: str
    source: str
    origin: str
    convert: tuple[str, ...]
    data: str
    resolution: int
    options: Mapping[str, Any]
    mirror: bool = False
    subset: int | None = None
    ggdr_res: int = 64
    metrics: str = "fid50k_full,pr50k3_full"
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...] = field(default=())


PAPER256: Mapping[str, Any] = dict(cfg="paper256", gpus=8)
SQUARE256 = ("--transform=center-crop", "--resolution=256x256")
COUNTING = (
    "140k is 70,000 images and their mirror images. The paper does not say whether 2k and 10k count mirror images too; here they "
    "do, as 140k does (1,000 and 5,000 images). The other reading is --subset=2000 and --subset=10000."
)
UNSAID_CROP = "The paper says that images are resized to 256x256, not how the longer side is treated; here the centre is cut out."


def _scores(fid: str, precision: str | None = None, recall: str | None = None) -> Scores:
    named = {"FID": fid, "precision": precision, "recall": recall}
    return {name: value for name, value in named.items() if value is not None}


def _ffhq(title: str, table: str, *comparisons: Comparison, subset: int | None) -> Experiment:
    return Experiment(
        title=title,
        table=table,
        source="ffhq/images1024x1024",
        origin="https://github.com/NVlabs/ffhq-dataset (images1024x1024, 70,000 PNG files)",
        convert=("--resolution=256x256",),
        data="ffhq256",
        resolution=256,
        options=PAPER256,
        mirror=True,
        subset=subset,
        comparisons=comparisons,
        notes=(COUNTING,),
    )


def _lsun(title: str, folder: str, without: Scores, with_ggdr: Scores, *notes: str) -> Experiment:
    name = title.split()[-1].lower()
    return Experiment(
        title=title,
        table="table 2",
        source=f"lsun/{folder}",
        origin="https://www.yf.io/p/lsun (an lmdb folder; needs pip install '.[lmdb]')",
        convert=(*SQUARE256, "--max-images=200000", "--on-error=skip"),
        data=f"lsun{name}200k",
        resolution=256,
        options=PAPER256,
        comparisons=(Comparison(baseline="StyleGAN2", aug="noaug", without=without, with_ggdr=with_ggdr),),
        notes=("Which 200,000 images the paper took is not said; here the first ones of the database.", *notes),
    )


def _afhq(animal: str, without: Scores, with_ggdr: Scores) -> Experiment:
    return Experiment(
        title=f"AFHQ {animal.capitalize()}",
        table="table 3",
        source=f"afhq/train/{animal}",
        origin="https://github.com/clovaai/stargan-v2 (AFHQ, 512x512, about 5,000 images)",
        convert=("--resolution=512x512",),
        data=f"afhq{animal}512",
        resolution=512,
        options=dict(cfg="paper512", gpus=8),
        mirror=True,
        comparisons=(Comparison(baseline="ADA", aug="ada", without=without, with_ggdr=with_ggdr),),
    )


EXPERIMENTS: dict[str, Experiment] = {
    "ffhq-2k": _ffhq(
        "FFHQ, 2k images",
        "table 1",
        Comparison(baseline="StyleGAN2", aug="noaug", without=_scores("78.80 ± 2.31"), with_ggdr=_scores("70.59 ± 5.16")),
        Comparison(baseline="ADA", aug="ada", without=_scores("16.49 ± 0.65"), with_ggdr=_scores("18.28 ± 0.77")),
        subset=1000,
    ),
    "ffhq-10k": _ffhq(
        "FFHQ, 10k images",
        "table 1",
        Comparison(baseline="StyleGAN2", aug="noaug", without=_scores("30.73 ± 0.48"), with_ggdr=_scores("24.44 ± 0.63")),
        Comparison(baseline="ADA", aug="ada", without=_scores("8.29 ± 0.31"), with_ggdr=_scores("6.11 ± 0.15")),
        subset=5000,
    ),
    "ffhq-140k": _ffhq(
        "FFHQ, 140k images",
        "table 1; table 2 has 3.71 for StyleGAN2, and precision and recall",
        Comparison(
            baseline="StyleGAN2",
            aug="noaug",
            without=_scores("3.66 ± 0.10", "0.69", "0.44"),
            with_ggdr=_scores("3.14 ± 0.03", "0.69", "0.50"),
        ),
        Comparison(baseline="ADA", aug="ada", without=_scores("3.88 ± 0.13"), with_ggdr=_scores("3.57 ± 0.10")),
        subset=None,
    ),
    "cifar10": Experiment(
        title="CIFAR-10",
        table="table 1",
        source="cifar-10-python.tar.gz",
        origin="https://www.cs.toronto.edu/~kriz/cifar.html (Python version)",
        convert=(),
        data="cifar10",
        resolution=32,
        options=dict(cfg="cifar", gpus=2),
        ggdr_res=8,
        metrics="fid50k_full,is50k",
        comparisons=(
            Comparison(
                baseline="ADA",
                aug="ada",
                without={"FID": "2.92 ± 0.05", "inception score": "9.83 ± 0.04"},
                with_ggdr={"FID": "2.15 ± 0.02", "inception score": "10.02 ± 0.06"},
            ),
        ),
        notes=("Without labels: the paper's subject is unconditional generation.",),
    ),
    "lsun-cat": _lsun("LSUN Cat", "cat", _scores("7.98", "0.60", "0.27"), _scores("5.28", "0.58", "0.38")),
    "lsun-horse": _lsun("LSUN Horse", "horse", _scores("3.62", "0.63", "0.36"), _scores("2.50", "0.64", "0.43")),
    "lsun-church": _lsun(
        "LSUN Church",
        "church_outdoor_train_lmdb",
        _scores("3.97", "0.59", "0.39"),
        _scores("3.15", "0.61", "0.46"),
        "The paper speaks of 200,000 images; where the database has fewer, all of them are taken.",
    ),
    "afhq-cat": _afhq("cat", _scores("3.55", "0.77", "0.41"), _scores("2.76", "0.74", "0.52")),
    "afhq-dog": _afhq("dog", _scores("7.40", "0.76", "0.48"), _scores("4.59", "0.79", "0.53")),
    "afhq-wild": _afhq("wild", _scores("3.05", "0.76", "0.13"), _scores("2.06", "0.80", "0.27")),
    "landscape": Experiment(
        title="Landscape",
        table="table 3",
        source="landscape-pictures",
        origin="https://www.kaggle.com/arnaud58/landscape-pictures (4,320 images)",
        convert=SQUARE256,
        data="landscape256",
        resolution=256,
        options=PAPER256,
        mirror=True,
        comparisons=(
            Comparison(
                baseline="ADA", aug="ada", without=_scores("13.87", "0.72", "0.20"), with_ggdr=_scores("10.38", "0.69", "0.29")
            ),
        ),
        notes=(UNSAID_CROP,),
    ),
}
