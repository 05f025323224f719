"""Proves that a structurally pruned subnet computes exactly what the full model computes.

import conformance as pc
graph = pc.trace(model, args)
groups = pc.partition(graph)
choice = groups.sample(fraction=0.5, seed=0)
full, subnet = pc.zero(model, choice), pc.extract(model, choice)
pc.assert_equivalent(full, subnet, args)
"""

from conformance.checks.door import check_model
from conformance.deploy.pretrained import as_pretrained
from conformance.deploy.store import load_subnet, save_subnet
from conformance.diagnosis.assertion import assert_equivalent
from conformance.equivalence.compare import equivalent
from conformance.equivalence.verdict import Status, Verdict
from conformance.graph.tape import Graph
from conformance.graph.trace import trace
from conformance.method.contract.runner import check_method
from conformance.partition.build import partition
from conformance.partition.groups import Groups
from conformance.partition.selection import Selection
from conformance.randomise import randomised
from conformance.subnet.extract import extract, kind_of
from conformance.subnet.zero import zero

__version__ = "0.1.0"

__all__ = [
    "Graph",
    "Groups",
    "Selection",
    "Status",
    "Verdict",
    "as_pretrained",
    "assert_equivalent",
    "check_method",
    "check_model",
    "equivalent",
    "extract",
    "kind_of",
    "load_subnet",
    "partition",
    "randomised",
    "save_subnet",
    "trace",
    "zero",
]
