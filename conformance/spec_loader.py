"""From the SPEC a user types to the record of the model under test.

A SPEC is one of
    prefix:name                a model of a registered collection, `timm:resnet18`
    package.module:callable    a function of an importable module
    path/file.py:callable      a function in a file
The last two run the user's own code. The callable takes no arguments and returns a module, or
(module, inputs) with inputs a tensor, a tuple of arguments, a dict of keyword arguments, or
(arguments, keyword arguments).
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import random
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from conformance.backend import ENTRY_POINT_GROUP, Backend, Collection, Inputs, collections
from conformance.errors import UsageError

OUR_PACKAGES = ("backends", "reference_impls", "reports")
_FORMS = "a SPEC is prefix:name, package.module:callable or path/file.py:callable"


def load(spec: str, input_shape: tuple[int, ...] | None = None) -> Backend:
    """The record of the model that `spec` names.

    input_shape (sizes without the batch) replaces the example inputs by float normals of that shape.
    The user's callable runs once here, so that what is wrong with it is said before any check.
    Raises UsageError, one sentence, for everything that keeps the model from being loaded.
    """
    return dataclasses.replace(_load(spec, input_shape), input_shape=input_shape)


def _load(spec: str, input_shape: tuple[int, ...] | None) -> Backend:
    kind, left, right = locate(spec)
    if kind == "collection":
        return collection(left).get(right, input_shape)
    with _fixed_randomness():
        module = _module_from_file(left) if kind == "file" else _module_by_name(left)
        build = _callable(module, left, right)
        return _backend(spec, build, input_shape, source=left)


def locate(spec: str) -> tuple[str, str, str]:
    """What kind of SPEC this is (collection, file or module), and the parts before and after its colon.

    Runs no code of the user's: enough to refuse most wrong SPECs before a long run starts. Raises
    UsageError for a SPEC of no known form, a missing file, an unknown prefix or top-level module.
    """
    left, colon, right = spec.partition(":")
    if ".py:" in spec or spec.endswith(".py"):  # a Windows path has a colon of its own
        left, colon, right = spec.rpartition(":") if ".py:" in spec else (spec, "", "")
    if not colon or not left or not right:
        raise UsageError(f"{spec!r} is no SPEC: {_FORMS}")
    if left.endswith(".py"):
        if not Path(left).is_file():
            raise UsageError(f"there is no file {left}")
        return "file", left, right
    if left in _registered():
        refuse_shadowed(_registered()[left])
        return "collection", left, right
    _allow_working_directory(left)
    if not _importable(left.partition(".")[0]):
        raise UsageError(_unknown_left(spec, left))
    return "module", left, right


def attribute(spec: str) -> Any:
    """What `package.module:name` or `path/file.py:name` names; runs the code there.

    Raises UsageError for another form, code that raises, and a name that is not there.
    """
    kind, left, right = locate(spec)
    if kind == "collection":
        raise UsageError(f"{spec!r} is a model; give package.module:name or path/file.py:name")
    with _fixed_randomness():
        return _attribute(_module_from_file(left) if kind == "file" else _module_by_name(left), left, right)


def collection(prefix: str) -> Collection:
    """The registered collection `prefix`; UsageError when there is none or it cannot be used."""
    registered = _registered()
    if prefix not in registered:
        raise UsageError(f"there is no collection {prefix!r}{_did_you_mean(prefix, registered)}")
    refuse_shadowed(registered[prefix])
    return collections()[prefix]


def prefixes() -> list[str]:
    """The prefixes of all registered collections, sorted. Imports none of them."""
    return sorted(_registered())


def refuse_shadowed(target: str) -> None:
    """Raise UsageError when `target` (module:name) lies in a package of ours that another one hides.

    The package names are common words, so a user's own folder `backends` may come first on the path.
    """
    package = target.partition(":")[0].partition(".")[0]
    ours = Path(__file__).resolve().parent.parent / package
    if package not in OUR_PACKAGES or not ours.is_dir():
        return
    found = importlib.util.find_spec(package)
    places = [Path(place).resolve() for place in (found.submodule_search_locations or ())] if found else []
    if ours in places:
        return
    other = str(places[0]) if places else str(found.origin if found else "nothing")
    raise UsageError(
        f"Python finds {other} under the name {package!r}, which hides pruning-conformance's own package "
        f"of that name: run from another folder or rename yours"
    )


def _registered() -> dict[str, str]:
    """Prefix -> `module:attribute` of every registered collection."""
    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _unknown_left(spec: str, left: str) -> str:
    near = _did_you_mean(left, _registered())
    names = ", ".join(prefixes()) or "none"
    return f"{spec!r}: {left!r} is neither a collection ({names}) nor a module that can be imported{near}"


def _importable(package: str) -> bool:
    """Whether Python finds the top-level package or module; imports nothing."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module made by hand, without a spec, or an empty name
        return package in sys.modules


def _allow_working_directory(name: str) -> None:
    """Put the working directory first on the path, but only when it holds the module asked for.

    Always doing so would let any folder there called `backends` hide ours.
    """
    top = name.partition(".")[0]
    here = Path.cwd()
    if ((here / top).is_dir() or (here / f"{top}.py").is_file()) and str(here) not in sys.path:
        sys.path.insert(0, str(here))


def _module_by_name(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise UsageError(f"importing {name} raised {_first_line(error)}{_hidden_package(error)}") from error


def _module_from_file(path: str) -> ModuleType:
    """Run the file as a module; its own folder comes first on the path, as when Python runs it."""
    file = Path(path).resolve()
    name = f"_conformance_user_{file.stem}"
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise UsageError(f"{path} cannot be read as a Python module")
    module = importlib.util.module_from_spec(found)
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    sys.modules[name] = module  # dataclasses and pickling look their module up by name
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(f"running {path} raised {_first_line(error)}{_hidden_package(error)}") from error
    return module


def _hidden_package(error: BaseException) -> str:
    """A hint when the user's code wanted its own package and got ours of the same name."""
    wanted = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if wanted not in OUR_PACKAGES:
        return ""
    return f" (the package {wanted!r} loaded in this process is pruning-conformance's: rename yours)"


def _attribute(module: ModuleType, where: str, name: str) -> Any:
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise UsageError(f"{where} has no callable {name!r}{_did_you_mean(name, known)}")
        target = getattr(target, part)
    return target


def _callable(module: ModuleType, where: str, name: str) -> Callable[[], Any]:
    """The function `name` (dots reach into classes) of the module; it must take no arguments."""
    target = _attribute(module, where, name)
    if isinstance(target, torch.nn.Module):
        raise UsageError(f"{where}:{name} is a module; give a function that builds and returns it")
    if not callable(target):
        raise UsageError(f"{where}:{name} is a {type(target).__name__}, not a callable")
    needed = _required_arguments(target)
    if needed:
        raise UsageError(f"{where}:{name} needs the argument {', '.join(needed)}; give a callable without arguments")
    build: Callable[[], Any] = target
    return build


def _required_arguments(target: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some built-ins have no signature: calling them will tell
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


def _call(build: Callable[[], Any], spec: str) -> tuple[torch.nn.Module, Any]:
    """The module and the inputs (None when there are none) that the user's callable returns."""
    try:
        result = build()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{spec} raised {_first_line(error)}") from error
    module, inputs = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"{spec} returned a {type(result).__name__}, not a torch.nn.Module or (module, inputs)")
    return module, inputs


def _backend(spec: str, call: Callable[[], Any], input_shape: tuple[int, ...] | None, *, source: str) -> Backend:
    first, given = _call(call, spec)
    inputs: Callable[[int, torch.Generator], Inputs]
    if input_shape is not None:
        inputs = normal_inputs(input_shape)
    elif given is not None:
        inputs = ExampleInputs.of(spec, given)
    else:
        raise UsageError(f"{spec} returned no inputs: give --input-shape (without the batch), e.g. 3,64,64")
    return Backend(name=spec, build=_Fresh(call, spec, first), inputs=inputs, source=source)


@contextmanager
def _fixed_randomness() -> Iterator[None]:
    """The user's code draws the same in every run, and the caller's generators stay where they are."""
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002 - what user code draws from
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002


def normal_inputs(shape: tuple[int, ...]) -> Callable[[int, torch.Generator], Inputs]:
    """Inputs of one float tensor (batch, *shape) drawn from a standard normal."""

    def draw(batch: int, generator: torch.Generator) -> Inputs:
        return (torch.randn(batch, *shape, generator=generator, device="cpu"),), {}

    return draw


class _Fresh:
    """Builds a module that nobody else holds, in float32 on the CPU, by calling the user's callable."""

    def __init__(self, call: Callable[[], Any], spec: str, first: torch.nn.Module) -> None:
        self._call, self._spec = call, spec
        self._first = weakref.ref(first)

    def __call__(self) -> torch.nn.Module:
        module, _ = _call(self._call, self._spec)
        if module is self._first():  # the callable hands out one global module: leave the user's alone
            module = copy.deepcopy(module)
        return module.cpu().float()


def _first_line(error: BaseException) -> str:
    """`TypeError: first line of the message`."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


@dataclass(frozen=True)
class ExampleInputs:
    """Positional and keyword arguments as the user's callable returned them.

    batch is dim 0 of the first tensor (None when no tensor has a dimension). Asked for that size, the
    inputs come back as they are. For another size every tensor whose dim 0 is `batch` is drawn anew:
    floats normal with the tensor's own mean and deviation, so that a mask of ones stays one; integers,
    booleans and floats with infinities from the values present, so that indices stay in range.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int | None

    @classmethod
    def of(cls, spec: str, given: Any) -> ExampleInputs:
        """Sort what the callable returned into arguments; UsageError when it is none of the forms."""
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if isinstance(given, torch.Tensor):
            args = (given,)
        elif isinstance(given, dict):
            kwargs = dict(given)
        elif isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict):
            args = given[0] if isinstance(given[0], tuple) else (given[0],)
            kwargs = dict(given[1])
        elif isinstance(given, tuple):
            args = given
        else:
            raise UsageError(
                f"{spec} returned inputs of type {type(given).__name__}: "
                f"give a tensor, a tuple, a dict or (tuple, dict)"
            )
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not tensors:
            raise UsageError(f"{spec} returned inputs without any tensor")
        sizes = [tensor.shape[0] for tensor in tensors if tensor.dim()]
        return cls(args, kwargs, sizes[0] if sizes else None)

    def __call__(self, batch: int, generator: torch.Generator) -> Inputs:
        """Copies of the arguments on the CPU with `batch` samples each."""

        def at_size(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            own = leaf.detach().cpu()
            if batch == self.batch or not own.dim() or own.shape[0] != self.batch:
                return own.clone()
            return _redraw(own, (batch, *own.shape[1:]), generator)

        args, kwargs = pytree.tree_map(at_size, (self.args, self.kwargs))
        return args, kwargs


def _redraw(own: torch.Tensor, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if not own.numel():
        return own.new_empty(shape)
    if own.is_floating_point() and bool(own.isfinite().all()):
        mean, deviation = own.double().mean(), own.double().std(correction=0)
        return (torch.randn(shape, generator=generator, device="cpu") * deviation + mean).to(own.dtype)
    values = own.flatten()
    return values[torch.randint(values.numel(), shape, generator=generator, device="cpu")]
