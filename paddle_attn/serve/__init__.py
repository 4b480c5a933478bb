"""The page and the HTTP API: exported networks classify the pictures that a browser or a program sends.

    texts.py     every sentence, in English and Chinese; the language of a browser
    pictures.py  the bytes of an upload to a picture, or why not
    models.py    an exported network and, with its weights, what it looks at
    desk.py      one thread answers; a bounded number of requests waits
    api.py       `POST /predict`
    cards.py     an answer as HTML
    uploads.py   the folder in which Gradio writes uploads, until they are read
    page.py      the page (Gradio)
    limits.py    which requests reach the page, and how large they may be
    server.py    the process: its port, its end

A picture is in memory while it is answered. The file that Gradio writes of it is removed before that.
"""

from .models import load_served
from .pictures import find_examples
from .server import Settings, listen, serve
from .uploads import gradio_in_a_private_folder

__all__ = ["Settings", "find_examples", "gradio_in_a_private_folder", "listen", "load_served", "serve"]
