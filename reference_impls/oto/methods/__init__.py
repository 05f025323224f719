"""The sparse optimizers as methods: their options in shares of a training run, whatever its length."""
