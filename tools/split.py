"""Make the train/eval split of a folder of photographs: python tools/split.py"""

from paddle_attn.commands import run

if __name__ == "__main__":
    run("split")
