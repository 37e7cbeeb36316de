"""Make a paired data set, images with segmentation maps, for ``train.py --reg_type=seg`` and ``tools/probe_segmentation.py``.

Usage:

    python tools/make_paired_dataset.py --images=ADEChallengeData2016/images/training \\
        --annotations=ADEChallengeData2016/annotations/training --zero=unlabelled --resolution=256 --dest=datasets/ade20k256.zip
"""

import dataclasses
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import PIL.ExifTags
import PIL.Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import PATH, Command, friendly_errors, overwrite_option
from dnnlib.errors import UserError
from dnnlib.untrusted import reason
from training.dataset_import import Transform
from training.dataset_import.decode import decode_image
from training.dataset_import.writer import DatasetWriter, check_apart, encode_png, open_store, refuse_existing_zip
from training.file_tree import FileTree
from training.paired import FOLDERS, MAX_CLASSES, UNLABELLED


def by_stem(tree: FileTree) -> dict[str, str]:
    """Names of images without their ending, to the whole names. Raises :class:`UserError` where two differ in the ending alone."""
    found: dict[str, str] = {}
    for name in tree.image_names:
        other = found.setdefault(os.path.splitext(name)[0], name)
        if other != name:
            raise UserError(f"'{other}' and '{name}' in '{tree.path}' differ in their ending alone; remove one, or give it another name")
    return found


def matched(images: FileTree, annotations: FileTree) -> list[tuple[str, str]]:
    """The names of each image and of its annotation: the same but for the ending. Raises :class:`UserError` where one lacks the other."""
    first, second = by_stem(images), by_stem(annotations)
    odd = first.keys() ^ second.keys()
    if odd:
        name = min(odd)
        here, there = (images, annotations) if name in first else (annotations, images)
        raise UserError(f"'{name}' is in '{here.path}' and not in '{there.path}'; each image needs one annotation of its name")
    if not first:
        raise UserError(f"'{images.path}' holds no images")
    return [(first[name], second[name]) for name in sorted(first)]


def check_upright(content: bytes) -> None:
    """Raises :class:`ValueError` for an image with an EXIF orientation: it does not say how its annotation lies."""
    with PIL.Image.open(io.BytesIO(content)) as image:
        orientation = image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    if orientation != 1:
        raise ValueError(f"it is to be turned for display (EXIF orientation {orientation}); turn it and its annotation upright first")


def class_map(content: bytes, zero_unlabelled: bool) -> PIL.Image.Image:
    """An annotation as class numbers, mode ``L``. Its values are classes, in greyscale or as places in a palette; with
    ``zero_unlabelled``, 0 means none, and n the class n − 1. Raises :class:`ValueError` for anything else."""
    with PIL.Image.open(io.BytesIO(content)) as image:
        if image.mode not in ("L", "P", "1"):
            raise ValueError(f"an annotation is 8-bit greyscale or has a palette, and this one is {image.mode}")
        values = np.asarray(image).astype(np.uint8)
    if zero_unlabelled:
        values = values - np.uint8(1)  # 0 becomes 255
    wrong = values[(values >= MAX_CLASSES) & (values != UNLABELLED)]
    if wrong.size:
        raise ValueError(f"it has class {wrong.max()}; classes are below {MAX_CLASSES}, and {UNLABELLED} is unlabelled")
    return PIL.Image.fromarray(values)


def converted(images: FileTree, annotations: FileTree, transform: Transform, zero_unlabelled: bool) -> Iterator[tuple[bytes, bytes]]:
    """PNG files of each image, in RGB, and of its annotation, cut and resized alike. Raises :class:`UserError` that names a bad file."""
    nearest = dataclasses.replace(transform, resize_filter="nearest")
    for image_name, annotation_name in matched(images, annotations):
        where = images.path / image_name
        try:
            content = images.read(image_name)
            check_upright(content)
            image = decode_image(content).convert("RGB")
            where = annotations.path / annotation_name
            classes = class_map(annotations.read(annotation_name), zero_unlabelled)
            if classes.size != image.size:
                raise ValueError(f"it is {classes.width}x{classes.height}, and its image {image.width}x{image.height}")
        except (UserError, MemoryError):
            raise
        except Exception as error:  # Pillow raises nearly anything on damaged bytes
            raise UserError(f"'{where}' cannot be used: {reason(error)}") from error
        yield encode_png(transform.apply(image)), encode_png(nearest.apply(classes))


@click.command(cls=Command)
@click.option("--images", required=True, type=PATH, metavar="PATH", help="Folder or zip of images")
@click.option(
    "--annotations",
    required=True,
    type=PATH,
    metavar="PATH",
    help="Folder or zip of their annotations, of the same names but for the ending",
)
@click.option("--dest", required=True, type=PATH, metavar="PATH", help="Zip to write, or a new folder")
@overwrite_option
@click.option("--resolution", type=int, required=True, metavar="INT", help="Side of the images; the centre is cut out")
@click.option("--zero", type=click.Choice(["class", "unlabelled"]), default="class", show_default=True, help="What the value 0 means")
@friendly_errors
def main(images: str, annotations: str, dest: str, resolution: int, zero: str) -> None:
    """Cut, resize and number images and their annotations alike. Class numbers are never mixed: annotations are resized to the
    nearest pixel."""
    sources, transform = (FileTree(images), FileTree(annotations)), Transform("center-crop", resolution, resolution)
    check_apart(dest, images, annotations)
    refuse_existing_zip(dest)
    count = len(matched(*sources))
    with open_store(dest) as put:
        writers = [DatasetWriter(lambda name, content, folder=folder: put(f"{folder}/{name}", content)) for folder in FOLDERS]  # type: ignore[misc]
        for pair in tqdm(converted(*sources, transform, zero == "unlabelled"), total=count, unit="pair", leave=False, disable=None):
            for writer, png in zip(writers, pair, strict=True):
                writer.add(png, None)
        for writer in writers:
            writer.finish()
    print(f"{dest}: {count} images and as many annotations")


if __name__ == "__main__":
    main()
