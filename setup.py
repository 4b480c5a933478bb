"""An environment holds one of Paddle's wheels, CPU or GPU: the extra `cpu` installs the first."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(
    r'__version__ = "(.+)"', (here / "paddle_attn" / "__init__.py").read_text(encoding="utf-8")
).group(1)

OPENVINO = ["openvino>=2025,<2027"]
ONNX = [
    "ml_dtypes>=0.4,<1",  # needed by ONNX Runtime's quantisation
    "onnx>=1.17,<1.18",  # paddle2onnx 2.1 needs it
    "onnxruntime>=1.17,<2",
    "paddle2onnx>=2.1,<2.2",
]

setup(
    name="paddle_attn",
    version=version,
    description="Attention modules for convolutional networks in Paddle, checked against the authors' code",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    keywords="attention SimAM SE CBAM SGE ECA convolutional-networks image-classification PaddlePaddle",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Natural Language :: Chinese (Simplified)",
        "Natural Language :: English",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["paddle_attn", "paddle_attn.*"]), "paddle_attn.configs"],
    package_dir={"paddle_attn.configs": "configs"},
    package_data={
        "paddle_attn": ["py.typed"],
        "paddle_attn.configs": ["*.yaml", "*/*.yaml"],
        "paddle_attn.ops": ["*.h", "*/*.h", "*/*.cc"],  # compiled on first use
        "paddle_attn.weights": ["*.safetensors"],  # of towernet
    },
    entry_points={"console_scripts": ["paddle-attn = paddle_attn.commands:main"]},
    install_requires=[
        "matplotlib>=3.7,<4",
        "numpy>=1.26,<2.4",  # from 2.4 on, float() of Paddle 3.3's one-element tensors fails
        "pillow>=10,<14",
        "pyyaml>=6,<7",
        "rich>=13,<16",
        "safetensors>=0.7,<1",  # older ones lack Paddle 3's tensor types
        "visualdl>=2.5,<3",
    ],
    extras_require={
        "cpu": ["paddlepaddle>=3.3,<3.4"],
        "onnx": ONNX,  # export.py --format onnx, and ONNX Runtime
        "openvino": OPENVINO,  # the fastest engine on most CPUs
        "web": ["gradio>=6.31,<7"],  # the page of `paddle-attn serve`
        "bench": ["torch>=2.4,<3", *ONNX, *OPENVINO],  # the baselines of tools/benchmark.py
        "notebook": ["ipykernel>=6.29,<8", "nbclient>=0.10,<1"],  # runs notebooks/ for build.py and its test
        "dev": [
            "hypothesis>=6.100,<7",
            "nbformat>=5.9,<6",
            "pytest>=8,<10",
            "pytest-xdist>=3.5,<4",
            "ruff>=0.17,<0.18",
            "selenium>=4.20,<5",
        ],
    },
)
