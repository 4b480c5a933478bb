"""Evaluate trained weights: python tools/eval.py -c configs/X.yaml --weights output/X/best.pdparams"""

from paddle_attn.cli import config_parser, one_sentence_errors, prepare_paddle


def main() -> None:
    parser = config_parser("Evaluate weights on the eval images; write metrics.json and confusion.png.")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="such as output/towernet_simam/best.pdparams"
    )
    arguments = parser.parse_args()
    with one_sentence_errors():
        from paddle_attn.config import load_config

        config = load_config(arguments.config, arguments.override)
        prepare_paddle()
        from paddle_attn.train import evaluate_config

        result = evaluate_config(config, arguments.weights)
        for row in result.by_class():
            scores = f"recall {100 * row['recall']:6.2f} %  precision {100 * row['precision']:6.2f} %"
            print(f"{row['class']:24s} {row['images']:6d} images  {scores}")
        scores = f"top-1 {100 * result.top1:.2f} %  top-5 {100 * result.top5:.2f} %  loss {result.loss:.4f}"
        print(f"{scores}  on {result.confusion.sum()} images")
        print(f"metrics.json and confusion.png are in {config.train.output}")


if __name__ == "__main__":
    main()
