"""Draw the data flow of every attention module: python tools/drawings.py"""

from pathlib import Path

from paddle_attn.cli import Parser, one_sentence_errors, prepare_paddle


def main() -> None:
    parser = Parser(description="Draw the data flow of every attention module, one SVG for each.")
    parser.add_argument(
        "--out", default="docs/images/attention", metavar="DIR", help="the folder (default: %(default)s)"
    )
    arguments = parser.parse_args()
    with one_sentence_errors():
        prepare_paddle()
        from paddle_attn.attention import ATTENTION
        from paddle_attn.files import write_text
        from paddle_attn.plotting.flow import draw
        from paddle_attn.plotting.mark import check_replaceable

        folder = Path(arguments.out)
        described = {name: module for name, module in sorted(ATTENTION.items()) if module.flow}
        check_replaceable(*(folder / f"{name}.svg" for name in described))
        folder.mkdir(parents=True, exist_ok=True)
        for name, module in described.items():
            write_text(folder / f"{name}.svg", draw(f"{name}: {module.__name__}", module.flow))
            print(f"wrote {folder}/{name}.svg")


if __name__ == "__main__":
    main()
