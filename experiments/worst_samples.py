"""Show the worst and the best of many generated images: figure 6b of Lee et al. 2022 (GGDR).

The method is that of Kumari et al. 2022.

Usage:

    python experiments/worst_samples.py --network=net.pkl --num=5000 --outdir=out
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import (
    PATH,
    PATH_OR_URL,
    Command,
    friendly_errors,
    ops_option,
    output_folder,
    overwrite_option,
)
from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from metrics.features import Detector, open_detector
from metrics.gaussian import Gaussian, fit_gaussian
from metrics.sampling import ImageDataset, fake_images, real_images
from metrics.statistics import MomentsCollector
from torch_utils.device import announce_device
from training.data.file_tree import check_apart
from training.data.pictures import save_grid
from training.data.reals import open_reals
from training.inference.files import load_networks
from training.inference.opening import compute_as_trained
from training.inference.outputs import check_outputs, mark_of

PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)


class Extremes:
    """Keeps the ``size`` images with the lowest and the ``size`` images with the highest scores.

    Attributes:
        scores: of all images, in the order of :meth:`add`.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._images = torch.empty(0)
        self._numbers = np.empty(0, np.int64)
        self.scores: NDArray[np.float64] = np.empty(0)

    def add(self, images: torch.Tensor, scores: NDArray[np.float64]) -> None:
        """Add images ``[N, C, H, W]`` with their scores ``[N]``."""
        numbers = np.arange(len(self.scores), len(self.scores) + len(scores))
        self.scores = np.concatenate([self.scores, scores])
        images = torch.cat([self._images, images]) if len(self._numbers) else images
        numbers = np.concatenate([self._numbers, numbers])
        order = np.argsort(self.scores[numbers], kind="stable")
        kept = (
            order
            if len(order) <= 2 * self._size
            else np.concatenate([order[: self._size], order[-self._size :]])
        )
        self._images, self._numbers = images[kept], numbers[kept]

    def worst(self) -> tuple[torch.Tensor, list[int]]:
        """Images and numbers of the lowest scores, the lowest first."""
        return self._images[: self._size], self._numbers[: self._size].tolist()

    def best(self) -> tuple[torch.Tensor, list[int]]:
        """Images and numbers of the highest scores, the highest first."""
        return self._images.flip(0)[: self._size], self._numbers[::-1][: self._size].tolist()


def fit_reals(dataset: ImageDataset, detector: Detector, batch: int) -> Gaussian:
    """The Gaussian of a data set's features.

    Raises:
        UserError: it has fewer than two images, or all are alike.
    """
    if len(dataset) < 2:
        raise UserError(f"'{dataset.name}' has {len(dataset)} image; a Gaussian needs at least two")
    moments = MomentsCollector(len(dataset))
    for images in real_images(dataset, len(dataset), batch):
        moments.append(detector(images))
    try:
        return fit_gaussian(moments.result())
    except ValueError as error:
        raise UserError(f"no Gaussian fits the images of '{dataset.name}': {error}") from error


def summary(found: Extremes, gaussian: Gaussian, **settings: Any) -> dict[str, Any]:
    """The JSON file: settings, distribution of log-likelihoods, and numbers of the shown images."""
    values = np.percentile(found.scores, PERCENTILES)
    return {
        **settings,
        "shrinkage": gaussian.shrinkage,
        "log_likelihood": {
            "mean": float(found.scores.mean()),
            "std": float(found.scores.std()),
            "percentiles": {str(p): float(value) for p, value in zip(PERCENTILES, values, strict=True)},
        },
        "worst": found.worst()[1],
        "best": found.best()[1],
    }


@click.command(cls=Command)
@click.option(
    "--network", required=True, type=PATH_OR_URL, metavar="PATH|URL", help="network pickle, or .safetensors"
)
@click.option("--data", type=PATH, metavar="PATH", help="Real images  [default: the network's training data]")
@click.option(
    "--detector",
    default="inception",
    show_default=True,
    type=PATH_OR_URL,
    metavar="NAME|PATH|URL",
    help="Detector whose features are used",
)
@click.option("--num", type=click.IntRange(min=2), default=5000, show_default=True, help="Images to generate")
@click.option("--show", type=click.IntRange(min=1), default=32, show_default=True, help="Images in each grid")
@click.option("--columns", type=click.IntRange(min=1), default=8, show_default=True, help="Images a row")
@click.option(
    "--outdir",
    required=True,
    type=PATH,
    metavar="DIR",
    help="Where worst.png, best.png and log_likelihood.json go",
)
@overwrite_option
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of latents, labels and noise, as in the metrics",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Images at a time; only a GPU's rounding changes",
)
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@ops_option
@friendly_errors
def main(
    network: str,
    data: str | None,
    detector: str,
    num: int,
    show: int,
    columns: int,
    outdir: str,
    seed: int,
    batch: int,
    device: str,
) -> None:
    """Sort generated images by log-likelihood under a Gaussian of the real images' features.

    The paper uses Inception's features. Likelihoods of different detectors or data sets are not comparable.
    """
    if data is not None:
        check_apart(outdir, data, "--outdir")
    made_by: dict[str, Any] = dict(
        data=data and os.path.abspath(data), num=num, show=show, columns=columns, seed=seed
    )
    mark = mark_of("worst_samples.py", [network, detector], **made_by)
    check_outputs(outdir, {"worst.png": mark, "best.png": mark}, ["log_likelihood.json"])
    folder, where = output_folder(outdir), announce_device(device)
    networks = load_networks(network, need=["G_ema"])
    G = networks["G_ema"].to(where)
    note = compute_as_trained(G, networks["info"], where)
    if note is not None:
        print(f"Note: {note}", file=sys.stderr)
    dataset = open_reals(networks["training_set_kwargs"], data, G)
    dataset.check_apart(outdir, "--outdir")
    opened = open_detector(detector, where)
    gaussian = fit_reals(dataset, opened, batch)
    found = Extremes(min(show, num))
    for images in fake_images(G, dataset, num, seed=seed, device=where, batch_size=batch):
        found.add(images.cpu(), gaussian.log_likelihood(opened(images)))
    settings: dict[str, Any] = dict(
        network=network, data=dataset.name, detector=opened.name, num=num, num_real=len(dataset), seed=seed
    )
    write(folder, found, columns, mark, summary(found, gaussian, **settings))


def write(folder: Path, found: Extremes, columns: int, mark: str, record: dict[str, Any]) -> None:
    """Write the two grids and the record. Raises :class:`UserError` where they can't be written."""
    try:
        save_grid(found.worst()[0], folder / "worst.png", columns, mark)
        save_grid(found.best()[0], folder / "best.png", columns, mark)
        with atomic_write(folder / "log_likelihood.json", "w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=2)
    except OSError as error:
        raise UserError(f"cannot write to --outdir={folder}: {error.strerror}") from error
    spread = record["log_likelihood"]["percentiles"]
    print(
        f"{folder}: log-likelihood from {spread['0']:.1f} (worst.png) over {spread['50']:.1f} (median) to "
        f"{spread['100']:.1f} (best.png)"
    )


if __name__ == "__main__":
    main()
