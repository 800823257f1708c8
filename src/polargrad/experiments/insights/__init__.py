"""What the paper says its frame explains, tested on a small language model."""
