"""What a run leaves in its folder: result.json, and the subnet as plan.json with subnet.safetensors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file

from conformance.cost import parameter_count
from conformance.deploy.store import save_subnet
from conformance.errors import PlanError, UsageError, sentence
from conformance.method.budget import Cost
from conformance.method.config import RunConfig
from conformance.method.host import Result
from conformance.method.masks import Masks
from conformance.method.protocol import Decision
from conformance.method.train import clear
from conformance.partition.selection import Selection
from conformance.report.environment import deciding_versions
from conformance.report.files import write_together

RESULT, MODEL, MASKS = "result.json", "model.safetensors", "masks.safetensors"


class Outcome(BaseModel):
    """result.json: what was asked, and what came of it.

    parameters, and multiply_adds of one sample, are of the model and of its subnet; the latter None for masks.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: str = "1.0"
    config: dict[str, Any]
    versions: dict[str, str]
    facts: dict[str, Any]
    removed: dict[str, float]
    removed_groups: int | None
    parameters: tuple[int, int]
    multiply_adds: tuple[float, float] | None = None
    holds: bool
    verdict: str | None
    verdict_reason: str = ""
    subnet: str
    metrics: dict[str, dict[str, float]]
    seconds: dict[str, float]
    data_used: list[str]
    not_saved: str = ""


def outcome(config: RunConfig, result: Result) -> Outcome:
    """The figures of a result."""
    verdict = result.verdict
    return Outcome(
        config=dataclasses.asdict(config),
        versions=deciding_versions(),
        facts=dataclasses.asdict(result.method.facts),
        removed=result.removed,
        removed_groups=len(result.decision) if isinstance(result.decision, Selection) else None,
        parameters=(parameter_count(result.model), parameter_count(result.subnet)),
        multiply_adds=_multiply_adds(result.decision),
        holds=result.holds,
        verdict=None if verdict is None else verdict.status.value,
        verdict_reason="" if verdict is None else verdict.reason,
        subnet="masked" if isinstance(result.decision, Masks) else type(result.subnet).__name__,
        metrics=result.metrics,
        seconds=result.seconds,
        data_used=list(result.data_used),
    )


def _multiply_adds(decision: Decision) -> tuple[float, float] | None:
    if isinstance(decision, Masks):
        return None
    cost = Cost(decision.groups)
    return cost.size("macs"), cost.size("macs", decision)


def finished(folder: Path, config: RunConfig) -> Outcome | None:
    """The result that `folder` holds, None where there is none yet.

    Raises UsageError for one of another run, and for a file that is no result.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        found = Outcome.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is no result of a run: {sentence(error)}") from error
    asked = json.loads(json.dumps(dataclasses.asdict(config)))
    for name, value in asked.items():
        if found.config.get(name) != value:
            raise UsageError(
                f"{folder} holds the result of another run: {name} was {found.config.get(name)!r}, now {value!r}"
            )
    return found


def write_outcome(folder: Path, config: RunConfig, result: Result) -> Outcome:
    """Write everything of a result into `folder`; result.json comes last, so its presence says that all is there.

    The full-size model with its zeros is model.safetensors (its original names); the subnet is plan.json and
    subnet.safetensors, masks are masks.safetensors. A subnet that a plan cannot express is not saved, and
    result.json says why. Checkpoints of the run in `folder` are removed last: what cannot be written is not lost.
    """
    made = outcome(config, result)
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in result.model.state_dict().items()}
    write_together(folder, {MODEL: lambda path: save_file(state, path)})
    decision = result.decision
    if isinstance(decision, Selection):
        try:
            save_subnet(result.subnet, folder, decision, verdict=result.verdict)
        except PlanError as error:
            made = made.model_copy(update={"not_saved": str(error)})
    else:
        kept = {name: mask.cpu().contiguous() for name, mask in decision.kept.items()}
        write_together(folder, {MASKS: lambda path: save_file(kept, path)})
    write_together(folder, {RESULT: made.model_dump_json(indent=2) + "\n"})
    clear(folder)
    return made
