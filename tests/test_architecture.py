"""The structure holds: layers, imports, one home for each formula, documented names, notation."""

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch

import bsam

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "bsam"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted(SOURCE.rglob("*.py"))
}

# Lowest first: a module imports only from those above it in this list.
LAYERS = [
    "version",
    "dtypes",
    "layout",
    "noise",
    "gaussian",
    "algorithm",
    "eager",
    "kernels",
    "compiled",
    "gradients",
    "files",
    "building",
    "native",
    "bundles",
    "scaling",
    "closures",
    "parameters",
    "options",
    "borrowing",
    "naming",
    "inputs",
    "normalization",
    "posterior_file",
    "posterior_arguments",
    "posterior",
    "groups",
    "states",
    "engine",
    "sam",
    "diagnostics",
    "steps",
    "optimizer",
    "experimental",
    "reporting",
    "predictive",
    "prediction",
    "metrics.checks",
    "metrics.classification",
    "metrics.calibration",
    "metrics.detection",
    "metrics.selective",
    "metrics.regression",
    "metrics.__init__",
    "__init__",
    "relaxation.results",
    "relaxation.arguments",
    "relaxation.growth",
    "relaxation.search",
    "relaxation.ascent",
    "relaxation.expectation",
    "relaxation.supremum",
    "relaxation.transform",
    "relaxation.inf_sup",
    "relaxation.atoms",
    "relaxation.moments",
    "relaxation.quadratics",
    "relaxation.certified",
    "relaxation.relaxed",
    "relaxation.bayes",
    "relaxation.networks",
    "relaxation.ball",
    "relaxation.radius",
    "relaxation.theorem",
    "relaxation.__init__",
    "relaxation.expressions",
    "relaxation.named",
    "experiments.__init__",
    "experiments.data",
    "experiments.shifts",
    "experiments.models",
    "experiments.methods",
    "experiments.recipes",
    "experiments.training",
    "experiments.evaluation",
    "experiments.progress",
    "experiments.results",
    "experiments.runs",
    "experiments.compare",
    "experiments.comparison",
    "experiments.tables",
    "experiments.report.scales",
    "experiments.report.svg",
    "experiments.report.words",
    "experiments.report.details",
    "experiments.report.figures",
    "experiments.report.variances",
    "experiments.report.examples",
    "experiments.report.lines",
    "experiments.report.distributions",
    "experiments.report.verdict",
    "experiments.report.table",
    "experiments.report.facts",
    "experiments.report.sections",
    "experiments.report.page",
    "experiments.report.__init__",
    "experiments.illustration.ranges",
    "experiments.illustration.lookup",
    "experiments.illustration.curves",
    "experiments.illustration.numbers",
    "experiments.illustration.words",
    "experiments.illustration.drawing",
    "experiments.illustration.page",
    "experiments.illustration.illustrate",
    "experiments.illustration.__init__",
    "cli",
    "__main__",
]
CORE = LAYERS[: LAYERS.index("__init__") + 1]
EXTRAS = {"PIL", "datasets", "jinja2", "matplotlib", "rich", "scipy", "sklearn"}


def imports(tree):
    """Modules that a module imports, wherever in it; `from bsam import x` may mean a module x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}".removeprefix("bsam.")
                known = inner in MODULES or f"{inner}.__init__" in MODULES
                is_module = node.module.startswith("bsam") and known
                yield f"bsam.{inner}" if is_module else node.module


def layer_of(imported):
    name = imported.removeprefix("bsam").removeprefix(".")
    if name in MODULES:
        return LAYERS.index(name)
    return LAYERS.index(f"{name}.__init__" if name else "__init__")


def test_every_module_has_a_layer():
    assert sorted(LAYERS) == sorted(MODULES)


@pytest.mark.parametrize("module", LAYERS)
def test_imports_go_one_way(module):
    for imported in imports(MODULES[module]):
        if imported.split(".")[0] == "bsam":
            assert layer_of(imported) < LAYERS.index(module), f"{module} imports {imported}"


@pytest.mark.parametrize("module", LAYERS)
def test_what_may_be_imported_where(module):
    allowed = {"bsam", "torch", "numpy", "safetensors", *sys.stdlib_module_names}
    if module not in CORE:
        allowed |= EXTRAS | ({"tyro"} if module == "cli" else set())
    assert {name.split(".")[0] for name in imports(MODULES[module])} <= allowed


def test_heavy_imports_of_the_command_line_are_inside_functions():
    top = [node for node in MODULES["cli"].body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name.split(".")[0] for name in imports(ast.Module(top, []))}
    assert names <= {"bsam", "torch", *sys.stdlib_module_names}


def test_no_drawers():
    for path in SOURCE.rglob("*"):
        assert not re.search(r"util|helper|common|misc", path.stem), path


def test_files_are_small():
    for name in MODULES:
        path = SOURCE / (name.replace(".", "/") + ".py")
        assert len(path.read_text().splitlines()) <= 400, name


@pytest.mark.parametrize("module", [name for name in LAYERS if name != "gaussian"])
def test_the_noise_scale_has_one_home(module):
    """Only gaussian.py computes with num_data: 1 / sqrt(N s) exists once."""
    for node in ast.walk(MODULES[module]):
        computes = isinstance(node, ast.BinOp | ast.AugAssign) or (
            isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch.")
        )
        assert not (computes and "num_data" in ast.unparse(node)), ast.unparse(node)


def public(tree, prefix):
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if "overload" in map(ast.unparse, node.decorator_list):
            continue
        yield f"{prefix}.{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from public(node, f"{prefix}.{node.name}")


PUBLIC = [pair for name, tree in MODULES.items() for pair in public(tree, name)]


@pytest.mark.parametrize(("name", "node"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_public_names_are_documented(name, node):
    assert ast.get_docstring(node), name


RELAXATION = bsam.relaxation.__all__
USER_FACING = [
    bsam.BSAM,
    bsam.SAM,
    bsam.BSAM.sampled,
    bsam.BSAM.perturbed,
    bsam.BSAM.step,
    bsam.BSAM.draw_noise,
    bsam.BSAM.posterior,
    bsam.BSAM.diagnostics,
    bsam.BSAM.update_statistics,
    bsam.experimental.OneGradientBSAM,
    bsam.GaussianPosterior,
    bsam.GaussianPosterior.log_prob,
    bsam.GaussianPosterior.scaled,
    bsam.GaussianPosterior.sample,
    bsam.GaussianPosterior.sampled,
    bsam.GaussianPosterior.save,
    bsam.GaussianPosterior.load,
    bsam.predict,
    bsam.normalization.refresh_statistics,
    *(getattr(bsam.metrics, name) for name in bsam.metrics.__all__),
    *(getattr(bsam.relaxation, name) for name in RELAXATION if name[0].islower()),
]


def test_metrics_are_among_the_user_facing():
    assert len(USER_FACING) > 6


@pytest.mark.parametrize("thing", USER_FACING, ids=lambda thing: thing.__qualname__)
def test_every_argument_is_in_the_docstring(thing):
    text = inspect.getdoc(thing)
    for name in inspect.signature(thing).parameters:
        if name != "self":
            assert re.search(rf"^\s*\*?\*?{name}: ", text, re.MULTILINE), name
    assert "Returns:" in text or "Raises:" in text


def test_classes_and_metrics_have_an_example_and_a_source():
    for thing in (bsam.BSAM, bsam.SAM, bsam.GaussianPosterior, bsam.predict):
        assert "References:" in inspect.getdoc(thing)
    for thing in USER_FACING:
        if inspect.isclass(thing) or thing.__module__.startswith(("bsam.metrics", "bsam.relax")):
            assert ">>> " in inspect.getdoc(thing), thing


def notation():
    for line in (ROOT / "docs" / "notation.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| $"):
            yield from ((name, cells) for name in re.findall(r"`([^`]+)`", cells[1]))


NOTATION = list(notation())


@pytest.mark.parametrize("name", [name for name, _ in NOTATION])
def test_notation_is_true(name):
    """Each code name is an argument, a key of a group or of the state, or a function's argument."""
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = bsam.BSAM([p], 0.1, num_data=1)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    functions = [bsam.BSAM, bsam.BSAM.sampled, bsam.BSAM.step]
    for module in ("bsam.algorithm", "bsam.gaussian"):
        functions += filter(inspect.isfunction, vars(sys.modules[module]).values())
    arguments = {name for f in functions for name in inspect.signature(f).parameters}
    arguments |= {f.__name__ for f in functions}
    known = arguments | set(optimizer.param_groups[0]) | set(optimizer.state[p])
    assert name.split("[")[0] in known


def test_notation_covers_every_hyperparameter():
    named = {name.split("[")[0] for name, _ in NOTATION}
    ignored = {"params", "order", "foreach", "compiled", "capturable", "seed"}
    assert set(inspect.signature(bsam.BSAM).parameters) - ignored <= named


def test_the_readme_lists_every_file():
    tree = (ROOT / "README.md").read_text()
    for name in MODULES:
        path = name.replace(".", "/") + ".py"
        if not path.endswith("__init__.py"):
            assert Path(path).name in tree, f"{path} is missing from the README's file tree"


def test_layers_stand_in_the_decisions():
    """The list above is the one that people read."""
    text = (ROOT / "docs" / "decisions" / "0001-layers.md").read_text()
    listed = re.findall(r"^    (\w+)\.py ", text, re.MULTILINE)
    top = [name for name in LAYERS if "." not in name and not name.startswith("__")]
    assert [name for name in listed if name in top] == top
