"""Paddle's own ImageNet weights, through Paddle's own cache."""

from __future__ import annotations

from pathlib import Path

from paddle import nn
from paddle.utils import download

from ..errors import UserError
from .loading import LoadReport, load_weights, shortened


def load_pretrained(net: nn.Layer, name: str, source: tuple[str, str] | None) -> LoadReport:
    """Load Paddle's ImageNet weights into a backbone.

    The file must hold the whole backbone. An attention keeps its initial values, because the file has none
    for it; so does a classifier of another size.

    Args:
        net: a network of this zoo.
        name: its name, for errors.
        source: the address and MD5 of the file, or None when Paddle has no weights for the network.

    Raises: UserError when there are no such weights, or when the download fails: it names the path for a
        manual download.
    """
    if source is None:
        raise UserError(
            f"there are no ImageNet weights for {name}: "
            f"expected pretrained=False, or a model that Paddle has weights for"
        )
    url, md5 = source
    try:
        path = download.get_weights_path_from_url(url, md5)
    except (RuntimeError, OSError) as error:
        place = Path(download.WEIGHTS_HOME) / url.rpartition("/")[2]
        raise UserError(
            f"could not fetch {name}'s ImageNet weights ({error}): "
            f"download {url} elsewhere and put it at {place}"
        ) from None
    report = load_weights(net, path, strict=False)
    missing = [key for key in report.missing if "attn." not in key]
    mismatched = [line for line in report.mismatched if not line.startswith(net.classifier_name)]
    if missing or mismatched or report.unexpected:
        problems = shortened([*missing, *mismatched, *report.unexpected])
        raise UserError(f"{path} does not hold {name}: {problems}")
    return report
