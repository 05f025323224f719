"""The words of `OTO`, and those of only_train_once that are other words here: said in an error, never guessed."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from conformance.errors import UsageError
from reference_impls.oto.saliency import Criteria

Function = TypeVar("Function", bound=Callable[..., Any])

BASE = ("first_momentum", "second_momentum", "dampening", "weight_decay")
"""Options of the base optimizer, which those of the family pass on."""

CRITERIA = {
    "magnitude": "magnitude",
    "avg_magnitude": "average",
    "cosine_similarity": "cosine",
    "taylor_first_order": "taylor",
    "taylor_second_order": "taylor2",
}
"""only_train_once's names of HESSO's criteria, and ours."""

_OPTIONS = {
    "fixed_zero_groups": "groups that have left stay at zero, always: leave it out",
    "start_pruning_steps": "it is start_pruning_step",
    "partition_step": "it is start_pruning_step",
    "warm_up_steps": "it is start_pruning_step",
    "half_space_project_steps": "projection begins at start_pruning_step",
    "device": "an optimizer is where the parameters are: move the model before it is made",
    "lora_update_freq": "adapters are trained in every step",
    "momentum": "it is first_momentum",
    "betas": "they are first_momentum and second_momentum",
    "nesterov": "make the base yourself, and HESSO or another class of reference_impls.oto around it",
    "strict_out_nodes": "outputs are never pruned",
    "skip_patterns": "mark_unprunable says which parameters or modules stay",
    "compressed_model_path": "construct_subnet(out_dir) says where",
    "compressed_model_dir": "construct_subnet(out_dir) says where",
    "full_group_sparse_model_dir": "construct_subnet(out_dir) saves the subnet; the full-size model is yours to save",
    "compressed": "the result has both, `full` and `compressed`",
    "in_million": "the result is in single multiply-adds and elements",
    "in_billion": "the result is in single multiply-adds and elements",
}
_ATTRIBUTES = {
    "mark_unprunable_by_node_ids": "there are no node ids: mark_unprunable takes names and patterns of parameters and "
    "modules",
    "visualize": "`conformance explain` lists the groups",
    "visualize_zigs": "`conformance explain` lists the groups",
    "compress": "it is construct_subnet",
    "partition_pzigs": "groups are found when OTO is made",
    "compressed_model_path": "construct_subnet returns the subnet; what it saves, conformance.load_subnet reads",
    "full_group_sparse_model_path": "merged() gives the full-size model",
}


class OtherNameError(UsageError, AttributeError):
    """A name of only_train_once that is another here. `hasattr` finds nothing."""


def attribute(name: str) -> AttributeError:
    """What an attribute that is not there raises."""
    if name in _ATTRIBUTES:
        return OtherNameError(f"OTO has no {name}: {_ATTRIBUTES[name]}")
    return AttributeError(f"'OTO' object has no attribute {name!r}")


def understood(function: Function) -> Function:
    """Around a method of OTO: options it does not know, or lacks, are a UsageError that says which it has.

    importance_score_criteria, where the method has criteria, is turned into them.
    """
    signature = inspect.signature(function)
    named = [one.name for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD][1:]
    known = [*named, *(BASE if len(named) + 1 < len(signature.parameters) else ())]
    title = "OTO" if function.__name__ == "__init__" else f"oto.{function.__name__}"

    @functools.wraps(function)
    def called(self: Any, *args: Any, **given: Any) -> Any:
        if "criteria" in known and "importance_score_criteria" in given:
            if given.get("criteria") is not None:
                raise UsageError(f"{title}: criteria and importance_score_criteria are the same; give one of them")
            given["criteria"] = criteria_of(given.pop("importance_score_criteria"))
        for word in given:
            if word not in known:
                raise UsageError(f"{title} has no option {word!r}: {_hint(word, known)}")
        try:
            signature.bind(self, *args, **given)
        except TypeError as error:
            raise UsageError(f"{title}: {error}") from error
        return function(self, *args, **given)

    return cast("Function", called)


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if word in _OPTIONS:
        return _OPTIONS[word]
    return f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known) or 'none'}"


def criteria_of(given: str | Mapping[str, float]) -> Criteria:
    """only_train_once's weights of HESSO's criteria, 0 for those it does not name; "default" is 0.2 for all five.

    Raises UsageError for other text and for unknown names.
    """
    if given == "default":
        given = dict.fromkeys(CRITERIA, 0.2)
    if not isinstance(given, Mapping):
        raise UsageError(f"importance_score_criteria is a dict of weights or 'default', not {given!r}")
    for name in given:
        if name not in CRITERIA:
            raise UsageError(f"there is no criterion {name!r}: {_hint(name, list(CRITERIA))}")
    weights: dict[str, Any] = {ours: float(given.get(theirs, 0.0)) for theirs, ours in CRITERIA.items()}
    return Criteria(**weights)
