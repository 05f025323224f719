"""A suite that is as small as one can be and still has everything: two methods on one model, trained for an epoch."""

from __future__ import annotations

from reports.bench.runner import Told

TINY = """
name: tiny
caption: as small as can be
defaults:
  task: digits?train=256&validation=64&test=100
  seeds: [0]
  budgets: [macs=0.3]
  dense: {epochs: 1, batch: 64, lr: 0.05}
  recipe: {epochs: 1, batch: 64, lr: 0.02}
  measure: {batches: [2], turns: 7, seconds: 1}
boards:
  - models: ["small:vgg11-w8"]
    methods: [l2, {name: random, recipe: {lr: 0.01}}]
"""
QUIET = Told(lambda *_: None, lambda _: None)
