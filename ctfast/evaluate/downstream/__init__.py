"""What generated volumes are worth as training data: the same segmenter trained on real, synthetic and mixed sets."""
