"""Measure how well a frozen discriminator's features segment: figure 7b of Lee et al. 2022 (GGDR).

Usage:

    python experiments/probe_segmentation.py --network=none=none.pkl --network=ggdr=ggdr.pkl
        --data=emoji32-pairs --out=probe

``--data`` is a folder with ``images/`` and ``annotations/`` (:class:`training.data.paired.PairedDataset`);
the paper uses ADE20K with 150 classes.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import (
    LABELLED_PATH_OR_URL,
    PATH,
    Command,
    FiniteFloat,
    friendly_errors,
    ops_option,
    output_file,
    overwrite_option,
    parse_int_list,
    print_notes,
)
from dnnlib.errors import UserError
from dnnlib.files import atomic_write
from experiments.analysis.probe import ProbeOptions, ProbeResult, check_takes, train_probe
from experiments.plotting import COLOURS, panels, save_figure
from torch_utils.device import announce_device
from training.data.file_tree import check_apart
from training.data.paired import PairedDataset
from training.inference.files import load_networks
from training.inference.outputs import has_mark, mark_of
from training.networks import Discriminator


def parse_networks(texts: Sequence[str]) -> dict[str, str]:
    """``["none=a.pkl", "ggdr=b.pkl"]`` to ``{"none": "a.pkl", …}``.

    Raises:
        UserError: a text has another form, or a label comes twice.
    """
    networks: dict[str, str] = {}
    for text in texts:
        label, equals, path = text.partition("=")
        if not (label and equals and path):
            raise UserError(
                f"--network={text} is not of the form LABEL=PKL, such as ggdr=network-snapshot-000100.pkl"
            )
        if label in networks:
            raise UserError(f"--network: the label '{label}' comes twice; give each network its own")
        networks[label] = path
    return networks


def parse_resolutions(text: str | None, discriminators: Sequence[Discriminator]) -> list[int]:
    """Resolutions of the encoder's maps to read: those listed, or all from 8 that every discriminator has.

    Raises:
        UserError: there are none.
    """
    if text is not None:
        return parse_int_list(text)
    common = set.intersection(*({res // 2 for res in D.block_resolutions} for D in discriminators))
    resolutions = sorted(res for res in common if res >= 8)
    if not resolutions:
        raise UserError(
            "the discriminators have no encoder maps of 8x8 or more in common; name some with --resolutions"
        )
    return resolutions


def mean_and_deviation(values: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample standard deviation (0 for N = 1) over the first axis: ``[N, K]`` to ``[K]`` each."""
    array = np.array(values)
    return array.mean(axis=0), array.std(axis=0, ddof=1) if len(array) > 1 else np.zeros(array.shape[1])


def draw(results: dict[str, list[ProbeResult]], out: Path, mark: str | None = None) -> None:
    """Draw accuracy over epochs: for each discriminator the mean over seeds ± one standard deviation."""
    figure, (axis,) = panels(1)
    for number, (label, repeats) in enumerate(results.items()):
        mean, deviation = mean_and_deviation([result.accuracy[1:] for result in repeats])
        epochs, colour = np.arange(1, len(mean) + 1), COLOURS[number % len(COLOURS)]
        axis.plot(epochs, mean, color=colour, marker="o", markersize=3, label=label)
        axis.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
    seeds = len(next(iter(results.values())))
    axis.set_title(f"validation pixel accuracy, D frozen, {seeds} heads each", fontsize=10)
    axis.set_xlabel("epoch")
    axis.legend(fontsize=8)
    save_figure(figure, out, mark)


def record(results: dict[str, list[ProbeResult]], seeds: Sequence[int], **settings: Any) -> dict[str, Any]:
    """The JSON file: settings, accuracy of the most frequent class, and each network's accuracies by seed."""
    first = next(iter(results.values()))
    return {
        **settings,
        "seeds": list(seeds),
        "majority_accuracy": [result.majority_accuracy for result in first],
        "accuracy": {label: [result.accuracy for result in repeats] for label, repeats in results.items()},
    }


@click.command(cls=Command)
@click.option(
    "--network",
    "networks",
    multiple=True,
    required=True,
    type=LABELLED_PATH_OR_URL,
    metavar="LABEL=PATH|URL",
    help="a network; repeat to compare",
)
@click.option("--data", required=True, type=PATH, metavar="DIR", help="Folder with images/ and annotations/")
@click.option("--out", required=True, type=PATH, metavar="PATH", help="Where to write PATH.json and PATH.png")
@overwrite_option
@click.option("--resolutions", metavar="LIST", help="Encoder maps that the head reads  [default: all from 8]")
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--lr", type=FiniteFloat(above=0), default=0.01, show_default=True, help="Of Adam")
@click.option(
    "--hidden", type=click.IntRange(min=1), default=32, show_default=True, help="Channels within the head"
)
@click.option(
    "--val-fraction",
    type=FiniteFloat(min=0, max=1),
    default=0.2,
    show_default=True,
    help="Part of the images held back",
)
@click.option(
    "--seeds",
    default="0-2",
    show_default=True,
    metavar="LIST",
    help="One head each: split, first weights and order",
)
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@ops_option
@friendly_errors
def main(
    networks: tuple[str, ...],
    data: str,
    out: str,
    resolutions: str | None,
    seeds: str,
    device: str,
    **options: Any,
) -> None:
    """Train shallow segmentation heads on features of frozen discriminators and compare pixel accuracy.

    The head reads the encoder, which all discriminators have, and no decoder. Heads of one seed have the same
    split, initial weights and order of images for every discriminator.
    """
    check_apart(out, data, "--out")
    paths, numbers = parse_networks(networks), parse_int_list(seeds)
    how = dict(
        labels=list(paths), data=os.path.abspath(data), resolutions=resolutions, seeds=numbers, **options
    )
    mark = mark_of("probe_segmentation.py", list(paths.values()), **how)
    same = has_mark(f"{out}.png", mark)
    for suffix in (".png", ".json"):
        output_file(f"{out}{suffix}", same=same)
    where = announce_device(device)
    discriminators = {label: load_networks(path, need=["D"])["D"] for label, path in paths.items()}
    settings = ProbeOptions(
        resolutions=parse_resolutions(resolutions, list(discriminators.values())), **options
    )
    pairs = PairedDataset(data)
    pairs.check_apart(out, "--out")
    print_notes(pairs.notes())
    for D in discriminators.values():
        check_takes(D, pairs)
    results: dict[str, list[ProbeResult]] = {}
    for label, D in discriminators.items():
        results[label] = [train_probe(D, pairs, settings, seed=seed, device=where) for seed in numbers]
        mean, deviation = mean_and_deviation([result.accuracy for result in results[label]])
        majority = np.mean([result.majority_accuracy for result in results[label]])
        print(
            f"{label}: {mean[-1]:.4f} ± {deviation[-1]:.4f} of the pixels right; always the same class: "
            f"{majority:.4f}",
            flush=True,
        )
    known = dict(
        networks=paths, data=data, num_images=len(pairs), num_classes=pairs.num_classes, **vars(settings)
    )
    try:
        with atomic_write(f"{out}.json", "w", encoding="utf-8") as stream:
            json.dump(record(results, numbers, **known), stream, indent=2)
    except OSError as error:
        raise UserError(f"cannot write --out={out}: {error.strerror}") from error
    draw(results, Path(f"{out}.png"), mark)
    print(f"{out}.json, {out}.png")


if __name__ == "__main__":
    main()
