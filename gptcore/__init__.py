"""Everything of gptmill that is not orchestration."""
