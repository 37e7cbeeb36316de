"""Generate images from a network pickle."""

from pathlib import Path

import click

from dnnlib.cli import Command, friendly_errors, parse_int_list
from dnnlib.errors import UserError


@click.command(cls=Command)
@click.option("--network", "network_pkl", metavar="PATH", required=True, help="network pickle (network-snapshot-*.pkl)")
@click.option("--seeds", metavar="LIST", help="random seeds, such as 0,1,4-6; writes seedNNNN.png")
@click.option("--trunc", "truncation_psi", type=float, default=1, show_default=True, help="truncation psi: 1 varied, 0 average")
@click.option("--class", "class_idx", type=int, help="class of a conditional network")
@click.option("--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", show_default=True)
@click.option("--projected-w", metavar="FILE", help="generate from the array 'w' of this .npz file instead of seeds; writes projNN.png")
@click.option("--outdir", metavar="DIR", required=True, help="where the images go; made if need be")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@friendly_errors
def main(
    network_pkl: str,
    seeds: str | None,
    truncation_psi: float,
    class_idx: int | None,
    noise_mode: str,
    projected_w: str | None,
    outdir: str,
    device: str,
) -> None:
    """Generate images from a network pickle.

    \b
    python generate.py --outdir=out --seeds=100-200 --network=network-snapshot-000100.pkl
    python generate.py --outdir=out --seeds=0-35 --trunc=0.7 --class=1 --network=cifar10.pkl
    """
    if (seeds is None) == (projected_w is None):
        raise UserError("give either --seeds or --projected-w")
    numbers = [] if seeds is None else parse_int_list(seeds)
    if max(numbers, default=0) >= 2**32:
        raise UserError(f"--seeds={seeds}: seeds must be below 4294967296")

    from torch_utils.device import pick_device
    from torch_utils.persistence import load_network_pkl
    from training.generation import images_from_seeds, images_from_ws, load_projected_w
    from training.images import save_png

    target = pick_device(device)
    G = load_network_pkl(network_pkl)["G_ema"]
    if projected_w is not None:
        if class_idx is not None:
            raise UserError("--class has no effect with --projected-w; leave it out")
        images, template = images_from_ws(G, load_projected_w(projected_w, G), noise_mode=noise_mode, device=target), "proj{:02d}.png"  # type: ignore[arg-type]
    else:
        images, template = (
            images_from_seeds(G, numbers, class_idx=class_idx, truncation_psi=truncation_psi, noise_mode=noise_mode, device=target),  # type: ignore[arg-type]
            "seed{:04d}.png",
        )
    total = 0
    for number, image in images:
        if total == 0:
            make_folder(outdir)
        save_png(image, Path(outdir) / template.format(number))
        total += 1
        print(f"\r{total} images", end="", flush=True)
    print(f"\r{total} images in {outdir}")


def make_folder(path: str) -> None:
    """Make the output folder. Raises :class:`UserError` if that can't be done."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder --outdir={path}: {error.strerror}") from error


if __name__ == "__main__":
    main()
