"""From the networks' float images to bytes, and to pictures on disk."""

import os

import PIL.Image
import torch
import torchvision

from dnnlib.files import atomic_write


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """``[N, C, H, W]`` in [-1, 1] to uint8 in 0 … 255, on the CPU."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu()


def from_uint8(images: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 ``[N, C, H, W]`` to float32 in [-1, 1] on ``device``."""
    return images.to(device, non_blocking=True).float() / 127.5 - 1


def save_png(image: torch.Tensor, path: str | os.PathLike[str]) -> None:
    """Write one uint8 image ``[C, H, W]`` with C 1 (greyscale) or 3 (RGB); the file appears complete or not at all."""
    array = image.permute(1, 2, 0).contiguous().numpy()
    picture = PIL.Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    with atomic_write(path) as stream:
        picture.save(stream, format="png")


def save_grid(images: torch.Tensor, path: str | os.PathLike[str], columns: int) -> None:
    """Write uint8 images ``[N, C, H, W]`` as one picture, row by row, without gaps."""
    grid = torchvision.utils.make_grid(images, nrow=columns, padding=0)
    save_png(grid[:1] if images.shape[1] == 1 else grid, path)
