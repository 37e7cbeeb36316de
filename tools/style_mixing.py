"""Draw a table of mixed styles: pictures of row seeds with some layers' styles taken from column seeds.

Usage:

    python tools/style_mixing.py --network=net.pkl --rows=85,100 --cols=55,821 --styles=0-3 --outdir=mixed
"""

import sys
from pathlib import Path
from typing import Any, Literal

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import (
    Command,
    distinct,
    friendly_errors,
    ops_option,
    output_folder,
    overwrite_option,
    parse_int_list,
)
from dnnlib.errors import UserError
from dnnlib.files import writing
from tools import options


@click.command(cls=Command)
@options.network
@click.option("--rows", metavar="LIST", required=True, help="seeds of the pictures to change, one a row")
@click.option(
    "--cols", metavar="LIST", required=True, help="seeds of the pictures to take styles from, one a column"
)
@click.option(
    "--styles",
    metavar="LIST",
    default="0-6",
    show_default=True,
    help="layers whose styles are taken: 0 is the coarsest",
)
@options.truncation
@options.class_idx
@options.noise_mode
@options.outdir
@overwrite_option
@options.batch
@options.device
@options.offline
@ops_option
@friendly_errors
def main(
    network: str,
    rows: str,
    cols: str,
    styles: str,
    truncation_psi: float,
    class_idx: int | None,
    noise_mode: Literal["random", "const", "none"],
    outdir: str,
    batch: int,
    device: str,
) -> None:
    """Draw the pictures of row seeds with the styles of some layers taken from column seeds.

    Writes grid.png, with the seeds' own pictures in its first row and column, and each picture as
    ROW-COL.png.
    """
    row_seeds, col_seeds = distinct(parse_int_list(rows), "--rows"), distinct(parse_int_list(cols), "--cols")
    layers = sorted(set(parse_int_list(styles)))

    import torch
    from tqdm import tqdm

    from training.data.pictures import check_grid, save_grid, save_png
    from training.inference.generation import images_from_ws, ws_from_seeds
    from training.inference.opening import open_generator
    from training.inference.outputs import check_outputs, mark_of

    renderer = open_generator(network, device=device)
    if layers[-1] >= renderer.G.num_ws:
        raise UserError(
            f"--styles={styles}: this network has {renderer.G.num_ws} layers, numbered from 0 to "
            f"{renderer.G.num_ws - 1}"
        )
    check_grid(len(col_seeds) + 1, len(row_seeds) + 1, renderer.G.img_resolution)
    row_ws, col_ws = (
        ws_from_seeds(renderer, seeds, class_idx, truncation_psi) for seeds in (row_seeds, col_seeds)
    )
    mixed = row_ws[:, None].repeat(1, len(col_seeds), 1, 1)
    mixed[:, :, layers] = col_ws[None, :, layers]
    ws = torch.cat(
        [col_ws, *(torch.cat([row[None], cells]) for row, cells in zip(row_ws, mixed, strict=True))]
    )
    names = [f"{col}-{col}" for col in col_seeds]
    names += [f"{row}-{col}" for row in row_seeds for col in (row, *col_seeds)]

    made_by: dict[str, Any] = dict(styles=layers, trunc=truncation_psi, label=class_idx, noise=noise_mode)
    mark = mark_of("style_mixing.py", [renderer.G], **made_by)
    grid_mark = mark_of("style_mixing.py", [renderer.G], rows=row_seeds, cols=col_seeds, **made_by)
    check_outputs(outdir, {**{f"{name}.png": mark for name in names}, "grid.png": grid_mark})
    folder = output_folder(outdir)
    images = images_from_ws(renderer, ws, noise_mode=noise_mode, batch=batch)
    drawn = []
    with writing(folder):
        for index, image in tqdm(images, total=len(ws), unit="img", leave=False, disable=None):
            save_png(image, folder / f"{names[index]}.png", mark)
            drawn.append(image)
        corner = torch.zeros_like(drawn[0])
        save_grid(torch.stack([corner, *drawn]), folder / "grid.png", len(col_seeds) + 1, grid_mark)
    print(f"{len(row_seeds)} rows of {len(col_seeds)} mixed pictures in {folder / 'grid.png'} and singly")


if __name__ == "__main__":
    main()
