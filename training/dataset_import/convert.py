"""The import itself: every image decoded, transformed and encoded on all cores, written in order."""

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import numpy as np
import PIL.Image
from tqdm import tqdm

from dnnlib.errors import UserError
from dnnlib.interrupt import end_processes, end_with_parent, unwinding
from training.dataset_import.decode import Color, decode_image
from training.dataset_import.sources import LabelSource, Source, open_source
from training.dataset_import.transform import TooSmall, Transform, check_output_size
from training.dataset_import.writer import DatasetWriter, check_apart, check_dest, encode_png, open_writer
from training.file_tree import reason
from training.labels import Label

CHUNK = 8  # images a task: enough that passing tasks around costs little, few enough that large images fit


@dataclass(frozen=True)
class ImportReport:
    """What an import wrote: ``num_images`` of ``resolution`` x ``resolution`` x ``num_channels``; ``label_dim`` is 0 without
    labels; ``skipped`` has one line for each image that was left out."""

    num_images: int
    resolution: int
    num_channels: int
    label_dim: int
    skipped: list[str]


@dataclass(frozen=True)
class _Job:
    """What a worker does to each image."""

    transform: Transform
    background: Color
    channels: int


@dataclass(frozen=True)
class _Outcome:
    """What became of one image: ``png`` of ``size``, the ``problem`` with it, or ``colour`` where one channel was asked for."""

    index: int
    png: bytes = b""
    size: tuple[int, int] = (0, 0)
    colour: bool = False
    problem: str | None = None


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _ColourFound(Exception):
    """What was taken for a greyscale data set has colour in it."""


def import_dataset(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    max_images: int | None = None,
    transform: Transform | None = None,
    background: Color = (255, 255, 255),
    labels: LabelSource | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    workers: int | None = None,
) -> ImportReport:
    """Make a training data set at ``dest`` (folder or zip) of the first ``max_images`` images of ``source``.

    The output has one channel when every image is greyscale, else three. It depends on the input and these arguments alone,
    not on ``workers`` (processes; None: one for each core). An image that can't be used stops the import, or with
    ``on_error='skip'`` is left out and reported. Raises :class:`UserError`; nothing is left behind then.
    """
    if max_images is not None and max_images < 1:
        raise UserError(f"--max-images must be at least 1, not {max_images}")
    opened = open_source(source, labels)
    check_apart(dest, source)
    check_dest(dest)
    count = min(len(opened), max_images or len(opened))
    workers = min(workers or _cores(), -(-count // CHUNK))
    with unwinding(), _Converter(opened, count, workers) as converter:
        # Greyscale until colour turns up, then all over again: colour sets show it in their first images, greyscale ones are
        # never read twice, and only a set that is mixed and begins in grey pays for the images before its first coloured one.
        for channels in (1, 3):
            job = _Job(transform or Transform(), background, channels)
            try:
                with open_writer(dest) as writer:
                    return _write_all(converter, job, writer, on_error)
            except _ColourFound:
                continue
    raise AssertionError("three channels hold any image")


def _write_all(converter: "_Converter", job: _Job, writer: DatasetWriter, on_error: str) -> ImportReport:
    source, skipped, kept = converter.source, [], []
    first: tuple[int, int] | None = None
    with tqdm(total=converter.count, unit="img", desc="converting", disable=None, leave=False) as progress:
        for outcome in converter.outcomes(job):
            progress.update()
            name = source.image_name(outcome.index)
            if outcome.problem is not None:
                if on_error == "stop":
                    raise UserError(f"{name} cannot be used: {outcome.problem}; mend or remove it, or leave it out with --on-error=skip")
                skipped.append(f"{name}: {outcome.problem}")
                continue
            if outcome.colour:
                raise _ColourFound
            if first is None:
                check_output_size(*outcome.size, what=f"{name} would come out")
                first = outcome.size
            if outcome.size != first:
                raise UserError(
                    f"{name} would come out {'x'.join(map(str, outcome.size))}, those before it {'x'.join(map(str, first))}; "
                    "set --width and --height (and --transform=center-crop to keep the shapes)"
                )
            label = None if source.labels is None else source.labels[outcome.index]
            writer.add(outcome.png, label)
            kept.append(label)
    if first is None:
        raise UserError(f"none of the {converter.count} images could be used; the first: {skipped[0]}")
    return ImportReport(len(kept), first[0], job.channels, _label_dim(kept), skipped)


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
            with _interrupts_held_back():  # workers start here and inherit that, so no signal reaches one
                self._pool.submit(int)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is None:
            return
        if kind is None:
            self._pool.shutdown()
            return
        stuck = end_processes(list(self._pool._processes.values()))  # one that is blocked would keep the pool from ending
        if stuck and isinstance(error, SystemExit | KeyboardInterrupt):  # so would one that cannot be killed: Python waits for it
            os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130)
        self._pool.shutdown(wait=not stuck)

    def outcomes(self, job: _Job) -> Iterator[_Outcome]:
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
            raise UserError("a worker process died, most likely for want of memory; try fewer --workers") from error
        except GeneratorExit:  # the rest is not wanted, and the pool is; where the pool ends, it ends what is pending itself
            for future in pending:
                future.cancel()
            raise


_worker_source: Source  # set in each worker when it starts


def _start_worker(source: Source) -> None:
    global _worker_source
    for number in STOPPING:  # they are for the process that started this one, which ends it
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)()  # where it cannot, killed itself
    _worker_source = source


def _convert_chunk(chunk: range, job: _Job) -> list[_Outcome]:
    return [_convert(_worker_source, index, job) for index in chunk]


def _convert(source: Source, index: int, job: _Job) -> _Outcome:
    try:
        loaded = source.load(index)
        image = PIL.Image.fromarray(loaded) if isinstance(loaded, np.ndarray) else decode_image(loaded, job.background)
    except MemoryError:  # no fault of the image
        raise
    except Exception as error:  # noqa: BLE001  Pillow raises nearly anything on damaged bytes; the message goes on
        return _Outcome(index, problem=reason(error))
    if image.mode != "L" and job.channels == 1:
        return _Outcome(index, colour=True)
    try:
        image = job.transform.apply(image if job.channels == 1 else image.convert("RGB"))
    except TooSmall as error:
        return _Outcome(index, problem=str(error))
    return _Outcome(index, encode_png(image), image.size)


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
