"""The floors of the house: every import leads down, none leads round, none hides in a function."""

import ast
import re
from pathlib import Path

import discdiff
from discdiff import heads, terms

PACKAGE = Path(discdiff.__file__).parent

# From the ground up; a file may import from its own floor or from below, never in a circle.
FLOORS = (
    {
        "numerics",
        "shapes",
        "validation",
        "params",
        "estimates",
        "reals",
    },  # numbers, and what they mean
    {
        "clock",
        "increments",
        "laws",
        "solve",
        "tabulated",
    },  # time, answers, the registry of engines
    {"process"},  # processes and every combinator
    {
        "beta_chain",
        "chains",
        "given_data",
        "heads",
        "lattice_walk",
        "levy",
        "shared",
        "star",
        "structures",
        "terms",
        "walks",
    },  # what a user declares
    {
        "drawn",
        "engines",
        "grids",
        "guidance",
        "inverse",
        "loss",
        "reverse",
        "stepper",
        "steps",
        "times",
        "weights",
        "zoo",
    },  # solutions; what is known
    {
        "certificate",
        "control",
        "diagnosis",
        "enumeration",
        "expectation",
        "explain",
        "flow",
        "likelihood",
        "metrics",
        "objectives",
        "sample",
        "simulate",
        "strong",
        "steppers",
        "testing",
        "tweedie",
    },  # the verbs
    {"train"},  # the optional extra
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
APART = {"nn"}  # networks: know nothing of diffusion


def files():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return tuple(part for part in parts if part != "__init__")


def imported(path, node):
    """The modules inside the package that an import statement names, as tuples of names."""
    here = path.relative_to(PACKAGE).parts[:-1]
    if isinstance(node, ast.Import):
        inside = [a.name.split(".") for a in node.names if a.name.split(".")[0] == "discdiff"]
        return [tuple(name[1:]) for name in inside]
    if node.level == 0:
        name = (node.module or "").split(".")
        base = tuple(name[1:]) if name[0] == "discdiff" else None
    else:
        base = here[: len(here) - node.level + 1] + tuple(filter(None, [node.module or ""]))
        base = tuple(part for name in base for part in name.split("."))
    if base is None:
        return []
    submodules = [(*base, alias.name) for alias in node.names]
    found = [name for name in submodules if exists(name)]
    return found if len(found) == len(submodules) else [*found, base]


def exists(name):
    path = PACKAGE.joinpath(*name)
    return path.is_dir() or path.with_suffix(".py").exists()


def imports(path):
    tree = ast.parse(path.read_text())
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    return [name for node in nodes for name in imported(path, node)]


def test_every_file_has_a_floor():
    homeless = {module_of(path)[0] for path in files()} - set(FLOOR) - APART
    assert not homeless, f"give them a floor: {sorted(homeless)}"


def test_arrows_lead_down():
    wrong = [
        f"{'.'.join(module_of(path))} imports {'.'.join(name)}, which stands higher"
        for path in files()
        if module_of(path)[0] in FLOOR
        for name in imports(path)
        if name
        and name[0] != module_of(path)[0]
        and (
            FLOOR[name[0]] > FLOOR[module_of(path)[0]]
            if name[0] in FLOOR
            else module_of(path)[0] != "train"
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_package_itself_is_imported_as_a_whole():
    assert not [path for path in files() for name in imports(path) if name == ()]


def test_there_is_no_circle():
    graph = {}
    for path in files():
        edges = set()
        for name in imports(path):
            edges.add(name)
            if (PACKAGE.joinpath(*name) / "__init__.py").exists():
                edges.add((*name, "__init__"))
        own = module_of(path)
        graph[(*own, "__init__") if path.name == "__init__.py" else own] = edges
    done, stack = set(), []

    def visit(node):
        assert node not in stack, " -> ".join(".".join(n) for n in [*stack, node])
        if node in done or node not in graph:
            return
        stack.append(node)
        for other in sorted(graph[node]):
            visit(other)
        done.add(stack.pop())

    for node in sorted(graph):
        visit(node)


def test_networks_know_nothing_of_diffusion():
    outside = [
        (path.name, name)
        for path in files()
        if module_of(path)[0] == "nn"
        for name in imports(path)
        if name and name[0] != "nn"
    ]
    assert not outside


def test_no_import_hides_in_a_function():
    hidden = []
    for path in files():
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import | ast.ImportFrom):
                        hidden.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert not hidden


def finals():
    """The names that the rules must not know: final terms, heads, engines."""
    abstract = {"Term", "Drift", "Diffusion", "Jump", "FiniteJump", "CountJump"}
    abstract |= {"LinearDrift", "WhiteNoise"}
    names = {
        name
        for name, value in vars(terms).items()
        if isinstance(value, type) and issubclass(value, terms.Term) and name not in abstract
    }
    engines = set()
    for path in (PACKAGE / "engines").glob("*.py"):
        tree = ast.parse(path.read_text())
        engines |= {n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    spoken = {
        name
        for name, value in vars(heads).items()
        if isinstance(value, type) and issubclass(value, heads.Head) and value is not heads.Head
    }
    return names | engines | (spoken - {"Score"})  # the score is the engines' answer, too


def test_loss_and_reverse_name_no_engine_model_or_final_term():
    for file in ("loss.py", "reverse.py"):
        tree = ast.parse((PACKAGE / file).read_text())
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        used |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        used |= {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        assert not used & finals(), f"{file} names {sorted(used & finals())}"
        words = "engines|zoo|blackout|masked|ddpm|d3pm|mdlm|udlm"
        code = ast.unparse(without_docstrings(tree))
        assert not re.search(rf"\b({words})\b", code, re.I), file


def without_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant):
                body[0] = ast.Pass()
    return tree


def test_there_is_no_drawer_for_odds_and_ends():
    names = {path.stem for path in files()}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_no_option_is_swallowed():
    """Only methods with torch's own signatures, hooks of modules and parts by name take ``**``."""
    allowed = {"log_prob", "sample", "rsample", "_load_from_state_dict", "__init__", "entropy_gap"}
    swallowing = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
        for path in files()
        if module_of(path)[0] != "train"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.args.kwarg and node.name not in allowed
    ]
    assert not swallowing
