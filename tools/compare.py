"""Compare the evaluations of two runs: python tools/compare.py output/A output/B"""

from paddle_attn.commands import run

if __name__ == "__main__":
    run("compare")
