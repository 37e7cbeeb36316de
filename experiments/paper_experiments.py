"""Figure 2 and tables 1 to 4 of Lee et al. 2022 (GGDR): how to redo each, and the paper's values."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Scores = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One baseline, without and with GGDR.

    Attributes:
        baseline: its name in the paper.
        aug: its ``--aug``.
        without: the paper's values, by score. Figures after ± are standard deviations over three trainings.
        with_ggdr: the same with GGDR.
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
class Variant:
    """One training of an ablation.

    Attributes:
        slug: its name for folders.
        title: for people.
        options: options of ``train.py`` beside the experiment's, as fields of
            :func:`training.config.options.overrides`.
        scores: the paper's values.
    """

    slug: str
    title: str
    options: Mapping[str, Any]
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A row of a table, or an ablation.

    Attributes:
        title: of the data, for people.
        table: its table or figure in the paper.
        source: the original images, below the folder of originals.
        annotations: the original annotations of a paired data set, likewise.
        origin: where the originals come from.
        convert: options of ``dataset_tool.py``, or of ``tools/make_paired_dataset.py`` for pairs, beside
            source and destination.
        data: name of the data set.
        resolution: of its images.
        options: options of ``train.py`` (:func:`training.config.options.overrides`), the same with and
            without GGDR.
        mirror: ``--mirror`` of ``train.py``.
        subset: ``--subset`` of ``train.py``.
        ggdr_res: resolution of the target map in ``comparisons``.
        metrics: measured at the end.
        comparisons: baselines without and with GGDR.
        variants: the trainings of an ablation.
        notes: what the paper leaves open, and what is done here.
    """

    title: str
    table: str
    source: str
    annotations: str | None = None
    origin: str
    convert: tuple[str, ...]
    data: str
    resolution: int
    options: Mapping[str, Any]
    mirror: bool = False
    subset: int | None = None
    ggdr_res: int = 64
    metrics: str = "fid50k_full,pr50k3_full"
    comparisons: tuple[Comparison, ...] = ()
    variants: tuple[Variant, ...] = ()
    notes: tuple[str, ...] = field(default=())


PAPER256: Mapping[str, Any] = dict(cfg="paper256", gpus=8)
SQUARE256 = ("--transform=center-crop", "--resolution=256x256")
COUNTING = (
    "140k is 70,000 images and their mirror images. The paper does not say whether 2k and 10k count mirror "
    "images too; here they do, as 140k does (1,000 and 5,000 images). The other reading is --subset=2000 and "
    "--subset=10000."
)
UNSAID_CROP = (
    "The paper says that images are resized to 256x256, not how the longer side is treated; here the centre "
    "is cut out."
)


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


def _ablation(slug: str, title: str, fid: str | None, **options: Any) -> Variant:
    return Variant(
        slug=slug,
        title=title,
        options={"reg_type": "ggdr", **options},
        scores={} if fid is None else _scores(fid),
    )


def _lsun(title: str, folder: str, without: Scores, with_ggdr: Scores, *notes: str) -> Experiment:
    name = title.split()[-1].lower()
    return Experiment(
        title=title,
        table="table 2",
        source=f"lsun/{folder}",
        origin="https://www.yf.io/p/lsun (an lmdb folder)",
        convert=(*SQUARE256, "--max-images=200000", "--on-error=skip"),
        data=f"lsun{name}200k",
        resolution=256,
        options=PAPER256,
        comparisons=(Comparison(baseline="StyleGAN2", aug="noaug", without=without, with_ggdr=with_ggdr),),
        notes=(
            "Which 200,000 images the paper took is not said; here the first ones of the database.",
            *notes,
        ),
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
        Comparison(
            baseline="StyleGAN2",
            aug="noaug",
            without=_scores("78.80 ± 2.31"),
            with_ggdr=_scores("70.59 ± 5.16"),
        ),
        Comparison(
            baseline="ADA", aug="ada", without=_scores("16.49 ± 0.65"), with_ggdr=_scores("18.28 ± 0.77")
        ),
        subset=1000,
    ),
    "ffhq-10k": _ffhq(
        "FFHQ, 10k images",
        "table 1",
        Comparison(
            baseline="StyleGAN2",
            aug="noaug",
            without=_scores("30.73 ± 0.48"),
            with_ggdr=_scores("24.44 ± 0.63"),
        ),
        Comparison(
            baseline="ADA", aug="ada", without=_scores("8.29 ± 0.31"), with_ggdr=_scores("6.11 ± 0.15")
        ),
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
        Comparison(
            baseline="ADA", aug="ada", without=_scores("3.88 ± 0.13"), with_ggdr=_scores("3.57 ± 0.10")
        ),
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
    "lsun-horse": _lsun(
        "LSUN Horse", "horse", _scores("3.62", "0.63", "0.36"), _scores("2.50", "0.64", "0.43")
    ),
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
                baseline="ADA",
                aug="ada",
                without=_scores("13.87", "0.72", "0.20"),
                with_ggdr=_scores("10.38", "0.69", "0.29"),
            ),
        ),
        notes=(UNSAID_CROP,),
    ),
    "ade20k": Experiment(
        title="ADE20K, ground-truth segmentation maps",
        table="figure 2",
        source="ADEChallengeData2016/images/training",
        annotations="ADEChallengeData2016/annotations/training",
        origin="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip (20,210 images, "
        "150 classes)",
        convert=("--zero=unlabelled", "--resolution=256"),
        data="ade20k256",
        resolution=256,
        options={**PAPER256, "aug": "ada"},
        variants=(
            Variant(
                slug="without", title="ADA without ground truth", options=dict(reg_type="none"), scores={}
            ),
            Variant(slug="with", title="ADA with ground truth", options=dict(reg_type="seg"), scores={}),
        ),
        notes=(
            "The paper draws its FIDs as curves, without figures; those with ground truth are lower.",
            "It says neither the weight of the cross-entropy (here 1) nor the recipe and the mirroring (here "
            "paper256 without). " + UNSAID_CROP,
        ),
    ),
    "ablations": dataclasses.replace(
        _lsun("LSUN Cat", "cat", {}, {}),
        title="LSUN Cat, target size and decoder",
        table="tables 4a and 4b",
        options={**PAPER256, "aug": "noaug"},
        comparisons=(),
        variants=(
            _ablation("none", "no target", "7.98", reg_type="none"),
            _ablation("target8", "target 8x8", None, ggdr_res=8),
            _ablation("target16", "target 16x16", "6.56", ggdr_res=16),
            _ablation("target32", "target 32x32", "5.98", ggdr_res=32),
            _ablation("target64", "target 64x64; 1x1 convolutions, linear", "5.28", ggdr_res=64),
            _ablation("lrelu", "target 64x64, leaky ReLU", "5.43", ggdr_res=64, ggdr_act="lrelu"),
            _ablation("kernel3", "target 64x64, 3x3 convolutions", "5.25", ggdr_res=64, ggdr_kernel=3),
            _ablation("target32and64", "targets 32x32 and 64x64, not in the paper", None, ggdr_res=(32, 64)),
        ),
        notes=(
            *_lsun("LSUN Cat", "cat", {}, {}).notes,
            "As far as the paper's text can be read, it has no value for 8x8.",
        ),
    ),
}
