"""Describe what is in a network's file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnnlib.download import local_file
from dnnlib.errors import printable
from dnnlib.files import file_sha256
from dnnlib.untrusted import parsing
from torch_utils.persistence import NETWORKS
from torch_utils.pickles.arguments import check_arguments
from training.inference.exported import read_export_header
from training.inference.files import describe_module, load_networks, suffix_of
from training.networks import Generator
from training.networks.arguments import GENERATOR

SIZES = ("img_resolution", "img_channels", "z_dim", "w_dim", "c_dim", "num_ws", "decoder_res")


def describe_file(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a file as plain data.

    Returns:
        ``file``, ``bytes``, ``sha256`` and ``format``; ``networks``: class, constructor arguments, sizes,
        number of parameters and SHA-256 of the weights of each; ``training_set_kwargs`` and ``info`` as
        recorded; for ONNX exports also ``graph``: the fixed psi, or None, and the kind of noise.

    Raises:
        UserError: the file can't be had or opened, or is a ``.pt2`` export.
    """
    suffix = suffix_of(source)
    path = local_file(source)
    about: dict[str, Any] = dict(file=str(source), bytes=Path(path).stat().st_size, sha256=file_sha256(path))
    if suffix == ".onnx":
        header = read_export_header(path)
        described = {**header["G_ema"], **_measure(_skeleton(header["G_ema"], str(source)))}
        recorded = {key: header[key] for key in ("training_set_kwargs", "info")}
        graph = {key: header[key] for key in ("psi", "noise")}
        return {
            **about,
            "format": "ONNX",
            "networks": {"G_ema": described},
            "graph": graph,
            **recorded,
        }
    networks = load_networks(source)
    about["format"] = "safetensors" if suffix == ".safetensors" else "network pickle"
    about["networks"] = {name: _describe(networks[name]) for name in NETWORKS}
    about.update({key: networks[key] for key in ("training_set_kwargs", "info")})
    return about


def table(about: Mapping[str, Any]) -> str:
    """Format what :func:`describe_file` returns as lines of text."""
    info, data = about["info"] or {}, about["training_set_kwargs"] or {}
    rows: list[tuple[str, Any]] = [
        ("file", about["file"]),
        ("format", about["format"]),
        ("bytes", f"{about['bytes']:,}"),
    ]
    rows.append(("SHA-256", about["sha256"]))
    rows += [("kimg", f"{info['kimg']:g}")] if info.get("kimg") is not None else [("kimg", "not recorded")]
    rows.append(("data set", data.get("path") or "not recorded"))
    if "graph" in about:
        psi = about["graph"]["psi"]
        rows.append(
            (
                "graph",
                f"psi {'is an input' if psi is None else f'fixed at {psi:g}'}, noise "
                f"{about['graph']['noise']}",
            )
        )
    for name, network in about["networks"].items():
        rows.append((name, "none" if network is None else _line(network)))
        if network is not None:
            rows.append(("", f"weights' SHA-256 {network['weights_sha256']}"))
    width = max(len(title) for title, _ in rows) + 2
    return "\n".join(f"{title:{width}s}{printable(str(value))}" for title, value in rows)


def _line(network: Mapping[str, Any]) -> str:
    sizes = [network["class"]]
    if "img_resolution" in network:
        sizes.append(
            f"{network['img_resolution']}x{network['img_resolution']}, channels {network['img_channels']}"
        )
    sizes += [f"{key} {network[key]}" for key in SIZES[2:] if network.get(key) is not None]
    return ", ".join([*sizes, f"{network['parameters']:,} parameters"])


def _describe(module: nn.Module | None) -> dict[str, Any] | None:
    described = describe_module(module)
    return None if module is None or described is None else {**described, **_measure(module)}


def _skeleton(packed: Mapping[str, Any], name: str) -> Generator:
    """A generator on the meta device: shapes without values, which take no memory."""
    with parsing(f"{name}: its record of the network", "makes no sense"):
        check_arguments(packed["init_kwargs"], GENERATOR, "Generator")
        with torch.device("meta"):
            return Generator(**packed["init_kwargs"])


def _measure(module: nn.Module) -> dict[str, Any]:
    sizes = {key: getattr(module, key, None) for key in SIZES}
    parameters = sum(values.numel() for values in module.parameters())
    return {**{key: size for key, size in sizes.items() if size is not None}, "parameters": parameters}
