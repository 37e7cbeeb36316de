"""Write a closed walk through latent space as a video.

Usage:

    python tools/interpolate.py --network=net.pkl --seeds=0-5 --frames=30 --out=walk.mp4
    python tools/interpolate.py --network=net.pkl --seeds=0-23 --grid=3x2 --out=walk.gif
"""

import sys
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import (
    PATH,
    Command,
    GridSize,
    friendly_errors,
    ops_option,
    output_file,
    overwrite_option,
    parse_int_list,
    refuse_existing,
)
from dnnlib.errors import UserError
from dnnlib.files import writing
from tools import options

MAX_FRAMES = 1_000_000  # of all walks


@click.command(cls=Command)
@options.network
@click.option(
    "--seeds",
    metavar="LIST",
    required=True,
    help="seeds that the walk passes; with --grid, those of each cell in turn",
)
@click.option(
    "--frames",
    type=click.IntRange(1, MAX_FRAMES),
    default=60,
    show_default=True,
    metavar="INT",
    help="from one seed to the next",
)
@click.option(
    "--fps", type=click.IntRange(1, 240), default=30, show_default=True, metavar="INT", help="frames a second"
)
@click.option(
    "--space", type=click.Choice(["z", "w"]), default="z", show_default=True, help="where the curve lies"
)
@click.option(
    "--grid",
    type=GridSize(),
    default=(1, 1),
    metavar="COLSxROWS",
    help="several walks side by side  [default: 1x1]",
)
@options.truncation
@options.class_idx
@click.option("--noise-mode", type=click.Choice(["const", "none"]), default="const", show_default=True)
@click.option(
    "--out",
    type=PATH,
    metavar="FILE.mp4|gif",
    required=True,
    help="the video to write; its folder is made if need be",
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
    frames: int,
    fps: int,
    space: str,
    grid: tuple[int, int],
    truncation_psi: float,
    class_idx: int | None,
    noise_mode: str,
    out: str,
    batch: int,
    device: str,
) -> None:
    """Walk through seeds along a smooth closed curve, in z or in w, and write it as a video that loops.

    MP4 needs the package imageio-ffmpeg (pip install -e '.[video]'); GIF needs nothing more.
    """
    numbers, cells = parse_int_list(seeds), grid[0] * grid[1]
    if len(numbers) % cells:
        raise UserError(
            f"--grid={grid[0]}x{grid[1]} has {cells} cells, and {len(numbers)} is not a multiple of it"
        )

    from tqdm import tqdm

    from training.data.pictures import check_grid, grid_image
    from training.inference.interpolation import walk_images
    from training.inference.opening import open_generator
    from training.inference.video import check_video_path, save_video, shown_fps

    check_video_path(out)
    refuse_existing(out)
    if len(numbers) * frames > MAX_FRAMES:
        raise UserError(
            f"{len(numbers)} seeds and --frames={frames} are more than {MAX_FRAMES} frames; ask for fewer"
        )
    renderer = open_generator(network, device=device)
    check_grid(*grid, renderer.G.img_resolution)
    walks = [numbers[i : i + len(numbers) // cells] for i in range(0, len(numbers), len(numbers) // cells)]
    how: dict[str, Any] = dict(space=space, noise_mode=noise_mode, batch=batch)
    images = walk_images(renderer, walks, frames, class_idx=class_idx, truncation_psi=truncation_psi, **how)
    target = output_file(out)
    total = len(walks[0]) * frames
    with writing(target.parent), tqdm(images, total=total, unit="frame", leave=False, disable=None) as bar:
        save_video((grid_image(cells, grid[0]) for cells in bar), target, fps)
    shown = shown_fps(target, fps)
    print(f"{total} frames ({total / shown:.1f} s at {shown:.3g} a second) in {target}")


if __name__ == "__main__":
    main()
