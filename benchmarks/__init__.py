"""Studies that end in a table in ``benchmarks/results`` or ``reports/baselines``; the project runs without them."""
