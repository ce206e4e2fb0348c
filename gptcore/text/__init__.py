"""Text: sources, cleaning, deduplication, tokenizer, token shards, skill formats."""
