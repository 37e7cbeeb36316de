"""Network pickles: one file with generator, discriminator, average and what is needed to use them.

The file is a pickle of plain dictionaries, lists, strings, numbers and bytes, and nothing else: each network is the
name of its class, its constructor arguments and its tensors. Opening one looks no name up and so can run no code.
"""

import importlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from dnnlib.errors import UserError
from dnnlib.files import atomic_write

FORMAT = "stylegan2-ada-ggdr networks"
VERSION = 1

#: Classes that a network pickle may name, and where they live. Each has ``init_kwargs``, its constructor arguments.
CLASSES = {
    "Generator": "training.networks",
    "Discriminator": "training.networks",
    "AugmentPipe": "training.augment",
}
NETWORKS = ("G", "D", "G_ema", "augment_pipe")


def save_network_pkl(
    path: str | os.PathLike[str],
    *,
    G: nn.Module,
    D: nn.Module,
    G_ema: nn.Module,
    augment_pipe: nn.Module | None = None,
    training_set_kwargs: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write a network pickle; the file appears complete or not at all.

    Args:
        path: where to.
        G, D, G_ema: generator, discriminator, and the generator's average.
        augment_pipe: the augmentation pipe of the run, or None.
        training_set_kwargs: arguments that open the training set again.
        info: further plain values to record, such as ``kimg``.

    Raises:
        OSError: the file can't be written.
    """
    networks = dict(zip(NETWORKS, (G, D, G_ema, augment_pipe), strict=True))
    data: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    data.update({name: None if module is None else _pack(module) for name, module in networks.items()})
    data.update(training_set_kwargs=dict(training_set_kwargs or {}), info=dict(info or {}))
    with atomic_write(path) as stream:
        pickle.dump(data, stream, protocol=4)


def load_network_pkl(source: str | os.PathLike[str] | IO[bytes]) -> dict[str, Any]:
    """Open a network pickle without running anything in it.

    Args:
        source: a path, or a file opened for reading bytes.

    Returns:
        ``G``, ``D``, ``G_ema`` and ``augment_pipe`` as modules in evaluation mode on the CPU (or None),
        ``training_set_kwargs`` and ``info`` as dictionaries.

    Raises:
        UserError: the file is missing, damaged, or not a network pickle of this project.
    """
    if isinstance(source, str | os.PathLike):
        if not Path(source).is_file():
            raise UserError(f"network pickle {source} does not exist")
        with open(source, "rb") as stream:
            return _load(stream, str(source))
    return _load(source, str(getattr(source, "name", "the given file")))


def _load(stream: IO[bytes], name: str) -> dict[str, Any]:
    try:
        data = _PlainUnpickler(stream).load()
    except _ForeignPickle as error:
        raise UserError(f"{name} is a pickle of another kind (it refers to {error}), not one of this project's network pickles") from error
    except Exception as error:
        raise UserError(f"{name} is not a network pickle, or it is truncated or damaged ({type(error).__name__}: {error})") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{name} is a pickle, but not a network pickle of this project")
    if data.get("version") != VERSION:
        raise UserError(f"{name} has format version {data.get('version')}, this program reads version {VERSION}; update the program")
    try:
        networks = {key: None if data[key] is None else _unpack(data[key]) for key in NETWORKS}
        return {**networks, "training_set_kwargs": data["training_set_kwargs"], "info": data["info"]}
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{name} is damaged: its networks cannot be rebuilt ({type(error).__name__}: {error})") from error


class _ForeignPickle(Exception):
    pass


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler for which no class or function exists."""

    def find_class(self, module: str, name: str) -> Any:
        raise _ForeignPickle(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _ForeignPickle("an external object")


def _pack(module: nn.Module) -> dict[str, Any]:
    name = type(module).__name__
    if name not in CLASSES:
        raise TypeError(f"{name} cannot be stored in a network pickle")
    tensors = {key: _pack_tensor(value) for key, value in module.state_dict().items()}
    return {"class": name, "init_kwargs": module.init_kwargs, "tensors": tensors}


def _unpack(packed: Mapping[str, Any]) -> nn.Module:
    cls = getattr(importlib.import_module(CLASSES[packed["class"]]), packed["class"])
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and then replaced: leave the caller's generator alone
        module = cls(**packed["init_kwargs"])
    module.load_state_dict({key: _unpack_tensor(value) for key, value in packed["tensors"].items()}, strict=True)
    return module.eval().requires_grad_(False)


def _pack_tensor(tensor: torch.Tensor) -> dict[str, Any]:
    array = tensor.detach().cpu().contiguous().numpy()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}


def _unpack_tensor(packed: Mapping[str, Any]) -> torch.Tensor:
    dtype = np.dtype(packed["dtype"])
    if dtype.hasobject:
        raise ValueError(f"tensors of type {dtype} are not allowed")
    return torch.from_numpy(np.frombuffer(packed["data"], dtype=dtype).reshape(packed["shape"]).copy())
