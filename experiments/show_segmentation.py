"""Show how a discriminator trained with --reg_type=seg segments real images (Lee et al. 2022, section 2.1).

Usage:

    python experiments/show_segmentation.py --network=RUN/network-snapshot-000020.pkl --out=masks.png
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import (
    PATH,
    PATH_OR_URL,
    Command,
    friendly_errors,
    ops_option,
    output_file,
    overwrite_option,
    print_notes,
)
from dnnlib.errors import UserError
from dnnlib.files import writing
from experiments.analysis.clustering import PALETTE, Labels
from experiments.analysis.picture_rows import Row, picture_of_rows
from torch_utils.device import announce_device
from torch_utils.seeding import derive_seed
from training.data.file_tree import check_apart
from training.data.paired import UNLABELLED, PairedDataset
from training.data.pictures import from_uint8, save_png
from training.inference.files import load_networks
from training.inference.outputs import has_mark, mark_of
from training.networks import Discriminator
from training.networks.decoder import decode

BATCH, AT_ONCE = 64, 16  # images read, and images in one call of D


def open_pairs(networks: Mapping[str, Any], data: str | None) -> PairedDataset:
    """Open ``data``, or the pairs that a network was trained on.

    Raises:
        UserError: the pairs are not recorded or can't be read.
    """
    recorded = (networks["info"].get("config") or {}).get("data") or {}
    path = (recorded.get("path") if recorded.get("annotation_classes") else None) if data is None else data
    if path is None:
        raise UserError("this network pickle does not say which pairs it was trained on; give --data")
    return PairedDataset(path)


def check_network(D: Discriminator, pairs: PairedDataset, name: str) -> None:
    """Raise :class:`UserError` if a discriminator does not take these images and classes."""
    if (pairs.num_channels, pairs.resolution) != (D.img_channels, D.img_resolution):
        raise UserError(
            f"'{pairs.root}' has {pairs.num_channels}-channel images of "
            f"{pairs.resolution}x{pairs.resolution}; the discriminator of {name} takes "
            f"{D.img_channels}-channel images of {D.img_resolution}x{D.img_resolution}"
        )
    known = D.init_kwargs["decoder_kwargs"]["num_classes"]
    if pairs.num_classes > known:
        raise UserError(
            f"'{pairs.root}' has {pairs.num_classes} classes, the discriminator of {name} knows {known}"
        )


@torch.no_grad()
def predict(D: Discriminator, images: Sequence[np.ndarray], device: torch.device) -> Labels:
    """The class of each pixel, int64 ``[N, H, W]``, of images uint8 ``[C, H, W]``."""
    classes = []
    for some in from_uint8(torch.from_numpy(np.stack(images)), device).split(AT_ONCE):
        features, _ = D.encode(some, force_fp32=True)
        classes.append(decode(D, D.img_resolution, features)[D.img_resolution].argmax(dim=1).cpu())
    return torch.cat(classes).numpy()


def confusion(D: Discriminator, pairs: PairedDataset, device: torch.device) -> np.ndarray:
    """Numbers of labelled pixels, int64 ``[K, K]``, by true class (rows) and predicted class (columns)."""
    classes = D.init_kwargs["decoder_kwargs"]["num_classes"]
    counts = np.zeros([classes, classes], dtype=np.int64)
    for start in range(0, len(pairs), BATCH):
        indices = range(start, min(start + BATCH, len(pairs)))
        truth = np.stack([pairs.classes(i) for i in indices]).astype(np.int64)
        guess = predict(D, [pairs[i][0] for i in indices], device)
        labelled = truth != UNLABELLED
        counts += np.bincount(truth[labelled] * classes + guess[labelled], minlength=classes**2).reshape(
            classes, classes
        )
    return counts


def scores(counts: np.ndarray) -> dict[str, float]:
    """Scores from :func:`confusion`: pixel accuracy, accuracy of the most frequent class, mean IoU.

    The mean of intersection over union is over the classes that occur.
    """
    total, found, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    there = total > 0
    return {
        "pixel accuracy": float(right.sum() / total.sum()),
        "always the same class": float(total.max() / total.sum()),
        "mean IoU": float((right / np.maximum(total + found - right, 1))[there].mean()),
    }


def paint_classes(classes: Labels) -> torch.Tensor:
    """Classes ``[N, H, W]`` as colours, uint8 ``[N, 3, H, W]``; unlabelled pixels are white."""
    more = np.random.RandomState(0).randint(0, 255, [UNLABELLED - len(PALETTE), 3])
    colours = np.concatenate([PALETTE, more, [[255, 255, 255]]]).astype(np.uint8)
    return torch.from_numpy(colours[classes]).permute(0, 3, 1, 2)


@click.command(cls=Command)
@click.option(
    "--network",
    "networks",
    multiple=True,
    required=True,
    type=PATH_OR_URL,
    metavar="PATH|URL",
    help="pickle or .safetensors; repeat for several",
)
@click.option(
    "--data",
    type=PATH,
    metavar="PATH",
    help="Folder or zip with images/ and annotations/  [default: the first network's training data]",
)
@click.option(
    "--out",
    required=True,
    type=PATH,
    metavar="PNG",
    help="Picture to write: images, annotations, predictions",
)
@overwrite_option
@click.option("--num", type=click.IntRange(min=1), default=12, show_default=True, help="Images to show")
@click.option(
    "--cell",
    type=click.IntRange(min=16),
    default=64,
    show_default=True,
    help="Width of an image in the picture",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Chooses the images")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@ops_option
@friendly_errors
def main(
    networks: tuple[str, ...], data: str | None, out: str, num: int, cell: int, seed: int, device: str
) -> None:
    """Print the pixel accuracy of discriminators on all pairs, and show masks beside annotations."""
    if data is not None:
        check_apart(out, data, "--out")
    made_by: dict[str, Any] = dict(data=data and os.path.abspath(data), num=num, cell=cell, seed=seed)
    mark = mark_of("show_segmentation.py", networks, **made_by)
    target = output_file(out, same=has_mark(out, mark))
    where = announce_device(device)
    loaded = {name: load_networks(name, need=["D"]) for name in networks}
    for name, found in loaded.items():
        if found["D"].decoder_res != found["D"].img_resolution:
            raise UserError(
                f"the discriminator of {name} does not segment; it has to be trained with --reg_type=seg"
            )
    pairs = open_pairs(next(iter(loaded.values())), data)
    pairs.check_apart(out, "--out")
    print_notes(pairs.notes())
    for name, found in loaded.items():
        check_network(found["D"], pairs, name)
    chosen = [
        int(i) for i in np.random.default_rng(derive_seed(seed, "shown pairs")).permutation(len(pairs))[:num]
    ]
    images = [pairs[i][0] for i in chosen]
    rows: list[Row] = [
        ("real", torch.from_numpy(np.stack(images))),
        ("annotation", paint_classes(np.stack([pairs.classes(i) for i in chosen]))),
    ]
    for name, found in loaded.items():
        D = found["D"].to(where)
        values = scores(confusion(D, pairs, where))
        print(f"{name}: " + ", ".join(f"{what} {value:.4f}" for what, value in values.items()), flush=True)
        kimg = found["info"].get("kimg")
        rows.append(
            (
                Path(name).stem[-16:] if kimg is None else f"predicted,\n{kimg:.0f} kimg",
                paint_classes(predict(D, images, where)),
            )
        )
    size = -(-max(cell, pairs.resolution) // pairs.resolution) * pairs.resolution
    with writing(target.parent):
        save_png(picture_of_rows(rows, size), target, mark)
    print(target)


if __name__ == "__main__":
    main()
