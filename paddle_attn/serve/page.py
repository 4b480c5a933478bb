"""The page, made with Gradio: a place for pictures, examples, and their answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import gradio as gr

from .cards import STYLE, answer_card, cards, error_card, note
from .desk import Desk
from .pictures import MEGAPIXELS, Example
from .texts import TEXTS, Refused, language_of, say
from .uploads import Uploads

PICTURES = 16  # in one upload
ON_THE_PAGE = ("drop", "intro", "limits", "examples", "api", "api_intro")  # texts that the browser translates
FONTS = ("system-ui", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "sans-serif")
MONO = ("ui-monospace", "Menlo", "Consolas", "Noto Sans Mono", "monospace")
CSS = (
    STYLE
    + """
.gradio-container { max-width: 72rem !important; margin: 0 auto !important }
#pa-examples, #pa-examples * { min-height: 0 }
#pa-results .html-container { padding: 0 }
#pa-examples .grid-container { grid-template-columns: repeat(8, minmax(0, 1fr)) !important;
  grid-auto-rows: auto !important; grid-template-rows: none !important }
@media (max-width: 40rem) {
  #pa-results .html-container { padding: 0 }
#pa-examples .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important }
}
footer { display: none !important }
"""
)
# the page says its language; the field of the upload asks for pictures, which Gradio would then insist on in
# English; Ctrl-V puts pictures into it
HEAD = """
<script>
document.documentElement.lang = /^zh\\b/i.test(navigator.language) ? "zh-CN" : "en";
const uploadField = () => document.querySelector("#pa-upload input[type=file]");
document.addEventListener("click", () => uploadField()?.setAttribute("accept", "image/*"), true);
document.addEventListener("paste", (event) => {
  const pictures = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
  const field = uploadField();
  if (!pictures.length || !field) return;
  const transfer = new DataTransfer();
  pictures.forEach((file) => transfer.items.add(file));
  field.files = transfer.files;
  field.dispatchEvent(new Event("change", { bubbles: true }));
  event.preventDefault();
});
</script>
"""

SHOW_RESULTS = """
() => { document.querySelector("#pa-results").scrollIntoView({ behavior: "smooth", block: "nearest" }) }
"""


def translations(max_bytes: int) -> gr.I18n:
    """The texts for the browser, by its language: Gradio looks for the exact locale."""
    limits = {"pictures": PICTURES, "mb": f"{max_bytes / 1e6:g}", "megapixels": MEGAPIXELS}
    texts = {language: {key: say(language, key, **limits) for key in ON_THE_PAGE} for language in TEXTS}
    return gr.I18n(**texts, **dict.fromkeys(("zh-CN", "zh-TW"), texts["zh"]))


def theme() -> gr.themes.Base:
    """Gradio's own, with fonts of the system: none is loaded."""
    return gr.themes.Default(font=list(FONTS), font_mono=list(MONO))


def make_page(
    desk: Desk, examples: Sequence[Example], uploads: Uploads, max_bytes: int, address: str
) -> gr.Blocks:
    """The page.

    Args:
        desk: where requests wait.
        examples: pictures to choose from.
        uploads: the folder that Gradio writes to.
        max_bytes: of a picture's file.
        address: of the API, for its example.
    """
    text = translations(max_bytes)

    async def classify(paths: list[str] | None, request: gr.Request) -> AsyncIterator[tuple[object, str]]:
        """Answers the pictures one after the other; each file is removed before its picture is answered."""
        language = language_of(request.headers.get("accept-language", ""))
        paths, more = (paths or [])[:PICTURES], (paths or [])[PICTURES:]
        for path in more:
            uploads.remove(path)
        shown = []
        for done, path in enumerate(paths):
            yield gr.skip(), cards(*shown, note(say(language, "waiting", done=done, count=len(paths))))
            try:
                with desk.place():
                    content = uploads.take(path, max_bytes)
                    seen = await desk.answer(content, explain=True)
                shown.append(answer_card(Path(path).name, seen, language))
            except Refused as refused:
                uploads.remove(path)
                shown.append(error_card(Path(path).name, refused, language))
        if more:
            shown.append(note(say(language, "more", more=len(more), pictures=PICTURES)))
        yield None, cards(*shown)

    async def classify_example(event: gr.SelectData, request: gr.Request) -> str:
        language = language_of(request.headers.get("accept-language", ""))
        if not isinstance(event.index, int) or not 0 <= event.index < len(examples):
            raise gr.Error(say(language, "gone"), print_exception=False)
        example = examples[event.index].path
        try:
            with desk.place():
                seen = await desk.answer(example.read_bytes(), explain=True)
            return cards(answer_card(example.name, seen, language))
        except OSError:
            return cards(error_card(example.name, Refused(400, "gone"), language))
        except Refused as refused:
            return cards(error_card(example.name, refused, language))

    with gr.Blocks(title="paddle_attn", analytics_enabled=False) as page:
        gr.Markdown(f"# {' · '.join(model.title for model in desk.models)}")
        gr.Markdown(text("intro"))
        pictures = gr.File(
            label=text("drop"),
            file_count="multiple",
            height=150,
            elem_id="pa-upload",
        )
        gr.Markdown(text("limits"), elem_classes="pa-note")
        if examples:
            gr.Markdown(text("examples"))
            gallery = gr.Gallery(
                [example.thumbnail for example in examples],
                show_label=False,
                columns=8,
                height="auto",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id="pa-examples",
            )
        results = gr.HTML(elem_id="pa-results")
        with gr.Accordion(text("api"), open=False):
            gr.Markdown(text("api_intro"))
            gr.Code(f"curl --data-binary @photo.jpg {address}", language="shell", interactive=False, lines=1)

        options = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}
        events = [pictures.upload(classify, pictures, [pictures, results], **options)]
        if examples:
            events.append(gallery.select(classify_example, None, results, **options))
        for event in events:
            event.then(None, js=SHOW_RESULTS, api_visibility="private")
    page.queue(max_size=64)
    return page
