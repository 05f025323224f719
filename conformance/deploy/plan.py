"""The plan of a saved subnet: plan.json, from which it is rebuilt around the weights beside it.

Everything in it is names, sizes and digests; nothing is code. A digest over all the rest tells a
damaged plan from a whole one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from conformance.errors import PlanError

FORMAT: Literal["pruning-conformance/subnet"] = "pruning-conformance/subnet"
VERSION: Literal[1] = 1
PLAN_FILE, WEIGHTS_FILE = "plan.json", "subnet.safetensors"

Size = Annotated[StrictInt, Field(ge=0)]
Digest = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
Dimension = Annotated[int, Field(ge=0)]  # a key of a JSON object is text


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorShape(_Part):
    """Shape and dtype (as torch writes it, without `torch.`) of one tensor."""

    shape: tuple[Size, ...]
    dtype: StrictStr

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


class ModelPrint(_Part):
    """What the original model looks like, whatever its weights are.

    tied: names that are one tensor. modules: path -> digest of class name and plain attributes.
    loose: tensors that are neither parameters nor buffers, which the files cannot bring along.
    """

    parameters: dict[str, TensorShape]
    buffers: dict[str, TensorShape]
    tied: tuple[tuple[str, ...], ...]
    modules: dict[str, Digest]
    loose: dict[str, Digest]


class TapePrint(_Part):
    """The traced pass the selection was made on: its inputs, where it ran, and a digest of its operations."""

    inputs: tuple[TensorShape, ...]
    device: Literal["meta", "real"]
    operations: Digest


class Attribute(_Part):
    """A size that a module of the original class reads from itself; place is its index in a tuple or list."""

    module: StrictStr
    name: StrictStr
    place: Size | None
    value: Annotated[StrictInt, Field(ge=1)]


class Weights(_Part):
    """The file of weights: how long it is, its SHA-256, and every tensor in it."""

    length: Size
    sha256: Digest
    tensors: dict[str, TensorShape]


class Proof(_Part):
    """What the subnet was compared with before it was written: the full model with the slices at zero."""

    status: Literal["equal", "different", "unsupported"]
    oracle: StrictStr
    compared: Size
    reason: StrictStr = ""


class Plan(_Part):
    """A saved subnet, apart from its weights. Positions are those of the original model.

    carry says which partition of the model the slices are whole groups of. whole_width names the norms that
    go on counting the original width. verdict is None when the subnet was saved without a proof.
    """

    format: Literal["pruning-conformance/subnet"] = FORMAT
    version: Literal[1] = VERSION
    kind: Literal["same class", "graph"]
    versions: dict[str, str]
    model: ModelPrint
    tape: TapePrint
    carry: Annotated[StrictStr, Field(pattern="^(auto|outer|inner)$")]
    slices: dict[str, dict[Dimension, tuple[Size, ...]]]
    attributes: tuple[Attribute, ...]
    whole_width: tuple[StrictStr, ...]
    weights: Weights
    verdict: Proof | None

    @property
    def needs_inputs(self) -> bool:
        """Whether rebuilding traces the original model again."""
        return self.kind == "graph" or bool(self.whole_width)

    def expected(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter or buffer of the subnet. Raises PlanError for slices that do not fit."""
        full = (self.model.parameters | self.model.buffers)[name].shape
        removed = self.slices.get(name, {})
        for dim, positions in removed.items():
            if dim >= len(full):
                raise PlanError(f"the plan removes positions of dimension {dim} of {name}, which has {len(full)}")
            if list(positions) != sorted(set(positions)) or not positions or positions[-1] >= full[dim]:
                raise PlanError(f"the plan removes positions of {name} that its dimension {dim} does not have")
            if len(positions) == full[dim]:
                raise PlanError(f"the plan removes every position of dimension {dim} of {name}")
        return tuple(size - len(removed.get(dim, ())) for dim, size in enumerate(full))


def write_plan(plan: Plan) -> str:
    """The text of plan.json."""
    data = plan.model_dump(mode="json")
    return json.dumps({**data, "digest": _digest(data)}, indent=1) + "\n"


def read_plan(folder: Path | str) -> Plan:
    """The plan in a folder. Raises PlanError, naming what is wrong with it."""
    path = Path(folder) / PLAN_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        data = json.loads(content)
        if not isinstance(data, dict):
            raise PlanError(f"{path} is not the plan of a subnet: it holds no fields")
        digest = data.pop("digest", None)
        computed = _digest(data)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is damaged: it is no JSON text") from error
    if data.get("format") != FORMAT:
        raise PlanError(f"{path} is not the plan of a subnet: its format is not {FORMAT!r}")
    if data.get("version") != VERSION or isinstance(data["version"], bool):
        raise PlanError(f"{path} has version {str(data.get('version'))[:20]!r}; this release reads version {VERSION}")
    if digest != computed:
        raise PlanError(f"{path} is damaged: its digest is not that of its content")
    try:
        return Plan.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PlanError(f"{path} is no valid plan: {place}: {first['msg']}") from error


def _digest(data: dict[str, Any]) -> str:
    """SHA-256 of the content, whatever its order of keys and its blanks."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
