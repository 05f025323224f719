"""The pruning methods under comparison, one module a family, behind conformance.method."""
