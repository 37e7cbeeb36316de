"""Exported generators (``.onnx``) as renderers that run in onnxruntime."""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

import torch

from dnnlib.checked import between, check, shown
from dnnlib.errors import UserError
from dnnlib.file_kinds import refuse_other_kinds
from dnnlib.optional import optional_import
from dnnlib.untrusted import parse_json, parsing, read_bytes
from torch_utils.pickles.arguments import check_arguments
from torch_utils.recorded import Described, check_recorded
from training.inference.export import FORMAT, HEADER_KEY, VERSION, Run, onnx_session, run_onnx
from training.inference.renderer import Noise, in_fixed_calls
from training.networks.arguments import GENERATOR

MAX_FILE = 2**33  # bytes
MAX_LAYERS = 64  # with noise inputs
Size = Annotated[int, between(0, 2**16)]


class Sizes(TypedDict):
    """The arguments of a generator that decide the shapes of its inputs and images."""

    z_dim: Annotated[int, between(1, 2**16)]
    c_dim: Size
    img_channels: Size
    img_resolution: Size


class ExportHeader(TypedDict):
    """The record that :func:`training.inference.export.header` makes.

    :func:`torch_utils.recorded.check_recorded` checks what is inside the last two.
    """

    G_ema: Described
    noise_resolutions: list[Size]
    noise: Literal["const", "external"]
    psi: float | None
    training_set_kwargs: dict[str, object] | None
    info: dict[str, object] | None


class ExportedRenderer:
    """An exported generator as a :class:`~training.inference.renderer.Renderer`, on the CPU.

    Args:
        path: of the file, for messages.
        about: the record in the file, see :func:`training.inference.export.header`.
        run: calls the graph.
    """

    def __init__(self, path: str, about: Mapping[str, Any], run: Run) -> None:
        arguments = about["G_ema"]["init_kwargs"]
        self.path = path
        self.device = torch.device("cpu")
        self.z_dim: int = arguments["z_dim"]
        self.c_dim: int = arguments["c_dim"]
        self._shape = (arguments["img_channels"], arguments["img_resolution"], arguments["img_resolution"])
        self.noise_resolutions: Sequence[int] = about["noise_resolutions"]
        self._psi: float | None = about["psi"]
        self._external = about["noise"] == "external"
        self._run = run

    def check(self, truncation_psi: float, noise_mode: str) -> None:
        """Raise :class:`UserError` where the file has another truncation or noise fixed in it."""
        if self._psi is not None and truncation_psi != self._psi:
            raise UserError(
                f"{self.path} was exported with --trunc={self._psi:g} fixed in it; give that, or use the "
                "network's pickle"
            )
        if not self._external and noise_mode != "const":
            raise UserError(
                f"{self.path} has its noise fixed in it; --noise-mode={noise_mode} needs an export with "
                "--noise=external"
            )
        if self._external and noise_mode == "const":
            raise UserError(
                f"{self.path} was exported without its noise (--noise=external); give --noise-mode=random "
                "or none"
            )

    def images(self, z: torch.Tensor, c: torch.Tensor, truncation_psi: float, noise: Noise) -> torch.Tensor:
        """See :meth:`training.inference.renderer.Renderer.images`."""
        labels = [c] if self.c_dim else []
        psi = [] if self._psi is not None else [torch.tensor(float(truncation_psi))]
        maps: list[torch.Tensor] = []
        if self._external:
            zeros = [torch.zeros([len(z), 1, res, res]) for res in self.noise_resolutions]
            maps = zeros if isinstance(noise, str) else list(noise)
        batched = [z, *labels, *maps]
        first = 1 + len(labels)
        return in_fixed_calls(
            lambda *part: self._checked([*part[:first], *psi, *part[first:]]), batched, self.device
        )

    def _checked(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Run the graph. Raises :class:`UserError` where it fails or gives no images of the right shape."""
        with parsing(self.path, "cannot be run", "make it again with tools/convert.py"):
            images = self._run(inputs)
            expected = (len(inputs[0]), *self._shape)
            if (
                not isinstance(images, torch.Tensor)
                or images.dtype != torch.float32
                or tuple(images.shape) != expected
            ):
                raise ValueError(f"it gives no images float32 {list(expected)}")
            return images


def open_export(path: str | os.PathLike[str]) -> ExportedRenderer:
    """Open an ``.onnx`` file that ``tools/convert.py`` wrote.

    Raises:
        UserError: it is missing, damaged or of another kind, or onnxruntime is missing.
    """
    name = str(path)
    session = onnx_session(_read(path), name)
    about = parse_header(session.get_modelmeta().custom_metadata_map.get(HEADER_KEY), name)
    return ExportedRenderer(name, about, lambda inputs: run_onnx(session, inputs))


def read_export_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record in an ``.onnx`` file, read without running the graph.

    Raises:
        UserError: as :func:`open_export`.
    """
    name = str(path)
    onnx = optional_import("onnx", extra="export", purpose="opening .onnx")
    content = _read(path)
    with parsing(name, "is not an ONNX file, or it is damaged"):
        entries = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    return parse_header(entries.get(HEADER_KEY), name)


def parse_header(document: str | bytes | None, name: str) -> dict[str, Any]:
    """Parse and check the JSON of :func:`training.inference.export.header`.

    Raises:
        UserError: it is missing, damaged or of another version.
    """
    if document is None:
        raise UserError(f"{name} was not made by tools/convert.py: it has no record of its inputs")
    damaged = f"{name} is damaged: its header"
    about: dict[str, Any] = check(parse_json(document, damaged, finite=False), dict, damaged)
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        found = f"{shown(about.get('format'))} {shown(about.get('version'))}"
        raise UserError(f"{name} has the format {found}; this program reads '{FORMAT}' {VERSION}")
    check(about, ExportHeader, damaged)
    arguments = about["G_ema"]["init_kwargs"]
    check(arguments, Sizes, f"{damaged}: G_ema.init_kwargs")
    with parsing(damaged, "makes no sense"):
        check_arguments(arguments, GENERATOR, "Generator")
        if len(about["noise_resolutions"]) > MAX_LAYERS:
            raise ValueError(f"noise for {len(about['noise_resolutions'])} layers")
    check_recorded(about, name)
    return about


def _read(path: str | os.PathLike[str]) -> bytes:
    advice = "give an .onnx file that tools/convert.py wrote"
    refuse_other_kinds(path, str(path), wanted=["onnx"], advice=advice)
    return read_bytes(path, limit=MAX_FILE)
