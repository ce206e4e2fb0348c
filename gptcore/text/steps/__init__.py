"""What is done to one document's text between reading and splitting: one file a step."""
