"""Convert a PyTorch checkpoint: python tools/convert.py model.pth.tar --arch resnet50 --attn simam"""

from paddle_attn.commands import run

if __name__ == "__main__":
    run("convert")
