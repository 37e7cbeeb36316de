"""Detectors: networks that turn images into features. DETECTORS is the one table of those known by name."""

import functools
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dnnlib.download import fetch, file_sha256
from dnnlib.errors import UserError
from metrics.efficientnet import EfficientNetLite0, weights_path

NVIDIA_METRICS = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics"

Network = Callable[[Tensor], Tensor]
Loaded = tuple[Network, str]  # images float32 [N, 3, H, W] in 0..255 -> features [N, F]; digest of what computes them


@dataclass(frozen=True)
class DetectorEntry:
    """A detector known by name.

    Attributes:
        load: gives network and digest on a device. Raises :class:`UserError` when the detector can't be had.
        features: the layer and the number of features F.
        input_range: what the network itself is given.
        resizing: what happens to the image size, and where.
        cpu_batch: images at a time on a CPU, where small batches stay in the processor's caches.
    """

    load: Callable[[torch.device], Loaded]
    features: str
    input_range: str
    resizing: str
    cpu_batch: int = 8


class Detector:
    """A loaded detector.

    Calling it with images uint8 ``[N, C, H, W]`` (C is 1 or 3; greyscale is repeated to RGB), on any device, gives
    features float32 ``[N, F]`` as an array. Attributes: ``name`` as results show it, ``digest`` of weights and code,
    ``device``. Raises :class:`UserError` on other channels and when the network gives anything but finite ``[N, F]``.
    """

    def __init__(self, name: str, network: Network, digest: str, device: torch.device, cpu_batch: int = 8) -> None:
        self.name = name
        self.digest = digest
        self.device = device
        self._network = network
        self._cpu_batch = cpu_batch

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(f"a detector needs 8-bit greyscale or RGB images [N, C, H, W], not {images.dtype} {list(images.shape)}")
        step = self._cpu_batch if self.device.type == "cpu" else max(len(images), 1)
        return np.concatenate([self._features(part) for part in images.split(step)])

    def _features(self, images: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            rgb = images.to(self.device).to(torch.float32).expand(-1, 3, -1, -1).contiguous()
            try:
                features = self._network(rgb)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise UserError(f"the detector '{self.name}' does not take images {list(rgb.shape)}: {_last_line(error)}") from error
            if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
                got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
                raise UserError(f"the detector '{self.name}' must give features [N, F] of N images, but gave {got} of {len(images)}")
            values = features.to("cpu", torch.float32).numpy()
        if not np.isfinite(values).all():
            raise UserError(f"the detector '{self.name}' gave features that are not finite")
        return values


def open_detector(name: str, device: torch.device | str) -> Detector:
    """The detector of that name in DETECTORS, or the TorchScript file at that path, on ``device``.

    Loaded detectors are kept, so that evaluations during training load each once.
    Raises :class:`UserError` when there is none, or when it can't be had; the message says what to do.
    """
    if name in DETECTORS:
        return _open(name, str(device), 0, 0)
    path = Path(name)
    if not path.is_file():
        raise UserError(f"no detector '{name}': it is neither one of {', '.join(DETECTORS)} nor the path of a TorchScript file")
    stat = path.stat()
    return _open(name, str(device), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _open(name: str, device: str, _mtime: int, _size: int) -> Detector:
    where = torch.device(device)
    if name in DETECTORS:
        entry = DETECTORS[name]
        network, digest = entry.load(where)
        return Detector(name, network, digest, where, entry.cpu_batch)
    network, digest = load_torchscript(Path(name), where)
    return Detector(name, network, digest, where)


def load_torchscript(path: Path, device: torch.device, advice: str = "") -> Loaded:
    """A TorchScript file that maps images float32 ``[N, 3, H, W]``, 0 to 255, to features ``[N, F]``.

    When its forward method has an argument ``return_features``, as the reference's two files have, it is set.
    Raises :class:`UserError`, ending in ``advice``, when the file is not TorchScript.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch deprecates TorchScript; the reference's detectors are TorchScript
            module: Any = torch.jit.load(path, map_location=device)
        arguments = [argument.name for argument in module.forward.schema.arguments]
        digest = file_sha256(path)
    except (RuntimeError, AttributeError, ValueError, OSError) as error:
        raise UserError(f"the detector file {path} is not TorchScript that can be loaded: {_last_line(error)}{advice}") from error
    module.eval()
    options = {"return_features": True} if "return_features" in arguments else {}
    return functools.partial(module, **options), digest


def _from_address(file_name: str) -> Callable[[torch.device], Loaded]:
    url = f"{NVIDIA_METRICS}/{file_name}"

    def load(device: torch.device) -> Loaded:
        return load_torchscript(fetch(url), device, advice=f"; delete it, or put the file of {url} in its place")

    return load


def _efficientnet_lite0(device: torch.device) -> Loaded:
    code_version = b"1"  # count up when the features change
    digest = hashlib.sha256(code_version + file_sha256(weights_path()).encode()).hexdigest()
    network: nn.Module = EfficientNetLite0().to(device)
    return network, digest


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split(". ")[0][:200] if lines else type(error).__name__


DETECTORS: dict[str, DetectorEntry] = {
    "inception": DetectorEntry(
        load=_from_address("inception-2015-12-05.pt"),
        features="Inception-v3 of 2015-12-05, final pooling, 2048",
        input_range="0..255, normalised by the network itself",
        resizing="to 299x299 by the network itself, in the manner of TensorFlow 1 bilinear",
    ),
    "vgg16": DetectorEntry(
        load=_from_address("vgg16.pt"),
        features="VGG16, second fully connected layer, 4096",
        input_range="0..255, normalised by the network itself",
        resizing="to 224x224 by the network itself",
    ),
    "efficientnet-lite0": DetectorEntry(
        load=_efficientnet_lite0,
        features="EfficientNet-Lite0 (ImageNet), global average pooling before the classifier, 1280",
        input_range="(x - 127) / 128 of 0..255",
        resizing="to 224x224, bicubic with antialiasing, clamped to 0..255",
        cpu_batch=4,
    ),
}
