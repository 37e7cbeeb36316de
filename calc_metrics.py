"""Measure a network pickle: FID, precision and recall."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib.cli import Command, friendly_errors
from dnnlib.errors import UserError

if TYPE_CHECKING:
    from training.dataset import ImageFolderDataset


@click.command(cls=Command)
@click.option("--network", "network_pkl", metavar="PATH", required=True, help="network pickle (network-snapshot-*.pkl)")
@click.option("--metrics", metavar="LIST", default="fid50k_full", show_default=True, help="names with any count: fid5k_full,pr5k3_full")
@click.option("--data", metavar="PATH", help="real images, a folder or a zip  [default: what the network was trained on]")
@click.option("--mirror", type=bool, metavar="BOOL", help="accepted; the *_full metrics never mirror the reals")
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True, metavar="INT", help="number of GPUs (1 for now)")
@click.option("--verbose", type=bool, default=True, show_default=True, metavar="BOOL", help="progress on standard error")
@click.option("--detector", metavar="NAME|PATH", default="auto", show_default=True, help="detector by name, or a TorchScript file")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option(
    "--batch", type=click.IntRange(min=1), default=64, show_default=True, metavar="INT", help="images at a time; changes no value"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="INT", help="which latents, labels and noise")
@friendly_errors
def main(
    network_pkl: str,
    metrics: str,
    data: str | None,
    mirror: bool | None,
    gpus: int,
    verbose: bool,
    detector: str,
    device: str,
    batch: int,
    seed: int,
) -> None:
    """Measure a network pickle against real images, and print one line of JSON for each metric.

    When the pickle lies in a run directory, the lines are also appended to its metric-NAME.jsonl. Detectors by name:
    inception and vgg16 (the reference's, downloaded once; auto picks them) and efficientnet-lite0 (works offline).

    \b
    python calc_metrics.py --network=RUN/network-snapshot-000100.pkl --metrics=fid50k_full,pr50k3_full
    python calc_metrics.py --network=net.pkl --data=images.zip --metrics=fid2k_full --detector=efficientnet-lite0
    """
    if gpus > 1:
        raise UserError(f"--gpus={gpus}: metrics run in one process for now; use --gpus=1")

    from metrics.registry import known_names, parse_metrics
    from metrics.runner import append_result, evaluate
    from torch_utils.device import pick_device
    from torch_utils.host_memory import keep_freed_memory
    from torch_utils.persistence import load_network_pkl

    if not parse_metrics(metrics):
        raise UserError(f"--metrics names no metric; known are {known_names()}")
    where = pick_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    else:
        full_precision()
    networks = load_network_pkl(network_pkl)
    generator = networks["G_ema"].to(where)
    dataset = open_reals(networks["training_set_kwargs"], data, generator)
    if mirror:
        print("Note: --mirror=1 has no effect: *_full metrics compare with the images as they are, as in the reference", file=sys.stderr)
    if verbose:
        print(f"Measuring {network_pkl} against {len(dataset)} images of {dataset.path} on {where}", file=sys.stderr)
    results = evaluate(
        metrics, generator=generator, dataset=dataset, detector=detector, device=where, batch_size=batch, seed=seed, progress=verbose
    )
    run_dir = Path(network_pkl).parent
    in_run_dir = (run_dir / "training_options.json").is_file()
    for result in results:
        print(append_result(result, run_dir, network_pkl) if in_run_dir else result.json_line(network_pkl))


def open_reals(training_set_kwargs: dict[str, Any] | None, data: str | None, generator: Any) -> "ImageFolderDataset":
    """The data set to measure against: all of it, without mirrored copies, whatever the training used (as in the reference).

    Raises :class:`UserError` when none is known, and as the data set does.
    """
    from training.dataset import ImageFolderDataset

    known = (training_set_kwargs or {}) if data is None else {"path": data}
    if "path" not in known:
        raise UserError("this network pickle does not say what it was trained on; give --data")
    if data is None and not Path(known["path"]).exists():
        raise UserError(f"'{known['path']}', which the network was trained on, is not there; say where it is with --data")
    return ImageFolderDataset(known["path"], resolution=generator.img_resolution, use_labels=generator.c_dim > 0)


def full_precision() -> None:
    """Compute in float32 proper on a GPU, as the reference's metrics do: no TF32."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


if __name__ == "__main__":
    main()
