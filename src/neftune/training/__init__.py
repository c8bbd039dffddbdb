"""One run: load, fine-tune."""
