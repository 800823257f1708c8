"""Sweeps over learning rates and over the accuracy of the polar factor."""
