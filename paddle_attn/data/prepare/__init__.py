"""Making a data set before training: sources, the split, synthetic images. Does not import Paddle."""
