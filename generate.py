"""Generate images from a trained network."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from dnnlib.cli import (
    PATH,
    Command,
    GridSize,
    distinct,
    friendly_errors,
    ops_option,
    output_folder,
    overwrite_option,
    parse_int_list,
    plural,
)
from dnnlib.errors import UserError
from dnnlib.files import writing
from tools import options

if TYPE_CHECKING:
    import torch


@click.command(cls=Command)
@options.any_network
@click.option("--seeds", metavar="LIST", help="random seeds, such as 0-49,85; writes seedNNNN.png")
@options.truncation
@options.class_idx
@options.noise_mode
@click.option(
    "--projected-w",
    type=PATH,
    metavar="FILE",
    help="generate from the array 'w' of this .npz file instead of seeds; writes projNN.png",
)
@options.outdir
@overwrite_option
@click.option(
    "--grid",
    type=GridSize(),
    metavar="COLSxROWS",
    help="write one picture, grid.png, in place of single ones",
)
@options.batch
@options.device
@options.offline
@ops_option
@friendly_errors
def main(
    network: str,
    seeds: str | None,
    truncation_psi: float,
    class_idx: int | None,
    noise_mode: str,
    projected_w: str | None,
    outdir: str,
    grid: tuple[int, int] | None,
    batch: int,
    device: str,
) -> None:
    """Generate images from a trained network.

    \b
    python generate.py --outdir=out --seeds=0-49,85 --network=network-snapshot-000100.pkl
    python generate.py --outdir=out --seeds=0-19 --trunc=0.7 --class=1 --grid=5x4 --network=cifar10.pkl

    The same command may replace its own pictures. Pictures that another network, class, truncation or noise
    made are not replaced unless --overwrite is given; give each its own --outdir. A repeated seed is made
    once.
    """
    if (seeds is None) == (projected_w is None):
        raise UserError("give either --seeds or --projected-w")
    numbers: Sequence[int] = [] if seeds is None else parse_int_list(seeds)
    if grid is None:  # each is a file of its own
        numbers = distinct(numbers, "--seeds")

    from training.data.outputs import check_outputs, mark_of, source_of
    from training.data.pictures import check_grid
    from training.inference.generation import check_seeds, images_from_seeds, images_from_ws, load_projected_w
    from training.inference.opening import open_generator, open_renderer

    check_seeds(numbers)
    how: dict[str, Any] = dict(noise_mode=noise_mode, batch=batch)
    renderer = open_renderer(network, device=device) if projected_w is None else None
    if renderer is not None:
        images = images_from_seeds(
            renderer, numbers, class_idx=class_idx, truncation_psi=truncation_psi, **how
        )
        sources, resolutions, name = (
            [source_of(renderer, network)],
            renderer.noise_resolutions,
            "seed{:04d}.png",
        )
    else:
        assert projected_w is not None
        if class_idx is not None or truncation_psi != 1:
            raise UserError("--class and --trunc have no effect with --projected-w; leave them out")
        generator = open_generator(network, device=device)
        ws = load_projected_w(projected_w, generator.G)
        images, numbers = images_from_ws(generator, ws, **how), range(len(ws))
        sources, resolutions, name = [generator.G, projected_w], generator.noise_resolutions, "proj{:02d}.png"
    made_by: dict[str, Any] = dict(noise=noise_mode, trunc=truncation_psi, label=class_idx)
    if grid is None:
        mark = mark_of("generate.py", sources, **made_by)
        check_outputs(outdir, {name.format(number): mark for number in numbers})
        write_singles(images, len(numbers), output_folder(outdir), name, mark)
    else:
        check_grid(*grid, max(resolutions, default=4))
        mark = mark_of("generate.py", sources, seeds=list(numbers), grid=grid, **made_by)
        check_outputs(outdir, {"grid.png": mark})
        write_grid(images, len(numbers), outdir, grid, mark)


def write_singles(
    images: Iterable[tuple[int, "torch.Tensor"]], total: int, folder: Path, name: str, mark: str
) -> None:
    """One PNG file for each ``(number, uint8 [C, H, W])``."""
    from training.data.pictures import save_png

    with writing(folder):
        for number, image in tqdm(images, total=total, unit="img", leave=False, disable=None):
            save_png(image, folder / name.format(number), mark)
    print(f"{plural(total, 'image')} in {folder}")


def write_grid(
    images: Iterable[tuple[int, "torch.Tensor"]], total: int, outdir: str, grid: tuple[int, int], mark: str
) -> None:
    """All of them in ``grid.png``, row by row; cells that are left over stay black."""
    columns, rows = grid
    if total > columns * rows:
        raise UserError(
            f"--grid={columns}x{rows} has room for {columns * rows} pictures, but {total} are asked for"
        )
    folder = output_folder(outdir)

    import torch

    from training.data.pictures import save_grid

    drawn = torch.stack(
        [image for _, image in tqdm(images, total=total, unit="img", leave=False, disable=None)]
    )
    cells = torch.zeros([columns * rows, *drawn.shape[1:]], dtype=torch.uint8)
    cells[:total] = drawn
    with writing(folder):
        save_grid(cells, folder / "grid.png", columns, mark)
    print(f"{plural(total, 'image')} in {folder / 'grid.png'}")


if __name__ == "__main__":
    main()
