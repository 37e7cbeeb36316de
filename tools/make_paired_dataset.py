"""Make a paired data set: images with segmentation maps.

``train.py --reg_type=seg`` and ``experiments/probe_segmentation.py`` read it.

Usage:

    python tools/make_paired_dataset.py --images=ADE/images --annotations=ADE/annotations
        --zero=unlabelled --resolution=256 --dest=datasets/ade20k256.zip
"""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import PIL.Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import PATH, Command, friendly_errors, overwrite_option, picture_options, plural, print_notes
from dnnlib.errors import UserError
from dnnlib.untrusted import parsing
from training.data.decode import (
    DecodeOptions,
    DeepValues,
    Loaded,
    NeedsOption,
    ValueRange,
    dark_warning,
    decode,
    frames_note,
    load,
    range_notes,
)
from training.data.file_tree import FileTree
from training.data.importing import Transform
from training.data.importing.writer import DatasetWriter, encode_png, note_replaced_zip, open_store
from training.data.paired import FOLDERS, MAX_CLASSES, UNLABELLED


def by_stem(tree: FileTree) -> dict[str, str]:
    """File names of images by name without suffix. Raises :class:`UserError` where two have one name."""
    found: dict[str, str] = {}
    for name in tree.image_names:
        other = found.setdefault(os.path.splitext(name)[0], name)
        if other != name:
            raise UserError(
                f"'{other}' and '{name}' in '{tree.path}' differ only in their suffix; remove or rename one"
            )
    return found


def matched(images: FileTree, annotations: FileTree) -> list[tuple[str, str]]:
    """File names of each image and its annotation, which differ only in their suffix.

    Raises:
        UserError: an image or an annotation has no counterpart.
    """
    images.require_images("give the folder or zip of the images")
    first, second = by_stem(images), by_stem(annotations)
    if unmatched := first.keys() ^ second.keys():
        name = min(unmatched)
        here, there = (images, annotations) if name in first else (annotations, images)
        raise UserError(
            f"'{name}' is in '{here.path}' and not in '{there.path}'; each image needs one annotation of its "
            "name"
        )
    return [(first[name], second[name]) for name in sorted(first)]


@dataclasses.dataclass
class PairReader:
    """Reads images and their annotations, cuts and resizes both alike.

    Attributes:
        transform: of the images; annotations are resized to the nearest pixel.
        options: how images are decoded.
        zero_unlabelled: the value 0 of an annotation is unlabelled, and n is the class n − 1.
        more_frames: number of files with further frames, which are left out.
        deep_images: number of images with more than 8 bits.
        deep: range of values of those images.
    """

    transform: Transform
    options: DecodeOptions
    zero_unlabelled: bool
    more_frames: int = 0
    deep_images: int = 0
    deep: DeepValues | None = None

    def read(self, image: bytes) -> PIL.Image.Image:
        """Decode an image to RGB. Raises :class:`ValueError` as :func:`check_upright` and :func:`decode`."""
        check_upright(load(image, max_pixels=self.options.max_pixels))
        picture = decode(image, self.options)
        self.more_frames += picture.more_frames
        if picture.deep is not None:
            self.deep_images += 1
            self.deep = picture.deep.join(self.deep)
        return picture.image.convert("RGB")

    def converted(self, images: FileTree, annotations: FileTree) -> Iterator[tuple[bytes, bytes]]:
        """PNG files of each image, in RGB, and its annotation.

        Raises:
            UserError: a file is bad; the message names it.
        """
        nearest = dataclasses.replace(self.transform, resize_filter="nearest")
        for image_name, annotation_name in matched(images, annotations):
            with using(images.path / image_name):
                image = self.read(images.read(image_name))
            with using(annotations.path / annotation_name):
                classes = self.class_map(annotations.read(annotation_name))
                if classes.size != image.size:
                    raise ValueError(
                        f"it is {classes.width}x{classes.height}, and its image {image.width}x{image.height}"
                    )
            yield encode_png(self.transform.apply(image)), encode_png(nearest.apply(classes))

    def class_map(self, content: bytes) -> PIL.Image.Image:
        """Decode an annotation to class numbers, mode ``L``. Grey values or palette indices are classes.

        Raises:
            ValueError: it is of another kind, or has an EXIF orientation or too high a class.
        """
        loaded = load(content, max_pixels=self.options.max_pixels)
        check_upright(loaded)
        if loaded.image.mode not in ("L", "P", "1"):
            raise ValueError(
                f"an annotation is 8-bit greyscale or has a palette, and this one is {loaded.image.mode}"
            )
        self.more_frames += loaded.more_frames
        values = np.asarray(loaded.image).astype(np.uint8)
        if self.zero_unlabelled:
            values = values - np.uint8(1)  # 0 becomes 255
        wrong = values[(values >= MAX_CLASSES) & (values != UNLABELLED)]
        if wrong.size:
            raise ValueError(
                f"it has class {wrong.max()}; classes are below {MAX_CLASSES}, and {UNLABELLED} is unlabelled"
            )
        return PIL.Image.fromarray(values)


def measured(images: FileTree, options: DecodeOptions) -> DecodeOptions:
    """The options with the images' range of values, where an image has more than 8 bits.

    Raises:
        UserError: an image is bad.
    """
    found: DeepValues | None = None
    for name in tqdm(images.image_names, unit="img", desc="measuring", leave=False, disable=None):
        with using(images.path / name):
            deep = decode(images.read(name), options).deep
        found = found if deep is None else deep.join(found)
    return options if found is None else dataclasses.replace(options, value_range=(found.low, found.high))


@contextlib.contextmanager
def using(path: Path) -> Iterator[None]:
    """Turn any failure to decode a file into a :class:`UserError` that names it."""
    with parsing(f"'{path}'", "cannot be used"):
        try:
            yield
        except NeedsOption as error:
            raise UserError(f"'{path}' cannot be used: {error}; {error.advice}") from error


def check_upright(loaded: Loaded) -> None:
    """Raise :class:`ValueError` for an EXIF orientation: whether it holds for the counterpart is unknown."""
    if loaded.orientation != 1:
        raise ValueError(
            f"it has the EXIF orientation {loaded.orientation}; turn it and its counterpart upright first"
        )


def _put_in(put: Callable[[str, bytes], None], folder: str, name: str, content: bytes) -> None:
    put(f"{folder}/{name}", content)


@click.command(cls=Command)
@click.option("--images", required=True, type=PATH, metavar="PATH", help="Folder or zip of images")
@click.option(
    "--annotations",
    required=True,
    type=PATH,
    metavar="PATH",
    help="Folder or zip of their annotations, with the same names; suffixes may differ",
)
@click.option("--dest", required=True, type=PATH, metavar="PATH", help="Zip to write, or a new folder")
@overwrite_option
@click.option(
    "--resolution", type=int, required=True, metavar="INT", help="Side of the images; the centre is cut out"
)
@click.option(
    "--zero",
    type=click.Choice(["class", "unlabelled"]),
    default="class",
    show_default=True,
    help="What the value 0 means",
)
@picture_options
@friendly_errors
def main(
    images: str,
    annotations: str,
    dest: str,
    resolution: int,
    zero: str,
    max_pixels: int,
    value_range: ValueRange,
) -> None:
    """Cut, resize and number images and their annotations alike.

    Annotations are resized to the nearest pixel, so class numbers are never mixed.
    """
    sources, transform = (
        (FileTree(images), FileTree(annotations)),
        Transform("center-crop", resolution, resolution),
    )
    for tree in sources:
        tree.check_apart(dest, "--dest")
        print_notes(tree.note())
    note_replaced_zip(dest)
    count = len(matched(*sources))
    reader = PairReader(
        transform, DecodeOptions(max_pixels=max_pixels, value_range=value_range), zero == "unlabelled"
    )
    if value_range == "auto":
        reader.options = measured(sources[0], reader.options)
    with open_store(dest) as put:
        writers = [DatasetWriter(functools.partial(_put_in, put, folder)) for folder in FOLDERS]
        for pair in tqdm(reader.converted(*sources), total=count, unit="pair", leave=False, disable=None):
            for writer, png in zip(writers, pair, strict=True):
                writer.add(png, None)
        for writer in writers:
            writer.finish()
    for warning in dark_warning(reader.deep_images, reader.deep, value_range):
        click.echo(f"Warning: {warning}", err=True)
    print_notes(
        [*frames_note(reader.more_frames), *range_notes(reader.deep_images, reader.deep, value_range)]
    )
    print(f"{dest}: {plural(count, 'image')} and as many annotations")


if __name__ == "__main__":
    main()
