"""Make a data set for training: square images of one size in a zip or folder, with their labels."""

import re
from typing import Any

import click
import PIL.ImageColor

from dnnlib.cli import (
    DIGITS,
    PATH,
    Command,
    friendly_errors,
    overwrite_option,
    picture_options,
    plural,
    print_notes,
)
from dnnlib.errors import UserError
from dnnlib.untrusted import one_line
from training.data.importing import ImportReport, Transform, import_dataset
from training.data.importing.writer import note_replaced_zip

SHOWN_CLASSES = 40  #: Lines about classes, at most.


def parse_resolution(
    _ctx: click.Context, _param: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """``"256x128"`` to (256, 128)."""
    match = re.fullmatch(rf"({DIGITS})x({DIGITS})", text.strip().lower()) if text is not None else None
    if text is not None and match is None:
        raise click.BadParameter(f"'{text}' is not of the form WxH, such as 256x256")
    return (int(match[1]), int(match[2])) if match else None


def parse_color(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[int, ...]:
    """A colour's name or ``#rrggbb`` to (r, g, b)."""
    try:
        return PIL.ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is no colour; give a name such as white or #rrggbb") from error


@click.command(cls=Command)
@click.option(
    "--source",
    required=True,
    type=PATH,
    metavar="PATH",
    help="Folder, zip, cifar-10-python.tar.gz, MNIST images .gz, LSUN lmdb",
)
@click.option(
    "--dest", required=True, type=PATH, metavar="PATH", help="Zip (name ends in .zip) or new folder to write"
)
@overwrite_option
@click.option(
    "--max-images",
    type=int,
    metavar="N",
    help="Take only the first N images of the source; of --labels=subfolders, each class its share",
)
@click.option(
    "--resize-filter",
    type=click.Choice(["box", "lanczos"]),
    default="lanczos",
    show_default=True,
    help="How to resize",
)
@click.option(
    "--transform",
    type=click.Choice(["center-crop", "center-crop-wide"]),
    help="Crop before resizing  [default: none]",
)
@click.option("--width", type=int, help="Width to come out  [default: the images' own]")
@click.option("--height", type=int, help="Height to come out  [default: the images' own]")
@click.option("--resolution", metavar="WxH", callback=parse_resolution, help="Both in one, such as 256x256")
@click.option(
    "--background",
    default="white",
    show_default=True,
    callback=parse_color,
    metavar="COLOUR",
    help="Behind transparency",
)
@picture_options
@click.option(
    "--labels",
    type=click.Choice(["dataset.json", "subfolders", "none"]),
    help="Their source  [default: dataset.json if there]",
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do about a broken image",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes to use  [default: one for each core]")
@friendly_errors
def main(width: int | None, height: int | None, resolution: tuple[int, int] | None, **options: Any) -> None:
    """Make a data set for training out of images as they come.

    The images come out as NNNNN/imgNNNNNNNN.png beside a dataset.json with their labels, greyscale when all
    are greyscale and RGB otherwise. The output depends on the input and the options alone, and appears whole
    or not at all.

    \b
    python dataset_tool.py --source=photos/ --dest=photos256.zip --transform=center-crop --resolution=256x256
    python dataset_tool.py --source=cifar-10-python.tar.gz --dest=cifar10.zip
    python dataset_tool.py --source=train-images-idx3-ubyte.gz --dest=fashion.zip
    python dataset_tool.py --source=imagenet/train --dest=imagenet128.zip --labels=subfolders \\
        --transform=center-crop --resolution=128x128 --on-error=skip

    A zip that is there is replaced, with a note; --overwrite leaves the note out. A folder has to be new or
    empty.

    --transform=center-crop takes the largest centred square. --transform=center-crop-wide takes the largest
    centred rectangle of the ratio width:height and pads it with black to width x width; smaller images are
    errors to it.

    --range is for images with more than 8 bits a value, such as 12-bit data in 16-bit files: --range=0-4095
    makes 0 black and 4095 white, auto takes the smallest and the largest value of all images, and full what
    the file's type can hold.
    """
    if resolution is not None:
        if width is not None or height is not None:
            raise UserError("--resolution stands for --width and --height; give one or the other")
        width, height = resolution
    note_replaced_zip(options["dest"])
    transform = Transform(options.pop("transform"), width, height, options.pop("resize_filter"))
    print_report(import_dataset(**options, transform=transform), options["dest"])


def print_report(report: ImportReport, dest: str) -> None:
    """Say what was written and, one a line, what was left out."""
    for line in report.skipped:
        click.echo(f"skipped {line}", err=True)
    print_notes(report.notes)
    for warning in report.warnings:
        click.echo(f"Warning: {warning}", err=True)
    left_out = f", {len(report.skipped)} skipped" if report.skipped else ""
    labels = f"labels of {report.label_dim}" if report.label_dim else "no labels"
    kind = "greyscale" if report.num_channels == 1 else "RGB"
    click.echo(
        f"{dest}: {plural(report.num_images, f'{kind} image')} of {report.resolution}x{report.resolution}, "
        f"{labels}{left_out}"
    )
    for line in class_lines(report.classes):
        click.echo(line)


def class_lines(classes: list[tuple[int, str | None, int]]) -> list[str]:
    """A line for each class: its number, name and images. Of many classes, the first and the last ones."""
    lines = []
    for number, name, count in classes:
        named = "" if name is None else f" ('{one_line(name)}')"
        lines.append(f"  class {number}{named}: {plural(count, 'image')}")
    if len(lines) <= SHOWN_CLASSES:
        return lines
    half = SHOWN_CLASSES // 2
    return [*lines[:half], f"  ... {len(lines) - 2 * half} more classes ...", *lines[-half:]]


if __name__ == "__main__":
    main()
