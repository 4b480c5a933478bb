"""List every model with its size, and what each attention adds: python tools/models.py"""

from paddle_attn.commands import run

if __name__ == "__main__":
    run("models")
