"""A stand-in for the programs of the reference family: their loading protocol around this project's networks.

In a folder made by :func:`make_program`, ``main.py PICKLE OUT NATIVE`` opens a network pickle as those
programs do: with ``pickle``, which executes the text in the file. It records what came out (OUT) and saves it
as they do (NATIVE).
"""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: The protocol: a class's source text travels with its objects and is executed to get the class back.
PERSISTENCE = """
import copy, inspect, sys, types, uuid
texts, decorated = {}, set()

def text_of(module):
    return texts[module.__name__] if module.__name__ in texts else inspect.getsource(module)

def module_of(text):
    for name, known in texts.items():
        if known == text:
            return sys.modules[name]
    module = types.ModuleType("imported_" + uuid.uuid4().hex)
    sys.modules[module.__name__] = module
    texts[module.__name__] = text
    exec(text, module.__dict__)
    return module

def persistent_class(cls):
    if cls in decorated:
        return cls
    class Decorator(cls):
        source, original = text_of(sys.modules[cls.__module__]), cls.__name__
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._init_args, self._init_kwargs = copy.deepcopy(args), copy.deepcopy(kwargs)
        @property
        def init_kwargs(self):
            return copy.deepcopy(self._init_kwargs)
        def __reduce__(self):
            fields = list(super().__reduce__()) + [None]
            if fields[0] is _reconstruct_persistent_obj:
                return tuple(fields[:2])
            meta = dict(type="class", version=6, module_src=self.source)
            meta.update(class_name=self.original, state=fields[2])
            return _reconstruct_persistent_obj, (meta,)
    Decorator.__name__ = cls.__name__
    decorated.add(Decorator)
    return Decorator

def _reconstruct_persistent_obj(meta):
    assert meta["version"] == 6 and meta["type"] == "class"
    cls = persistent_class(module_of(meta["module_src"]).__dict__[meta["class_name"]])
    obj = cls.__new__(cls)
    if callable(getattr(obj, "__setstate__", None)):
        obj.__setstate__(meta["state"])
    else:
        obj.__dict__.update(meta["state"])
    return obj
"""

HEAD = """
from torch_utils import persistence
from training.parts import generator, discriminator
"""
NESTED_GENERATOR = """
@persistence.persistent_class
class Generator(generator.Generator):
    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels,
                 mapping_kwargs={}, synthesis_kwargs={}):
        super().__init__(
            z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs, synthesis_kwargs)
"""
FLAT_GENERATOR = """
@persistence.persistent_class
class Generator(generator.Generator):
    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels,
                 mapping_kwargs={}, **synthesis_kwargs):
        defaults = dict(num_fp16_res=4, conv_clamp=256)
        super().__init__(
            z_dim, c_dim, w_dim, img_resolution, img_channels,
            dict(dict(w_avg_beta=0.998), **mapping_kwargs), {**defaults, **synthesis_kwargs})
"""
DISCRIMINATOR = """
@persistence.persistent_class
class Discriminator(discriminator.Discriminator):
    def __init__(self, c_dim, img_resolution, img_channels, architecture="resnet", channel_base=32768,
                 channel_max=512, num_fp16_res={fp16}, conv_clamp={clamp}, cmap_dim=None,
                 block_kwargs={{}}, mapping_kwargs={{}}, epilogue_kwargs={{}}{decoder}):
        super().__init__(
            c_dim, img_resolution, img_channels, architecture, channel_base, channel_max, num_fp16_res,
            conv_clamp, cmap_dim, block_kwargs, mapping_kwargs, epilogue_kwargs{decoder_value})
"""
AUGMENT = """
import torch
from torch_utils import persistence

@persistence.persistent_class
class AugmentPipe(torch.nn.Module):
    def __init__(self, xflip=0, rotate90=0, imgfilter_bands=[1, 1, 1, 1]):
        super().__init__()
        self.xflip = float(xflip)
        self.register_buffer("p", torch.ones([]))
        self.register_buffer("Hz_geom", torch.zeros([12]))
        self.register_buffer("Hz_fbank", torch.zeros([4, 43]))
"""
#: File of the networks, and its text, for each program.
PROGRAMS = {
    "stylegan2-ada": (
        "networks.py",
        HEAD + NESTED_GENERATOR + DISCRIMINATOR.format(fp16=0, clamp=None, decoder="", decoder_value=""),
    ),
    "ggdr": (
        "networks.py",
        HEAD
        + NESTED_GENERATOR
        + DISCRIMINATOR.format(
            fp16=0, clamp=None, decoder=", decoder_res=None", decoder_value=", decoder_res"
        ),
    ),
    "stylegan3": (
        "networks_stylegan2.py",
        HEAD + FLAT_GENERATOR + DISCRIMINATOR.format(fp16=4, clamp=256, decoder="", decoder_value=""),
    ),
}
MAIN = """
import copy, pickle, sys
import torch
torch.set_num_threads(1)
# An editable installation of this project would offer its own `training.networks` where the program has none.
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
with open(sys.argv[1], "rb") as stream:
    data = pickle.load(stream)
G, D, pipe = data["G_ema"], data["D"], data["augment_pipe"]
z, c = torch.linspace(-2, 2, 16).reshape(2, 8), torch.eye(2)
images = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
def module_of(network):
    return type(network).__mro__[1].__module__
def outcome(G, D, pipe):
    return {
        "images": G(z, c, truncation_psi=0.5, noise_mode="const"), "logits": D(images, c),
        "p": pipe.p.item(), "xflip": pipe.xflip,
        "classes": [f"{type(m).__module__}.{type(m).__name__}" for m in (G, D, pipe)],
        "modules": [module_of(m) for m in (G, D, pipe)],
        "native": [type(m) is getattr(sys.modules[module_of(m)], type(m).__name__) for m in (G, D, pipe)],
        "training": any(m.training for m in (G, D, pipe)),
        "gradients": any(p.requires_grad for m in (G, D) for p in m.parameters()),
        "init_kwargs": [m.init_kwargs for m in (G, D, pipe)], "w_avg_beta": G.mapping.w_avg_beta,
        "decoder": [k for k in D.state_dict() if "_dec." in k],
    }
first = outcome(G, D, pipe)
again = outcome(*pickle.loads(pickle.dumps((G, D, pipe))))  # as their snapshots do
copied = outcome(*copy.deepcopy((G, D, pipe)))
for other in (again, copied):
    for key, value in first.items():
        if key != "modules":  # the text of a module that was imported becomes another module
            assert torch.equal(other[key], value) if torch.is_tensor(value) else other[key] == value, key
first["training_set_kwargs"] = data["training_set_kwargs"]
fresh = type(D)(**D.init_kwargs)  # their resuming and their legacy.py rebuild networks so
fresh.load_state_dict(D.state_dict())
torch.save(first, sys.argv[2])
with open(sys.argv[3], "wb") as stream:
    pickle.dump(data, stream)
"""


def make_program(folder: Path, kind: str) -> Path:
    """Write a program with ``torch_utils.persistence`` and its networks; returns the main file."""
    for source, target in {
        "dnnlib": "dnnlib",
        "torch_utils/ops": "torch_utils/ops",
        "torch_utils/pickles": "torch_utils/pickles",
        "training/networks": "training/parts",
    }.items():
        shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "training" / "parts").glob("*.py"):
        text = (
            path.read_text()
            .replace("training.networks", "training.parts")
            .replace("self.init_kwargs", "self.own_kwargs")
        )
        text = text.replace("\nclass ", "\n@persistence.persistent_class\nclass ")
        path.write_text(
            text.replace("import torch\n", "import torch\nfrom torch_utils import persistence\n", 1)
        )
    name, networks = PROGRAMS[kind]
    files = {
        "torch_utils/__init__.py": "",
        "torch_utils/persistence.py": PERSISTENCE,
        "training/__init__.py": "",
        f"training/{name}": networks,
        "training/augment.py": AUGMENT,
        "main.py": MAIN,
    }
    for path, text in files.items():
        (folder / path).write_text(text)
    return folder / "main.py"
