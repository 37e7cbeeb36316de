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
from torch import Tensor

from dnnlib.download import fetch, is_address
from dnnlib.errors import UserError
from dnnlib.files import file_sha256
from metrics.efficientnet import EfficientNetLite0, weights_path

NVIDIA_METRICS = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics"

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Outputs:
    """What a loaded network computes from images float32 ``[N, 3, H, W]`` in 0..255, on its device.

    Attributes:
        digest: of everything that decides the features: weights, and code where the file does not hold it.
        features: ``[N, F]``.
        probabilities: ``[N, classes]``, rows that sum to 1; None where the network has no classes.
        perceptual: ``[N, K]``, differentiable, whose squared L2 distance is a perceptual distance; None where
            there is none.
    """

    digest: str
    features: Function
    probabilities: Function | None = None
    perceptual: Function | None = None


@dataclass(frozen=True)
class DetectorEntry:
    """A detector known by name.

    Attributes:
        load: gives the network's outputs on a device. Raises :class:`UserError` when the detector can't be
            had.
        features: the layer and the number of features F.
        input_range: what the network itself is given.
        resizing: what happens to the image size before the features, and where.
        probabilities: the classes, for people; None where there are none.
        perceptual: the distance, for people; None where there is none.
        cpu_batch: images at a time on a CPU, where small batches stay in the processor's caches.
    """

    load: Callable[[torch.device], Outputs]
    features: str
    input_range: str
    resizing: str
    probabilities: str | None = None
    perceptual: str | None = None
    cpu_batch: int = 8


class Detector:
    """A loaded detector.

    Calling it with images uint8 ``[N, C, H, W]`` (C is 1 or 3; greyscale is repeated to RGB), on any device,
    gives features float32 ``[N, F]`` as an array. Attributes: ``name`` as results show it, ``digest`` of
    weights and code, ``device``. Raises :class:`UserError` on other images and when the network gives
    anything but finite ``[N, F]`` of one F.
    """

    def __init__(self, name: str, outputs: Outputs, device: torch.device, cpu_batch: int = 8) -> None:
        self.name = name
        self.digest = outputs.digest
        self.device = device
        self._outputs = outputs
        self._cpu_batch = cpu_batch
        self._widths: dict[str, int] = {}  # of each output

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Features float32 ``[N, F]`` of images uint8 ``[N, C, H, W]``."""
        return self._arrays(self._outputs.features, images, "features [N, F]")

    def probabilities(self, images: Tensor) -> NDArray[np.float32]:
        """Class probabilities float32 ``[N, classes]`` of images as for a call; each row sums to 1.

        Raises :class:`UserError` as a call does, and when the network has no classes.
        """
        if self._outputs.probabilities is None:
            raise UserError(
                f"the detector '{self.name}' has no class probabilities; use {_known_with('probabilities')}"
            )
        values = self._arrays(self._outputs.probabilities, images, "class probabilities [N, classes]")
        if (values < 0).any() or not np.allclose(values.sum(1), 1, atol=1e-3):
            raise UserError(
                f"the detector '{self.name}' gave class probabilities that are negative or do not sum to 1"
            )
        return values

    def perceptual(self, images: Tensor) -> Tensor:
        """Images to ``[N, K]``, differentiable: the squared L2 distance of two rows is a perceptual distance.

        Distances of different detectors are not comparable.

        Args:
            images: float32 ``[N, C, H, W]``, C 1 (repeated) or 3, in 0..255, of one size. Nothing is resized.

        Raises:
            UserError: other images, a network without this output, or anything but finite ``[N, K]``.
        """
        if self._outputs.perceptual is None:
            raise UserError(
                f"the detector '{self.name}' has no perceptual distance; use {_known_with('perceptual')}"
            )
        _check_images(images, torch.float32, "a perceptual distance needs float32")
        what = "perceptual features [N, K]"
        parts = [
            self._apply(self._outputs.perceptual, part, what) for part in images.split(self._step(images))
        ]
        return torch.cat(parts).to(images.device)

    def _arrays(self, function: Function, images: Tensor, what: str) -> NDArray[np.float32]:
        _check_images(images, torch.uint8, "a detector needs 8-bit")
        with torch.inference_mode():
            parts = [
                self._apply(function, part, what).to("cpu", torch.float32).numpy()
                for part in images.split(self._step(images))
            ]
        for part in parts:
            if part.shape[1] != self._widths.setdefault(what, part.shape[1]):
                raise UserError(
                    f"the detector '{self.name}' gave {what} with {self._widths[what]} columns, and then "
                    f"with {part.shape[1]}"
                )
        return np.concatenate(parts)

    def _step(self, images: Tensor) -> int:
        return self._cpu_batch if self.device.type == "cpu" else max(len(images), 1)

    def _apply(self, function: Function, images: Tensor, what: str) -> Tensor:
        """One output of the network, checked.

        Faults of the GPU, such as running out of memory, are passed on as PyTorch raises them.
        """
        rgb = images.to(self.device).to(torch.float32).expand(-1, 3, -1, -1).contiguous()
        try:
            values = function(rgb)
        except (torch.OutOfMemoryError, torch.AcceleratorError):  # faults of the GPU, not of the images
            raise
        except RuntimeError as error:
            raise UserError(
                f"the detector '{self.name}' does not take images {list(rgb.shape)}: {_last_line(error)}"
            ) from error
        if (
            not isinstance(values, Tensor)
            or values.ndim != 2
            or len(values) != len(images)
            or not values.shape[1]
        ):
            got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise UserError(
                f"the detector '{self.name}' must give {what} of N images, but gave {got} of {len(images)}"
            )
        if not values.isfinite().all():
            raise UserError(f"the detector '{self.name}' gave {what} that are not finite")
        return values


def _check_images(images: Tensor, dtype: torch.dtype, needs: str) -> None:
    if images.dtype != dtype or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"{needs} greyscale or RGB images [N, C, H, W], not {images.dtype} {list(images.shape)}"
        )


def check_detector(name: str) -> None:
    """Raise :class:`UserError` for what is no detector's name, file or address. Opens nothing."""
    if name not in DETECTORS and not is_address(name) and not Path(name).is_file():
        raise UserError(
            f"no detector '{name}': it is neither one of {', '.join(DETECTORS)} nor the path or http(s) "
            "address of a TorchScript file"
        )


def open_detector(name: str, device: torch.device | str) -> Detector:
    """Open a detector on ``device``: one of DETECTORS, or a TorchScript file at a path or http(s) address.

    Loaded detectors are kept, so that evaluations during training load each once.
    Raises :class:`UserError` when there is none, or when it can't be had; the message says what to do.
    """
    check_detector(name)
    if name in DETECTORS:
        return _open(name, None, str(device), 0, 0)
    path = fetch(name) if is_address(name) else Path(name)
    stat = path.stat()
    return _open(name, path, str(device), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _open(name: str, path: Path | None, device: str, _mtime: int, _size: int) -> Detector:
    where = torch.device(device)
    with torch.inference_mode(mode=False):  # weights made in inference mode can have no part in a gradient
        if path is None:
            entry = DETECTORS[name]
            return Detector(name, entry.load(where), where, entry.cpu_batch)
        advice = f"; delete it, so that {name} is downloaded again" if is_address(name) else ""
        return Detector(name, load_torchscript(path, where, advice), where)


def load_torchscript(path: Path, device: torch.device, advice: str = "") -> Outputs:
    """A TorchScript file that maps images float32 ``[N, 3, H, W]``, 0 to 255, to features ``[N, F]``.

    Its forward method is called as the reference calls its own two files, as far as it has these arguments:
    ``return_features=True`` for features, ``no_output_bias=True`` for class probabilities, and
    ``return_lpips=True, resize_images=False`` for the perceptual distance. Without ``no_output_bias`` there
    are no probabilities, without ``return_lpips`` no distance.
    Raises :class:`UserError`, ending in ``advice``, when the file is not TorchScript.
    """
    try:
        with warnings.catch_warnings():
            # PyTorch deprecates TorchScript; the reference's detectors are TorchScript.
            warnings.simplefilter("ignore", FutureWarning)
            module: Any = torch.jit.load(path, map_location=device)
        arguments = {argument.name for argument in module.forward.schema.arguments}
        digest = file_sha256(path)
    except (RuntimeError, AttributeError, ValueError, OSError) as error:
        raise UserError(
            f"the detector file {path} is not TorchScript that can be loaded: {_last_line(error)}{advice}"
        ) from error
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad = False

    def calling(**options: bool) -> Function:
        return functools.partial(
            module, **{name: value for name, value in options.items() if name in arguments}
        )

    return Outputs(
        digest,
        features=calling(return_features=True),
        probabilities=calling(no_output_bias=True) if "no_output_bias" in arguments else None,
        perceptual=calling(return_lpips=True, resize_images=False) if "return_lpips" in arguments else None,
    )


def _from_address(file_name: str) -> Callable[[torch.device], Outputs]:
    """A loader of one of the reference's files. Their SHA-256 is not published, so none is checked."""
    url = f"{NVIDIA_METRICS}/{file_name}"

    def load(device: torch.device) -> Outputs:
        return load_torchscript(
            fetch(url), device, advice=f"; delete it, or put the file of {url} in its place"
        )

    return load


def _efficientnet_lite0(device: torch.device) -> Outputs:
    code_version = b"1"  # count up when the features change
    network = EfficientNetLite0().to(device)
    return Outputs(
        digest=hashlib.sha256(code_version + file_sha256(weights_path()).encode()).hexdigest(),
        features=network,
        probabilities=lambda images: network.logits(network(images)).softmax(dim=1),
        perceptual=network.perceptual,
    )


def _known_with(output: str) -> str:
    return " or ".join(f"'{name}'" for name, entry in DETECTORS.items() if getattr(entry, output) is not None)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split(". ")[0][:200] if lines else type(error).__name__


DETECTORS: dict[str, DetectorEntry] = {
    "inception": DetectorEntry(
        load=_from_address("inception-2015-12-05.pt"),
        features="Inception-v3 of 2015-12-05, final pooling, 2048",
        input_range="0..255, normalised by the network itself",
        resizing="to 299x299 by the network itself, in the manner of TensorFlow 1 bilinear",
        probabilities="1008 ImageNet classes, softmax of the logits without their bias",
    ),
    "vgg16": DetectorEntry(
        load=_from_address("vgg16.pt"),
        features="VGG16, second fully connected layer, 4096",
        input_range="0..255, normalised by the network itself",
        resizing="to 224x224 by the network itself",
        perceptual="LPIPS with VGG16 and learned weights (Zhang et al. 2018)",
    ),
    "efficientnet-lite0": DetectorEntry(
        load=_efficientnet_lite0,
        features="EfficientNet-Lite0 (ImageNet), global average pooling before the classifier, 1280",
        input_range="(x - 127) / 128 of 0..255",
        resizing="to 224x224, bicubic with antialiasing, clamped to 0..255",
        probabilities="1000 ImageNet classes, softmax of the logits",
        perceptual="in the manner of LPIPS, without learned weights: unit-normalised maps of five blocks",
        cpu_batch=4,
    ),
}
