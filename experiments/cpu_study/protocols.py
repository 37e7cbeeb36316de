"""The protocols of ``reproduce.py``: comparisons at CPU scale, fixed before any result is known.

``docs/results/protocol.md`` explains them.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Images:
    """A data set.

    Attributes:
        title: for people.
        path: relative to the repository's root; ``{data}`` stands for the folder of converted data sets.
        source: what ``dataset_tool.py`` converts; None for a data set of this repository.
        convert: further arguments of ``dataset_tool.py``.
        advice: what to do where ``source`` is missing.
    """

    title: str
    path: str
    source: str | None = None
    convert: tuple[str, ...] = ()
    advice: str = ""


@dataclass(frozen=True)
class Run:
    """One training of a protocol: a data set, an arm and a seed."""

    data: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Its place under the output folder, such as ``emoji/ggdr-seed0``."""
        return f"{self.data}/{self.arm}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Data sets × arms × seeds, all trained alike but for the options of the arms.

    Attributes:
        title: the question.
        confirmatory: the outcome is a verdict; otherwise the protocol is exploratory and has none.
        data: data sets by name.
        arms: options of ``train.py`` by arm; the others are compared with the first.
        seeds: of the trainings of each arm.
        options: options of ``train.py`` for all arms.
        batch: images a step.
        kimg: length, a multiple of ``round_kimg``.
        round_kimg: length of a round, and of the time between snapshots. All runs finish a round before any
            begins the next.
        metrics: measured at each snapshot. The primary outcome is the first value of the first metric at the
            last snapshot.
        detector: of the metrics.
    """

    title: str
    confirmatory: bool
    data: Mapping[str, Images]
    arms: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    options: tuple[str, ...]
    batch: int
    kimg: int
    round_kimg: int
    metrics: tuple[str, ...]
    detector: str

    @property
    def runs(self) -> list[Run]:
        """All trainings: seed by seed, the arms of a data set side by side, each first equally often."""
        found = []
        for i, seed in enumerate(self.seeds):
            for j, data in enumerate(self.data):
                arms = list(self.arms)
                found += [Run(data, arm, seed) for arm in (arms if (i + j) % 2 == 0 else reversed(arms))]
        return found

    @property
    def snapshots(self) -> list[int]:
        """Kimg of the snapshots, from 0."""
        return list(range(0, self.kimg + 1, self.round_kimg))

    @property
    def rounds(self) -> list[tuple[Run, int]]:
        """Every run with each kimg at which it ends a round, in the order of training."""
        return [(run, kimg) for kimg in self.snapshots[1:] for run in self.runs]

    def images_at(self, kimg: int) -> int:
        """Images that a run trained to ``kimg`` has seen: whole steps."""
        return -(-kimg * 1000 // self.batch) * self.batch

    def as_dict(self) -> dict[str, Any]:
        """The protocol as plain data, as JSON returns it."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self))))


EMOJI = Images(title="Emoji, 1,854 images, RGB", path="data/emoji32.zip")
FASHION = Images(
    title="Fashion-MNIST, the first 10,000 training images, greyscale",
    path="{data}/fashion-mnist-10k.zip",
    source="/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz",
    convert=("--max-images=10000",),
    advice="apt-get install dataset-fashion-mnist",
)
#: The small network of docs/results/first-trials.md, on a CPU.
SMALL = (
    "--cfg=cifar", "--cbase=512", "--cmax=32", "--mbstd-group=8", "--glr=0.005", "--gamma=0.05",
    "--device=cpu", "--ops=ref", "--workers=0",
)  # fmt: skip
NONE, GGDR, GGDR16 = (
    ("--reg_type=none",),
    ("--reg_type=ggdr", "--ggdr_res=8"),
    ("--reg_type=ggdr", "--ggdr_res=16"),
)

CLAIM = Protocol(
    title="Does GGDR lower FID at 32×32 with a small network?",
    confirmatory=True,
    data={"emoji": EMOJI, "fashion": FASHION},
    arms={"none": NONE, "ggdr": GGDR},
    seeds=(1, 2, 3),  # the outcome of seed 0 is known: docs/results/first-trials.md
    options=SMALL,
    batch=16,
    kimg=180,
    round_kimg=20,
    metrics=("fid2k_full", "pr2k3_full"),
    detector="efficientnet-lite0",
)


def _exploratory(title: str, arms: Mapping[str, tuple[str, ...]], kimg: int = CLAIM.kimg) -> Protocol:
    """A variation of the claim. Arms that both have are the same runs."""
    return dataclasses.replace(
        CLAIM, title=title, confirmatory=False, arms={"none": NONE, "ggdr": GGDR, **arms}, kimg=kimg
    )


PROTOCOLS = {
    "claim": CLAIM,
    "weight": _exploratory(
        "Is λ = 10 too strong here?",
        {"weight1": (*GGDR, "--ggdr-weight=1"), "weight3": (*GGDR, "--ggdr-weight=3")},
    ),
    "target": _exploratory("Is the target map too coarse?", {"target16": GGDR16}),
    "start": _exploratory(
        "Does GGDR set in before the generator's features mean anything?",
        {"start40": (*GGDR, "--ggdr-start-kimg=40")},
    ),
    "length": _exploratory("Is the training too short?", {}, kimg=2 * CLAIM.kimg),
    "ablations": dataclasses.replace(
        _exploratory(
            "What do the target's size and the decoder's design change (tables 4a and 4b)?",
            {
                "target16": GGDR16,
                "target8and16": ("--reg_type=ggdr", "--ggdr_res=8,16"),
                "lrelu": (*GGDR, "--ggdr-act=lrelu"),
                "kernel3": (*GGDR, "--ggdr-kernel=3"),
            },
            kimg=60,
        ),
        data={"emoji": EMOJI},
    ),
    "trial": dataclasses.replace(
        CLAIM,
        title="Does everything run from end to end?",
        confirmatory=False,
        data={"emoji": EMOJI},
        seeds=(0, 1),
        kimg=2,
        round_kimg=1,
        metrics=("fid1k_full", "pr1k3_full"),
    ),
}
