"""Export trained weights for Paddle Inference:
python tools/export.py -c configs/x.yaml --weights output/x/best.pdparams --out inference/x
"""

from paddle_attn.cli import config_parser, one_sentence_errors, prepare_paddle


def main() -> None:
    parser = config_parser("Export a trained network and compare the two on eval images.")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="such as output/towernet_simam/best.pdparams"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the folder to write, such as inference/towernet_simam"
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="accept images of any height and width, not only of data.size"
    )
    arguments = parser.parse_args()
    with one_sentence_errors():
        from paddle_attn.config import load_config

        config = load_config(arguments.config, arguments.override)
        prepare_paddle()
        from paddle_attn.deploy import export_config

        source, difference = export_config(config, arguments.weights, arguments.out, arguments.dynamic)
        print(f"exported to {arguments.out}")
        print(f"largest difference of a probability from the network: {difference:.1e}, on {source}")


if __name__ == "__main__":
    main()
