"""Show clusters of feature maps as colours: figures 3 and 8 of Lee et al. 2022 (GGDR).

Usage:

    python experiments/visualize_features.py --run=RUN_DIR --snapshots=0,20,100 --outdir=out
    python experiments/visualize_features.py --network=net.pkl --encoder=8:3,16:6 --outdir=out
"""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnnlib.cli import (
    DIGITS,
    PATH,
    PATH_OR_URL,
    Command,
    friendly_errors,
    ops_option,
    output_folder,
    overwrite_option,
    parse_int_list,
)
from dnnlib.errors import UserError
from dnnlib.files import writing
from dnnlib.untrusted import one_line
from experiments.analysis.clustering import PALETTE, Labels, cluster_pixels, match_all, match_clusters, paint
from experiments.analysis.feature_maps import Maps, discriminator_maps, generator_maps
from experiments.analysis.picture_rows import Row, picture_of_rows
from torch_utils.device import announce_device
from torch_utils.seeding import derive_seed
from training.config.run_directory import snapshot_paths
from training.data.dataset import ImageFolderDataset
from training.data.file_tree import check_apart
from training.data.pictures import from_uint8, save_png
from training.data.reals import open_reals
from training.inference.files import load_networks
from training.inference.generation import check_seeds, latents_from_seeds
from training.inference.outputs import check_outputs, mark_of

#: Resolutions and the number of clusters at each.
Wanted = dict[int, int]

DEFAULT_CLUSTERS = 6


@dataclass(frozen=True)
class Snapshot:
    """Images and feature maps of one network pickle.

    Attributes:
        title: for people.
        fakes: uint8 ``[N, C, H, W]``.
        reals: uint8 ``[N, C, H, W]``.
        maps: ``{kind: {resolution: feature maps}}``. The kind ``generator`` is of the fakes; ``encoder`` and
            ``decoder`` are of the reals followed by the fakes.
    """

    title: str
    fakes: torch.Tensor
    reals: torch.Tensor
    maps: dict[str, Maps]


def parse_wanted(option: str, text: str | None) -> Wanted | None:
    """``"8:3,16"`` to ``{8: 3, 16: 6}``, None to None. Raises :class:`UserError`."""
    if text is None:
        return None
    wanted = {}
    for part in text.split(","):
        match = re.fullmatch(rf"\s*({DIGITS})(?::({DIGITS}))?\s*", part)
        if match is None:
            raise UserError(
                f"{option}={one_line(text, 60)} is no list of resolutions such as 8,16, or 8:3,16:6 with "
                "numbers of clusters"
            )
        clusters = int(match[2] or DEFAULT_CLUSTERS)
        if not 2 <= clusters <= len(PALETTE):
            raise UserError(
                f"{option}={text}: between 2 and {len(PALETTE)} clusters can be shown, not {clusters}"
            )
        wanted[int(match[1])] = clusters
    return wanted


def chosen_snapshots(network: Sequence[str], run: str | None, snapshots: str | None) -> list[str]:
    """The network pickles to look at: those named, or those of a run at some kimg (default: the last).

    Raises:
        UserError: neither or both are given, or a snapshot is missing.
    """
    if (not network) == (run is None):
        raise UserError("give either --network (once or more) or --run")
    if run is None:
        if snapshots is not None:
            raise UserError("--snapshots goes with --run; with --network name each pickle")
        return list(network)
    found = {int(path.stem.rpartition("-")[2]): str(path) for path in snapshot_paths(Path(run))}
    if not found:
        raise UserError(f"--run={run} has no network-snapshot-*.pkl; give a run directory")
    wanted = [max(found)] if snapshots is None else parse_int_list(snapshots)
    for kimg in wanted:
        if kimg not in found:
            raise UserError(
                f"--snapshots={snapshots}: the run has no snapshot at {kimg} kimg; it has "
                f"{', '.join(map(str, found))}"
            )
    return [found[kimg] for kimg in wanted]


def real_batch(dataset: ImageFolderDataset, num: int, seed: int) -> torch.Tensor:
    """``num`` real images, uint8 ``[num, C, H, W]``, drawn by ``seed``.

    Raises:
        UserError: the data set has fewer.
    """
    if num > len(dataset):
        raise UserError(
            f"'{dataset.path}' has {len(dataset)} images, not {num}; give a smaller --num and --clustered"
        )
    chosen = np.random.default_rng(derive_seed(seed, "shown reals")).permutation(len(dataset))[:num]
    return torch.from_numpy(np.stack([dataset[int(i)][0] for i in chosen]))


def latents(G: Any, num: int, seed: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of ``seed``, ``seed + 1``, … as in ``generate.py``, and labels of the classes in turn."""
    z = latents_from_seeds(range(seed, seed + num), G.z_dim)
    c = torch.zeros([num, G.c_dim])
    if G.c_dim:
        c[torch.arange(num), torch.arange(num) % G.c_dim] = 1
    return z.to(device), c.to(device)


def look(
    path: str, data: str | None, generator: Wanted | None, num: int, seed: int, device: torch.device
) -> Snapshot:
    """Open a network pickle and compute its images and maps.

    Raises:
        UserError: the pickle or the data is bad, or G has no block at a resolution.
    """
    networks = load_networks(path, need=["G_ema", "D"])
    G, D = networks["G_ema"].to(device), networks["D"].to(device)
    reals = real_batch(open_reals(networks["training_set_kwargs"], data, D, labels=False), num, seed)
    resolutions = list(generator or [res for res in G.synthesis.channels if res >= 8])
    unknown = set(resolutions) - set(G.synthesis.channels)
    if unknown:
        raise UserError(
            f"--generator: there is no block at {min(unknown)}; {path} has "
            f"{', '.join(map(str, G.synthesis.channels))}"
        )
    fakes, maps = generator_maps(G, *latents(G, num, seed, device), resolutions)
    encoder, decoder = discriminator_maps(D, from_uint8(torch.cat([reals, fakes]), device))
    kimg = networks["info"].get("kimg")
    title = Path(path).stem if kimg is None else f"{kimg:.0f} kimg"
    return Snapshot(title, fakes, reals, {"generator": maps, "encoder": encoder, "decoder": decoder})


def clusters_of(
    snapshots: Sequence[Snapshot], kind: str, wanted: Wanted, seed: int
) -> list[dict[int, Labels]]:
    """Clusters of one kind of map: for each snapshot a dictionary by resolution.

    Clusters that cover equal places get equal numbers: each snapshot is matched to the next one, and the last
    snapshot to its clusters of the resolution before.
    """
    every: list[dict[int, Labels]] = [{} for _ in snapshots]
    before: Labels | None = None
    for res, k in wanted.items():
        labels = [cluster_pixels(snapshot.maps[kind][res], k, seed) for snapshot in snapshots]
        if before is not None:
            labels[-1] = match_clusters(labels[-1], before)
        labels = match_all(labels)
        before = labels[-1]
        for found, value in zip(every, labels, strict=True):
            found[res] = value
    return every


def rows_of(snapshots: Sequence[Snapshot], kind: str, wanted: Wanted, seed: int, cell: int) -> list[Row]:
    """The rows of a picture: for each snapshot its images, and their clusters at each resolution."""
    rows: list[Row] = []
    for snapshot, clusters in zip(snapshots, clusters_of(snapshots, kind, wanted, seed), strict=True):
        shown = snapshot.fakes if kind == "generator" else torch.cat([snapshot.reals, snapshot.fakes])
        rows.append((f"{snapshot.title}\n{'generated' if kind == 'generator' else 'real, generated'}", shown))
        rows += [
            (f"{kind}\n{res}x{res}, k = {wanted[res]}", paint(labels, cell))
            for res, labels in clusters.items()
        ]
    return rows


def check_resolutions(snapshots: Sequence[Snapshot], kind: str, wanted: Wanted) -> None:
    """Raise :class:`UserError` where a snapshot has no map at a wanted resolution."""
    for snapshot in snapshots:
        known = snapshot.maps[kind]
        unknown = [res for res in wanted if res not in known]
        if unknown:
            raise UserError(
                f"--{kind}: the networks have no {kind} map at {unknown[0]}; they have "
                f"{', '.join(map(str, known)) or 'none'}"
            )


@click.command(cls=Command)
@click.option(
    "--network",
    multiple=True,
    type=PATH_OR_URL,
    metavar="PATH|URL",
    help="pickle or .safetensors; repeat for several",
)
@click.option("--run", type=PATH, metavar="DIR", help="Run directory, in place of --network")
@click.option(
    "--snapshots", metavar="LIST", help="Kimg of the run's snapshots, such as 0,20,100  [default: the last]"
)
@click.option("--data", type=PATH, metavar="PATH", help="Real images  [default: the network's training data]")
@click.option(
    "--outdir",
    required=True,
    type=PATH,
    metavar="DIR",
    help="Where generator.png, encoder.png and decoder.png go",
)
@overwrite_option
@click.option(
    "--generator",
    metavar="RES[:K],…",
    help="Resolutions of G's maps and numbers of clusters  [default: all from 8, 6]",
)
@click.option(
    "--encoder", metavar="RES[:K],…", default="8:3,16:6", show_default=True, help="The same of D's encoder"
)
@click.option("--decoder", metavar="RES[:K],…", help="The same of D's decoder  [default: its last map, 6]")
@click.option(
    "--num",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Real and generated images to show",
)
@click.option(
    "--clustered",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Images that k-means looks at, at least --num",
)
@click.option(
    "--cell",
    type=click.IntRange(min=16),
    default=64,
    show_default=True,
    help="Width of an image in the picture",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="First latent's seed; chooses the reals",
)
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@ops_option
@friendly_errors
def main(
    network: tuple[str, ...],
    run: str | None,
    snapshots: str | None,
    data: str | None,
    outdir: str,
    generator: str | None,
    encoder: str,
    decoder: str | None,
    num: int,
    clustered: int,
    cell: int,
    seed: int,
    device: str,
) -> None:
    """Show which places feature maps tell apart, by k-means with cosine distance over pixels.

    One colour is one cluster in all images of a row. Colours of different rows are matched to agree in as
    many places as possible. The generator is the average G_ema, with constant noise.
    """
    wanted_g, wanted_d = parse_wanted("--generator", generator), parse_wanted("--decoder", decoder)
    count = max(num, clustered)
    check_seeds([seed + count - 1])
    if data is not None:
        check_apart(outdir, data, "--outdir")
    networks = chosen_snapshots(network, run, snapshots)
    how: dict[str, Any] = dict(
        data=data and os.path.abspath(data), encoder=encoder, decoder=decoder, generator=generator
    )
    mark = mark_of(
        "visualize_features.py", networks, num=num, clustered=clustered, cell=cell, seed=seed, **how
    )
    check_outputs(outdir, {f"{kind}.png": mark for kind in ("generator", "encoder", "decoder")})
    folder, where = output_folder(outdir), announce_device(device)
    taken = [look(path, data, wanted_g, count, seed, where) for path in networks]
    decoders = [snapshot.maps["decoder"] for snapshot in taken]
    wanted = {
        "generator": wanted_g or dict.fromkeys(taken[-1].maps["generator"], DEFAULT_CLUSTERS),
        "encoder": parse_wanted("--encoder", encoder) or {},
        "decoder": wanted_d or ({max(decoders[-1]): DEFAULT_CLUSTERS} if all(decoders) else {}),
    }
    for kind, resolutions in wanted.items():
        check_resolutions(taken, kind, resolutions)
    for kind, resolutions in wanted.items():
        if not resolutions:
            print(f"no {kind}.png: a network has no {kind} (--reg_type=none)")
            continue
        size = max(cell, taken[-1].reals.shape[-1])
        rows = rows_of(taken, kind, resolutions, seed, size)
        picture = picture_of_rows(
            [(title, first_of_each(images, num, count)) for title, images in rows], size
        )
        with writing(folder):
            save_png(picture, folder / f"{kind}.png", mark)
        print(folder / f"{kind}.png")


def first_of_each(images: torch.Tensor, num: int, count: int) -> torch.Tensor:
    """The first ``num`` of every ``count`` images: of reals and of fakes."""
    return torch.cat([part[:num] for part in images.split(count)])


if __name__ == "__main__":
    main()
