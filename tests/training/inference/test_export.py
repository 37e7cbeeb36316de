"""Exported graphs draw the network's pictures, and their files record what they take."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dnnlib.errors import UserError
from tests.support.small_networks import small_generator
from torch_utils.ops import dispatch
from torch_utils.ops.build import BuildError
from training.inference import export as export_module
from training.inference.export import (
    HEADER_KEY,
    GeneratorGraph,
    GraphOptions,
    check,
    export,
    to_program,
)
from training.inference.exported import open_export, parse_header
from training.inference.files import load_networks
from training.inference.generation import images_from_seeds
from training.inference.renderer import GeneratorRenderer
from training.networks import Generator

RECORDED = {"training_set_kwargs": {"path": "images.zip"}, "info": {"kimg": 1}}


@pytest.fixture(scope="module")
def G(exports: Any) -> Any:
    return load_networks(exports.pkl)["G_ema"]


def test_pictures_of_an_export(G: Any, exports: Any) -> None:
    renderer, reference = open_export(exports.files[".onnx"]), GeneratorRenderer(G)
    assert (renderer.z_dim, renderer.c_dim, renderer.noise_resolutions) == (8, 3, [4, 8, 8])
    for batch in (1, 2, 5):
        inputs = GeneratorGraph(G, GraphOptions(noise="external")).example(batch, psi=0.3)
        z, c, psi, *noise = inputs
        expected = reference.images(z, c, psi.item(), noise)
        assert expected.shape == (batch, 1, 8, 8)
        assert (renderer.images(z, c, psi.item(), noise) - expected).abs().max() < 1e-4
        without = reference.images(z, c, 1, "none")
        assert (renderer.images(z, c, 1, "none") - without).abs().max() < 1e-4
    options = dict(class_idx=2, truncation_psi=0.5, noise_mode="random")
    for (_, found), (_, image) in zip(
        images_from_seeds(renderer, [1, 2], **options),
        images_from_seeds(reference, [1, 2], **options),
        strict=True,
    ):
        assert (found.int() - image.int()).abs().max() <= 1
    with pytest.raises(UserError, match=r"exported without its noise .*; give --noise-mode=random or none"):
        images_from_seeds(renderer, [0], class_idx=0)


def test_a_written_program_draws_the_same_and_has_the_record(G: Any, exports: Any) -> None:
    extra = {HEADER_KEY: ""}
    program = torch.export.load(exports.files[".pt2"], extra_files=extra).module()
    graph = GeneratorGraph(G, GraphOptions(noise="external"))
    for batch in (1, 3):
        inputs = graph.example(batch, psi=0.3)
        assert torch.allclose(program(*inputs), graph(*inputs), atol=1e-6)
    assert parse_header(extra[HEADER_KEY], "it")["noise"] == "external"


def test_onnx_has_a_dynamic_batch_and_named_inputs(exports: Any) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exports.files[".onnx"])
    onnx.checker.check_model(model)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "z": ["N", 8],
        "c": ["N", 3],
        "psi": [],
        "noise_b4_conv1": ["N", 1, 4, 4],
        "noise_b8_conv0": ["N", 1, 8, 8],
        "noise_b8_conv1": ["N", 1, 8, 8],
        "images": ["N", 1, 8, 8],
    }


@pytest.mark.parametrize(
    "options",
    [GraphOptions(), GraphOptions(psi=1), GraphOptions(psi=0.4), GraphOptions(psi=0.4, noise="external")],
    ids=["inputs", "psi-1", "psi-0.4", "external"],
)
def test_the_graph_itself(G: Any, options: Any) -> None:
    graph = GeneratorGraph(G, options)
    z, c, *rest = graph.example(2, psi=0.6)
    psi = options.psi if options.psi is not None else rest.pop(0).item()
    noise = rest if options.noise == "external" else "const"
    assert torch.allclose(
        graph(*graph.example(2, psi=0.6)), GeneratorRenderer(G).images(z, c, psi, noise), atol=1e-6
    )
    assert len(graph.input_names()) == len(graph.example(1))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_every_architecture(architecture: Any, tmp_path: Path) -> None:
    G = small_generator(
        resolution=32, architecture=architecture, num_fp16_res=2, conv_clamp=256, fp16_channels_last=True
    )
    graph = GeneratorGraph(G, GraphOptions(psi=0.7))
    assert export(graph, RECORDED, ".pt2")[1] < 1e-4
    content, worst = export(graph, RECORDED, ".onnx")
    assert worst < 1e-4
    (tmp_path / "net.onnx").write_bytes(content)
    renderer = open_export(tmp_path / "net.onnx")
    pictures = (
        images_from_seeds(renderer, [3], truncation_psi=0.7),
        images_from_seeds(GeneratorRenderer(G), [3], truncation_psi=0.7),
    )
    (_, found), (_, expected) = (next(images) for images in pictures)
    assert (found.int() - expected.int()).abs().max() <= 1
    with pytest.raises(UserError, match=r"--trunc=0\.7 fixed in it; give that"):
        images_from_seeds(renderer, [3])
    with pytest.raises(UserError, match=r"its noise fixed in it; --noise-mode=none needs"):
        images_from_seeds(renderer, [3], truncation_psi=0.7, noise_mode="none")


def test_a_wrong_graph_is_noticed(G: Any) -> None:
    graph = GeneratorGraph(G, GraphOptions())
    wrong = [
        lambda inputs: graph(*inputs) + 2e-4,
        lambda inputs: graph(*inputs)[:1],
        lambda inputs: graph(*inputs) * float("nan"),
        lambda inputs: graph(inputs[0], inputs[1], torch.tensor(0.5)),  # only one psi is right
        lambda inputs: graph(*inputs) if len(inputs[0]) < 5 else graph(*inputs).flip(0),
    ]
    assert check(graph, lambda inputs: graph(*inputs) + 5e-5, "it") == pytest.approx(5e-5, rel=0.1)
    for run in wrong:
        with pytest.raises(UserError, match="it draws other pictures than the network"):
            check(graph, run, "it")


def test_export_checks_what_it_wrote(G: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(
        export_module, "run_onnx", lambda session, inputs: torch.zeros([len(inputs[0]), 1, 8, 8])
    )
    monkeypatch.setattr(export_module, "onnx_bytes", lambda graph, document: b"")
    monkeypatch.setattr(export_module, "onnx_session", lambda content, name: None)
    with pytest.raises(UserError, match="in onnxruntime draws other pictures"):
        export(GeneratorGraph(G, GraphOptions()), RECORDED, ".onnx")


def test_compiled_ops_stay_out_of_a_graph(G: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler() -> str:
        raise BuildError("no C++ compiler")

    monkeypatch.setattr("torch_utils.ops.build.find_compiler", no_compiler)
    with dispatch.fresh_state(), dispatch.using_mode("native"):
        graph = GeneratorGraph(G, GraphOptions(psi=1))
        with pytest.raises(dispatch.OpsUnavailable):
            graph(*graph.example(1))
        program = to_program(graph)
        assert dispatch.mode() == "native"
    assert {
        getattr(node.target, "namespace", "aten")
        for node in program.graph.nodes
        if node.op == "call_function"
    } == {"aten"}


def test_truncation_needs_an_average() -> None:
    G = Generator(
        8, 0, 8, 8, 3, {"num_layers": 1, "w_avg_beta": None}, {"channel_base": 64, "channel_max": 8}
    )
    with pytest.raises(UserError, match="export it with --trunc=1"):
        GeneratorGraph(G, GraphOptions())
    assert GeneratorGraph(G, GraphOptions(psi=1)).input_names() == ["z"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages(G: Any, monkeypatch: pytest.MonkeyPatch, package: Any) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        UserError, match=rf"writing \.onnx needs the package {package}: pip install -e '\.\[export\]'"
    ):
        export(GeneratorGraph(G, GraphOptions()), RECORDED, ".onnx")


def test_damaged_files_get_one_line(exports: Any, tmp_path: Path) -> None:
    content = exports.files[".onnx"].read_bytes()
    for damaged in (
        b"",
        b"hello",
        content[: len(content) // 2],
        content[:200] + bytes(200) + content[400:-400],
    ):
        target = tmp_path / "damaged.onnx"
        target.write_bytes(damaged)
        with pytest.raises(UserError) as raised:
            open_export(target)
        assert "\n" not in str(raised.value)
        assert str(target) in str(raised.value)
    with pytest.raises(UserError, match="No such file"):
        open_export(tmp_path / "none.onnx")


def test_files_of_others_have_no_header(exports: Any, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exports.files[".onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"was not made by tools/convert\.py"):
        open_export(tmp_path / "other.onnx")


def test_a_header_that_makes_no_sense() -> None:
    sizes = {"z_dim": 8, "c_dim": 0, "img_resolution": 8, "img_channels": 3}
    good: dict[str, Any] = dict(
        format=export_module.FORMAT,
        version=1,
        G_ema={"class": "Generator", "init_kwargs": sizes, "weights_sha256": "0"},
        training_set_kwargs={"path": "a.zip"},
        info={"kimg": 2, "config": {"runtime": {"precision": "auto"}}},
        noise_resolutions=[4],
        noise="const",
        psi=None,
    )
    assert parse_header(json.dumps(good), "it") == good
    wrong: list[dict[str, Any]] = [
        {"format": "other"},
        {"version": 2},
        {"noise": "loud"},
        {"psi": "half"},
        {"noise_resolutions": [2**40]},
        {"noise_resolutions": None},
        {"G_ema": {**good["G_ema"], "init_kwargs": {**sizes, "z_dim": -1}}},
        {"G_ema": {"init_kwargs": good["G_ema"]["init_kwargs"]}},
        {"training_set_kwargs": {"path": 5}},
        {"training_set_kwargs": {"path": "a\0"}},
        {"training_set_kwargs": []},
        {"info": {"kimg": "x"}},
        {"info": {"config": 5}},
        {"info": {"config": {"runtime": None}}},
        {"G_ema": None},
    ]
    for change in wrong:
        with pytest.raises(UserError, match=r"^it\b"):
            parse_header(json.dumps({**good, **change}), "it")
    for document in ("{", "[]", "5"):
        with pytest.raises(UserError, match=r"^it is damaged"):
            parse_header(document, "it")
