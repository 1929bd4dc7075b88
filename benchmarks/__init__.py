"""Measurements, side by side and interleaved, in CPU time and by ratio. `scripts/bench` runs them."""
