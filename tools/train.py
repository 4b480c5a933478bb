"""Train a network: python tools/train.py -c configs/towernet_simam.yaml"""

from paddle_attn.commands import run

if __name__ == "__main__":
    run("train")
