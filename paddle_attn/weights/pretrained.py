"""Pretrained weights: Paddle's own, through Paddle's own cache, or files beside this module."""

from __future__ import annotations

from pathlib import Path

from paddle import nn
from paddle.utils import download

from ..errors import UserError
from .loading import LoadReport, load_weights, shortened


def load_pretrained(net: nn.Layer, name: str, source: str | tuple[str, str] | None) -> LoadReport:
    """Load pretrained weights into a backbone.

    The file must hold the whole backbone. An attention keeps its initial values when the file has none for
    it; so does a classifier of another size.

    Args:
        net: a network of this zoo.
        name: its name, for errors.
        source: the name of a file beside this module, or the address and MD5 of Paddle's ImageNet weights,
            or None when there are no weights for the network (`ModelSpec.weights_source`).

    Raises: UserError when there are no such weights, when the file is missing or holds another network, or
        when the download fails: it names the path for a manual download.
    """
    if source is None:
        raise UserError(
            f"there are no pretrained weights for {name}: "
            f"expected pretrained=False, towernet, or a network for ImageNet that Paddle has weights for"
        )
    path = _fetched(name, *source) if isinstance(source, tuple) else Path(__file__).with_name(source)
    report = load_weights(net, path, strict=False)
    missing = [key for key in report.missing if "attn." not in key]
    mismatched = [line for line in report.mismatched if not line.startswith(net.classifier_name)]
    if missing or mismatched or report.unexpected:
        problems = shortened([*missing, *mismatched, *report.unexpected])
        raise UserError(f"{path} does not hold {name}: {problems}")
    return report


def _fetched(name: str, url: str, md5: str) -> str:
    """The path of a download, which Paddle keeps for the next time."""
    try:
        return download.get_weights_path_from_url(url, md5)
    except (RuntimeError, OSError) as error:
        place = Path(download.WEIGHTS_HOME) / url.rpartition("/")[2]
        raise UserError(
            f"could not fetch {name}'s ImageNet weights ({error}): "
            f"download {url} elsewhere and put it at {place}"
        ) from None
