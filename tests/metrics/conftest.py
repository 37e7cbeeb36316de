"""Small stand-ins: a data set in memory, a generator, and detectors in TorchScript files."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn


class ArrayDataset:
    """Random images with one-hot labels."""

    def __init__(
        self, count: int = 40, channels: int = 3, resolution: int = 8, classes: int = 0, seed: int = 0
    ) -> None:
        rng = np.random.RandomState(seed)
        self.name, self.resolution, self.num_channels, self.label_dim = (
            "arrays",
            resolution,
            channels,
            classes,
        )
        self.images = rng.randint(0, 256, (count, channels, resolution, resolution)).astype(np.uint8)
        self.classes = rng.randint(max(classes, 1), size=count)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.images[index], self.get_label(index)

    def get_label(self, index: int) -> np.ndarray:
        return (
            np.eye(self.label_dim, dtype=np.float32)[self.classes[index]]
            if self.label_dim
            else np.zeros(0, np.float32)
        )


class ToyGenerator(nn.Module):
    """Images from latents, labels and random noise; counts the images it renders."""

    def __init__(self, channels: int = 3, resolution: int = 8, z_dim: int = 5, c_dim: int = 0) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.img_resolution, self.img_channels = z_dim, c_dim, resolution, channels
        weight = torch.randn(
            z_dim + c_dim, channels * resolution**2, generator=torch.Generator().manual_seed(0)
        )
        self.weight: torch.Tensor
        self.register_buffer("weight", weight)
        self.rendered = 0
        self.labels: list[torch.Tensor] = []

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        assert not self.training
        self.rendered += len(z)
        self.labels.append(c)
        flat = torch.cat([z, c], dim=1) @ self.weight * 0.3
        images = flat.reshape(-1, self.img_channels, self.img_resolution, self.img_resolution)
        return images + 0.3 * torch.randn_like(images)


class LinearGenerator(nn.Module):
    """Maps latents to w and w to images by scaled isometries, adds noise images, and remembers its inputs."""

    def __init__(
        self, channels: int = 3, resolution: int = 8, z_dim: int = 3, c_dim: int = 0, scale: float = 0.1
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.img_resolution, self.img_channels = z_dim, c_dim, resolution, channels
        self.synthesis = LinearSynthesis(channels, resolution, z_dim, scale)
        self.mapped: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []

    def mapping(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        self.mapped.append(z)
        self.labels.append(c)
        return z.flip(1).unsqueeze(1).repeat(1, 2, 1)

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        rendered: torch.Tensor = self.synthesis(self.mapping(z, c), noise_mode="random", force_fp32=False)
        return rendered


class LinearSynthesis(nn.Module):
    def __init__(self, channels: int, resolution: int, w_dim: int, scale: float) -> None:
        super().__init__()
        self.shape = (channels, resolution, resolution)
        random = torch.randn(channels * resolution**2, w_dim, generator=torch.Generator().manual_seed(0))
        self.weight: torch.Tensor
        self.noise_const: torch.Tensor
        self.register_buffer("weight", torch.linalg.qr(random).Q.T * scale)
        self.register_buffer("noise_const", torch.zeros(resolution, resolution))
        self.given: list[torch.Tensor] = []
        self.noise: list[torch.Tensor] = []

    def forward(self, ws: torch.Tensor, noise_mode: str, force_fp32: bool) -> torch.Tensor:
        assert not self.training
        self.given.append(ws)
        if noise_mode == "const":
            assert force_fp32
            self.noise.append(self.noise_const)
            noise = self.noise_const
        else:
            noise = torch.randn_like(self.noise_const)
        flat: torch.Tensor = ws[:, 0] @ self.weight
        return flat.reshape(-1, *self.shape) + 0.1 * noise


class PooledPixels(nn.Module):
    """12 features: the mean of each colour in each quarter of the image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


class LikeReference(nn.Module):
    """Gives features only with ``return_features``, as the reference's files do."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        if return_features:
            return images.mean(dim=[2, 3])
        return images.mean(dim=[1, 2, 3]).unsqueeze(1)


class AllOutputs(nn.Module):
    """Features, class probabilities or a perceptual distance, chosen by the reference's arguments."""

    def forward(
        self,
        images: torch.Tensor,
        return_features: bool = False,
        no_output_bias: bool = False,
        return_lpips: bool = False,
    ) -> torch.Tensor:
        if return_features:
            return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        if return_lpips:
            return images.flatten(1)
        return (images.mean(dim=[2, 3]) / 20).softmax(dim=1)


class Unpooled(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


class AveragedOverImages(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=[0, 2, 3]).unsqueeze(0)


class NotFinite(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * 0).mean(dim=[2, 3]) / 0


NETWORKS = {
    "pooled": PooledPixels,
    "reference": LikeReference,
    "all": AllOutputs,
    "unpooled": Unpooled,
    "averaged": AveragedOverImages,
    "notfinite": NotFinite,
}


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's cache."""
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def detector_file(tmp_path: Path) -> Callable[[str], str]:
    """The path of one of NETWORKS as a TorchScript file."""

    def write(name: str) -> str:
        path = tmp_path / f"{name}.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.jit.script(NETWORKS[name]()).save(str(path))
        return str(path)

    return write


@pytest.fixture
def make_dataset() -> Any:
    return ArrayDataset


@pytest.fixture
def make_generator() -> Any:
    return ToyGenerator


@pytest.fixture
def make_linear_generator() -> Any:
    return LinearGenerator
