"""Exported graphs draw the network's pictures, say what they take, and their files run nothing but tensor
operators."""

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dnnlib.errors import UserError
from tests.support.small_networks import small_generator
from torch_utils.ops import dispatch
from torch_utils.ops.build import BuildError
from torch_utils.ops.bias_act import ACTIVATIONS
from training.inference import export as export_module
from training.inference.export import (
    HEADER_KEY,
    GeneratorGraph,
    GraphOptions,
    check,
    export,
    program_bytes,
    to_program,
)
from training.inference.exported import open_export, parse_header
from training.inference.files import load_networks
from training.inference.generation import images_from_seeds
from training.inference.program_archive import read_extra, read_program
from training.inference.renderer import GeneratorRenderer
from training.networks import Generator

RECORDED = {"training_set_kwargs": {"path": "images.zip"}, "info": {"kimg": 1}}


@pytest.fixture(scope="module")
def G(exports: Any) -> Any:
    return load_networks(exports.pkl)["G_ema"]


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_pictures_of_an_export(G: Any, exports: Any, suffix: Any) -> None:
    renderer, reference = open_export(exports.files[suffix]), GeneratorRenderer(G)
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
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_every_architecture(suffix: Any, architecture: Any, tmp_path: Path) -> None:
    G = small_generator(
        resolution=32, architecture=architecture, num_fp16_res=2, conv_clamp=256, fp16_channels_last=True
    )
    content, worst = export(GeneratorGraph(G, GraphOptions(psi=0.7)), RECORDED, suffix)
    assert worst < 1e-4
    (tmp_path / f"net{suffix}").write_bytes(content)
    renderer = open_export(tmp_path / f"net{suffix}")
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
    for suffix, path in exports.files.items():
        content = path.read_bytes()
        for number, damaged in enumerate(
            (b"", b"hello", content[: len(content) // 2], content[:200] + bytes(200) + content[400:-400])
        ):
            target = tmp_path / f"{number}{suffix}"
            target.write_bytes(damaged)
            with pytest.raises(UserError) as raised:
                open_export(target)
            assert "\n" not in str(raised.value)
            assert str(target) in str(raised.value)
        with pytest.raises(UserError, match="No such file"):
            open_export(tmp_path / f"none{suffix}")


def test_files_of_others_have_no_header(exports: Any, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exports.files[".onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"was not made by tools/convert\.py"):
        open_export(tmp_path / "other.onnx")


def test_a_header_that_makes_no_sense() -> None:
    sizes = {"z_dim": 8, "c_dim": 0, "img_resolution": 8, "img_channels": 3}
    good = dict(
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
    wrong = [
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


# Hostile programs. Each of these would run code in torch.export.load or when the program is called.


class Trap:
    def __init__(self, path: Any) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


@pytest.fixture(scope="module")
def program(exports: Any) -> Any:
    return exports.files[".pt2"].read_bytes()


def repacked(content: Any, change: Any, extra: Any = ()) -> Any:
    """The archive with ``change`` done to its files; ``extra`` entries are appended, names may repeat."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        top = names[0].partition("/")[0]
        files = {name.partition("/")[2]: archive.read(name) for name in names}
    change(files)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in (*files.items(), *extra):
            archive.writestr(f"{top}/{name}", data)
    return stream.getvalue()


def in_json(name: Any, change: Any) -> Any:
    def apply(files: Any) -> None:
        document = json.loads(files[name])
        change(document)
        files[name] = json.dumps(document).encode()

    return apply


MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


def in_graph(change: Any) -> Any:
    return in_json(MODEL, lambda model: change(model["graph_module"]["graph"]))


def first_weight(config: Any) -> Any:
    return next(iter(config["config"].values()))


def sizes(graph: Any) -> Any:
    return list(graph["sym_int_values"].values())


EVIL = "__import__('os').system('touch trap')"
REFUSED = [
    (
        in_graph(lambda graph: graph["nodes"][0].update(target="torch.os.system")),
        r"the operator 'torch\.os\.system'",
    ),
    (
        in_graph(lambda graph: graph["nodes"][0].update(target="torch.ops.aten.add.Tensor.__class__")),
        "the operator",
    ),
    (in_graph(lambda graph: graph["nodes"][0].update(target="torch.ops.higher_order.cond")), "the operator"),
    (
        in_graph(lambda graph: graph["nodes"][0].update(target="torch.ops.aten.from_file.default")),
        "the operator",
    ),
    (in_graph(lambda graph: graph["nodes"][0].update(target="torch.ops.aten.save.default")), "the operator"),
    (
        in_graph(lambda graph: graph["nodes"][0]["inputs"][0].update(arg={"as_string": "/etc/passwd"})),
        "'as_string'",
    ),
    (in_graph(lambda graph: sizes(graph)[0]["as_expr"].update(expr_str=EVIL)), "the size '__import__"),
    (
        in_graph(
            lambda graph: sizes(graph)[0]["as_expr"].update(expr_str="Symbol('s1', integer=True) + f(1)")
        ),
        "the size",
    ),
    (
        in_graph(lambda graph: graph["nodes"][0]["inputs"][0].update(arg={"as_custom_obj": {"name": "x"}})),
        "'as_custom_obj'",
    ),
    (
        in_graph(lambda graph: graph["nodes"][0]["inputs"][0].update(arg={"as_operator": "os.system"})),
        "'as_operator'",
    ),
    (in_graph(lambda graph: graph.update(custom_obj_values={"x": {}})), "an object of another class"),
    (
        in_json(MODEL, lambda model: model["range_constraints"].update({EVIL: {"min_val": 0, "max_val": 1}})),
        "no size",
    ),
    (in_json(WEIGHTS, lambda config: first_weight(config).update(use_pickle=True)), "the pickled object"),
    (
        in_json(WEIGHTS, lambda config: first_weight(config).update(path_name="../extra/x")),
        "the pickled object",
    ),
    (
        lambda files: files.update({"data/constants/custom_obj_0": b""}),
        "the file 'data/constants/custom_obj_0'",
    ),
    (lambda files: files.update({"data/aotinductor/model/evil.so": b""}), "the file 'data/aotinductor"),
    (lambda files: files.update({"models/other.json": b"{}"}), "the file 'models/other.json'"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_programs_that_hold_more_than_tensor_operators_are_refused(
    program: Any, change: Any, message: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^it holds more than a graph of tensor operators, .*{message}"):
        read_program(repacked(program, change), "it")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_generators_of_any_activation_are_graphs_of_known_operators(activation: Any) -> None:
    G = small_generator(activation=activation)
    read_program(program_bytes(GeneratorGraph(G, GraphOptions()), "{}"), "it")


def test_containers_of_other_types_are_refused(program: Any) -> None:
    def change(model: Any) -> None:
        call = next(call for call in model["graph_module"]["module_call_graph"] if call["signature"])
        call["signature"]["in_spec"] = call["signature"]["in_spec"].replace(
            "builtins.tuple", "os.PathLike", 1
        )

    with pytest.raises(UserError, match=r"a container of the type 'os\.PathLike'"):
        read_program(repacked(program, in_json(MODEL, change)), "it")


def test_two_files_of_one_name_are_refused(program: Any) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = repacked(program, lambda files: None, extra=[(MODEL, b"{}")])
    with pytest.raises(UserError, match="two of its files have the same name"):
        read_program(content, "it")


def test_compressed_files_are_refused(program: Any) -> None:
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(program)) as archive,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as squeezed,
    ):
        for name in archive.namelist():
            squeezed.writestr(name, archive.read(name))
    with pytest.raises(UserError, match="a compressed file"):
        read_program(stream.getvalue(), "it")


def test_what_is_not_needed_is_not_looked_at(program: Any, G: Any, tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    def change(files: Any) -> None:
        files["data/sample_inputs/model.pt"] = pickle.dumps(Trap(str(trap)))
        in_json(MODEL, lambda model: model.update(guards_code=[f"open({str(trap)!r}, 'w')"]))(files)
        evil = {"source_fn_stack": "x,torch.os.system", "stack_trace": "x", "custom": "[]"}
        in_graph(lambda graph: [node.update(metadata=evil) for node in graph["nodes"]])(files)

    content = repacked(program, change)
    loaded = read_program(content, "it")
    graph = GeneratorGraph(G, GraphOptions(noise="external"))
    inputs = graph.example(3)
    assert torch.equal(loaded.module()(*inputs), graph(*inputs))
    assert not trap.exists()
    assert list(read_extra(content, "it")) == [HEADER_KEY]


def test_the_trap_would_have_sprung(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(str(tmp_path / "trap")))).close()
    assert (tmp_path / "trap").exists()
