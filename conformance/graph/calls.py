"""Follow which module is running: its dotted path, what it is given and what it gives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

Entered = Callable[[str | None, Any], None]
Left = Callable[[str | None, Any], None]


@contextlib.contextmanager
def follow(model: torch.nn.Module, entered: Entered, left: Left) -> Iterator[None]:
    """Call entered(path, positional arguments) and left(path, output) for every module call in the context.

    The path of a module that `model` does not own is None. One known under several names has the first.
    """
    paths = {id(module): name for name, module in reversed(list(model.named_modules()))}

    def enter(module: torch.nn.Module, args: Any) -> None:
        entered(paths.get(id(module)), args)

    def leave(module: torch.nn.Module, _args: Any, output: Any) -> None:
        left(paths.get(id(module)), output)

    hooks = (
        torch.nn.modules.module.register_module_forward_pre_hook(enter),
        torch.nn.modules.module.register_module_forward_hook(leave),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
