"""Optimizers compared on a language model, each at the learning rates of a sweep."""
