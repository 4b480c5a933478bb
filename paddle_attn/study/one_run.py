"""One run of a study, in a process of its own: python -m paddle_attn.study.one_run CONFIG

Trains as `paddle-attn train` does, then tests the weights of the last epoch. Writes `study_run.json` and
`study_predictions.csv` to the run's folder. It stops, as on SIGTERM, when the study's process ends.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli import one_sentence_errors, prepare_paddle
from .plan import PREDICTIONS, SUMMARY

if TYPE_CHECKING:
    from paddle import nn

    from ..config import Config
    from ..train.predictions import Predictions


def main() -> None:
    with one_sentence_errors():
        threading.Thread(target=_stop_with_the_study, daemon=True).start()
        prepare_paddle()
        from ..config import load_config

        run(load_config(sys.argv[1]))


def _stop_with_the_study() -> None:
    """Standard input is a pipe on which the study writes nothing: it ends with the study's process."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def run(config: Config) -> None:
    """Train, or continue, the run of a config and test it."""
    from ..builders import make_preprocess
    from ..files import write_text
    from ..models.complexity import profile
    from ..train import fit

    history = fit(config)
    network, predictions = predict(config)
    predictions.write(Path(config.train.output, PREDICTIONS))
    cost, last = profile(network, make_preprocess(config).size), history[-1]
    summary = {
        "top1": last.eval_top1,
        "top5": last.eval_top5,
        "loss": last.eval_loss,
        "images": len(predictions.labels),
        "parameters": cost.params,
        "macs": cost.macs,
        "epochs": len(history),
        "seconds_per_epoch": round(statistics.median(metrics.seconds for metrics in history), 3),
    }
    write_text(Path(config.train.output, SUMMARY), json.dumps(summary) + "\n")


def predict(config: Config) -> tuple[nn.Layer, Predictions]:
    """The network after the last epoch, and its predictions for the eval images."""
    import numpy as np
    import paddle

    from .. import ops
    from ..builders import load_trained, make_loader, set_device
    from ..train.predictions import Predictions

    set_device(config.train.device)
    loader = make_loader(config, "eval")
    network, _ = load_trained(config, Path(config.train.output, "last.pdparams"))
    with ops.using(config.train.ops), paddle.no_grad():
        logits = [network(images).numpy() for images, _ in loader]
    dataset = loader.dataset
    labels = np.array([dataset.label(index) for index in range(len(dataset))])
    return network, Predictions(dataset, labels, np.concatenate(logits))


if __name__ == "__main__":
    main()
