"""Project an image into W: find the latent whose picture looks most like it.

Usage:

    python tools/project.py --network=net.pkl --target=photo.png --outdir=projected
    python generate.py --network=net.pkl --projected-w=projected/projected_w.npz --outdir=out
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import (
    PATH,
    PATH_OR_URL,
    Command,
    friendly_errors,
    ops_option,
    output_folder,
    overwrite_option,
    picture_options,
    print_notes,
)
from dnnlib.errors import UserError
from dnnlib.files import writing
from tools import options

if TYPE_CHECKING:
    import torch

    from training.data.decode import ValueRange
    from training.inference.projection import ProjectionStep
    from training.inference.renderer import GeneratorRenderer

VIDEO_FRAMES = 120  # at most, about; longer searches skip steps
FPS = 30


@click.command(cls=Command)
@options.network
@click.option(
    "--target",
    type=PATH,
    metavar="FILE",
    required=True,
    help="the picture; its largest centred square is resized to the network's size",
)
@click.option(
    "--num-steps",
    type=click.IntRange(min=2),
    default=1000,
    show_default=True,
    metavar="INT",
    help="steps of the search",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=303,
    show_default=True,
    metavar="INT",
    help="random seed",
)
@click.option(
    "--detector",
    type=PATH_OR_URL,
    metavar="NAME|PATH|URL",
    default="vgg16",
    show_default=True,
    help="detector of the distance; efficientnet-lite0 works offline",
)
@click.option(
    "--save-video",
    type=click.Choice(["mp4", "gif", "none"]),
    default="gif",
    show_default=True,
    help="target beside search",
)
@picture_options
@options.class_idx
@options.outdir
@overwrite_option
@options.device
@options.offline
@ops_option
@friendly_errors
def main(
    network: str,
    target: str,
    num_steps: int,
    seed: int,
    detector: str,
    save_video: str,
    max_pixels: int,
    value_range: "ValueRange",
    class_idx: int | None,
    outdir: str,
    device: str,
) -> None:
    """Project an image into W (Karras et al. 2020, StyleGAN2, appendix D).

    Writes target.png, proj.png, projected_w.npz (array w, for generate.py --projected-w) and the search as
    proj.gif or proj.mp4. The same command gives the same result on the same machine.
    """
    from metrics.features import open_detector
    from training.data.decode import DecodeOptions, dark_warning, frames_note, range_notes
    from training.data.pictures import fitted, read_picture
    from training.inference.opening import open_generator
    from training.inference.outputs import check_outputs, mark_of
    from training.inference.projection import ProjectionConfig, perceptual_distance, project
    from training.inference.renderer import one_hot_label
    from training.inference.video import check_video_path

    video = None if save_video == "none" else f"proj.{save_video}"
    if video:
        check_video_path(video)
    check_target(target, outdir)
    sources, how = [network, target, detector], dict(steps=num_steps, seed=seed, label=class_idx)
    mark = mark_of("project.py", sources, **how)
    check_outputs(
        outdir, {"target.png": mark, "proj.png": mark}, ["projected_w.npz", *([video] if video else [])]
    )
    renderer = open_generator(network, device=device)
    read = read_picture(target, DecodeOptions(max_pixels=max_pixels, value_range=value_range))
    for warning in dark_warning(1, read.deep, value_range):
        click.echo(f"Warning: {warning}", err=True)
    print_notes([*frames_note(int(read.more_frames)), *range_notes(1, read.deep, value_range)])
    picture = fitted(read, renderer.G.img_resolution, renderer.G.img_channels)
    c = one_hot_label(renderer.c_dim, class_idx).to(renderer.device)
    perceptual = open_detector(detector, renderer.device).perceptual
    steps = project(renderer.G, picture, c, perceptual, ProjectionConfig(num_steps=num_steps, seed=seed))
    first = next(steps)  # errors show here, before a folder is made
    folder = output_folder(outdir)
    ws = [w.expand(-1, renderer.G.num_ws, -1) for w in search(first, steps, num_steps)]
    drawn = images_of(renderer, ws)
    with writing(folder):
        write_results(folder, picture, drawn[-1], ws[-1], mark)
        if video:
            save_video_of(picture, drawn, folder / video)
    before, after = (perceptual_distance(perceptual, image, picture) for image in (drawn[0], drawn[-1]))
    print(
        f"distance to the target ({detector}): {before:.4g} at the start, from the average w; {after:.4g} at "
        "the end"
    )
    print(f"projected_w.npz, proj.png, target.png{f' and {video}' if video else ''} in {folder}")


def check_target(target: str, outdir: str) -> None:
    """Raise :class:`UserError` if the results would overwrite the target."""
    for name in ("target.png", "proj.png"):
        written = Path(outdir, name)
        if written.exists() and Path(target).exists() and written.samefile(target):
            raise UserError(
                f"--target={target} would be overwritten by the result {name}; give another --outdir"
            )


def search(
    first: "ProjectionStep", steps: Iterator["ProjectionStep"], num_steps: int
) -> list["torch.Tensor"]:
    """Run the search; returns w ``[1, 1, w_dim]`` at its start, every few steps and at its end."""
    every = -(-num_steps // VIDEO_FRAMES)
    kept, last = [first.start, first.w], first
    with tqdm(total=num_steps, initial=1, unit="step", leave=False, disable=None) as bar:
        for number, last in enumerate(steps, 2):
            bar.set_postfix_str(f"distance {last.distance:.4g}", refresh=False)
            bar.update()
            if number % every == 0:
                kept.append(last.w)
    return [*kept, last.w]


def images_of(renderer: "GeneratorRenderer", ws: list["torch.Tensor"]) -> list["torch.Tensor"]:
    """Draw each ``[1, num_ws, w_dim]`` as ``generate.py --projected-w`` does: uint8 ``[C, H, W]``."""
    import torch

    from training.inference.generation import images_from_ws

    return [image for _, image in images_from_ws(renderer, torch.cat(ws))]


def write_results(
    folder: Path, target: "torch.Tensor", found: "torch.Tensor", ws: "torch.Tensor", mark: str
) -> None:
    """Write ``target.png``, ``proj.png`` and ``projected_w.npz``."""
    import numpy as np

    from dnnlib.files import atomic_write
    from training.data.pictures import save_png

    save_png(target, folder / "target.png", mark)
    save_png(found, folder / "proj.png", mark)
    with atomic_write(folder / "projected_w.npz") as stream:
        np.savez(stream, w=ws.cpu().numpy())


def save_video_of(target: "torch.Tensor", drawn: list["torch.Tensor"], path: Path) -> None:
    """Write target and search side by side; the result stays for a second."""
    import torch

    from training.data.pictures import grid_image
    from training.inference.video import save_video

    frames = (grid_image(torch.stack([target, image]), 2) for image in [*drawn, *[drawn[-1]] * FPS])
    save_video(frames, path, FPS)


if __name__ == "__main__":
    main()
