"""Classify images with an exported network: python tools/predict.py --model inference/X photo.jpg folder"""

from paddle_attn.commands import run

if __name__ == "__main__":
    run("predict")
