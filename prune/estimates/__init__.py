"""What a step will take, before it runs: memory from the model's shape, work in layer evaluations, time from layers.

Formulas over numbers; nothing here loads weights. They count what this package and transformers keep in memory by name,
in the order in which it exists; `scripts/bench_estimate.py` holds them against measured peaks.
"""
