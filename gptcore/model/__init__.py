"""The GPT families and generation."""
