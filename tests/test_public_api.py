"""The public surface: names, options, what an import costs, what the source never does."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import fullyconv
from fullyconv.config import PretrainConfig, TrainConfig

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "fullyconv").rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__") for path in SOURCES
]
HEAVY = ("torch", "numpy", "matplotlib", "PIL", "safetensors")

# A new name or option replaces one or is argued for in the change that adds it.
PUBLIC_NAMES = {
    "FCN",
    "ClassTable",
    "Dataset",
    "Predictor",
    "TrainConfig",
    "__version__",
    "evaluate",
    "load_model",
    "train",
}
VERBS = {
    "download",
    "check",
    "features",
    "train",
    "pretrain",
    "evaluate",
    "compare",
    "report",
    "publish",
    "serve",
    "predict",
    "export",
    "convert",
    "info",
    "explain",
    "import",
    "demo",
    "cache info",
    "cache clear",
}

# Files without a test file of their own, and why.
UNTESTED = {
    "__init__": "tested here",
    "__main__": "tested here",
    "shapes": "type aliases only",
    "commands": "tested through cli",
    "surfaces": "tested through synthetic",
}

NAMES_OF_VERBS = """
import json
from typer.main import get_command
from fullyconv.cli import app

def verbs(command, name):
    commands = getattr(command, "commands", None)
    if commands is None:
        return [name]
    return [verb for part, inner in commands.items() for verb in verbs(inner, f"{name} {part}".strip())]

print(json.dumps(verbs(get_command(app), "")))
"""


def python(code, *arguments):
    """Run code in a fresh interpreter and return what it prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(*command_lines):
    """What `fullyconv ARGUMENTS` prints for each command line, and the heavy modules imported until then."""
    code = f"""
import contextlib, io, json, sys
from fullyconv.cli import main
found = []
for arguments in {command_lines!r}:
    sys.argv = ["fullyconv", *arguments.split()]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main()
    found.append((printed.getvalue(), [name for name in {HEAVY!r} if name in sys.modules]))
print(json.dumps(found))
"""
    return json.loads(python(code))


def test_the_public_names_are_frozen():
    assert set(fullyconv.__all__) == PUBLIC_NAMES


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES - {"__version__"}))
def test_every_public_name_loads_and_is_documented(name):
    value = getattr(fullyconv, name)
    assert not inspect.ismodule(value)
    assert inspect.getdoc(value)
    assert name in dir(fullyconv)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fullyconv' has no attribute 'segment'"):
        fullyconv.segment  # noqa: B018


def test_verbs_stay_functions_when_modules_are_imported_first_and_extras_stay_out():
    python(
        "import sys, fullyconv.train, fullyconv.evaluate, fullyconv.encoders, fullyconv.explain, fullyconv.cli\n"
        "assert not {'timm', 'transformers', 'torchvision', 'huggingface_hub'} & {*sys.modules}\n"
        "from fullyconv import evaluate, train\n"
        "from fullyconv.evaluate import evaluate as evaluate_of_module\n"
        "from fullyconv.train import train as train_of_module\n"
        "assert train is train_of_module is fullyconv.train\n"
        "assert evaluate is evaluate_of_module is fullyconv.evaluate"
    )


def test_importing_the_package_alone_is_light():
    python(f"import fullyconv, sys; fullyconv.__version__; assert not {{*{HEAVY!r}}} & {{*sys.modules}}")


@pytest.mark.parametrize("name", MODULES)
def test_every_module_and_everything_public_in_it_is_documented(name):
    if name == "fullyconv.__main__":
        return
    module = importlib.import_module(name)
    assert inspect.getdoc(module)
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isroutine(value) or inspect.isclass(value):
            assert inspect.getdoc(value), public


def test_the_verbs_are_frozen():
    assert set(json.loads(python(NAMES_OF_VERBS))) == VERBS


def test_every_help_answers_without_anything_heavy():
    verbs = ["", "cache", *sorted(VERBS)]
    for verb, (printed, heavy) in zip(verbs, answers(*(f"{verb} --help" for verb in verbs)), strict=True):
        assert f"Usage: fullyconv {verb}".strip() in printed
        assert not heavy, verb


def test_the_version_answers_without_anything_heavy():
    assert answers("--version") == [[f"fullyconv {fullyconv.__version__}\n", []]]


def test_python_m_fullyconv_is_the_command():
    command = [sys.executable, "-m", "fullyconv", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert fullyconv.__version__ in done.stdout


@pytest.mark.parametrize(("verb", "config"), [("train", TrainConfig), ("pretrain", PretrainConfig)])
def test_every_setting_is_an_option(verb, config):
    [(printed, _)] = answers(f"{verb} --help")
    for field in fields(config):
        assert f"--{field.name.replace('_', '-')}" in printed, field.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_source_runs_nothing_that_comes_from_a_file(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert name not in {"eval", "exec", "os.system", "pickle.load", "pickle.loads", "pickle.Unpickler"}
        assert name != "torch.load" or keywords.get("weights_only") == "True"
        assert keywords.get("allow_pickle", "False") == "False"
        assert "shell" not in keywords


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_file_has_a_test_file_of_its_name(path):
    name = path.relative_to(ROOT / "src" / "fullyconv").parts[0].removesuffix(".py")
    assert name in UNTESTED or (ROOT / "tests" / f"test_{name}.py").exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_files_and_functions_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 440
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 66, node.name
