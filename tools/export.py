"""Export trained weights: python tools/export.py --weights output/X/best.pdparams --out inference/X"""

from paddle_attn.commands import run

if __name__ == "__main__":
    run("export")
