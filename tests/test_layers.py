"""Imports run one way: DESIGN.md describes the packages, this test reads the code.

1. A package imports the packages that it may know and no others, wherever in a file the import stands.
2. No module needs itself, be it for types only, inside a function, or by a name in a registry.
3. Every package is on the map.
4. What must start fast does not import torch.
5. What belongs to one environment is in its folder, or declared by its registration; environments know no prompts but
   their own.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from stapo.agent.config import AgentConfig
from stapo.config.describe import meanings

SOURCE = Path(__file__).resolve().parent.parent / "src"
PACKAGE = SOURCE / "stapo"

MAY_IMPORT = {
    "texts": set(),
    "progress": set(),
    "documents": set(),
    "errors": {"texts"},
    "extras": {"errors"},
    "hosts": set(),
    "serving": {"checks", "errors", "extras", "hosts"},
    "registry": {"errors", "documents"},
    "atomic_io": set(),
    "server_errors": {"texts", "documents"},
    "http_client": {"checks", "errors", "texts", "documents", "server_errors"},
    "type_hints": {"documents"},
    "checks": {"errors", "documents"},
    "memory_model": set(),
    "stored": {"errors", "texts", "documents", "atomic_io"},
    "models": {"errors", "texts", "atomic_io", "progress", "stored"},
    "health": {"documents", "texts"},
    "former_names": set(),
    "algo": {"checks", "errors", "texts", "documents", "registry"},
    "retrieval": {
        "extras",
        "serving",
        "errors",
        "texts",
        "documents",
        "registry",
        "atomic_io",
        "stored",
        "models",
        "http_client",
        "progress",
        "checks",
    },
    "envs": {
        "agent",
        "errors",
        "extras",
        "hosts",
        "texts",
        "documents",
        "registry",
        "atomic_io",
        "stored",
        "http_client",
        "retrieval",
        "progress",
        "type_hints",
        "checks",
    },
    "gym": {"envs", "errors", "extras"},
    "adapters": {
        "agent",
        "algo",
        "envs",
        "rollout",
        "serving",
        "training",
        "errors",
        "extras",
        "texts",
        "documents",
        "checks",
    },
    "agent": {"checks", "errors", "texts", "documents", "registry"},
    "policy": {
        "checks",
        "errors",
        "texts",
        "documents",
        "memory_model",
        "atomic_io",
        "stored",
        "models",
        "progress",
        "agent",
    },
    "rollout": {
        "errors",
        "texts",
        "documents",
        "server_errors",
        "http_client",
        "memory_model",
        "envs",
        "agent",
        "policy",
        "progress",
        "checks",
    },
    "run": {"former_names", "errors", "texts", "documents", "atomic_io"},
    "trackers": {"errors", "extras", "texts", "documents", "atomic_io", "registry", "run", "stored"},
    "config": {
        "former_names",
        "errors",
        "texts",
        "documents",
        "algo",
        "agent",
        "envs",
        "policy",
        "rollout",
        "run",
        "recipes",
        "checks",
    },
    "training": {
        "registry",
        "health",
        "former_names",
        "config",
        "errors",
        "texts",
        "documents",
        "atomic_io",
        "algo",
        "envs",
        "agent",
        "policy",
        "rollout",
        "run",
        "trackers",
    },
    "html": {"texts", "documents", "atomic_io"},
    "report": {"errors", "texts", "documents", "health", "run", "html"},
    "viewer": {"errors", "documents", "texts", "atomic_io", "health", "run", "html", "report", "serving"},
    "comparison": {"former_names", "errors", "texts", "documents", "atomic_io", "run", "config", "training", "html"},
    "diagnosis": {
        "errors",
        "texts",
        "documents",
        "registry",
        "atomic_io",
        "algo",
        "envs",
        "agent",
        "policy",
        "rollout",
        "run",
        "config",
        "training",
        "html",
    },
    "verl_plugin": {
        "errors",
        "texts",
        "documents",
        "algo",
        "envs",
        "agent",
        "policy",
        "rollout",
        "run",
        "config",
        "training",
        "checks",
    },
    "api": {
        "errors",
        "texts",
        "documents",
        "http_client",
        "envs",
        "policy",
        "rollout",
        "run",
        "config",
        "training",
        "report",
        "comparison",
        "diagnosis",
        "estimate",
        "type_hints",
    },
    "estimate": {"errors", "texts", "documents", "memory_model"},
    "recipes": set(),
    "cli": {
        "adapters",
        "api",
        "viewer",
        "serving",
        "former_names",
        "errors",
        "texts",
        "documents",
        "http_client",
        "progress",
        "registry",
        "algo",
        "retrieval",
        "envs",
        "agent",
        "policy",
        "rollout",
        "run",
        "config",
        "training",
        "report",
        "comparison",
        "diagnosis",
        "verl_plugin",
        "estimate",
        "recipes",
        "trackers",
        "models",
    },
}
MAY_IMPORT["__main__"] = {"cli"}
"""Room -> rooms below it. Everything may read `stapo.__version__`."""

OF_ONE_ENVIRONMENT = re.compile(
    r"alfworld|webshop|sokoban|search-(r1|tiny|stepwise)|go to |click\[|search\[|\[sep\]|verl-agent", re.IGNORECASE
)
FREE_OF_ENVIRONMENTS = ("agent", "algo", "api", "cli", "config", "policy", "rollout", "run", "training")
MAY_NAME_ENVIRONMENTS = {
    "stapo.config.environment": ({"alfworld"}, "the environment of settings that name none"),
}
"""Module -> the texts that it may hold, and why. Examples in the help of commands are free."""


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def targets(node: ast.AST) -> list[str]:
    """Modules of this package that an import statement, or a text such as "stapo.envs.check", names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        module = node.module or ""
        inner = [f"{module}.{alias.name}" for alias in node.names]
        names = [name for name in inner if name in MODULES]
        names += [module] if len(names) < len(inner) else []
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        name = node.value.partition(":")[0]
        names = [name] if name in MODULES else []
    else:
        names = []
    return [name for name in names if name == "stapo" or name.startswith("stapo.")]


@cache
def all_imports(path: Path) -> set[str]:
    return {name for node in ast.walk(ast.parse(path.read_text())) for name in targets(node)}


@pytest.mark.parametrize("module", [m for m in MODULES if room(m)])
def test_imports_go_down_only(module):
    here = room(module)
    wrong = {
        name for name in all_imports(MODULES[module]) if room(name) and room(name) not in MAY_IMPORT[here] | {here}
    }
    assert not wrong, f"{module} imports {sorted(wrong)}; the room '{here}' may know {sorted(MAY_IMPORT[here])}"


def test_no_import_cycles():
    graph = {}
    for module, path in MODULES.items():
        # Everything may read what `stapo` itself knows: its public functions are imported when they are used.
        found = all_imports(path) - {module, "stapo"}
        # Importing a.b.c runs a and a.b first, unless the importing module is inside them.
        packages = {name.rsplit(".", i)[0] for name in found for i in range(1, name.count("."))}
        graph[module] = found | {name for name in packages if not f"{module}.".startswith(f"{name}.")}
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import cycle: {' -> '.join([*trail[trail.index(module) :], module])}"
        if module not in finished:
            for name in sorted(graph[module]):
                visit(name, (*trail, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


def test_rooms_order_is_possible():
    """The map itself has no cycle."""
    order: list[str] = []
    while len(order) < len(MAY_IMPORT):
        free = [name for name, below in MAY_IMPORT.items() if name not in order and below <= set(order)]
        assert free, f"the map of rooms has a cycle among {sorted(set(MAY_IMPORT) - set(order))}"
        order += free


def test_every_room_is_on_the_map():
    assert {room(module) for module in MODULES} - {""} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    "statement",
    [
        "import stapo",
        "import stapo.cli.main",
        "import stapo.envs",
        "import stapo.algo",
        "from stapo.algo import ALGORITHMS",
        "import stapo.run",
        "import stapo.trackers.sender, stapo.trackers.process",
        "import stapo.retrieval",
        "import stapo.report",
        "import stapo.estimate.costs",
        "from stapo.cli import envs_command, train_command, eval_command",
        "from stapo.config import load_config; load_config('tiny')",
        "import stapo; stapo.make('alfworld').reset(stapo.make('alfworld').tasks[0])",
    ],
)
def test_starts_without_torch(statement):
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def spoken(tree: ast.Module, kinds: Any = ast.Constant | ast.Name | ast.Attribute) -> list[str]:
    """Names and texts in a module, without its docstrings and the examples in its help."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose = {id(body.value) for node in ast.walk(tree) if isinstance(node, documented)
             for body in node.body if isinstance(body, ast.Expr)}  # fmt: skip
    prose |= {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("EXAMPLES", "NOTES", "_HELP")
    }
    return [
        str(node.value if isinstance(node, ast.Constant) else node.id if isinstance(node, ast.Name) else node.attr)
        for node in ast.walk(tree)
        if isinstance(node, kinds) and id(node) not in prose
    ]


def own_names(group: str) -> dict[str, str]:
    """Name -> target of what this package registers in a group."""
    parser = ConfigParser(delimiters=("=",))
    parser.read(PACKAGE / "entry_points.txt")
    return dict(parser[group])


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) in FREE_OF_ENVIRONMENTS])
def test_what_belongs_to_one_environment_is_not_here(module):
    """Neither its name nor the shape of its commands: both are in its folder."""
    tree = ast.parse(MODULES[module].read_text())
    texts = {text for text in spoken(tree) if OF_ONE_ENVIRONMENT.search(text)}
    texts |= set(spoken(tree, ast.Constant)) & set(own_names("stapo.environments"))
    allowed, _ = MAY_NAME_ENVIRONMENTS.get(module, (set(), ""))
    assert texts == allowed, f"{module} says {sorted(texts - allowed)}, and no longer {sorted(allowed - texts)}"


def test_the_help_of_the_agent_names_no_style_of_one_environment():
    """Each style's sentence is with the style; `stapo plugins` shows it."""
    said = meanings(AgentConfig)
    for setting, group in (("prompt", "stapo.prompt_styles"), ("response", "stapo.response_formats")):
        own = own_names(group)
        elsewhere = {name for name, target in own.items() if target.startswith("stapo.envs.")}
        assert elsewhere, "the environments register some"
        named = set(re.findall(r"`([\w-]+)`", said[setting])) & set(own)
        assert named == set(own) - elsewhere, f"agent.{setting} explains {sorted(named)}"


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) == "envs" and not m.endswith(".prompts")])
def test_environments_know_no_prompts(module):
    """All that they know of an agent are the shapes of their own commands and tools; prompts are in `prompts`."""
    known = {name for name in all_imports(MODULES[module]) if room(name) == "agent"}
    assert known <= {"stapo.agent.pages", "stapo.agent.tools"}, f"{module} imports {sorted(known)}"
