"""Train a grid of variants over folds and seeds: python tools/study.py -c configs/studies/demo.yaml"""

from paddle_attn.commands import run

if __name__ == "__main__":
    run("study")
