"""What may stand in the graph of an exported program before torch is allowed to read it.

``torch.export.load`` is not harmless (read in torch 2.13):

* weights, constants and sample inputs marked as pickled go through
  ``torch.load(weights_only=False)``, custom objects through ``pickle.loads``;
* an operator is looked up by walking attributes from ``torch``, so that the
  target ``torch.os.system`` is a legal node;
* symbolic sizes are strings for ``sympy.sympify``, which evaluates them;
* guards and the names of nodes become Python source that is executed;
* compiled artefacts are native libraries, loaded at once.

So the graph is checked here, string by string, against what an inference
program needs; :mod:`extract.backbones.program_archive` hands torch a copy
that holds nothing else.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from pipeline.errors import WeightsError

ALLOWED_TARGET = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+\.\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|torch\.sym_(max|min|int|float|not|ite|sqrt)"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)",
    re.ASCII,
)
REFUSED_TARGETS = ("torch.ops.aten.from_file.",)
"""Operators of the allowed families that reach outside memory."""
STATE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", re.ASCII)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*", re.ASCII)
PLAIN_TEXT = re.compile(r"[A-Za-z0-9_.,>: -]{0,200}", re.ASCII)
SYMBOL = re.compile(r"[su]\d+", re.ASCII)
EXPRESSION_NAMES = {
    "Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "FloorDiv", "PythonMod",
    "CleanDiv", "CeilDiv", "ModularIndexing", "Where", "CeilToInt", "FloorToInt", "TruncToInt", "RoundToInt",
    "IntTrueDiv", "ToFloat", "PowByNatural", "LShift", "RShift", "Eq", "Ne", "Le", "Lt", "Ge", "Gt", "Equality",
    "Unequality", "LessThan", "StrictLessThan", "GreaterThan", "StrictGreaterThan", "And", "Or", "Not",
}  # fmt: skip
EXPRESSION_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Compare,
    ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
MAX_EXPRESSION_NODES = 400
MAX_EXPRESSION_DEPTH = 60
MAX_SIZE = 1 << 62
MAX_EXPONENT = 8
MAX_POWERS = 4
"""Numbers of an expression stay below a few thousand digits: sympy computes a tower of powers to the end of days."""
SPEC_TYPES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})
FREE_TEXT_KEYS = frozenset({"torch_version", "verifiers"})
EMPTIED_KEYS: dict[str, Any] = {"metadata": {}, "guards_code": [], "treespec_namedtuple_fields": {}}
"""Not needed to run a program, and read by code that imports or executes what they name."""


def checked_program(content: Any, *, source: str) -> dict[str, Any]:
    """Return a serialised program that holds only what inference needs.

    Parameters
    ----------
    content : dict
        Parsed ``models/model.json``; emptied in place of stack traces, guards and the like.
    source : str
        For messages.

    Raises
    ------
    WeightsError
        Naming the first string that has no business there.
    """
    if not isinstance(content, dict) or "graph_module" not in content:
        raise WeightsError(f"{source}: expected a torch.export program, found no graph in it")
    _empty(content)
    for key, text in _strings(content):
        problem = _problem(key, text)
        if problem:
            raise WeightsError(f"{source}: refused to load the program: {problem}; found {key}: {text[:120]!r}")
    return content


def _empty(value: Any) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            item.update({key: type(EMPTIED_KEYS[key])() for key in item if key in EMPTIED_KEYS})
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Yield every string with the key it stands under, and every key as a name."""
    pending = [("", value)]
    while pending:
        key, item = pending.pop()
        if isinstance(item, dict):
            yield from (("name", inner_key) for inner_key in item)
            pending.extend(item.items())
        elif isinstance(item, list):
            pending.extend((key, inner) for inner in item)
        elif isinstance(item, str):
            yield key, item


def _problem(key: str, text: str) -> str | None:
    """Say what is wrong with a string; None where nothing is."""
    if key in FREE_TEXT_KEYS:
        return None
    if key in ("target", "as_operator"):
        # Names with two underscores are Python's own: torch would walk from an operator to classes and their makers.
        refused = not ALLOWED_TARGET.fullmatch(text) or text.startswith(REFUSED_TARGETS) or "__" in text
        return "expected an operator of aten, prims or simple arithmetic" if refused else None
    if key == "expr_str":
        return None if _is_size_expression(text) else "expected an arithmetic expression of sizes"
    if key in ("in_spec", "out_spec"):
        return None if _is_plain_spec(text) else "expected tuples, lists and dicts of tensors"
    if text in ("as_custom_obj", "custom_obj") or key == "class_fqn":
        return "expected tensors, not custom objects"
    if key in ("as_string", "as_strings"):
        return None if PLAIN_TEXT.fullmatch(text) else "expected a plain word"
    if key in ("fqn", "parameter_name", "buffer_name"):  # names of modules and state: nn.Sequential has "0", "0.weight"
        return None if text == "" or STATE_NAME.fullmatch(text) else "expected the name of a parameter"
    return None if text == "" or NAME.fullmatch(text) else "expected a name"


def _is_size_expression(text: str) -> bool:
    try:
        tree = ast.parse(text, mode="eval") if len(text) < 4096 else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if tree is None:
        return False
    nodes = list(ast.walk(tree))
    if len(nodes) > MAX_EXPRESSION_NODES or _depth(tree) > MAX_EXPRESSION_DEPTH:
        return False
    powers = [node for node in nodes if _exponent(node) is not None]
    if len(powers) > MAX_POWERS or not all(_is_small(_exponent(node)) for node in powers):
        return False
    for node in nodes:
        if not isinstance(node, EXPRESSION_NODES):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not abs(node.value) <= MAX_SIZE:
            return False
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name):
            return False
        if isinstance(node, ast.Name) and node.id not in EXPRESSION_NAMES and not SYMBOL.fullmatch(node.id):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not SYMBOL.fullmatch(node.value):
            return False
    return True


_POWERS = {"Pow", "PowByNatural", "LShift"}


def _exponent(node: ast.AST) -> ast.AST | None:
    """Return the second operand of a power or shift, None for anything else."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.LShift):
        return node.right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _POWERS:
        return node.args[1] if len(node.args) == 2 else node
    return None


def _is_small(exponent: ast.AST | None) -> bool:
    """Whether an exponent is a plain small number: ``2``, ``-1`` or ``Integer(2)``."""
    if isinstance(exponent, ast.Call) and isinstance(exponent.func, ast.Name) and exponent.func.id == "Integer":
        exponent = exponent.args[0] if len(exponent.args) == 1 else None
    if isinstance(exponent, ast.UnaryOp):
        exponent = exponent.operand
    value = exponent.value if isinstance(exponent, ast.Constant) else None
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_EXPONENT


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level and depth <= MAX_EXPRESSION_DEPTH:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def program_targets(program: dict[str, Any]) -> list[str]:
    """Return every distinct operator that a program names."""
    return sorted({text for key, text in _strings(program) if key in ("target", "as_operator")})


def _is_plain_spec(text: str) -> bool:
    """Whether a pytree specification names builtin containers alone."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    pending = [content]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            if item.get("type") not in SPEC_TYPES:
                return False
            pending.extend(item.get("children_spec") or [])
    return True
