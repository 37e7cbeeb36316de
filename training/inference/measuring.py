"""What ``calc_metrics.py`` measures: a network or image files, and the real images to compare with."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dnnlib.cli import plural
from dnnlib.errors import UserError
from metrics.results import MetricResult, append_result
from torch_utils.distributed import is_rank0, rank0_first
from training.config.run_directory import OPTIONS_FILE
from training.data.dataset import ImageFolderDataset
from training.data.reals import open_images, open_reals
from training.inference.files import load_networks, weights_sha256
from training.inference.opening import compute_as_trained
from training.networks import Generator


@dataclass(frozen=True)
class Measured:
    """Either a network's images or image files, and real images.

    Attributes:
        source: path or address of the network or of the images.
        dataset: the real images.
        mirror: whether metrics that compare with the reals as trained take mirrored copies too.
        generator: of the network; None for image files.
        images: the image files; None for a network.
        run_dir: the run directory that the network lies in, or None.
    """

    source: str
    dataset: ImageFolderDataset
    mirror: bool
    generator: Generator | None = None
    images: ImageFolderDataset | None = None
    run_dir: Path | None = None

    def content(self) -> dict[str, str]:
        """SHA-256 of all that is read, by what it is. Reads every image."""
        content = {"real images (--data) by SHA-256": self.dataset.identity()}
        if self.generator is not None:
            content["weights (--network) by SHA-256"] = weights_sha256(self.generator)
        if self.images is not None:
            content["images (--images) by SHA-256"] = self.images.identity()
        return content

    def print_results(self, results: Sequence[MetricResult]) -> None:
        """Print a line of JSON a result, and append it to the run that the network belongs to.

        Raises:
            UserError: a result could not be appended. All of them are printed.
        """
        unrecorded: list[UserError] = []
        for result in results:
            if self.images is not None:
                print(json.dumps({**result.record(None), "images": self.source}))
            elif self.run_dir is None:
                print(result.json_line(self.source))
            else:
                try:
                    print(append_result(result, self.run_dir, self.source))
                except UserError as error:
                    print(result.json_line(os.path.relpath(self.source, self.run_dir)))
                    unrecorded.append(error)
        if unrecorded:
            raise UserError(
                f"{plural(len(unrecorded), 'result')} could only be printed, not recorded in the run: "
                f"{unrecorded[0]}"
            )


def open_measured(
    network: str | None, images: str | None, data: str | None, *, mirror: bool | None, device: torch.device
) -> Measured:
    """Open a network or images, and the reals. Every rank calls this; rank 0 alone downloads.

    Args:
        network: path or address of a network; None where ``images`` are measured.
        images: path of image files; None where a network is measured.
        data: path of the real images; None takes those that the network was trained on, which ``images`` do
            not have.
        mirror: whether reals as trained include mirrored copies; None takes what the network's training had,
            and none with ``data``.
        device: where the generator goes.

    Raises:
        UserError: something cannot be opened, or the reals do not fit the network.
    """
    if images is not None:
        assert data is not None
        return Measured(images, open_images(data), bool(mirror), images=open_images(images))
    assert network is not None
    with rank0_first("opening the network"):
        networks = load_networks(network, need=["G_ema"])
    generator, trained_on = networks["G_ema"].to(device), networks["training_set_kwargs"]
    note = compute_as_trained(generator, networks["info"], device)
    if note is not None and is_rank0():
        print(f"Note: {note}", file=sys.stderr)
    dataset = open_reals(trained_on, data, generator)
    if mirror is None and data is None:
        mirror = trained_on.get("xflip", False)
    folder = Path(network).parent
    run_dir = folder if (folder / OPTIONS_FILE).is_file() else None
    return Measured(network, dataset, bool(mirror), generator=generator, run_dir=run_dir)
