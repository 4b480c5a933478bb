# The source of the two notebooks: cells in the percent format, texts in both languages, the code once.
# `python notebooks/build.py` writes aistudio.ipynb and aistudio.en.ipynb from it.
# ruff: noqa: E402

# %% [markdown] zh
# # paddle_attn 入门：训练、解释和部署带注意力模块的网络
#
# 本 notebook 从头到尾演示一遍完整流程：准备图片、训练 TowerNet-SimAM、查看曲线和混淆矩阵、用 Grad-CAM
# 看网络关注哪里、比较两种注意力、导出、预测。
#
# **在 AI Studio 上使用**：把项目文件夹（克隆或解压的压缩包）放到 `work/`，打开本文件，点击“全部运行”。
# 照片所在的数据集挂载在 `data/`；结果写入 `work/`，重新启动环境后仍然保留。**在克隆的项目中使用**：
# 直接打开 `notebooks/aistudio.ipynb`，照片取自 `datasets/`，结果写入项目文件夹。
#
# `python notebooks/build.py --execute` 在合成的演示图片上运行全部代码并保存输出。
# 英文版是 `aistudio.en.ipynb`，两者代码相同。

# %% [markdown] en
# # A first tour of paddle_attn: train, explain and deploy a network with attention
#
# This notebook goes through all steps: prepare images, train TowerNet-SimAM, look at its curves and its
# confusion matrix, see with Grad-CAM what the network looks at, compare two attentions, export, predict.
#
# **On AI Studio**: put the folder of the project (a clone, or an unpacked archive) into `work/`, open this
# file and run all cells. Data sets with photographs are mounted in `data/`; the results go to `work/`, which
# outlives the session. **In a clone**: open `notebooks/aistudio.en.ipynb` where it is. Photographs come from
# `datasets/`, and the results go to the folder of the project.
#
# `python notebooks/build.py --execute` runs the code on the synthetic demo images and stores the outputs.
# The Chinese twin is `aistudio.ipynb`; its code is the same.

# %% [markdown] zh
# ## 1. 安装
#
# 先找到工作文件夹和项目；如果还没有安装 `paddle_attn`，就用 pip 从项目文件夹安装。
# 环境中没有 Paddle 时，同时安装 CPU 版。

# %% [markdown] en
# ## 1. Install
#
# Find the folder to work in and the project. If `paddle_attn` is not installed, pip installs it from the
# folder of the project, with Paddle for the CPU where there is no Paddle.

# %%
import importlib.util
import os
import subprocess
import sys
from pathlib import Path


def is_project(folder):
    return (folder / "setup.py").is_file() and (folder / "paddle_attn" / "__init__.py").is_file()


here = Path.cwd()
around = [here, *here.parents]
home = next((folder for folder in around if (folder / "data").is_dir() and (folder / "work").is_dir()), None)
if home:
    projects = filter(is_project, [*around, *sorted(home.glob("work/*")), *sorted(home.glob("*"))])
    archives, workplace = Path("..", "data"), home / "work"
else:
    projects = filter(is_project, around)
    archives, workplace = Path("datasets"), next(filter(is_project, around), here)
os.chdir(workplace)

package = importlib.util.find_spec("paddle_attn")
if package is None or package.origin is None:
    project = next(projects, None)
    if project is None:
        raise FileNotFoundError("expected the folder of the project, a clone or unpacked archive, in work/")
    wanted = str(project) if importlib.util.find_spec("paddle") else f"{project}[cpu]"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", wanted], check=True)
    sys.path.append(str(project))

import paddle_attn
from paddle_attn.cli import prepare_paddle

prepare_paddle()
print("paddle_attn", paddle_attn.__version__)

# %% [markdown] zh
# `prepare_paddle()` 设置 CPU 线程和内存分配，然后导入 Paddle；它必须在其他代码导入 Paddle 之前运行。

# %% [markdown] en
# `prepare_paddle()` sets the CPU's threads and memory allocation, then imports Paddle. It must run before
# other code imports Paddle.

# %% [markdown] zh
# ## 2. 划分图片
#
# 如果 `data/`（克隆的项目中是 `datasets/`）里有 `Images.zip` 或其他按类别分文件夹的 zip 压缩包，
# 就使用其中的照片；没有照片时，绘制 16 类共 1,600 张合成图片。每类的五分之一用于评估，其余用于训练。
# 命令行的写法是 `paddle-attn split`。

# %% [markdown] en
# ## 2. Split the images
#
# `Images.zip`, or another zip with one folder per class, is taken from `data/` (in a clone: `datasets/`).
# Without photographs, 1,600 synthetic images of 16 classes are drawn. One image in five of each class is for
# evaluation, the others for training. On the command line this is `paddle-attn split`.

# %%
import json

from paddle_attn.data.prepare.sources import class_names
from paddle_attn.data.prepare.split import make_split

found = [*sorted(archives.rglob("Images.zip")), *sorted(archives.rglob("*.zip"))]
source = next((str(path) for path in found if len(class_names(path)) > 1), "demo")
if source == "demo":
    print(f"There are no photographs in {archives}: this run uses synthetic demo images.")

data = Path("datasets", "notebook-demo" if source == "demo" else f"notebook-{Path(source).stem}")
if not (data / "split.json").is_file():
    make_split(source, data)
split = json.loads((data / "split.json").read_text(encoding="utf-8"))
for part in ("train", "eval"):
    print(part, sum(count[part] for count in split["counts"].values()), "images")

# %% [markdown] zh
# ## 3. 查看样本
#
# 每个类别一张训练图片，最多 16 类。`show` 把图片缩小后显示，使保存的 notebook 保持小巧。

# %% [markdown] en
# ## 3. Look at samples
#
# One training image of each class, of at most 16 classes. `show` displays a picture so small that the saved
# notebook stays small.

# %%
import io

import numpy as np
from IPython.display import Image as Picture
from IPython.display import display
from PIL import Image

from paddle_attn.train.plots import plot_samples


def show(picture, width=900):
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else Image.open(picture)
    image = image.convert("RGB")
    image.thumbnail((width, 2 * width))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    display(Picture(file.getvalue()))


def pixels(files):
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((128, 128))) for file in files])


names = split["classes"][:16]
samples = [min((data / "train" / name).iterdir()) for name in names]
show(plot_samples(pixels(samples), names), width=560)

# %% [markdown] zh
# ## 4. 训练
#
# 配置 `demo` 以 128 像素训练 TowerNet；`-o` 式的选项替换其中的值，注意力只是其中一个词。
# SimAM 没有参数，所以参数量与没有注意力的网络相同。
#
# 进度条显示损失、top-1、速度和剩余时间。点击“停止”（■）时，当前一步完成并保存后训练才结束；
# 给选项加上 `train.resume=auto` 再运行，就会继续训练。命令行的写法是 `paddle-attn train -c demo -o …`。

# %% [markdown] en
# ## 4. Train
#
# The config `demo` trains TowerNet at 128 px. Options like those of `-o` replace its values; the attention is
# one word among them. SimAM has no parameters, so the network has as many as without attention.
#
# The bar shows loss, top-1, speed and the time left. "Interrupt" (■) ends the training when the current step
# is done and saved; with the option `train.resume=auto` the cell then continues it. On the command line this
# is `paddle-attn train -c demo -o …`.

# %%
from paddle_attn import create_model, load_config, profile
from paddle_attn.train import fit

EPOCHS = 4


def config_with(attention):
    run = f"output/notebook/{data.name}-{attention}"
    return load_config(
        "demo",
        [f"data.root={data}", f"model.attn={attention}", f"train.epochs={EPOCHS}", f"train.output={run}"],
    )


for attention in (None, "se", "simam"):
    net = create_model("towernet", attention, num_classes=len(split["classes"]))
    print(f"{attention or 'none':6s}{profile(net, size=128)}")

# %%
simam = config_with("simam")
history = fit(simam)

# %% [markdown] zh
# ## 5. 曲线
#
# 训练和评估的损失、top-1，以及学习率。`visualdl --logdir output` 可以看到更多。

# %% [markdown] en
# ## 5. Curves
#
# Loss and top-1 of training and evaluation, and the learning rate. `visualdl --logdir output` shows more.

# %%
run = Path(simam.train.output)
show(run / "curves.png")

# %% [markdown] zh
# ## 6. 评估和混淆矩阵
#
# 用最好的一个 epoch 的权重评估。括号中是 95 % 置信区间：评估图片只有几百张，准确率只能知道到这个程度。
# 命令行的写法是 `paddle-attn eval`。

# %% [markdown] en
# ## 6. Evaluation and confusion matrix
#
# The weights of the best epoch are evaluated. In brackets is the 95 % interval: with a few hundred images,
# accuracy is known no better than that. On the command line this is `paddle-attn eval`.

# %%
from paddle_attn.train import evaluate_config

result = evaluate_config(simam, run / "best.pdparams")
low, high = result.top1_interval
interval = f"({100 * low:.1f} to {100 * high:.1f})"
print(f"top-1 {100 * result.top1:.2f} % {interval} of {result.images} images")
show(run / "confusion.png", width=640)

# %% [markdown] zh
# ## 7. Grad-CAM：网络看哪里
#
# 每一对的左边是图片，右边是 Grad-CAM：亮的地方对预测的类别贡献大。命令行的写法是 `paddle-attn explain`，
# 它也可以显示注意力本身的门控，并检验这些图是否可信。

# %% [markdown] en
# ## 7. Grad-CAM: what the network looks at
#
# On the left is the image, on the right Grad-CAM: bright places speak for the predicted class. On the command
# line this is `paddle-attn explain`, which also shows the gates of the attention itself and judges whether
# the maps can be believed.

# %%
from paddle_attn.explain.command import Options, Trained, explain

files = [str(min((data / "eval" / name).iterdir())) for name in names[:4]]
trained = Trained.load(simam, run / "best.pdparams")
print(*explain([trained], files, Options(run / "explain.png"), on_error=print), sep="\n")
show(run / "explain.png", width=640)

# %% [markdown] zh
# ## 8. 比较两种注意力
#
# 用完全相同的设置训练带 SE 的 TowerNet，然后在同样的评估图片上比较。每种注意力只用一个随机种子训练了一次：
# 即使差异显著，也只说明这两次训练不同，不能说明哪种注意力更好。要回答这个问题，需要多个种子和多折，
# 见 `paddle-attn study`。

# %% [markdown] en
# ## 8. Compare two attentions
#
# TowerNet with SE is trained with the same settings, then both are compared on the same evaluation images.
# Each attention is trained once, from one seed. Even a significant difference is one between these two runs,
# and does not say which attention is better. That question needs several seeds and folds:
# `paddle-attn study`.

# %%
from paddle_attn.diagnose import compare_runs

se = config_with("se")
fit(se)
se_run = Path(se.train.output)
se_result = evaluate_config(se, se_run / "best.pdparams")

# %%
compared = compare_runs(se_run, run, "output/notebook/compare")
for name, side, alone in (("SE", compared.a, compared.only_a), ("SimAM", compared.b, compared.only_b)):
    print(f"{name:6s}top-1 {100 * side.metrics['top1']:.2f} %, {len(alone)} images that only it gets right")
low, high = compared.difference_interval
interval = f"(95 % interval {100 * low:+.2f} to {100 * high:+.2f})"
print(f"SimAM - SE: {100 * compared.difference:+.2f} percentage points {interval}")
print("run a is SE, run b is SimAM:", compared.verdict)

# %% [markdown] zh
# ## 9. 导出
#
# 导出为 Paddle Inference 的格式，并在评估图片上与原网络对比概率。`format="onnx"`
# 导出 ONNX（需要安装选项 `onnx`）。命令行的写法是 `paddle-attn export`。

# %% [markdown] en
# ## 9. Export
#
# The network is exported for Paddle Inference, and its probabilities are compared with the network's on
# evaluation images. `format="onnx"` writes ONNX (it needs the extra `onnx`). On the command line this is
# `paddle-attn export`.

# %%
from paddle_attn.deploy import export_config

exported = export_config(simam, run / "best.pdparams", "inference/notebook")
print(f"checked on {exported.source}: the largest difference of a probability is {exported.difference:.0e}")
print(*sorted(path.name for path in Path("inference/notebook").iterdir()))

# %% [markdown] zh
# ## 10. 预测
#
# 用导出的网络对评估图片分类。下面的图中，第一行是真实类别，第二行是预测。
# 命令行的写法是 `paddle-attn predict`。

# %% [markdown] en
# ## 10. Predict
#
# The exported network classifies evaluation images. Below each image are its class and the prediction. On
# the command line this is `paddle-attn predict`.

# %%
files = [max((data / "eval" / name).iterdir()) for name in names]
predictor = paddle_attn.Predictor("inference/notebook")
predictions = predictor.predict([str(file) for file in files], topk=3)
for prediction in predictions[:4]:
    scores = zip(prediction["labels"], prediction["scores"], strict=True)
    best = ", ".join(f"{label} {100 * score:.1f} %" for label, score in scores)
    print(f"{Path(prediction['path']).parent.name}: {best}")
labels = [prediction["labels"][0] for prediction in predictions]
show(plot_samples(pixels(files), names, labels), width=560)

# %% [markdown] zh
# ## 接下来
#
# - 换一种注意力：把 `"simam"` 改为 `paddle_attn.list_attention()` 中的另一个名字。
# - 换一个网络：使用另一个配置，如 `load_config("resnet50_simam", …)`；`paddle-attn configs` 列出全部。
# - 训练得更久：增大 `EPOCHS`，或去掉 `train.epochs`，使用配置中的值。
# - 项目文件夹中的 `README.zh-CN.md` 和 `docs/` 介绍其余内容。

# %% [markdown] en
# ## Next
#
# - Another attention: replace `"simam"` by another name of `paddle_attn.list_attention()`.
# - Another network: take another config, such as `load_config("resnet50_simam", …)`; `paddle-attn configs`
#   lists them all.
# - A longer training: raise `EPOCHS`, or leave `train.epochs` out, for the value of the config.
# - `README.md` and `docs/` in the folder of the project describe the rest.
