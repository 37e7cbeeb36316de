"""Export a generator as one graph from latents to pictures: ONNX or a program of ``torch.export``.

The graph is float32 throughout and has a dynamic batch size. Its inputs, in this order:

- ``z [N, z_dim]``;
- ``c [N, c_dim]``, for a conditional network;
- ``psi []``, the truncation, unless it was fixed when the graph was made;
- with external noise, ``noise_<layer> [N, 1, R, R]`` for each layer that adds noise (``noise_b8_conv0``).

Its output is ``images [N, C, H, W]``, about [-1, 1]. The file also carries :func:`header` as JSON.
"""

import copy
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from dnnlib.errors import UserError
from dnnlib.optional import optional_import
from dnnlib.untrusted import parsing
from torch_utils.ops.dispatch import plain_ops
from training.inference.files import describe_module
from training.inference.renderer import Noise, noise_layers, synthesize
from training.networks.generator import Generator

FORMAT = "stylegan2-ada-ggdr generator graph"
VERSION = 1
HEADER_KEY = "stylegan2_ada_ggdr.json"
TOLERANCE = 1e-4  # largest difference of a pixel, in units of [-1, 1], that a conversion may make
CHECKED_BATCHES = (1, 2, 5)

Run = Callable[[Sequence[torch.Tensor]], torch.Tensor]  # the graph's inputs to images


@dataclass(frozen=True)
class GraphOptions:
    """What a graph takes as inputs.

    Attributes:
        psi: truncation that is fixed in the graph; None makes it an input.
        noise: ``const`` fixes the network's stored noise, ``external`` makes each layer's noise an input.
    """

    psi: float | None = None
    noise: Literal["const", "external"] = "const"


class GeneratorGraph(nn.Module):
    """The module that is exported: a copy of the generator with a flat list of tensor inputs.

    Raises:
        UserError: the network tracks no average of w, and ``psi`` is not 1.
    """

    def __init__(self, G: Generator, options: GraphOptions) -> None:
        super().__init__()
        if G.mapping.w_avg_beta is None and options.psi != 1:
            raise UserError(
                "this network tracks no average of w, so truncation means nothing; export it with --trunc=1"
            )
        self.G = copy.deepcopy(G).cpu().eval().requires_grad_(requires_grad=False)
        for weight in self.G.parameters():  # torch.export.save warns of channels-last weights
            weight.data = weight.data.contiguous()
        self.options = options
        self.noise_names = (
            [f"noise_{name.replace('.', '_')}" for name in noise_layers(G.synthesis)]
            if options.noise == "external"
            else []
        )

    def input_names(self) -> list[str]:
        """Names of the inputs, in order."""
        return [
            "z",
            *(["c"] if self.G.c_dim else []),
            *([] if self.options.psi is not None else ["psi"]),
            *self.noise_names,
        ]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Images of inputs in the order of :meth:`input_names`."""
        given = dict(zip(self.input_names(), inputs, strict=True))
        ws = self.G.mapping(given["z"], given.get("c"))
        if self.options.psi is None:
            ws = self.G.mapping.w_avg.lerp(ws, given["psi"])
        elif self.options.psi != 1:
            ws = self.G.mapping.w_avg.lerp(ws, self.options.psi)
        noise: Noise = [given[name] for name in self.noise_names] if self.noise_names else "const"
        return synthesize(self.G.synthesis, ws, noise, force_fp32=True)

    def example(self, batch: int, psi: float = 0.7, seed: int = 0) -> list[torch.Tensor]:
        """Random inputs for ``batch`` pictures."""
        generator = torch.Generator().manual_seed(seed)
        inputs = [torch.randn([batch, self.G.z_dim], generator=generator)]
        if self.G.c_dim:
            inputs.append(torch.eye(self.G.c_dim)[torch.randint(self.G.c_dim, [batch], generator=generator)])
        if self.options.psi is None:
            inputs.append(torch.tensor(psi))
        for layer in noise_layers(self.G.synthesis).values() if self.noise_names else ():
            inputs.append(torch.randn([batch, 1, layer.resolution, layer.resolution], generator=generator))
        return inputs


def header(graph: GeneratorGraph, networks: Mapping[str, Any]) -> dict[str, Any]:
    """The record in an exported file, as plain data: constructor arguments, inputs, weights' hash, origin."""
    about: dict[str, Any] = dict(
        format=FORMAT, version=VERSION, G_ema=describe_module(graph.G), **asdict(graph.options)
    )
    about["noise_resolutions"] = [layer.resolution for layer in noise_layers(graph.G.synthesis).values()]
    about.update(training_set_kwargs=networks["training_set_kwargs"], info=networks["info"])
    return about


def to_program(graph: GeneratorGraph) -> torch.export.ExportedProgram:
    """Trace the graph with a dynamic batch dimension."""
    example = graph.example(batch=2)  # the tracer takes sizes 0 and 1 for constants
    batched = tuple(None if value.ndim == 0 else {0: torch.export.Dim.DYNAMIC} for value in example)
    with torch.no_grad(), plain_ops():
        return torch.export.export(graph, tuple(example), dynamic_shapes=(batched,))


def export(graph: GeneratorGraph, networks: Mapping[str, Any], suffix: str) -> tuple[bytes, float]:
    """Export the graph and compare its pictures with the network's.

    Args:
        graph: what to export.
        networks: the file of the generator, as :func:`~training.inference.files.load_networks` opens it.
        suffix: ``.onnx`` or ``.pt2``.

    Returns:
        The content of the file, and the largest difference of a pixel (see :func:`check`).

    Raises:
        UserError: a package is missing, or pictures differ by more than :data:`TOLERANCE`.
    """
    document = json.dumps(header(graph, networks))
    if suffix == ".onnx":
        content = onnx_bytes(graph, document)
        session = onnx_session(content, "the exported graph")
        return content, check(
            graph, lambda inputs: run_onnx(session, inputs), "the exported graph in onnxruntime"
        )
    program, stream = to_program(graph), io.BytesIO()
    module = program.module()
    worst = check(graph, lambda inputs: module(*inputs), "the exported program")
    torch.export.save(program, stream, extra_files={HEADER_KEY: document})
    return stream.getvalue(), worst


def onnx_bytes(graph: GeneratorGraph, document: str) -> bytes:
    """The graph as ONNX, with ``document`` in its metadata.

    Raises:
        UserError: a package is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        optional_import(package, extra="export", purpose="writing .onnx")
    names = graph.input_names()
    program = torch.onnx.export(
        to_program(graph), dynamo=True, input_names=names, output_names=["images"], verbose=False
    )
    assert program is not None
    model = program.model_proto
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = "N"
    entry = model.metadata_props.add()
    entry.key, entry.value = HEADER_KEY, document
    content: bytes = model.SerializeToString()
    return content


def onnx_session(content: bytes, name: str) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        UserError: the package is missing, or ``content`` is not an ONNX file.
    """
    runtime = optional_import("onnxruntime", extra="export", purpose="opening .onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # its errors come as exceptions; without this they are printed too
    with parsing(name, "is not an ONNX file that onnxruntime can run"):
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_onnx(session: Any, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The first output of a session for inputs in the order of its graph."""
    values = {spec.name: value.numpy() for spec, value in zip(session.get_inputs(), inputs, strict=True)}
    return torch.from_numpy(session.run(None, values)[0])


@torch.no_grad()
def check(graph: GeneratorGraph, run: Run, name: str) -> float:
    """The largest difference of a pixel between an export and the network.

    The pictures have several batch sizes and truncations.

    Raises:
        UserError: the difference is above :data:`TOLERANCE` or not a number.
    """
    worst = max(differences(graph, run))
    if not worst <= TOLERANCE:
        raise UserError(
            f"{name} draws other pictures than the network: a pixel differs by {worst:.2g}, and "
            f"{TOLERANCE:g} is allowed"
        )
    return worst


def differences(graph: GeneratorGraph, run: Run) -> Iterator[float]:
    """The largest difference in each batch; infinity where values are not finite or the shape is wrong."""
    for batch in CHECKED_BATCHES:
        for psi in (0.5, 1.0):
            inputs = graph.example(batch, psi, seed=batch)
            expected, found = graph(*inputs), run(inputs)
            same = expected.shape == found.shape and bool(found.isfinite().all())
            yield float((expected - found).abs().max()) if same else float("inf")
