"""The stage benchmarks."""
