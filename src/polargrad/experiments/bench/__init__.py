"""Speed and accuracy of polar factors and steps, against peers, as ratios in one run."""
