"""Load and save networks with their weights: network pickles, and safetensors plus JSON.

``name.safetensors`` holds every tensor under ``<network>.<name in its state dict>``; ``name.json`` beside it
holds the rest: format and version, the SHA-256 of the ``.safetensors`` file, and for each network its class,
its constructor arguments and the SHA-256 of its weights; the data set's arguments and what the run recorded
(``info``). Both are plain data.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from dnnlib import addresses
from dnnlib.checked import check, shown
from dnnlib.download import is_address, local_file
from dnnlib.errors import UserError
from dnnlib.file_kinds import refuse_other_kinds
from dnnlib.files import atomic_write, file_sha256
from dnnlib.optional import optional_import
from dnnlib.untrusted import parsing, read_json
from torch_utils.persistence import NETWORKS, RECORDED, load_network_pkl, save_network_pkl
from torch_utils.pickles.record import NetworkRecord
from torch_utils.pickles.values import StoredTensor
from torch_utils.recorded import Described, check_recorded

FORMAT = "stylegan2-ada-ggdr networks as safetensors"
VERSION = 1

#: Formats of exported graphs, by suffix. They hold no networks.
EXPORTS = {".onnx": "ONNX", ".pt2": "torch.export"}


def suffix_of(source: str | os.PathLike[str]) -> str:
    """The suffix of a path or an address, in small letters. It tells the format."""
    text = os.fspath(source)
    return (addresses.suffix_of(text) if is_address(text) else Path(text).suffix).lower()


class Header(TypedDict):
    """The JSON beside a ``.safetensors`` file.

    :func:`torch_utils.recorded.check_recorded` checks the entries that every format records.
    """

    sha256: str
    networks: dict[str, Described | None]


#: Names of the networks for messages.
TITLES = {"G": "generator", "D": "discriminator", "G_ema": "averaged generator"}


def load_networks(source: str | os.PathLike[str], *, need: Collection[str] = ()) -> dict[str, Any]:
    """Open a network pickle, or a ``.safetensors`` file with its ``.json``.

    Args:
        source: a path or an address. The JSON has the same name with the suffix ``.json``.
        need: which of ``G D G_ema`` are required; a file may lack some.

    Returns:
        The dictionary of :func:`load_network_pkl`.

    Raises:
        UserError: the file can't be had, is damaged or of another kind, is an export, or lacks one of
            ``need``.
    """
    networks = _load(source)
    networks["info"] = addresses.public_values(networks["info"])  # earlier versions recorded whole addresses
    for name in need:
        if networks[name] is None:
            raise UserError(f"{source} holds no {TITLES[name]} ({name}), which is needed here")
    return networks


def _load(source: str | os.PathLike[str]) -> dict[str, Any]:
    suffix = suffix_of(source)
    if suffix in EXPORTS:
        raise UserError(
            f"{source} is an export ({EXPORTS[suffix]}), and there is no way back to the network; use the "
            ".pkl or .safetensors file that it was made from"
        )
    if suffix == ".safetensors":
        return load_safetensors(*local_pair(source))
    return load_network_pkl(local_file(source))


def local_pair(source: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The local paths of a ``.safetensors`` file and of its JSON.

    Raises:
        UserError: one of the two can't be had.
    """
    weights = local_file(source)
    text = os.fspath(source)
    header = addresses.with_suffix(text, ".json") if is_address(text) else json_path(weights)
    try:
        return weights, local_file(header)
    except UserError as error:
        raise UserError(
            f"a network in safetensors is two files, {weights.name} and its .json: {error}"
        ) from error


def save_networks(path: str | os.PathLike[str], networks: Mapping[str, Any]) -> None:
    """Write networks as :func:`load_networks` returns them; the suffix of ``path`` tells the format."""
    if Path(path).suffix.lower() == ".safetensors":
        save_safetensors(path, networks)
    else:
        save_network_pkl(path, **{name: networks[name] for name in (*NETWORKS, *RECORDED)})


def json_path(path: str | os.PathLike[str]) -> Path:
    """Where the JSON of a ``.safetensors`` file lies."""
    return Path(path).with_suffix(".json")


def save_safetensors(path: str | os.PathLike[str], networks: Mapping[str, Any]) -> None:
    """Write ``path`` and its JSON.

    The JSON comes last: a pair whose hashes agree is whole.

    Raises:
        UserError: the package safetensors is missing, or a recorded value is not plain data.
        OSError: the files can't be written.
    """
    safetensors = optional_import("safetensors.torch", extra="export", purpose="writing .safetensors")
    modules = {name: networks[name] for name in NETWORKS if networks[name] is not None}
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    content: bytes = safetensors.save(tensors)
    header: dict[str, Any] = dict(format=FORMAT, version=VERSION, sha256=hashlib.sha256(content).hexdigest())
    header["networks"] = {name: describe_module(networks[name]) for name in NETWORKS}
    header.update({key: networks[key] for key in RECORDED})
    try:
        document = json.dumps(header, indent=2)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"cannot write {json_path(path)}: a recorded value has no form in JSON ({error})"
        ) from error
    with atomic_write(path) as stream:
        stream.write(content)
    with atomic_write(json_path(path), "w", encoding="utf-8") as stream:
        stream.write(document + "\n")


def load_safetensors(path: Path, header_path: Path) -> dict[str, Any]:
    """Open the two files of :func:`save_safetensors`; modules are in evaluation mode on the CPU.

    Raises:
        UserError: a file is damaged or of another kind, the two don't belong together, or the package
            safetensors is missing.
    """
    safetensors = optional_import("safetensors.torch", extra="export", purpose="reading .safetensors")
    refuse_other_kinds(
        path,
        str(path),
        wanted=["safetensors"],
        advice="give the .safetensors file that tools/convert.py wrote",
    )
    header = read_header(header_path)
    if file_sha256(path) != header["sha256"]:
        raise UserError(
            f"{path} is damaged, or not the file that {header_path} was written for: its SHA-256 differs"
        )
    with parsing(str(path), "is not a safetensors file that can be read"):
        tensors = safetensors.load(path.read_bytes())
    packed = {name: header["networks"].get(name) for name in NETWORKS}
    networks = {
        name: None if about is None else rebuild(about, name, _with_prefix(tensors, name), str(path))
        for name, about in packed.items()
    }
    return {**networks, **{key: header.get(key) or {} for key in RECORDED}}


def read_header(path: Path) -> dict[str, Any]:
    """Read and check the JSON beside a ``.safetensors`` file. Raises :class:`UserError`."""
    header = read_json(path, finite=False)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path} does not describe networks (its 'format' is not '{FORMAT}')")
    if header.get("version") != VERSION:
        raise UserError(
            f"{path} has version {shown(header.get('version'))}, this program reads version {VERSION}; "
            "update the program"
        )
    check(header, Header, f"{path} is damaged:")
    check_recorded(header, str(path))
    return header


def describe_module(module: nn.Module | None) -> dict[str, Any] | None:
    """The class, constructor arguments and weights' hash of a network, as plain data; None for None."""
    if module is None:
        return None
    return {
        "class": type(module).__name__,
        "init_kwargs": module.init_kwargs,
        "weights_sha256": weights_sha256(module),
    }


def rebuild(
    packed: Mapping[str, Any], slot: str, tensors: Mapping[str, torch.Tensor], name: str
) -> nn.Module:
    """A network, in float32, from :func:`describe_module` and its tensors.

    Args:
        packed: the dictionary of :func:`describe_module`.
        slot: ``G``, ``D``, ``G_ema`` or ``augment_pipe``.
        tensors: the state dictionary.
        name: of the file, for messages.

    Raises:
        UserError: the class does not take the arguments, the tensors don't fit them, or the hash differs.
    """
    with parsing(f"{name}: its {slot}", "cannot be rebuilt"):
        stored = {key: _stored(value) for key, value in tensors.items()}
        if not isinstance(packed["class"], str):
            raise TypeError("its class has no name")
        record = NetworkRecord(packed["class"], packed["init_kwargs"], stored)
        module = record.build(limit=sum(tensor.nbytes for tensor in stored.values()), slot=slot)
    if weights_sha256(module) != packed.get("weights_sha256"):
        raise UserError(
            f"{name}: the weights of its {packed['class']} are not those that were written; the SHA-256 "
            "differs"
        )
    return module.float()


def _stored(tensor: torch.Tensor) -> StoredTensor:
    array = tensor.numpy()
    return StoredTensor.contiguous(array.tobytes(), array.dtype, array.shape)


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of a network's weights: of names, types, shapes and bytes, sorted by name.

    It is the same in every format.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = np.asarray(tensor.detach().cpu().contiguous())  # keeps [] apart from [1]
        digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _with_prefix(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }
