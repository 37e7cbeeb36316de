"""Transfer learning: names, addresses and paths; networks of the reference family; what is copied."""

import http.server
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from dnnlib import addresses
from dnnlib.download import cached_path
from dnnlib.errors import UserError
from tests.support.reference_form import reference_pickle
from tests.support.runs import make_images, open_small, plain_data, small_config, small_state
from torch_utils.persistence import save_network_pkl
from training import launch
from training.config import pretrained
from training.config.continuation import continued
from training.config.options import overrides
from training.config.resolve import ADA_KIMG_RESUME, resolve
from training.config.schema import TrainConfig
from training.inference.files import load_networks
from training.run.state import RunState
from training.run.transfer import transfer_weights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GGDR_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ffhq256", "ffhq-res256-mirror-paper256-noaug.pkl"),
        ("ffhq512", "ffhq-res512-mirror-stylegan2-noaug.pkl"),
        ("ffhq1024", "ffhq-res1024-mirror-stylegan2-noaug.pkl"),
        ("celebahq256", "celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl"),
        ("lsundog256", "lsundog-res256-paper256-kimg100000-noaug.pkl"),
    ],
)
def test_the_references_names_stand_for_addresses(cache: Any, name: Any, file: Any) -> None:
    """Without a network: the cache has the file, under the address that the name stands for."""
    folder = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets"
    cached = cached_path(f"{folder}/{file}")
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"network")
    assert pretrained.fetch_source(name) == cached
    config = resolve(overrides(resume=name), plain_data(256))
    assert config.resume == name
    assert config.description.endswith(f"-resume{name}")
    assert config.augment.kimg == ADA_KIMG_RESUME


def test_every_name_is_listed() -> None:
    assert list(pretrained.SOURCES) == ["ffhq256", "ffhq512", "ffhq1024", "celebahq256", "lsundog256"]


def test_looking_downloads_nothing(cache: Any, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"")
    for source in ("ffhq256", "http://127.0.0.1:9/a.pkl", str(tmp_path / "a.pkl")):
        pretrained.check_source(source)
    for source, message in (
        ("ffhq", "does not exist.*or one of ffhq256"),
        (str(tmp_path), "is a folder"),
        ("ftp://x/a.pkl", "does not exist"),
    ):
        with pytest.raises(UserError, match=f"--resume={source} {message}"):
            pretrained.check_source(source)
        with pytest.raises(UserError, match=message):
            pretrained.fetch_source(source)
    assert not cache.exists()


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """Serves the folder ``served`` on loopback."""
    (tmp_path / "served").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", tmp_path / "served"
        httpd.shutdown()
        thread.join()


def differing(target: Any, source: Any) -> Any:
    """Names of the tensors of ``target`` that are not those of ``source``."""
    state = source.state_dict()
    return {
        name
        for name, value in target.state_dict().items()
        if name not in state or not torch.equal(value, state[name])
    }


@pytest.mark.parametrize("form", ["ours", "theirs"])
def test_a_baseline_at_an_address_starts_a_run_with_a_decoder(cache: Any, server: Any, form: Any) -> None:
    address, served = server
    base = small_state(seed=1)
    if form == "ours":
        save_network_pkl(served / "net.pkl", G=base.G, D=base.D, G_ema=base.G_ema)
    else:
        (served / "net.pkl").write_bytes(reference_pickle(G=base.G, D=base.D, G_ema=base.G_ema))
    config = small_config(plain_data(), reg_type="ggdr", resume=f"{address}/net.pkl")
    state = RunState.fresh(config, torch.device("cpu"))
    assert not differing(state.G, base.G)
    assert not differing(state.G_ema, base.G_ema)
    fresh = small_state(reg_type="ggdr").D
    decoder = {name for name in fresh.state_dict() if "_dec." in name}
    assert decoder
    assert differing(state.D, base.D) == decoder
    assert decoder.isdisjoint(differing(state.D, fresh))
    assert cached_path(f"{address}/net.pkl").is_file()


def test_a_discriminator_with_decoder_starts_one_without(tmp_path: Path) -> None:
    base = small_state(reg_type="ggdr", seed=1)
    (tmp_path / "net.pkl").write_bytes(reference_pickle(G=base.G, D=base.D, G_ema=base.G_ema))
    state = RunState.fresh(small_config(plain_data(), resume=str(tmp_path / "net.pkl")), torch.device("cpu"))
    assert not differing(state.D, base.D)


def test_networks_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    base = small_state()
    save_network_pkl(tmp_path / "average.pkl", G=None, D=None, G_ema=base.G_ema)
    with pytest.raises(UserError, match=r"G of .*average\.pkl is not in the file"):
        RunState.fresh(small_config(plain_data(), resume=str(tmp_path / "average.pkl")), torch.device("cpu"))
    with pytest.raises(UserError, match="does not fit this run"):
        transfer_weights(base.G, small_state(cmax=4).G, "G")
    with pytest.raises(UserError, match="no weights in common"):
        transfer_weights(torch.nn.Linear(1, 1), base.G, "G")


def test_layers_that_the_source_lacks_are_named_and_never_frozen(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base = small_state(resolution=16, seed=1, cbase=64, cmax=4)
    path = tmp_path / "small.pkl"
    save_network_pkl(path, G=base.G, D=base.D, G_ema=base.G_ema)
    state = small_state(cbase=128, cmax=4, resume=str(path))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" of ")[0] for line in lines] == ["Not in G", "Not in D", "Not in G_ema"]
    assert "started afresh: b32." in lines[1]
    assert "synthesis.b32.conv1" in lines[0]
    assert torch.equal(state.D.get_parameter("b16.conv0.weight"), base.D.get_parameter("b16.conv0.weight"))
    with pytest.raises(UserError, match=r"has no 'b32\..*weight', which --freezed keeps"):
        small_state(cbase=128, cmax=4, resume=str(path), freezed=2)


def test_nothing_is_made_before_the_download_worked(cache: Any, server: Any, tmp_path: Path) -> None:
    address, _ = server
    config, _ = open_small(make_images(tmp_path / "images"), resume=f"{address}/missing.pkl")
    with pytest.raises(UserError, match=r"cannot download .*missing\.pkl"):
        launch.start(config, str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_between_decoders(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What both decoders have goes over; layers of another shape start afresh, and are named."""
    source = small_state(reg_type="seg", seed=1)
    save_network_pkl(tmp_path / "seg.pkl", G=source.G, D=source.D, G_ema=source.G_ema)
    guided = small_state(reg_type="ggdr", ggdr_res=16, resume=str(tmp_path / "seg.pkl"))
    assert capsys.readouterr().out == ""
    for name in ("b8_dec.weight", "b16_dec.weight", "b32.conv0.weight"):
        assert torch.equal(guided.D.get_parameter(name), source.D.get_parameter(name))
    other = small_config(plain_data(annotation_classes=5), reg_type="seg", resume=str(tmp_path / "seg.pkl"))
    state = RunState.fresh(other, torch.device("cpu"))
    printed = capsys.readouterr().out
    assert (
        printed == f"Not in D of {tmp_path / 'seg.pkl'}, or of another shape, and started afresh: b32_dec\n"
    )
    assert state.D.get_parameter("b32_dec.weight").shape[0] == 5
    assert torch.equal(state.D.get_parameter("b16_dec.weight"), source.D.get_parameter("b16_dec.weight"))


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        (dict(), dict(label_dim=2), "no labels, and this run has 2 labels"),
        (dict(label_dim=2), dict(), "2 labels, and this run has no labels"),
        (dict(label_dim=2), dict(label_dim=5), "2 labels, and this run has 5 labels"),
        (dict(channels=1), dict(), "greyscale images, and this run has RGB"),
        (dict(), dict(channels=1), "RGB images, and this run has greyscale"),
    ],
)
def test_other_labels_and_other_channels(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, there: Any, here: Any, words: Any
) -> None:
    """What fits is copied, and what depends on labels or channels starts afresh, with a line for each."""
    source = small_state(seed=1, **there)
    save_network_pkl(tmp_path / "net.pkl", G=source.G, D=source.D, G_ema=source.G_ema)
    state = small_state(resume=str(tmp_path / "net.pkl"), **here)
    printed = capsys.readouterr().out
    assert printed.count(words) == 3
    assert printed.count("started afresh: ") == 3
    fresh = small_state(**here)
    of_data = ("mapping.embed", "mapping.fc0", "b4.out", "torgb.weight", "torgb.bias", "fromrgb")
    for module, ours, theirs in (
        (state.G, fresh.G, source.G),
        (state.G_ema, fresh.G_ema, source.G_ema),
        (state.D, fresh.D, source.D),
    ):
        started = differing(module, theirs)
        assert started
        assert all(any(part in name for part in of_data) or name.startswith("mapping.") for name in started)
        assert started.isdisjoint(differing(module, ours))


def test_other_channels_are_never_frozen(tmp_path: Path) -> None:
    source = small_state(channels=1, seed=1)
    save_network_pkl(tmp_path / "net.pkl", G=source.G, D=source.D, G_ema=source.G_ema)
    with pytest.raises(
        UserError,
        match=r"fromrgb\.weight', which --freezed keeps; resume from a network of the same .*channels",
    ):
        small_state(resume=str(tmp_path / "net.pkl"), freezed=20)


def test_credentials_of_an_address_stay_in_the_process(cache: Any, server: Any, tmp_path: Path) -> None:
    """No options, checkpoints, network pickles or cache have them, and the run goes on without them."""
    address, served = server
    base = small_state(seed=1)
    save_network_pkl(served / "net.pkl", G=base.G, D=base.D, G_ema=base.G_ema)
    whole = address.replace("//", "//me:s3cret@") + "/net.pkl?token=s3cret"
    config, _ = open_small(
        make_images(tmp_path / "images"), resume=whole, detector=whole.replace("net", "det")
    )
    assert config.resume == f"{address}/net.pkl?..."
    assert config.metrics.detector == f"{address}/det.pkl?..."
    assert "s3cret" not in str(config)
    state = RunState.fresh(config, torch.device("cpu"))
    assert not differing(state.G, base.G)
    state.save_snapshot(tmp_path)
    torch.save(config.to_dict(), tmp_path / "state.pt")
    for path in [*tmp_path.rglob("*.p*"), *cache.rglob("*.json")]:
        assert b"s3cret" not in path.read_bytes(), path
    earlier = {**config.to_dict(), "resume": whole}
    assert TrainConfig.from_dict(earlier) == config
    again = whole.replace("token=s3cret", "token=new")
    addresses.forget()
    assert continued(config, {"resume": addresses.conceal(again)}) == config


def test_an_earlier_pickle_is_shown_and_converted_without_credentials(tmp_path: Path) -> None:
    base = small_state()
    info = {"config": {"resume": "https://me:s3cret@host/a.pkl?token=s3cret"}}
    save_network_pkl(tmp_path / "net.pkl", G=base.G, D=base.D, G_ema=base.G_ema, info=info)
    assert load_networks(tmp_path / "net.pkl")["info"] == {"config": {"resume": "https://host/a.pkl?..."}}
