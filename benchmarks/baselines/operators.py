"""Profile an exported model by operator: python -m benchmarks.baselines.operators FOLDER SIZE RUNS"""

from __future__ import annotations

import sys

from paddle_attn.cli import prepare_paddle

prepare_paddle()

import numpy as np  # noqa: E402
from paddle import inference  # noqa: E402

folder, size, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = inference.Config(f"{folder}/inference.json", f"{folder}/inference.pdiparams")
config.disable_gpu()
config.set_cpu_math_library_num_threads(2)
config.enable_new_ir()
config.enable_new_executor()
config.enable_profile()  # the engine prints the table when it is deleted
engine = inference.create_predictor(config)
for _ in range(runs):
    engine.get_input_handle(engine.get_input_names()[0]).copy_from_cpu(
        np.zeros([1, 3, size, size], "float32")
    )
    engine.run()
del engine
