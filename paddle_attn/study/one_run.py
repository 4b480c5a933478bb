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

if TYPE_CHECKING:
    from ..config import Config
    from .results import Prediction

SUMMARY, PREDICTIONS = "study_run.json", "study_predictions.csv"


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
    from .results import Prediction, to_csv

    history = fit(config)
    network, predictions = predict(config)
    write_text(Path(config.train.output, PREDICTIONS), to_csv(predictions, Prediction))
    cost, last = profile(network, make_preprocess(config).size), history[-1]
    summary = {
        "top1": last.eval_top1,
        "top5": last.eval_top5,
        "loss": last.eval_loss,
        "images": len(predictions),
        "parameters": cost.params,
        "macs": cost.macs,
        "epochs": len(history),
        "seconds_per_epoch": round(statistics.median(metrics.seconds for metrics in history), 3),
    }
    write_text(Path(config.train.output, SUMMARY), json.dumps(summary) + "\n")


def predict(config: Config) -> tuple[object, list[Prediction]]:
    """The network after the last epoch, and its predictions for the eval images."""
    import paddle
    import paddle.nn.functional as F

    from .. import ops
    from ..builders import load_trained, make_loader, set_device
    from .results import Prediction

    set_device(config.train.device)
    loader = make_loader(config, "eval")
    network, classes = load_trained(config, Path(config.train.output, "last.pdparams"))
    dataset, found = loader.dataset, []
    root = getattr(dataset, "root", "")
    with ops.using(config.train.ops), paddle.no_grad():
        for images, labels in loader:
            probabilities = F.softmax(network(images), axis=1).numpy()
            for row, true in zip(probabilities, labels.numpy().tolist(), strict=True):
                name, best = dataset.name(len(found)), int(row.argmax())
                path = Path(os.path.relpath(name, root)).as_posix() if root else name
                values = (f"{row[index]:.6g}" for index in (true, best))
                found.append(Prediction(path, classes[true], classes[best], *map(float, values)))
    return network, found


if __name__ == "__main__":
    main()
