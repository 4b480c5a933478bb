"""Serve a page and an HTTP API for exported networks: python tools/serve.py inference/X"""

from paddle_attn.commands import run

if __name__ == "__main__":
    run("serve")
