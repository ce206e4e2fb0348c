"""Values only: presets, skills/, benchmarks/."""
