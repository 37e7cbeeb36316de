"""Every kind of file that others may give: a small whole one, how to change it, and what reads it."""

import gzip
import hashlib
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from dnnlib.download import cached_path, fetch, forbid_downloads
from metrics.cache import StatisticsCache
from metrics.results import read_results, results_path
from metrics.statistics import FeatureSet, Moments
from tests.fuzz.mutations import mutated, mutated_json
from tests.support.reference_form import reference_pickle
from tests.support.runs import small_state
from tests.support.small_networks import small_generator
from torch_utils.persistence import load_network_pkl, save_network_pkl
from training.config.continuation import read_options
from training.config.run_directory import OPTIONS_FILE
from training.data.dataset import ImageFolderDataset
from training.data.importing.convert import import_dataset
from training.data.pictures import load_picture
from training.inference.exported import open_export
from training.inference.files import load_networks, save_networks
from training.inference.generation import images_from_seeds, load_projected_w
from training.inference.renderer import GeneratorRenderer
from training.networks import Discriminator
from training.run.records import rewind, tick_means, unmeasured
from training.run.state import RunState
from training.run.state_file import write_state

Change = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        content: of a whole file.
        write: puts a changed content where ``read`` finds it, in a folder.
        read: what a program does with the file; it raises :class:`~dnnlib.errors.UserError` where that cannot
            be.
        change: makes another content at random.
        usable: whether a whole file can be read; others are refused.
    """

    content: bytes
    write: Callable[[Path, bytes], None]
    read: Callable[[Path], object]
    change: Change = mutated
    usable: bool = True


def plain_file(name: str) -> Callable[[Path, bytes], None]:
    """The content as the file ``name``."""

    def write(folder: Path, content: bytes) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return write


def network_pickle(folder: Path) -> Kind:
    G = small_generator(8)
    D = Discriminator(0, 8, 3, channel_base=32, channel_max=4)
    save_network_pkl(
        folder / "net.pkl", G=G, D=D, G_ema=G, training_set_kwargs={"path": "x"}, info={"kimg": 1}
    )
    return Kind((folder / "net.pkl").read_bytes(), plain_file("net.pkl"), _generate)


def reference_network(folder: Path) -> Kind:
    return Kind(reference_pickle(G_ema=small_generator(8)), plain_file("net.pkl"), _generate)


def _generate(folder: Path) -> None:
    renderer = GeneratorRenderer(load_network_pkl(folder / "net.pkl")["G_ema"])
    list(images_from_seeds(renderer, [0], class_idx=0 if renderer.c_dim else None, noise_mode="none"))


def _networks() -> dict[str, Any]:
    return dict(
        G=None,
        D=None,
        G_ema=small_generator(8),
        augment_pipe=None,
        training_set_kwargs={"path": "x"},
        info={"kimg": 1},
    )


def safetensors(folder: Path) -> Kind:
    """The digest in the JSON is that of the changed file, so that what is behind it is reached."""
    save_networks(folder / "net.safetensors", _networks())
    about = json.loads((folder / "net.json").read_bytes())

    def write(target: Path, content: bytes) -> None:
        (target / "net.safetensors").write_bytes(content)
        (target / "net.json").write_text(json.dumps({**about, "sha256": hashlib.sha256(content).hexdigest()}))

    return Kind(
        (folder / "net.safetensors").read_bytes(),
        write,
        lambda place: load_networks(place / "net.safetensors"),
    )


def safetensors_json(folder: Path) -> Kind:
    save_networks(folder / "net.safetensors", _networks())
    weights = (folder / "net.safetensors").read_bytes()

    def write(target: Path, content: bytes) -> None:
        (target / "net.safetensors").write_bytes(weights)
        (target / "net.json").write_bytes(content)

    return Kind(
        (folder / "net.json").read_bytes(),
        write,
        lambda place: load_networks(place / "net.safetensors"),
        mutated_json,
    )


def onnx(folder: Path) -> Kind:
    return Kind(
        (folder / "net.onnx").read_bytes(), plain_file("net.onnx"), lambda place: _draw(place / "net.onnx")
    )


def _draw(path: Path) -> None:
    renderer = open_export(path)
    list(images_from_seeds(renderer, [0], class_idx=0 if renderer.c_dim else None, noise_mode="none"))


class _G:
    num_ws, w_dim = 3, 4


def projected(folder: Path) -> Kind:
    np.savez(folder / "w.npz", w=np.zeros([1, 3, 4], np.float32))
    return Kind(
        (folder / "w.npz").read_bytes(),
        plain_file("w.npz"),
        lambda place: load_projected_w(place / "w.npz", _G()),
    )


def projected_npy(folder: Path) -> Kind:
    np.save(folder / "w.npy", np.zeros([3, 4]))
    return Kind(
        (folder / "w.npy").read_bytes(),
        plain_file("w.npy"),
        lambda place: load_projected_w(place / "w.npy", _G()),
    )


KEY = {"dataset": "d", "detector": "e"}


def cached_moments(folder: Path) -> Kind:
    return _cached(folder, Moments(5, np.zeros(3), np.eye(3)))


def cached_features(folder: Path) -> Kind:
    return _cached(folder, FeatureSet(np.zeros([4, 3], np.float32)))


def _cached(folder: Path, value: Any) -> Kind:
    cache = StatisticsCache(folder)
    cache.store(KEY, value)
    name = cache.path(KEY).name
    return Kind(
        (folder / name).read_bytes(), plain_file(name), lambda place: StatisticsCache(place).load(KEY)
    )


def _cifar(batch: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
        for number in range(1, 6):
            info = tarfile.TarInfo(f"cifar-10-batches-py/data_batch_{number}")
            info.size = len(batch)
            archive.addfile(info, io.BytesIO(batch))
    return stream.getvalue()


def cifar_pickle(folder: Path) -> Kind:
    batch = pickle.dumps({"data": np.zeros([2, 3072], np.uint8), "labels": [0, 9]}, protocol=2)
    write = plain_file("cifar.tar.gz")
    return Kind(
        batch,
        lambda place, content: write(place, _cifar(content)),
        lambda place: _import(place, "cifar.tar.gz"),
    )


def cifar_archive(folder: Path) -> Kind:
    """The tar inside the gzip is changed."""
    whole = gzip.decompress(
        _cifar(pickle.dumps({"data": np.zeros([2, 3072], np.uint8), "labels": [0, 9]}, protocol=2))
    )
    write = plain_file("cifar.tar.gz")
    return Kind(
        whole,
        lambda place, content: write(place, gzip.compress(content, 1)),
        lambda place: _import(place, "cifar.tar.gz"),
    )


def mnist(folder: Path) -> Kind:
    """Half of the files are changed inside the gzip, half outside."""
    images = struct.pack(">IIII", 0x803, 2, 28, 28) + bytes(2 * 28 * 28)
    labels = gzip.compress(struct.pack(">II", 0x801, 2) + b"\x00\x09")

    def change(content: bytes, chance: random.Random) -> bytes:
        return (
            gzip.compress(mutated(gzip.decompress(content), chance))
            if chance.random() < 0.5
            else mutated(content, chance)
        )

    def write(place: Path, content: bytes) -> None:
        (place / "train-images-idx3-ubyte.gz").write_bytes(content)
        (place / "train-labels-idx1-ubyte.gz").write_bytes(labels)

    return Kind(
        gzip.compress(images), write, lambda place: _import(place, "train-images-idx3-ubyte.gz"), change
    )


def lmdb(folder: Path) -> Kind:
    import lmdb as library

    environment = library.open(str(folder / "db"), map_size=2**20)
    with environment.begin(write=True) as transaction:
        for number in range(100):
            transaction.put(b"%05d" % number, _image("png") * (1 + 20 * (number % 10 == 0)))
    environment.close()
    return Kind(
        (folder / "db" / "data.mdb").read_bytes(),
        plain_file("db/data.mdb"),
        lambda place: _import(place, "db"),
    )


def _import(place: Path, name: str) -> None:
    import_dataset(place / name, place / "out.zip", workers=1, max_images=20)


def _image(kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.RandomState(0).randint(0, 256, [8, 8, 3], dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def image_zip(folder: Path) -> Kind:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}/{number}.png", _image("png"))
        archive.writestr(
            "dataset.json",
            json.dumps({"labels": [[f"{number}/{number}.png", number] for number in range(3)]}),
        )

    def read(place: Path) -> None:
        dataset = ImageFolderDataset(place / "a.zip", use_labels=True)
        dataset.fingerprint()
        dataset.identity()
        _import(place, "a.zip")

    return Kind(stream.getvalue(), plain_file("a.zip"), read)


def dataset_json(folder: Path) -> Kind:
    content = json.dumps(
        {"labels": [["0.png", 0], ["1.png", 3], ["2.png", 1]], "class_names": ["a", "b", "c", "d"]}
    ).encode()

    def write(place: Path, changed: bytes) -> None:
        (place / "a").mkdir(exist_ok=True)
        (place / "a" / "dataset.json").write_bytes(changed)
        for number in range(3):
            (place / "a" / f"{number}.png").write_bytes(_image("png"))

    def read(place: Path) -> None:
        ImageFolderDataset(place / "a", use_labels=True)[0]
        _import(place, "a")

    return Kind(content, write, read, mutated_json)


def _picture(suffix: str, **options: Any) -> Callable[[Path], Kind]:
    def read(place: Path) -> None:
        try:
            load_picture(place / f"a/0.{suffix}", 8, 3)
        finally:
            if suffix == "gif":  # whose colours have to be converted
                _import(place, "a")
            else:
                ImageFolderDataset(place / "a")[0]

    return lambda folder: Kind(
        _image({"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix), **options),
        plain_file(f"a/0.{suffix}"),
        read,
    )


def training_state(folder: Path) -> Kind:
    """The checksum at the end is that of the changed content, so that what is behind it is reached."""
    state = small_state(resolution=8)
    name = "training-state-0000000000.pt"
    write_state(folder / name, {**state.state_dict(), "data": "0" * 64})
    whole = (folder / name).read_bytes()

    def write(place: Path, content: bytes) -> None:
        (place / name).write_bytes(content + b"SHA-256:" + hashlib.sha256(content).digest())

    def read(place: Path) -> None:
        RunState.restore(state.config, torch.device("cpu"), place, lambda _: True)

    return Kind(whole[: -len(b"SHA-256:") - 32], write, read)


def training_options(folder: Path) -> Kind:
    content = json.dumps(small_state(resolution=8).config.to_dict()).encode()
    return Kind(content, plain_file(OPTIONS_FILE), read_options, mutated_json)


def stats_jsonl(folder: Path) -> Kind:
    lines = [
        {
            "Loss/G/loss": {"num": 3, "mean": 0.5, "std": 0.1},
            "Progress/tick": {"num": 1, "mean": n},
            "timestamp": 1.0,
        }
        for n in range(3)
    ]

    def read(place: Path) -> None:
        list(tick_means(place))
        rewind(place, tick=1, images_seen=1000)

    return Kind(_lines(lines), plain_file("stats.jsonl"), read, _change_line)


def metric_jsonl(folder: Path) -> Kind:
    record = {
        "results": {"fid50k_full": 3.5},
        "metric": "fid50k_full",
        "snapshot_pkl": "network-snapshot-000001.pkl",
        "timestamp": 1.0,
    }

    def read(place: Path) -> None:
        read_results(place, "fid50k_full")
        unmeasured(place, ["fid50k_full"], 1000)
        rewind(place, tick=1, images_seen=1000)

    return Kind(_lines([record] * 3), plain_file(results_path(".", "fid50k_full").name), read, _change_line)


def _lines(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def _change_line(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines()
    number = chance.randrange(len(lines))
    lines[number] = mutated_json(lines[number], chance)
    return b"\n".join(lines) + b"\n" * (chance.random() < 0.8)


def download_record(folder: Path) -> Kind:
    forbid_downloads()
    address = "http://127.0.0.1:1/a.pkl"
    name = cached_path(address, ".").name
    content = json.dumps(
        {"address": address, "sha256": hashlib.sha256(b"abc").hexdigest(), "size": 3, "downloaded": "x"}
    ).encode()

    def write(place: Path, changed: bytes) -> None:
        (place / name).write_bytes(b"abc")
        (place / f"{name}.json").write_bytes(changed)

    return Kind(content, write, lambda place: fetch(address, place), mutated_json)


def other_checkpoint(folder: Path) -> Kind:
    torch.save({"g_ema": {"weight": torch.zeros(3)}}, folder / "a.pt")
    return Kind(
        (folder / "a.pt").read_bytes(),
        plain_file("net.pkl"),
        lambda place: load_network_pkl(place / "net.pkl"),
        usable=False,
    )


#: Makers by name; each takes a folder, empty but for a file that takes long to make: the exports.
KINDS: dict[str, Callable[[Path], Kind]] = {
    "network pickle": network_pickle,
    "network pickle of the reference": reference_network,
    "safetensors": safetensors,
    "safetensors' JSON": safetensors_json,
    "onnx": onnx,
    "projected w npz": projected,
    "projected w npy": projected_npy,
    "cached moments": cached_moments,
    "cached features": cached_features,
    "CIFAR pickle": cifar_pickle,
    "CIFAR archive": cifar_archive,
    "MNIST": mnist,
    "LMDB": lmdb,
    "zip of images": image_zip,
    "dataset.json": dataset_json,
    **{suffix: _picture(suffix) for suffix in ("png", "jpg", "webp", "tif", "gif", "bmp", "ppm")},
    "training state": training_state,
    "training options": training_options,
    "stats.jsonl": stats_jsonl,
    "metric jsonl": metric_jsonl,
    "download record": download_record,
    "checkpoint of another program": other_checkpoint,
}
