"""Benchmarks on lm-eval's own task definitions, from local files or the hub, with every example's scores."""
