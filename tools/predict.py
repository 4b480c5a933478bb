"""Classify images with an exported network:
python tools/predict.py --model inference/towernet_simam photo.jpg folder

The exit code is 0, 1 when some inputs could not be read, 2 when none could.
"""

import sys

from paddle_attn.cli import Parser, one_sentence_errors, prepare_paddle
from paddle_attn.errors import UserError


def main() -> None:
    parser = Parser(description="Classify images and folders of images.")
    parser.add_argument("inputs", nargs="+", metavar="IMAGE_OR_FOLDER")
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="an exported folder, such as inference/towernet_simam"
    )
    parser.add_argument(
        "--topk",
        type=int,
        default=5,
        metavar="K",
        help="classes per image, best first (default: %(default)s)",
    )
    parser.add_argument("--csv", metavar="FILE", help="write a table with one line per image and class")
    parser.add_argument("--json", metavar="FILE", help="write the results as a list")
    arguments = parser.parse_args()
    with one_sentence_errors():
        prepare_paddle()
        from paddle_attn.deploy import Predictor
        from paddle_attn.deploy.results import check_outputs, print_results, write_results

        predictor = Predictor(arguments.model)
        check_outputs([arguments.csv, arguments.json], arguments.inputs, arguments.model)
        errors = []

        def report(error: UserError) -> None:
            print(f"error: {error}", file=sys.stderr)
            errors.append(error)

        results = predictor.predict(arguments.inputs, arguments.topk, on_error=report)
        write_results(results, arguments.csv, arguments.json)
        print_results(results)
    sys.exit(2 if not results else 1 if errors else 0)


if __name__ == "__main__":
    main()
