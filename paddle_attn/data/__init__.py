"""Data: the data sets, the loader that makes batches, the transforms of an image; `prepare` makes splits.

`prepare` and `images` do not import Paddle, so neither does this file.
"""
