"""Where images come from: the split, the folders, the preprocessing. `split` and what it needs do not import Paddle."""
