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
    if isinstance(value, dict):
        for key, item in value.items():
            if key in EMPTIED_KEYS:
                value[key] = type(EMPTIED_KEYS[key])()
            else:
                _empty(item)
    elif isinstance(value, list):
        for item in value:
            _empty(item)


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string with the key it stands under, and every key as a name."""
    if isinstance(value, dict):
        for inner_key, item in value.items():
            yield "name", inner_key
            yield from _strings(item, inner_key)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        yield key, value


def _problem(key: str, text: str) -> str | None:
    """Say what is wrong with a string; None where nothing is."""
    if key in FREE_TEXT_KEYS:
        return None
    if key in ("target", "as_operator"):
        refused = not ALLOWED_TARGET.fullmatch(text) or text.startswith(REFUSED_TARGETS)
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
    for node in ast.walk(tree):
        if not isinstance(node, EXPRESSION_NODES):
            return False
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name):
            return False
        if isinstance(node, ast.Name) and node.id not in EXPRESSION_NAMES and not SYMBOL.fullmatch(node.id):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not SYMBOL.fullmatch(node.value):
            return False
    return True


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
