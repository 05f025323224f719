"""Pruning methods behind one interface: what a method declares, what it is given, and who runs it."""
