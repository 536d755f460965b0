"""The rules of the house: who imports whom, and that the two implementations are a mirror."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"parity", "torch_impl", "jax_impl", "weights_convert"}
FRAMEWORKS = {"torch", "jax", "flax", "optax", "orbax"}


def imports(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, anywhere in it.

    But for what it does as a program: `python -m torch_impl.train` is the command line's `train`.
    """
    found = set()
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not is_program(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def is_program(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


# The rooms, lowest first: a room imports only what stands before it. ARCHITECTURE.md shows them.
ROOMS = (
    "parity.spec",
    "parity.io",
    "parity.report",
    "parity.data",
    "torch_impl",
    "jax_impl",
    "weights_convert",
    "parity.capture",
    "parity.trace",
    "parity.ladder",
    "parity.suggest",
    "parity.diagnosis",
    "parity.export",
    "parity.training",
    "parity.study",
    "parity.evaluation",
    "parity.model_checks",
    "parity.faults",
    "parity.demo",
    "parity.bench",
    "parity.testing",
    "parity.cli",
    "parity.__main__",
)
# The rooms that know fewer than all before them.
ONLY = {
    "parity.spec": set(),
    "torch_impl": {"parity.spec"},
    "jax_impl": {"parity.spec"},
    "weights_convert": {"parity.spec", "parity.io"},
}


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for package in sorted(PACKAGES):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[:2] != ("parity", "tests"):
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    """Where a module stands; of `parity` itself, which loads everything lazily, nowhere."""
    return next((r for r in ROOMS if f"{module}.".startswith(f"{r}.")), "")


def arrows(types: bool = True) -> dict[str, set[str]]:
    """Module -> the modules that it imports, anywhere in it.

    Args:
        types: Also what it imports for annotations alone, which nothing needs when it runs.
    """
    known = modules()
    found: dict[str, set[str]] = {}
    for module, path in known.items():
        names = set()
        body = [node for node in ast.parse(path.read_text()).body if not is_program(node)]
        if not types:
            body = [node for node in body if not is_for_types(node)]
        for node in ast.walk(ast.Module(body, [])):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= whole if whole <= known.keys() else whole | {str(node.module)}
        found[module] = names & known.keys() - {module, "parity"}
    return found


def test_every_module_has_a_room() -> None:
    """Catches a module that lies loose in the package."""
    assert [m for m in modules() if not room(m)] == ["parity"]


def test_imports_run_one_way() -> None:
    """Catches a room that leans on a higher one, and an implementation that leans on the other."""
    for module, imported in arrows().items():
        own = room(module)
        for other in imported if own else ():
            place = room(other)
            assert ROOMS.index(place) <= ROOMS.index(own), f"{module} imports {other}"
            allowed = ONLY.get(own)
            assert allowed is None or place in allowed | {own}, f"{module} imports {other}"


def test_nothing_imports_the_tests() -> None:
    """Catches a package that works only in a checkout."""
    for path in modules().values():
        assert not [n for n in imports(path) if n.split(".")[0] == "tests"], path


def test_no_module_imports_itself_in_a_circle() -> None:
    """Catches two modules neither of which can be read, or imported, without the other."""
    left = arrows(types=False)
    while outer := [m for m in left if not left[m] & left.keys()]:
        left = {m: imported for m, imported in left.items() if m not in outer}
    while outer := [m for m in left if not any(m in imported for imported in left.values())]:
        left = {m: imported for m, imported in left.items() if m not in outer}
    assert not left, sorted(left)


def test_the_contract_needs_no_framework() -> None:
    """Catches a contract that one of the frameworks decides."""
    for room_ in ("spec", "io", "data"):
        for path in (ROOT / "parity" / room_).rglob("*.py"):
            assert not {n.split(".")[0] for n in imports(path)} & FRAMEWORKS, path


@pytest.mark.parametrize("side", ["torch", "jax"])
def test_sides_keep_to_their_framework(side: str) -> None:
    """Catches a side that computes with the other's framework."""
    other = {"torch": {"jax", "flax"}, "jax": {"torch"}}[side]
    for path in (ROOT / f"{side}_impl").rglob("*.py"):
        assert not {n.split(".")[0] for n in imports(path)} & other, path


@pytest.mark.parametrize("module", ["parity", "parity.spec", "parity.spec.draw", "parity.cli"])
def test_imports_load_no_framework(module: str) -> None:
    """Catches a slow `parity --help`: the contract and the command line need no framework."""
    code = (
        f"import sys, {module}\n"
        "if sys.modules.get('parity.cli'): __import__('parity.cli').cli.parser()\n"
        f"print(sorted({FRAMEWORKS!r} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == "[]"


def outline(path: Path, call: str) -> list[str]:
    """Public classes, functions, their arguments and attributes, in the order of the text."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found.append(f"class {node.name}")
            for item in node.body:
                if isinstance(item, ast.FunctionDef):
                    name = "(call)" if item.name == call else item.name
                    arguments = [a.arg for a in item.args.args]
                    found.append(f"  {name}({', '.join(arguments)})")
                    found += [f"    self.{name}" for name in attributes(item)]
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            arguments = [a.arg for a in node.args.args if a.arg != "rngs"]
            found.append(f"{node.name}({', '.join(arguments)})")
    return found


def attributes(function: ast.FunctionDef) -> list[str]:
    targets = [t for n in ast.walk(function) if isinstance(n, ast.Assign) for t in n.targets]
    return [
        t.attr
        for t in targets
        if isinstance(t, ast.Attribute) and isinstance(t.value, ast.Name) and t.value.id == "self"
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "torch_impl" / "models").glob("[a-z]*.py")))
def test_models_are_mirrored(path: Path) -> None:
    """Catches a class, argument or attribute that one side has and the other lacks or reorders."""
    answer = ROOT / "jax_impl" / "models" / path.name
    jax = [line.replace(", rngs)", ")") for line in outline(answer, "__call__")]
    assert outline(path, "forward") == jax
    for file in (path, answer):
        assert len(file.read_text().splitlines()) <= 200, f"{file} is not a table any more"


def test_only_training_is_a_program() -> None:
    """Catches an import that hides from the rule above in a program's part."""
    for package in ("torch_impl", "jax_impl", "weights_convert", "parity/spec"):
        for path in (ROOT / package).rglob("*.py"):
            if any(map(is_program, ast.parse(path.read_text()).body)):
                assert path.name == "train.py", path


def test_the_same_files_on_both_sides() -> None:
    """Catches a file that one side has and the other lacks, but for XLA's formulations."""
    sides = [
        {p.relative_to(ROOT / side) for p in (ROOT / side).rglob("*.py") if p.parent.name != "ops"}
        for side in ("torch_impl", "jax_impl")
    ]
    assert sides[0] == sides[1]


def public(path: Path) -> list[str]:
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [t.id for t in node.targets if isinstance(t, ast.Name)]
    return names


LAYERS = sorted(p.stem for p in (ROOT / "torch_impl" / "layers").glob("[a-z]*.py"))
MODULES = [
    *("losses", "evaluate", "optim", "parallel", "state", "train"),
    *(f"layers/{name}" for name in LAYERS),
]
# What one side has and the other cannot: PyTorch keeps a state in objects, JAX in pytrees.
OWN = {
    # PyTorch: the optimizer holds its parameters; gradients are halved in place.
    ("torch", "optim"): {"named"},
    # JAX: states are trees of arrays, named by their paths; steps are compiled programs.
    ("jax", "state"): {"OneKey", "flat", "nested", "name", "published", "to_device", "to_host"},
    ("jax", "optim"): {"OPTAX", "scale_by_adam", "scale_by_rate"},
    ("jax", "train"): {"State", "Inputs", "Program", "compiled", "shared"},
    ("jax", "evaluate"): {"compiled", "precision"},
    ("jax", "layers/normalization"): {"DEVICES"},
    ("jax", "layers/convolution"): {"Pair", "pair"},
}
# Methods of one side's class that the other cannot have.
OWN_METHODS = {
    ("torch", "train"): {"Trainer.compile"},  # torch.compile; JAX compiles anyway
    ("torch", "evaluate"): {"Predictor.compile"},
    ("torch", "parallel"): {"Group.wrap"},  # PyTorch wraps a module, JAX maps a function
    ("jax", "parallel"): {
        *("Group.first", "Group.parts", "Group.own", "Group.put", "Group.local", "Group.map"),
        *("Group.copies", "Group.taken"),
    },
}
# Functions whose arguments differ: name -> why.
OTHER_ARGUMENTS = {
    "hyperparameters": "torch.optim keeps them in the optimizer, optax takes them with each update",
    "halve": "PyTorch halves a module, JAX an array by name",
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_answer_name_by_name(name: str) -> None:
    """Catches a public name that one side has and the other lacks."""
    sides = {
        side: {n for n in public(ROOT / f"{side}_impl" / f"{name}.py") if not n.startswith("_")}
        - OWN.get((side, name), set())
        for side in ("torch", "jax")
    }
    assert sides["torch"] == sides["jax"]


def signatures(path: Path, call: str) -> dict[str, list[str]]:
    """Public functions and methods, and what they take but for layers' random numbers."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for item in inside:
            if isinstance(item, ast.FunctionDef):
                name = "(call)" if item.name in (call, "__call__") else item.name
                taken = [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs]
                found[prefix + name] = [a.arg for a in taken if a.arg != "rngs"]
    return {n: a for n, a in found.items() if not n.rpartition(".")[2].startswith("_")}


@pytest.mark.parametrize("name", MODULES)
def test_methods_answer_name_by_name(name: str) -> None:
    """Catches a public method that one side's class has and the other's lacks."""
    found = {}
    for side, call in (("torch", "forward"), ("jax", "__call__")):
        own = OWN.get((side, name), set()), OWN_METHODS.get((side, name), set())
        found[side] = {
            method
            for method in signatures(ROOT / f"{side}_impl" / f"{name}.py", call)
            # Layers that PyTorch has itself have no `forward` here.
            if not (name.startswith("layers/") and method.endswith(".(call)"))
            if method.partition(".")[0] not in own[0]
            if method not in own[1] and not method.startswith("_")
        }
    assert found["torch"] == found["jax"]


@pytest.mark.parametrize("name", MODULES)
def test_functions_take_the_same_arguments(name: str) -> None:
    """Catches an argument that one side calls otherwise, or has in another order."""
    torch = signatures(ROOT / "torch_impl" / f"{name}.py", "forward")
    jax = signatures(ROOT / "jax_impl" / f"{name}.py", "__call__")
    for function in torch.keys() & jax.keys() - OTHER_ARGUMENTS.keys():
        assert torch[function] == jax[function], function


def docstrings(path: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def test_docstrings_can_be_read_alone() -> None:
    """Catches a docstring that continues the one before it, or the name of its function."""
    for folder in (*PACKAGES, "tests", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            for text in docstrings(path):
                assert not re.match(r"(Of|The same|See there|Likewise)\b", text), f"{path}: {text}"


def test_layers_say_what_is_computed_and_ops_say_how() -> None:
    """Catches a formulation for XLA that lies between the layers again."""
    for path in (ROOT / "jax_impl" / "layers").glob("*.py"):
        assert "custom_vjp" not in path.read_text(), path


def test_architecture_shows_the_rooms() -> None:
    """Catches a room that ARCHITECTURE.md lacks, or shows in another place."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    shown = re.findall(r"^\| `([\w/.]+)` \|", text.partition("## Where do I")[0], re.MULTILINE)
    names = [name.strip("/").removesuffix(".py").replace("/", ".") for name in shown]
    rooms = [name for name in ROOMS if name != "parity.__main__"]
    assert sorted(names) == sorted(rooms)
    assert [name for name in rooms if name in names] == names


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_that_are_named_are_there(name: str) -> None:
    """Catches a path that was true before something moved."""
    text = (ROOT / name).read_text()
    paths = re.findall(
        r"[`(]((?:parity|torch_impl|jax_impl|weights_convert|tests|docs)/[\w/.-]+)", text
    )
    assert paths
    missing = [p for p in paths if not (ROOT / p.rstrip(".")).exists()]
    assert not [p for p in missing if "NETWORK" not in p and "NAME" not in p]
