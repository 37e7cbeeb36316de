"""experiments.visualize_features: which networks and maps are shown, and that a cluster keeps its colour."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

from tests.support.analysis import write_snapshot
from tests.support.runs import make_images

pytest.importorskip("sklearn")

from dnnlib.errors import UserError
from experiments import visualize_features
from experiments.analysis.clustering import PALETTE
from experiments.visualize_features import (
    Snapshot,
    chosen_snapshots,
    latents,
    look,
    parse_wanted,
    real_batch,
    rows_of,
)
from torch_utils.persistence import load_network_pkl
from training.data.dataset import ImageFolderDataset


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> Path:
    """A run with GGDR and snapshots at 0 and 20 kimg."""
    root: Path = tmp_path_factory.mktemp("run")
    data = make_images(root / "images", count=12)
    for number, kimg in enumerate((0, 20)):
        write_snapshot(
            root / "00000-x" / f"network-snapshot-{kimg:06d}.pkl",
            data=data,
            kimg=kimg,
            seed=number,
            reg_type="ggdr",
        )
    return root / "00000-x"


def test_resolutions_and_numbers_of_clusters() -> None:
    assert parse_wanted("--encoder", "8:3, 16") == {8: 3, 16: 6}
    assert parse_wanted("--encoder", None) is None
    for text in ("8:", "a", "8:3:4", "", "9" * 5000, "8:" + "9" * 5000):
        with pytest.raises(UserError, match=r"--encoder=.* is no list of resolutions"):
            parse_wanted("--encoder", text)
    with pytest.raises(UserError, match="not 1"):
        parse_wanted("--encoder", "8:1")


def test_snapshots_of_a_run(run: Path) -> None:
    (run / "network-snapshot-best.pkl").touch()  # somebody's own
    assert [Path(path).name for path in chosen_snapshots([], str(run), None)] == [
        "network-snapshot-000020.pkl"
    ]
    assert [path[-7:-4] for path in chosen_snapshots([], str(run), "0,20")] == ["000", "020"]
    assert chosen_snapshots(["https://h/a.pkl", "b.pkl"], None, None) == ["https://h/a.pkl", "b.pkl"]
    for network, folder, snapshots, message in (
        ([], None, None, "give either"),
        (["a.pkl"], str(run), None, "give either"),
        (["a.pkl"], None, "0", "goes with --run"),
        ([], str(run), "0,10", "no snapshot at 10 kimg; it has 0, 20"),
        ([], str(run.parent), None, "give a run directory"),
    ):
        with pytest.raises(UserError, match=message):
            chosen_snapshots(network, folder, snapshots)


def test_latents_are_those_of_generate_and_labels_take_turns() -> None:
    class G:
        z_dim, c_dim = 5, 3

    z, c = latents(G, 4, seed=7, device=torch.device("cpu"))
    np.testing.assert_array_equal(z[2], np.random.RandomState(9).randn(1, 5)[0].astype(np.float32))
    assert c.argmax(1).tolist() == [0, 1, 2, 0]
    assert c.sum(1).tolist() == [1, 1, 1, 1]


def test_snapshots_share_their_images(run: Path) -> None:
    first, second = (
        look(path, None, None, 4, 0, torch.device("cpu")) for path in chosen_snapshots([], str(run), "0,20")
    )
    assert torch.equal(first.reals, second.reals)
    assert not torch.equal(first.fakes, second.fakes)
    assert (first.title, second.title) == ("0 kimg", "20 kimg")
    assert list(first.maps["generator"]) == [8, 16, 32]
    assert list(first.maps["decoder"]) == [8]
    assert len(first.maps["encoder"][8]) == 2 * len(first.maps["generator"][8]) == 8
    D = load_network_pkl(run / "network-snapshot-000000.pkl")["D"]
    for shown, part in ((first.reals, slice(0, 4)), (first.fakes, slice(4, 8))):
        expected = D.encode(shown.float() / 127.5 - 1)[0][16]
        torch.testing.assert_close(first.maps["encoder"][16][part], expected)
    dataset = ImageFolderDataset(run.parent / "images")
    assert not torch.equal(real_batch(dataset, 4, 1), first.reals)
    with pytest.raises(UserError, match="has 12 images, not 13"):
        real_batch(dataset, 13, 0)


def regions(split: int) -> torch.Tensor:
    """Classes of two 8×8 images: 0 in columns below ``split``, 2 in the last two columns, 1 between."""
    classes = torch.full([2, 8, 8], 2)
    classes[:, :, :split] = 0
    classes[:, :, split:6] = 1
    return classes


def snapshot(at8: torch.Tensor, at16: torch.Tensor, axes: torch.Tensor) -> Snapshot:
    """Maps with one direction of feature space for each region."""
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    maps = {
        8: axes[at8].permute(0, 3, 1, 2),
        16: axes[at16].permute(0, 3, 1, 2).repeat_interleave(2, 2).repeat_interleave(2, 3),
    }
    return Snapshot("x", images, images, {"generator": maps})


def test_colours_are_stable_over_images_snapshots_and_resolutions() -> None:
    # Which region is the largest changes from map to map, and so does what stands for a region in feature
    # space.
    few, many = regions(2), regions(4)
    snapshots = [snapshot(few, many, torch.eye(3)), snapshot(many, few, -torch.eye(3).roll(1, 0))]
    wanted = {8: 3, 16: 3}
    rows = rows_of(snapshots, "generator", wanted, seed=0, cell=16)
    assert [title for title, _ in rows] == [
        "x\ngenerated",
        "generator\n8x8, k = 3",
        "generator\n16x16, k = 3",
    ] * 2
    colours = []
    for region in range(3):
        place = ((few == region) & (many == region)).repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert place.any()
        found = torch.cat([rows[i][1].permute(0, 2, 3, 1)[place] for i in (1, 2, 4, 5)]).unique(dim=0)
        assert len(found) == 1
        colours += found.tolist()
    assert len({tuple(colour) for colour in colours} & {tuple(colour) for colour in PALETTE.tolist()}) == 3


def pixels_of(path: Path) -> np.ndarray:
    with PIL.Image.open(path) as picture:
        return np.asarray(picture)


def test_the_pictures(run: Path, tmp_path: Path) -> None:
    arguments = [
        f"--run={run}",
        "--snapshots=0,20",
        "--num=3",
        "--clustered=6",
        "--cell=32",
        "--encoder=8:3,16:4",
    ]
    result = CliRunner().invoke(
        visualize_features.main, [*arguments, f"--outdir={tmp_path}", "--generator=8,32:2"]
    )
    assert result.exit_code == 0, result.output
    pictures = {path.name: pixels_of(path) for path in tmp_path.iterdir()}
    sizes = {name: pixels.shape[1::-1] for name, pixels in pictures.items()}
    assert sizes == {
        "generator.png": (120 + 3 * 34, 6 * 34),
        "encoder.png": (120 + 6 * 34, 6 * 34),
        "decoder.png": (120 + 6 * 34, 4 * 34),
    }
    for name, colours in (("encoder.png", 4), ("decoder.png", 6)):
        bottom = pictures[name][-20:, 120:].reshape(-1, 3)
        assert len({tuple(pixel) for pixel in bottom.tolist()} - {(255, 255, 255)}) <= colours


def test_a_run_without_decoder(tmp_path: Path) -> None:
    network = write_snapshot(tmp_path / "net.pkl", data=make_images(tmp_path / "images", count=4))
    arguments = [f"--network={network}", f"--outdir={tmp_path / 'out'}", "--num=2", "--clustered=2"]
    result = CliRunner().invoke(visualize_features.main, arguments)
    assert result.exit_code == 0, result.output
    assert "no decoder.png" in result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"generator.png", "encoder.png"}
    unknown = {
        "--decoder=8": "no decoder map at 8; they have none",
        "--generator=64": "no block at 64",
        "--encoder=32": "16, 8, 4",
    }
    for extra, message in unknown.items():
        result = CliRunner().invoke(visualize_features.main, [*arguments, extra, "--overwrite"])
        assert result.exit_code == 1
        assert message in result.output
