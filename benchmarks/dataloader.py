"""Speed of loading training images: from a zip, from a folder and from memory, by number of workers.

Usage:

    python benchmarks/dataloader.py [--train-rate IMAGES_PER_SECOND] [--json FILE]

The images are those of ``--data``, resized to ``--resolution`` and written as PNG; ``--train-rate`` (of
``train_step.py``) gives how many times as fast they are loaded as they are used.
"""

import contextlib
import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import click
import PIL.Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.options import data_option, json_option, write_json  # noqa: E402
from dnnlib.cli import Command, FiniteFloat, friendly_errors, parse_int_list  # noqa: E402
from training.data.batches import image_batches  # noqa: E402
from training.data.dataset import ImageFolderDataset  # noqa: E402


@click.command(cls=Command)
@data_option
@click.option("--resolution", type=int, default=64, show_default=True)
@click.option(
    "--images", "count", type=click.IntRange(min=1), default=1024, show_default=True, help="how many of them"
)
@click.option("--batch", type=int, default=8, show_default=True)
@click.option("--workers", default="0,2", show_default=True, metavar="LIST")
@click.option(
    "--seconds", type=FiniteFloat(min=0.1), default=5.0, show_default=True, help="for each measurement"
)
@click.option("--train-rate", type=FiniteFloat(above=0), metavar="IMAGES/S", help="what training takes")
@json_option
@friendly_errors
def main(
    data: str,
    resolution: int,
    count: int,
    batch: int,
    workers: str,
    seconds: float,
    train_rate: float | None,
    json_file: str | None,
) -> None:
    """Measure data loading and print a table."""
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, archive = prepare(data, resolution, count, Path(scratch))
        for kind, path in {"zip": archive, "folder": folder}.items():
            for number in parse_int_list(workers):
                rates[f"{kind}, {number} workers"] = loading_rate(
                    path, batch, number, seconds, memory_budget_mb=0
                )
        rates["in memory"] = loading_rate(archive, batch, 0, seconds)
    result: dict[str, Any] = {
        "images_per_second": rates,
        "settings": dict(
            data=data, resolution=resolution, images=count, batch=batch, seconds=seconds, cores=os.cpu_count()
        ),
    }
    if train_rate is not None:
        result["times_train_rate"] = {name: rate / train_rate for name, rate in rates.items()}
    for name, rate in rates.items():
        print(
            f"{name:<20}{rate:>10.0f} images/s"
            + (f"{rate / train_rate:>10.0f} x training" if train_rate else "")
        )
    write_json(json_file, result)


def prepare(data: str, resolution: int, count: int, scratch: Path) -> tuple[str, str]:
    """The first images of ``data`` at ``resolution``, as a folder and as a zip of PNG files."""
    source = ImageFolderDataset(data, memory_budget_mb=0)
    folder, archive = scratch / "images", scratch / "images.zip"
    folder.mkdir()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as stream:
        for i in range(min(count, len(source))):
            array = source[i][0].transpose(1, 2, 0)
            picture = PIL.Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0]).resize(
                (resolution, resolution)
            )
            picture.save(folder / f"{i:05d}.png")
            stream.write(folder / f"{i:05d}.png", f"{i:05d}.png")
    return str(folder), str(archive)


def loading_rate(path: str, batch: int, workers: int, seconds: float, **options: Any) -> float:
    """Images a second, measured over ``seconds`` after the first batches."""
    dataset = ImageFolderDataset(path, **options)
    with contextlib.closing(
        image_batches(dataset, batch_size=batch, seed=0, start=0, workers=workers)
    ) as batches:
        for _ in range(4 * max(workers, 1)):  # until the workers' queues are full
            next(batches)
        start, loaded = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            loaded += len(next(batches)[0])
        return loaded / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
