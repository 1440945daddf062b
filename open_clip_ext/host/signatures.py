"""The parameters of upstream's functions, from the modules themselves or from their source.

To import upstream takes seconds: torchvision, timm and more come with it. The doctor, which runs on every
node of every job, reads the source where that can tell.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, resolve_name


def imported(module: str, name: str) -> tuple[str, ...]:
    """The names of the parameters of `module.name`, in order; of a wrapped function, the innermost's.

    Raises ImportError or AttributeError if there is no such module or function.
    """
    return tuple(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def read(module: str, name: str) -> tuple[str, ...]:
    """As `imported`, but by the source of a module that is not imported yet, if that can tell.

    It can if the function is defined there undecorated, or imported from where it is, and the packages
    that these modules import are installed. The modules are not executed.
    """
    found = None if module in sys.modules else _read(module, name)
    return imported(module, name) if found is None else found


def _read(module: str, name: str) -> tuple[str, ...] | None:
    """None where the source does not tell, or tells that something is wrong."""
    spec = _spec(module)
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        return None
    try:
        statements = ast.parse(spec.loader.get_data(spec.loader.path), spec.loader.path).body
    except SyntaxError:
        return None
    if not all(find_spec(package) for package in _needed(statements)):
        return None
    match [statement for statement in statements if name in _bound(statement)]:
        case [ast.FunctionDef(args=parameters, decorator_list=[])]:
            return tuple(_names(parameters))
        case [ast.ImportFrom(module=origin, names=aliases, level=level)]:
            there = resolve_name("." * level + (origin or ""), spec.parent)
            (original,) = (alias.name for alias in aliases if name == (alias.asname or alias.name))
            return _read(there, original)
    return None


def _spec(module: str) -> ModuleSpec | None:
    """Where a module is; unlike `importlib.util.find_spec`, without importing the package it is in."""
    package = module.rpartition(".")[0]
    if not package:
        return find_spec(module)
    parent = _spec(package)
    return None if parent is None else PathFinder.find_spec(module, parent.submodule_search_locations)


def _needed(statements: list[ast.stmt]) -> set[str]:
    """The top-level packages that a module cannot do without."""
    names = [s.module for s in statements if isinstance(s, ast.ImportFrom) and s.module and not s.level]
    names += [alias.name for s in statements if isinstance(s, ast.Import) for alias in s.names]
    return {name.partition(".")[0] for name in names}


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module gives a value, or may give one."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    found = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            found.add(node.id)
    return found


def _names(parameters: ast.arguments) -> list[str]:
    """In the order of `inspect.signature`."""
    found = [*parameters.posonlyargs, *parameters.args, parameters.vararg, *parameters.kwonlyargs]
    return [parameter.arg for parameter in [*found, parameters.kwarg] if parameter is not None]
