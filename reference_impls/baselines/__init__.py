"""Criteria that rank groups, and the regularisers that are paired with them."""
