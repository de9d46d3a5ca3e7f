"""Nothing unpickles, nothing runs foreign code, nothing listens beyond this machine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(p for folder in ("src", "benchmarks", "scripts") for p in (ROOT / folder).rglob("*.py"))

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pd.read_pickle",
    "torch.save",
}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def is_true(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def problems(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            found += [f"import of {name}" for name in named if name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            name, keywords = dotted(node.func), {k.arg: k.value for k in node.keywords}
            if name in FORBIDDEN_CALLS:
                found.append(f"call of {name}")
            if name.endswith("torch.load") and not is_true(keywords.get("weights_only")):
                found.append("torch.load without weights_only=True")
            if "trust_remote_code" in keywords and not (
                isinstance(keywords["trust_remote_code"], ast.Constant) and keywords["trust_remote_code"].value is False
            ):
                found.append("trust_remote_code that is not False")
            if name.endswith((".from_pretrained", ".from_config")) and is_true(keywords.get("trust_remote_code")):
                found.append("remote code")
            if name.endswith("AutoModelForCausalLM.from_pretrained") and not is_true(keywords.get("use_safetensors")):
                found.append("weights that need not be safetensors")
            if name.endswith((".load", ".open_memmap")) and is_true(keywords.get("allow_pickle")):
                found.append("NumPy arrays that may hold pickles")
            if is_true(keywords.get("shell")):
                found.append("a command line run by a shell")
        elif isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):
            found.append(f"an address that listens to every network: {node.value}")
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_is_safe(path):
    assert problems(path.read_text()) == []


def test_there_is_code_to_look_at():
    assert len(CODE) > 80


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(x)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "AutoTokenizer.from_pretrained(p, trust_remote_code=True)",
        "AutoTokenizer.from_pretrained(p, trust_remote_code=flag)",
        "AutoModelForCausalLM.from_pretrained(p)",
        "np.load(f, allow_pickle=True)",
        "subprocess.run(c, shell=True)",
        "yaml.load(f)",
        "serve(host='0.0.0.0')",
    ],
)
def test_the_check_finds(source):
    assert problems(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(f, weights_only=True)",
        "yaml.safe_load(f)",
        "model.eval()",
        "pattern.exec",
        "serve(host='127.0.0.1')",
    ],
)
def test_the_check_lets_pass(source):
    assert not problems(source)


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.yaml")), ids=lambda p: p.name)
def test_recipes_are_plain_data(path):
    yaml.safe_load(path.read_text())
