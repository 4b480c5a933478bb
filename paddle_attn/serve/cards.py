"""What the page shows of a picture: itself, the classes of each network, what each looks at."""

from __future__ import annotations

from PIL import Image

from ..plotting.page import Markup, join, markup, picture
from .desk import Seen
from .models import Answer, Look
from .pictures import THUMBNAIL
from .texts import Refused, say

LOOK = 224  # pixels, the side of a map

STYLE = """
.pa-cards { display: flex; flex-direction: column; gap: 1rem }
.pa-card { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; padding: 1rem; border-radius: .6rem;
  border: 1px solid var(--border-color-primary); background: var(--background-fill-primary) }
.pa-card p { margin: 0 }
.pa-picture { flex: 0 1 11rem; min-width: 8rem }
.pa-picture img { width: 100%; max-height: 14rem; display: block; object-fit: contain;
  object-position: left top }
.pa-note { opacity: .75; font-size: .8rem; line-height: 1.4;
  overflow-wrap: anywhere }
.pa-models { flex: 1 1 18rem; min-width: 0; display: grid; gap: 1rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr)) }
.pa-model { min-width: 0 }
.pa-title { font-weight: 600; overflow-wrap: anywhere }
.pa-classes { margin: .4rem 0 .6rem; padding: 0; list-style: none }
.pa-classes li { display: grid; grid-template-columns: 1fr auto; column-gap: .5rem; margin: 0 0 .35rem;
  line-height: 1.3; font-size: .9rem }
.pa-classes li > span { overflow-wrap: anywhere }
.pa-classes li:first-child { font-weight: 600 }
.pa-classes b { font-weight: inherit; font-variant-numeric: tabular-nums }
.pa-classes i { grid-column: 1 / -1; height: .35rem; border-radius: .2rem; overflow: hidden; display: block;
  background: var(--border-color-primary) }
.pa-classes i::before { content: ""; display: block; height: 100%; width: var(--score); background: #0072b2 }
.pa-looks { display: grid; grid-template-columns: repeat(2, minmax(0, 11rem)); gap: .6rem }
.pa-looks figure { margin: 0 }
.pa-looks img { width: 100%; display: block; border-radius: .3rem }
.pa-card .pa-picture .pa-note, .pa-looks .pa-note { margin-top: .3rem }
.pa-error { flex-direction: column; gap: .2rem; border-left: .3rem solid #d55e00 }
.dark .pa-classes i::before { background: #56b4e9 }
"""


def cards(*parts: Markup) -> Markup:
    return Markup(f'<div class="pa-cards">{join(parts)}</div>')


def note(text: str) -> Markup:
    return Markup(f'<p class="pa-note" role="status">{markup(text)}</p>')


def error_card(name: str, refused: Refused, language: str) -> Markup:
    """A picture that is not answered: its name, and why."""
    return Markup(
        f'<section class="pa-card pa-error" role="alert"><p>{markup(refused.sentence(language))}</p>'
        f'<p class="pa-note">{markup(name)}</p></section>'
    )


def answer_card(name: str, seen: Seen, language: str) -> Markup:
    """A picture with its name and size, and the answer of each network beside it."""
    width, height = seen.size
    models = join(_model(answer, language) for answer in seen.answers)
    size = say(language, "pixels", width=width, height=height)
    return Markup(
        f'<section class="pa-card"><div class="pa-picture">{picture(seen.thumbnail, name, THUMBNAIL)}'
        f'<p class="pa-note">{markup(name)}<br>{markup(size)}</p></div>'
        f'<div class="pa-models">{models}</div></section>'
    )


def _model(answer: Answer, language: str) -> Markup:
    classes = join(
        Markup(
            f"<li><span>{markup(label)}</span><b>{100 * score:.1f} %</b>"
            f'<i style="--score:{100 * score:.2f}%" aria-hidden="true"></i></li>'
        )
        for label, score in zip(answer.labels, answer.scores, strict=True)
    )
    time = say(language, "time", ms=answer.milliseconds)
    looks = _looks(answer.look, answer.labels[0], language) if answer.look else ""
    return Markup(
        f'<div class="pa-model"><p class="pa-title">{markup(answer.model)}</p>'
        f'<p class="pa-note">{markup(time)}</p><ol class="pa-classes">{classes}</ol>{looks}</div>'
    )


def _looks(look: Look, label: str, language: str) -> Markup:
    shown = [(look.cam, say(language, "cam" if look.has_evidence else "cam_none", label=label))]
    if look.gate:
        low, high = look.limits
        key = "gate" if look.has_map else "channels"
        text = say(language, key, attention=look.attention, layer=look.layer, low=low, high=high)
        shown.append((look.gate, text))
    return Markup(f'<div class="pa-looks">{join(_figure(*each) for each in shown)}</div>')


def _figure(image: Image.Image, caption: str) -> Markup:
    return Markup(
        f'<figure>{picture(image, caption, LOOK)}<figcaption class="pa-note">{markup(caption)}'
        "</figcaption></figure>"
    )
