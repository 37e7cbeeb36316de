"""Small runs for the tests: a data set of coloured shapes and a configuration that trains in seconds."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from training.config.notes import explain
from training.config.options import overrides
from training.config.resolve import resolve
from training.config.schema import DataConfig, GeneratorConfig, TrainConfig
from training.data.dataset import ImageFolderDataset
from training.data.opening import inspect_data, open_dataset
from training.run.state import RunState


def make_images(
    folder: Path, *, count: int = 16, resolution: int = 32, channels: int = 3, classes: int = 0
) -> Path:
    """A folder of discs on coloured ground, reproducible; with classes, a ``dataset.json`` too."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:resolution, :resolution]
    labels = []
    for i in range(count):
        image = np.empty([resolution, resolution, channels], dtype=np.uint8)
        image[:] = rng.integers(0, 256, channels)
        centre, radius = rng.uniform(0.3, 0.7, 2) * resolution, rng.uniform(0.1, 0.3) * resolution
        image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = rng.integers(0, 256, channels)
        PIL.Image.fromarray(image[:, :, 0] if channels == 1 else image).save(folder / f"{i:04d}.png")
        labels.append([f"{i:04d}.png", i % max(classes, 1)])
    if classes:
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def small_config(data: DataConfig, **options: Any) -> TrainConfig:
    """The ``auto`` preset with narrow latents and few channels."""
    defaults: dict[str, Any] = dict(
        cbase=128, cmax=8, batch=4, kimg=0.02, tick=0.008, snap=1, metrics=(), workers=0, device="cpu"
    )
    config = resolve(overrides(**{**defaults, **options}), data)
    generator: GeneratorConfig = dataclasses.replace(config.generator, z_dim=8, w_dim=8)
    return dataclasses.replace(config, generator=generator)


def plain_data(
    resolution: int = 32,
    channels: int = 3,
    label_dim: int = 0,
    path: str = "images",
    annotation_classes: int = 0,
) -> DataConfig:
    """The description of a data set that need not exist."""
    return DataConfig(
        path=path,
        resolution=resolution,
        num_channels=channels,
        label_dim=label_dim,
        num_images=16,
        use_labels=label_dim > 0,
        max_size=None,
        xflip=False,
        random_seed=0,
        annotation_classes=annotation_classes,
    )


def described_data(**changes: Any) -> DataConfig:
    """The description of /d/faces.zip, 100 images of 128x128."""
    return dataclasses.replace(
        dataclasses.replace(plain_data(128, path="/d/faces.zip"), num_images=100), **changes
    )


def resolved_config(images: DataConfig | None = None, **options: Any) -> TrainConfig:
    """What options mean, for :func:`described_data` unless told otherwise."""
    return resolve(overrides(**options), images or described_data())


def explained(images: DataConfig | None = None, **options: Any) -> str:
    """The notes on what :func:`resolved_config` decided, a line each."""
    return "\n".join(explain(overrides(**options), resolved_config(images, **options)))


def small_state(channels: int = 3, label_dim: int = 0, resolution: int = 32, **options: Any) -> RunState:
    """A fresh run on the CPU; with segmentation, of two classes."""
    classes = 2 if options.get("reg_type") == "seg" else 0
    data = plain_data(resolution, channels, label_dim, annotation_classes=classes)
    return RunState.fresh(small_config(data, **options), torch.device("cpu"))


def open_small(
    folder: Path, *, cond: bool = False, mirror: bool = False, subset: int | None = None, **options: Any
) -> tuple[TrainConfig, ImageFolderDataset]:
    """Configuration and data set of a folder of images, or of pairs with ``reg_type=seg``."""
    annotated = options.get("reg_type") == "seg"
    data, _ = inspect_data(str(folder), cond=cond, subset=subset, mirror=mirror, seed=0, annotated=annotated)
    return small_config(data, **options), open_dataset(data)
