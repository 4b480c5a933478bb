"""From the config to objects: device, preprocessing, batches, network, trained network.

Training, evaluation, export and explanation build the same things from a config here; the packages below take
plain arguments.
"""

from .data import make_loader, make_preprocess
from .network import check_model, load_trained, make_network, set_device

__all__ = ["check_model", "load_trained", "make_loader", "make_network", "make_preprocess", "set_device"]
