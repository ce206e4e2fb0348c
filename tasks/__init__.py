"""Thin Prefect tasks: one gptcore call each, with its retries and its MLflow run."""
