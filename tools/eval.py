"""Evaluate trained weights: python tools/eval.py --weights output/X/best.pdparams"""

from paddle_attn.commands import run

if __name__ == "__main__":
    run("eval")
