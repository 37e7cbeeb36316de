"""Draw pictures of a trained network into PNG files: what ``generate.py`` does."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from dnnlib.cli import output_folder, plural
from dnnlib.errors import UserError
from dnnlib.files import writing
from training.data.pictures import check_grid, save_grid, save_png
from training.inference.generation import check_seeds, images_from_seeds, images_from_ws, load_projected_w
from training.inference.opening import open_generator, open_renderer
from training.inference.outputs import check_outputs, mark_of, source_of
from training.networks.generator import NoiseMode


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The options of ``generate.py``.

    Attributes:
        network: path or address of a network or an ONNX export.
        seeds: random seeds; empty where ``projected_w`` is given.
        projected_w: path of a file of intermediate latents, or None.
        truncation_psi: 1 is no truncation, 0 the average picture.
        class_idx: class of a conditional network.
        noise_mode: ``const``, ``random`` or ``none``.
        outdir: folder to write to; made if need be.
        grid: columns and rows of one picture; None writes a file for each picture.
        batch: pictures at a time; changes no picture.
        device: see :func:`torch_utils.device.pick_device`.
    """

    network: str
    seeds: Sequence[int]
    projected_w: str | None
    truncation_psi: float
    class_idx: int | None
    noise_mode: NoiseMode
    outdir: str
    grid: tuple[int, int] | None
    batch: int
    device: str


@dataclass(frozen=True)
class Drawing:
    """Pictures to be drawn.

    Attributes:
        images: ``(number, uint8 [C, H, W])`` for each picture.
        numbers: the number of each picture.
        file_name: format of a picture's file name.
        sources: what decides the pictures beside the options, for :func:`mark_of`.
        resolution: side of a picture in pixels.
    """

    images: Iterable[tuple[int, torch.Tensor]]
    numbers: Sequence[int]
    file_name: str
    sources: Sequence[str | nn.Module]
    resolution: int


def generate(options: GenerateOptions) -> str:
    """Draw the pictures and write them; returns a line that says where they are.

    Raises:
        UserError: an option is wrong, a file can't be had, or a picture of other options is in the way.
    """
    drawing = _from_seeds(options) if options.projected_w is None else _from_ws(options, options.projected_w)
    made_by: dict[str, Any] = dict(
        noise=options.noise_mode, trunc=options.truncation_psi, label=options.class_idx
    )
    if options.grid is None:
        path = _write_singles(drawing, options.outdir, mark_of("generate.py", drawing.sources, **made_by))
    else:
        check_grid(*options.grid, drawing.resolution)
        contents: dict[str, Any] = dict(seeds=list(drawing.numbers), grid=options.grid)
        mark = mark_of("generate.py", drawing.sources, **contents, **made_by)
        path = _write_grid(drawing, options.outdir, options.grid, mark)
    return f"{plural(len(drawing.numbers), 'image')} in {path}"


def _from_seeds(options: GenerateOptions) -> Drawing:
    check_seeds(options.seeds)
    renderer = open_renderer(options.network, device=options.device)
    images = images_from_seeds(
        renderer,
        options.seeds,
        class_idx=options.class_idx,
        truncation_psi=options.truncation_psi,
        noise_mode=options.noise_mode,
        batch=options.batch,
    )
    resolution = max(renderer.noise_resolutions, default=4)
    return Drawing(
        images, options.seeds, "seed{:04d}.png", [source_of(renderer, options.network)], resolution
    )


def _from_ws(options: GenerateOptions, path: str) -> Drawing:
    if options.class_idx is not None or options.truncation_psi != 1:
        raise UserError("--class and --trunc have no effect with --projected-w; leave them out")
    renderer = open_generator(options.network, device=options.device)
    ws = load_projected_w(path, renderer.G)
    images = images_from_ws(renderer, ws, noise_mode=options.noise_mode, batch=options.batch)
    return Drawing(images, range(len(ws)), "proj{:02d}.png", [renderer.G, path], renderer.G.img_resolution)


def _write_singles(drawing: Drawing, outdir: str, mark: str) -> Path:
    check_outputs(outdir, {drawing.file_name.format(number): mark for number in drawing.numbers})
    folder = output_folder(outdir)
    with writing(folder):
        for number, image in _with_progress(drawing):
            save_png(image, folder / drawing.file_name.format(number), mark)
    return folder


def _write_grid(drawing: Drawing, outdir: str, grid: tuple[int, int], mark: str) -> Path:
    """All pictures in ``grid.png``, row by row; cells that are left over stay black."""
    check_outputs(outdir, {"grid.png": mark})
    columns, rows = grid
    total = len(drawing.numbers)
    if total > columns * rows:
        raise UserError(
            f"--grid={columns}x{rows} has room for {columns * rows} pictures, but {total} are asked for"
        )
    folder = output_folder(outdir)
    images = torch.stack([image for _, image in _with_progress(drawing)])
    cells = torch.zeros([columns * rows, *images.shape[1:]], dtype=torch.uint8)
    cells[:total] = images
    with writing(folder):
        save_grid(cells, folder / "grid.png", columns, mark)
    return folder / "grid.png"


def _with_progress(drawing: Drawing) -> Iterable[tuple[int, torch.Tensor]]:
    return tqdm(drawing.images, total=len(drawing.numbers), unit="img", leave=False, disable=None)
