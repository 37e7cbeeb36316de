"""The import: images are decoded, transformed and encoded on all cores, and written in order."""

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal

import numpy as np
import PIL.Image
from tqdm import tqdm

from dnnlib.errors import UserError
from dnnlib.interrupt import end_processes, end_with_parent, unwinding
from dnnlib.untrusted import reason
from training.data.decode import (
    MAX_PIXELS,
    Color,
    DecodeOptions,
    DeepValues,
    NeedsOption,
    Picture,
    ValueRange,
    dark_warning,
    decode,
    frames_note,
    range_notes,
)
from training.data.file_tree import check_apart
from training.data.importing.sources import LabelSource, Source, TreeSource, open_source
from training.data.importing.transform import TooSmall, Transform, check_output_size
from training.data.importing.writer import DatasetWriter, check_dest, encode_png, open_writer
from training.data.labels import Label, class_counts, notes_on_classes

CHUNK = 8  # images a task: enough that passing tasks around costs little, few enough that large images fit


@dataclass(frozen=True)
class ImportReport:
    """What an import wrote.

    Attributes:
        num_images: written.
        resolution: of each, in pixels.
        num_channels: 1 or 3.
        label_dim: 0 without labels.
        skipped: one line for each image that was left out.
        classes: number, name (or None) and number of images of each class.
        notes: sentences about what was decided or left out.
        warnings: sentences about what is most likely wrong.
    """

    num_images: int
    resolution: int
    num_channels: int
    label_dim: int
    skipped: list[str]
    classes: list[tuple[int, str | None, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    """What a worker does to each image. With ``measure`` it only decodes it, for the values."""

    transform: Transform
    decode: DecodeOptions
    channels: int
    measure: bool = False


@dataclass(frozen=True)
class _Outcome:
    """The result for one image: ``png`` of ``size``, or a ``problem``, or ``colour`` in a greyscale job."""

    index: int
    png: bytes = b""
    size: tuple[int, int] = (0, 0)
    colour: bool = False
    problem: str | None = None
    advice: str = "mend or remove it"
    more_frames: bool = False
    deep: DeepValues | None = None


class _Found:
    """Facts about the images that were kept: files with more frames, and values of more than 8 bits."""

    def __init__(self) -> None:
        self.more_frames = self.deep_images = 0
        self.deep: DeepValues | None = None

    def add(self, outcome: _Outcome) -> None:
        """Add one image."""
        self.more_frames += outcome.more_frames
        if outcome.deep is not None:
            self.deep_images += 1
            self.deep = outcome.deep.join(self.deep)

    def report(self, report: ImportReport, value_range: ValueRange) -> ImportReport:
        """The report with notes and warnings on what was found and what ``value_range`` did."""
        notes = [
            *report.notes,
            *frames_note(self.more_frames),
            *range_notes(self.deep_images, self.deep, value_range),
        ]
        return replace(report, notes=notes, warnings=dark_warning(self.deep_images, self.deep, value_range))


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _ColourFound(Exception):
    """An image of a greyscale job has colour."""


def import_dataset(  # noqa: PLR0913  the options of dataset_tool.py
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    max_images: int | None = None,
    transform: Transform | None = None,
    background: Color = (255, 255, 255),
    max_pixels: int = MAX_PIXELS,
    value_range: ValueRange = None,
    labels: LabelSource | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    workers: int | None = None,
) -> ImportReport:
    """Make a training data set out of images.

    The output has one channel if every image is greyscale, else three. It does not depend on ``workers``.

    Args:
        source: what :func:`training.data.importing.sources.open_source` opens.
        dest: folder or zip to write.
        max_images: take the first ones; of classes from subfolders, each its share. None takes all.
        transform: crops and resizes; None does neither.
        background: behind transparency.
        max_pixels: refuse larger images.
        value_range: of images with more than 8 bits a value. For ``"auto"`` a first pass finds one range
            for all.
        labels: their source; None takes a ``dataset.json`` if there is one.
        on_error: an image that cannot be used stops the import, or is left out and reported.
        workers: processes; None starts one for each core.

    Raises:
        UserError: the import failed. It leaves nothing behind.
    """
    if max_images is not None and max_images < 1:
        raise UserError(f"--max-images must be at least 1, not {max_images}")
    check_apart(dest, source, "--dest")
    check_dest(dest)
    opened = open_source(source, labels, max_images)
    if isinstance(opened, TreeSource):
        opened.tree.check_apart(dest, "--dest")
    count = min(len(opened), max_images or len(opened))
    workers = min(workers or _cores(), -(-count // CHUNK))
    with unwinding(), _Converter(opened, count, workers) as converter:
        options = DecodeOptions(background, max_pixels, value_range)
        if value_range == "auto":
            options = _measured(converter, options)
        # Greyscale until the first colour, then again from the start. Sets in colour show it at once, and
        # greyscale sets are read once. Only a mixed set repeats the images before its first coloured one.
        for channels in (1, 3):
            job = _Job(transform or Transform(), options, channels)
            try:
                with open_writer(dest, opened.class_names) as writer:
                    report, found = _write_all(converter, job, writer, on_error)
                return found.report(report, value_range)
            except _ColourFound:
                continue
    raise AssertionError("three channels hold any image")


def _measured(converter: "_Converter", options: DecodeOptions) -> DecodeOptions:
    """The options with the images' range of values, if any has more than 8 bits."""
    found = _Found()
    outcomes = converter.outcomes(_Job(Transform(), options, channels=3, measure=True))
    for outcome in tqdm(
        outcomes, total=converter.count, unit="img", desc="measuring", disable=None, leave=False
    ):
        found.add(outcome)
    return options if found.deep is None else replace(options, value_range=(found.deep.low, found.deep.high))


def _write_all(
    converter: "_Converter", job: _Job, writer: DatasetWriter, on_error: str
) -> tuple[ImportReport, _Found]:
    source, skipped, kept, found = converter.source, [], [], _Found()
    first: tuple[int, int] | None = None
    with tqdm(total=converter.count, unit="img", desc="converting", disable=None, leave=False) as progress:
        for outcome in converter.outcomes(job):
            progress.update()
            name = source.image_name(outcome.index)
            if outcome.problem is not None:
                if on_error == "stop":
                    raise UserError(
                        f"{name} cannot be used: {outcome.problem}; {outcome.advice}, or leave it out with "
                        "--on-error=skip"
                    )
                skipped.append(f"{name}: {outcome.problem}")
                continue
            if outcome.colour:
                raise _ColourFound
            if first is None:
                check_output_size(*outcome.size, what=f"{name} would come out")
                first = outcome.size
            if outcome.size != first:
                raise UserError(
                    f"{name} would come out {'x'.join(map(str, outcome.size))}, those before it "
                    f"{'x'.join(map(str, first))}; set --width and --height (and --transform=center-crop to "
                    "keep the shapes)"
                )
            label = None if source.labels is None else source.labels[outcome.index]
            writer.add(outcome.png, label)
            found.add(outcome)
            kept.append(label)
    if first is None:
        raise UserError(f"none of the {converter.count} images could be used; the first: {skipped[0]}")
    names = dict(enumerate(source.class_names or []))
    classes = [(number, names.get(number), count) for number, count in class_counts(kept).items()]
    notes = [*source.notes, *notes_on_classes(kept)]
    if len(kept) == 1:
        notes.append("There is one image; a network needs many to learn more than that one.")
    return ImportReport(len(kept), first[0], job.channels, _label_dim(kept), skipped, classes, notes), found


class _Converter:
    """Runs jobs over the first ``count`` images of a source on worker processes; outcomes come in order."""

    def __init__(self, source: Source, count: int, workers: int) -> None:
        self.source = source
        self.count = count
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Converter":
        if self.workers > 1:
            self._pool = ProcessPoolExecutor(self.workers, initializer=_start_worker, initargs=(self.source,))
            with _interrupts_held_back():  # workers start here and inherit the mask
                self._pool.submit(int)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        if kind is None:
            self._pool.shutdown()
            return
        # A blocked worker would keep the pool from ending.
        stuck = end_processes(list(self._pool._processes.values()))  # noqa: SLF001  no other way before 3.14
        if stuck and isinstance(error, SystemExit | KeyboardInterrupt):
            # Python would wait for a worker that cannot be killed.
            os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130)
        self._pool.shutdown(wait=not stuck)

    def outcomes(self, job: _Job) -> Iterator[_Outcome]:
        """The outcome of each image in order."""
        chunks = [range(start, min(start + CHUNK, self.count)) for start in range(0, self.count, CHUNK)]
        if self._pool is None:
            for chunk in chunks:
                for index in chunk:
                    yield _convert(self.source, index, job)
            return
        pending: deque[Future[list[_Outcome]]] = deque()
        try:
            for chunk in chunks:
                pending.append(self._pool.submit(_convert_chunk, chunk, job))
                if len(pending) > 2 * self.workers:  # no further ahead, so that memory stays bounded
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely for want of memory; try fewer --workers"
            ) from error
        except GeneratorExit:  # the next job needs the pool, and nobody needs the rest of this one
            for future in pending:
                future.cancel()
            raise


_worker_source: Source  # set in each worker when it starts


def _start_worker(source: Source) -> None:
    global _worker_source
    for number in STOPPING:  # the parent handles them and ends this process
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)()  # for a parent that is killed
    _worker_source = source


def _convert_chunk(chunk: range, job: _Job) -> list[_Outcome]:
    return [_convert(_worker_source, index, job) for index in chunk]


def _convert(source: Source, index: int, job: _Job) -> _Outcome:
    try:
        loaded = source.load(index)
        picture = (
            Picture(PIL.Image.fromarray(loaded))
            if isinstance(loaded, np.ndarray)
            else decode(loaded, job.decode)
        )
    except MemoryError:  # no fault of the image
        raise
    except NeedsOption as error:
        return _Outcome(index, problem=reason(error), advice=error.advice)
    except Exception as error:  # noqa: BLE001  Pillow raises nearly anything on damaged bytes
        return _Outcome(index, problem=reason(error))
    found = _Outcome(index, more_frames=picture.more_frames, deep=picture.deep)
    if job.measure:
        return found
    image = picture.image
    if image.mode != "L" and job.channels == 1:
        return _Outcome(index, colour=True)
    try:
        image = job.transform.apply(image if job.channels == 1 else image.convert("RGB"))
    except TooSmall as error:
        return _Outcome(index, problem=str(error))
    return replace(found, png=encode_png(image), size=image.size)


def _label_dim(labels: list[Label | None]) -> int:
    known = [label for label in labels if label is not None]
    if not known:
        return 0
    return max(x + 1 if isinstance(x, int) else len(x) for x in known)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
