"""experiments.probe_segmentation: several discriminators, several seeds, one record and one plot."""

import json
from pathlib import Path

import PIL.Image
import pytest
from click.testing import CliRunner

from dnnlib.errors import UserError
from experiments import probe_segmentation
from experiments.probe_segmentation import mean_and_deviation, parse_networks, parse_resolutions
from tests.support.analysis import make_pairs, write_snapshot
from torch_utils.persistence import load_network_pkl


def test_labels_of_networks() -> None:
    assert parse_networks(["none=a.pkl", "ggdr=b=c.pkl"]) == {"none": "a.pkl", "ggdr": "b=c.pkl"}
    for texts, message in (
        (["a.pkl"], "LABEL=PKL"),
        (["=a.pkl"], "LABEL=PKL"),
        (["a=b", "a=c"], "comes twice"),
    ):
        with pytest.raises(UserError, match=message):
            parse_networks(texts)


def test_mean_and_sample_deviation() -> None:
    mean, deviation = mean_and_deviation([[1.0, 2.0], [3.0, 2.0], [5.0, 5.0]])
    assert mean.tolist() == [3, 3]
    assert deviation.tolist() == pytest.approx([2, 3**0.5])
    assert mean_and_deviation([[1.0, 2.0]])[1].tolist() == [0, 0]


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pairs = make_pairs(tmp_path / "pairs", count=12)
    networks = {name: write_snapshot(tmp_path / f"{name}.pkl", reg_type=name) for name in ("none", "ggdr")}
    contents = {name: path.read_bytes() for name, path in networks.items()}
    arguments = [f"--network={name}={path}" for name, path in networks.items()]
    arguments += [f"--data={pairs}", "--epochs=2", "--batch=4", "--seeds=0,3", "--device=cpu"]
    for out in ("a", "b"):
        result = CliRunner().invoke(probe_segmentation.main, [*arguments, f"--out={tmp_path / 'out' / out}"])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "a.json").read_bytes() == (tmp_path / "out" / "b.json").read_bytes()
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert (record["seeds"], record["num_classes"], record["num_images"], record["resolutions"]) == (
        [0, 3],
        2,
        12,
        [8, 16],
    )
    assert list(record["accuracy"]) == ["none", "ggdr"]
    # Untrained discriminators of one seed have equal encoders, with and without a decoder: equal heads come
    # out.
    assert record["accuracy"]["none"] == record["accuracy"]["ggdr"]
    assert [len(values) for values in record["accuracy"]["none"]] == [3, 3]
    assert record["accuracy"]["none"][0] != record["accuracy"]["none"][1]
    assert len(record["majority_accuracy"]) == 2
    with PIL.Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.width > 300
    assert {name: path.read_bytes() for name, path in networks.items()} == contents


def test_resolutions(tmp_path: Path) -> None:
    D = load_network_pkl(write_snapshot(tmp_path / "net.pkl"))["D"]
    small = load_network_pkl(write_snapshot(tmp_path / "small.pkl", resolution=8))["D"]
    assert parse_resolutions(None, [D]) == [8, 16]
    assert parse_resolutions("4,16", [D]) == [4, 16]
    with pytest.raises(UserError, match="in common"):
        parse_resolutions(None, [D, small])
    arguments = [
        f"--network=a={tmp_path / 'net.pkl'}",
        f"--data={make_pairs(tmp_path / 'pairs')}",
        f"--out={tmp_path / 'out'}",
    ]
    result = CliRunner().invoke(probe_segmentation.main, [*arguments, "--resolutions=64"])
    assert result.exit_code == 1
    assert "has maps at [16, 8, 4]" in result.output
    assert not (tmp_path / "out.json").exists()
