"""Show what a trained network looks at: python tools/explain.py --weights output/X/best.pdparams photo.jpg"""

from paddle_attn.commands import run

if __name__ == "__main__":
    run("explain")
