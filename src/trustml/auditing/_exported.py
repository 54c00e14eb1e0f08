"""Models in torch.export's ``.pt2`` format, read without unpickling."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from trustml.auditing._config import ConfigError

_LINEAR = torch.ops.aten.linear.default
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_TOKEN = re.compile(r"[A-Za-z_]\w*|\d+(?:\.\d+)?|\s+|.", re.DOTALL)
_OPERATORS = frozenset("+-*/%(),<>=&|~")


def load_exported(path: Path) -> nn.Module:
    """Return an exported program as a module whose linear layers are ``nn.Linear`` again.

    The archive is inspected first: one that would be unpickled, or whose size expressions are
    more than arithmetic, is refused.

    Parameters
    ----------
    path : Path
        A file written by ``torch.export.save``, exported in eval mode.

    Returns
    -------
    Module

    Raises
    ------
    ConfigError
        If the file is no such archive, is unsafe, or was exported in training mode.
    """
    _refuse_code(path)
    try:
        program = torch.export.load(path)
        module = program.module(check_guards=False)
    except Exception as error:
        raise ConfigError(
            f"cannot read {path.name} as torch.export: {error}; save it with this version of torch "
            f"({torch.__version__}) or a close one"
        ) from error
    _refuse_training_mode(module, path)
    _restore_linear(module)
    return _plain_signature(module, path).eval()


def _refuse_code(path: Path) -> None:
    """Refuse archives whose reading could run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{path.name} is not a torch.export archive: {error}") from error
    reason = None
    for name, content in members.items():
        base = name.rsplit("/", 1)[-1]
        if base.startswith(("custom_obj_", "opaque_obj_", "script_obj_")):
            reason = f"a pickled object ({base})"
        elif base.endswith(("weights_config.json", "constants_config.json")):
            entries = json.loads(content).get("config", {}).values()
            if any(entry.get("use_pickle") for entry in entries):
                reason = "pickled tensors"
        elif base.endswith(".json") and not _expressions_are_arithmetic(json.loads(content)):
            reason = "a size expression that is more than arithmetic"
        elif base.endswith(".pt") and not _is_tensors_only(content):
            reason = f"pickled objects in {base}"
    if reason is not None:
        raise ConfigError(
            f"{path.name} holds {reason}, which would run code when read; export the model with "
            'plain tensors, or build it in a function: load = "package.module:function"'
        )


def _is_tensors_only(content: bytes) -> bool:
    from pickle import UnpicklingError

    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except (UnpicklingError, RuntimeError):
        return not content
    return True


def _expressions_are_arithmetic(node: Any) -> bool:
    """Say whether every symbolic size in the graph is made of names, numbers and operators."""
    if isinstance(node, dict):
        text = node.get("expr_str")
        if isinstance(text, str) and not is_arithmetic(text):
            return False
        return all(_expressions_are_arithmetic(child) for child in node.values())
    if isinstance(node, list):
        return all(_expressions_are_arithmetic(child) for child in node)
    return True


def is_arithmetic(text: str) -> bool:
    """Say whether an expression, which sympy evaluates, has only symbols, numbers, operators.

    Calls are allowed of capitalised names (``Max``, ``FloorDiv``) alone; attributes, text and
    dunder names are not.

    Parameters
    ----------
    text : str
        From the archive.

    Returns
    -------
    bool
    """
    tokens = [t for t in _TOKEN.findall(_SYMBOL.sub("s", text)) if not t.isspace()]
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        if token[0].isalpha() or token[0] == "_":
            if "__" in token or (not token[0].isupper() and following == "("):
                return False
        elif not token[0].isdigit() and token not in _OPERATORS:
            return False
    return True


def _refuse_training_mode(module: fx.GraphModule, path: Path) -> None:
    for node in module.graph.nodes:
        name = str(node.target)
        trains = name.startswith("aten.dropout") and len(node.args) > 2 and node.args[2] is True
        trains |= name.startswith("aten.batch_norm.") and node.args[5] is True
        if trains:
            raise ConfigError(
                f"{path.name} was exported in training mode ({name} is active); call "
                "model.eval() before torch.export.export"
            )


def _restore_linear(module: fx.GraphModule) -> None:
    """Replace calls of ``aten.linear`` on parameters by ``nn.Linear``: the head is found."""
    graph, made = module.graph, 0
    for node in list(graph.nodes):
        if node.target is not _LINEAR:
            continue
        x, *parameters = node.args
        if not all(isinstance(p, fx.Node) and p.op == "get_attr" for p in parameters):
            continue
        held = [_attribute(module, str(p.target)) for p in parameters]
        if not all(isinstance(p, nn.Parameter) for p in held):
            continue
        layer = nn.Linear(held[0].shape[1], held[0].shape[0], bias=len(held) > 1, device="meta")
        layer.weight = held[0]
        if len(held) > 1:
            layer.bias = held[1]
        name = f"linear_{made}"
        made += 1
        module.add_submodule(name, layer)
        with graph.inserting_after(node):
            called = graph.call_module(name, (x,))
        node.replace_all_uses_with(called)
        graph.erase_node(node)
        for parameter in parameters:
            if not parameter.users:
                graph.erase_node(parameter)
                _forget(module, str(parameter.target))


def _plain_signature(module: fx.GraphModule, path: Path) -> fx.GraphModule:
    """Return a new module that takes tensors instead of pytrees and gives one."""
    # The exported one has hooks that check pytrees, and refuses eval() though it has no modes.
    graph = module.graph
    output = next(node for node in graph.nodes if node.op == "output")
    results = output.args[0]
    if not isinstance(results, (list, tuple)) or len(results) != 1:
        raise ConfigError(
            f"{path.name} returns several values; export a module that returns its logits alone"
        )
    output.args = (results[0],)
    graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(module, graph)


def _attribute(module: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name, None)


def _forget(module: nn.Module, path: str) -> None:
    """Unregister a parameter that now lives in a linear layer."""
    owner, _, name = path.rpartition(".")
    delattr(module.get_submodule(owner), name)
