"""experiments.worst_samples: the grids show the samples at both ends, the worst first."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

from experiments import worst_samples
from experiments.worst_samples import Extremes
from metrics.gaussian import fit_gaussian
from metrics.sampling import fake_images
from metrics.statistics import MomentsCollector
from tests.support.analysis import PooledPixels, write_detector, write_snapshot
from tests.support.runs import make_images
from torch_utils.persistence import load_network_pkl


def numbered(numbers: Any) -> torch.Tensor:
    return torch.tensor(list(numbers))[:, None, None, None].expand(-1, 1, 2, 2)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_both_ends_whatever_the_batches(batch: int) -> None:
    scores = np.random.default_rng(0).permutation(40).astype(np.float64)
    scores[5] = scores[31] = -1  # a tie: the earlier one first
    found = Extremes(6)
    for start in range(0, 40, batch):
        part = range(start, min(start + batch, 40))
        found.add(numbered(part), scores[part.start : part.stop])
    order = np.argsort(scores, kind="stable")
    for (images, numbers), expected in ((found.worst(), order[:6]), (found.best(), order[::-1][:6])):
        assert numbers == expected.tolist()
        assert images[:, 0, 0, 0].tolist() == expected.tolist()
    np.testing.assert_array_equal(found.scores, scores)


def test_more_are_shown_than_half_of_all() -> None:
    found = Extremes(4)
    found.add(numbered(range(5)), np.array([3.0, 1.0, 4.0, 0.0, 2.0]))
    assert found.worst()[1] == [3, 1, 4, 0]
    assert found.best()[1] == [2, 0, 4, 1]


def test_the_command(tmp_path: Path) -> None:
    data = make_images(tmp_path / "images", count=40)
    network = write_snapshot(tmp_path / "run" / "network-snapshot-000000.pkl", data=data)
    arguments = [
        f"--network={network}",
        f"--detector={write_detector(tmp_path / 'pooled.pt')}",
        "--num=24",
        "--show=4",
        "--columns=2",
    ]
    result = CliRunner().invoke(
        worst_samples.main, [*arguments, f"--outdir={tmp_path / 'out'}", "--device=cpu"]
    )
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "log_likelihood.json").read_text())

    moments = MomentsCollector(40)
    reals = [np.asarray(PIL.Image.open(path)).transpose(2, 0, 1) for path in sorted(data.glob("*.png"))]
    moments.append(PooledPixels()(torch.from_numpy(np.stack(reals)).float()).numpy())
    G = load_network_pkl(network)["G_ema"]
    fakes = torch.cat(list(fake_images(G, None, 24, seed=0, device=torch.device("cpu"))))
    expected = fit_gaussian(moments.result()).log_likelihood(PooledPixels()(fakes.float()).numpy())
    order = np.argsort(expected, kind="stable")
    assert record["worst"] == order[:4].tolist()
    assert record["best"] == order[::-1][:4].tolist()
    assert record["log_likelihood"]["percentiles"]["0"] == pytest.approx(expected.min(), rel=1e-4)
    assert (record["num"], record["num_real"], record["data"]) == (24, 40, "images")
    with PIL.Image.open(tmp_path / "out" / "worst.png") as picture:
        assert picture.size == (64, 64)
        np.testing.assert_array_equal(np.asarray(picture)[32:, :32], fakes[order[2]].permute(1, 2, 0).numpy())
    again = CliRunner().invoke(
        worst_samples.main, [*arguments, f"--outdir={tmp_path / 'again'}", "--batch=5", "--device=cpu"]
    )
    assert again.exit_code == 0, again.output
    for name in ("worst.png", "best.png", "log_likelihood.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_reals_that_do_not_vary(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(3):
        PIL.Image.new("RGB", (32, 32), "red").save(tmp_path / "images" / f"{i}.png")
    network = write_snapshot(tmp_path / "net.pkl", data=tmp_path / "images")
    arguments = [
        f"--network={network}",
        f"--detector={write_detector(tmp_path / 'pooled.pt')}",
        f"--outdir={tmp_path / 'out'}",
    ]
    result = CliRunner().invoke(worst_samples.main, arguments)
    assert result.exit_code == 1
    assert "do not vary" in result.output
    assert not list((tmp_path / "out").iterdir())
