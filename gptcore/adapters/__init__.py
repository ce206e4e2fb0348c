"""One file an outside service: MLflow, lm-eval, Hugging Face. Nothing else imports those."""
