"""Scores, baselines, overlap and the report."""
