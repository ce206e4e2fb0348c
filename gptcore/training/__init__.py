"""Loop, optimizer, schedule, checkpoints: what pretraining and fine-tuning share."""
