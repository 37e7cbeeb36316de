"""Draw a sweep of the truncation psi: a row for each seed, a column for each value.

Usage:

    python tools/truncation.py --network=net.pkl --seeds=0-5 --psis=0,0.5,0.7,1 --out=truncation.png
"""

import sys
from pathlib import Path
from typing import Any, Literal

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import (
    PATH,
    Command,
    friendly_errors,
    ops_option,
    output_file,
    overwrite_option,
    parse_float_list,
    parse_int_list,
)
from dnnlib.errors import UserError
from dnnlib.files import writing
from tools import options


@click.command(cls=Command)
@options.any_network
@click.option("--seeds", metavar="LIST", required=True, help="random seeds, such as 0-5; one a row")
@click.option(
    "--psis",
    metavar="LIST",
    default="0,0.25,0.5,0.75,1",
    show_default=True,
    help="values of psi, one a column",
)
@options.class_idx
@options.noise_mode
@click.option(
    "--out",
    type=PATH,
    metavar="FILE.png",
    required=True,
    help="the picture to write; its folder is made if need be",
)
@overwrite_option
@options.batch
@options.device
@options.offline
@ops_option
@friendly_errors
def main(
    network: str,
    seeds: str,
    psis: str,
    class_idx: int | None,
    noise_mode: Literal["random", "const", "none"],
    out: str,
    batch: int,
    device: str,
) -> None:
    """Draw the same seeds at several truncations.

    psi 0 is the average picture, 1 is no truncation, -1 the opposite.
    """
    numbers, values = parse_int_list(seeds), parse_float_list(psis)
    if Path(out).suffix.lower() != ".png":
        raise UserError(f"--out={out}: the picture is written as PNG; give a name that ends in .png")

    import torch
    from tqdm import tqdm

    from training.data.pictures import check_grid, save_grid
    from training.inference.generation import images_from_seeds
    from training.inference.opening import open_renderer
    from training.inference.outputs import has_mark, mark_of, source_of

    renderer = open_renderer(network, device=device)
    check_grid(len(values), len(numbers), max(renderer.noise_resolutions, default=4))
    sweeps = [
        images_from_seeds(
            renderer, numbers, class_idx=class_idx, truncation_psi=psi, noise_mode=noise_mode, batch=batch
        )
        for psi in values
    ]
    how: dict[str, Any] = dict(seeds=numbers, psis=values, label=class_idx, noise=noise_mode)
    mark = mark_of("truncation.py", [source_of(renderer, network)], **how)
    target = output_file(out, same=has_mark(out, mark))
    with tqdm(total=len(values) * len(numbers), unit="img", leave=False, disable=None) as bar:
        columns = []
        for sweep in sweeps:
            columns.append([image for _, image in sweep if bar.update() or True])
    with writing(target.parent):
        save_grid(
            torch.stack([image for row in zip(*columns, strict=True) for image in row]),
            target,
            len(values),
            mark,
        )
    print(f"{len(numbers)} seeds at psi {', '.join(f'{psi:g}' for psi in values)} in {target}")


if __name__ == "__main__":
    main()
