"""What the page and the API say, in English and in Chinese."""

from __future__ import annotations

TEXTS: dict[str, dict[str, str]] = {
    "en": {
        "drop": "Drop, paste or choose pictures",
        "examples": "Examples: click one",
        "intro": "Drop pictures to see their classes. No picture is kept once it is answered.",
        "limits": "At most {pictures} pictures at a time, {mb} MB and {megapixels} million pixels each.",
        "api": "HTTP API",
        "api_intro": "The body of the request is the picture; the answer is JSON.",
        "time": "{ms:.1f} ms, without decoding",
        "pixels": "{width} × {height} pixels",
        "cam": "Grad-CAM: what speaks for “{label}”",
        "cam_none": "Grad-CAM: at this layer nothing speaks for “{label}”",
        "gate": "Gate of {attention} ({layer}), {low:.2f} to {high:.2f}",
        "channels": "Channel weights of {attention} ({layer}), {low:.2f} to {high:.2f}",
        "waiting": "{done} of {count} pictures answered …",
        "more": "{more} more pictures were left out: at most {pictures} at a time.",
        "empty": "The file is empty: expected a picture.",
        "kind": "This is not a picture: expected JPEG, PNG, WebP, BMP, TIFF, GIF or PPM.",
        "large": "The file is too large: expected at most {mb} MB.",
        "pixels_many": "The picture has too many pixels: expected at most {megapixels} million.",
        "damaged": "The picture is damaged and cannot be decoded.",
        "busy": "Too many requests are waiting: try again in a moment.",
        "slow": "The picture did not arrive within {seconds} seconds: try again.",
        "gone": "The upload is no longer there: choose the picture again.",
        "form": "Send the picture itself as the body, as in: curl --data-binary @photo.jpg {url}",
        "method": "Expected a POST request with a picture as its body.",
        "topk": "topk must be a whole number from 1 to {classes}.",
        "nothing": "There is nothing at this address: the page is at /, the API at /predict.",
    },
    "zh": {
        "drop": "拖入、粘贴或选择图片",
        "examples": "示例：点击一张",
        "intro": "拖入图片即可查看类别。图片不会保存，得到结果后即丢弃。",
        "limits": "一次最多 {pictures} 张，每张不超过 {mb} MB、{megapixels}00 万像素。",
        "api": "HTTP 接口",
        "api_intro": "请求的正文就是图片，返回 JSON。",
        "time": "{ms:.1f} 毫秒（不含解码）",
        "pixels": "{width} × {height} 像素",
        "cam": "Grad-CAM：支持“{label}”的区域",
        "cam_none": "Grad-CAM：该层没有支持“{label}”的区域",
        "gate": "{attention} 的门控（{layer}），{low:.2f} 至 {high:.2f}",
        "channels": "{attention} 的通道权重（{layer}），{low:.2f} 至 {high:.2f}",
        "waiting": "已完成 {done} / {count} 张……",
        "more": "另有 {more} 张未处理：一次最多 {pictures} 张。",
        "empty": "文件是空的，请选择图片。",
        "kind": "这不是图片，支持 JPEG、PNG、WebP、BMP、TIFF、GIF 和 PPM。",
        "large": "文件过大，不能超过 {mb} MB。",
        "pixels_many": "图片像素过多，不能超过 {megapixels}00 万像素。",
        "damaged": "图片已损坏，无法解码。",
        "busy": "等待的请求过多，请稍后再试。",
        "slow": "{seconds} 秒内没有收到完整的图片，请重试。",
        "gone": "上传的文件已不存在，请重新选择图片。",
        "form": "请把图片本身作为请求的正文，例如：curl --data-binary @photo.jpg {url}",
        "method": "请用 POST 请求，正文为图片。",
        "topk": "topk 必须是 1 到 {classes} 的整数。",
        "nothing": "该地址没有内容：页面在 /，接口在 /predict。",
    },
}


def language_of(accept_language: str) -> str:
    """'zh' or 'en', the first of them in an `Accept-Language` header by its weights; 'en' without either."""
    weighted = []
    for part in accept_language[:1000].split(","):
        tag, _, weight = part.strip().partition(";q=")
        language = tag.strip().lower().partition("-")[0]
        if language in TEXTS:
            try:
                weighted.append((float(weight or 1), language))
            except ValueError:
                continue
    return max(weighted, key=lambda each: each[0], default=(0, "en"))[1]


def say(language: str, key: str, **values: object) -> str:
    """A text with its values."""
    return TEXTS[language][key].format(**values)


class Refused(Exception):
    """A request that is not answered, with the sentence that says why.

    Args:
        status: of HTTP.
        key: of `TEXTS`.
        values: of the text.
    """

    def __init__(self, status: int, key: str, **values: object):
        super().__init__(say("en", key, **values))
        self.status, self.key, self.values = status, key, values

    def sentence(self, language: str) -> str:
        return say(language, self.key, **self.values)
