"""Runs suites of models, methods, budgets and seeds; every job ends as a row."""
