"""Export trained weights for Paddle Inference; the config is the one beside the weights:
python tools/export.py --weights output/x/best.pdparams --out inference/x
"""

from paddle_attn.cli import one_sentence_errors, prepare_paddle, trained_config, trained_parser


def main() -> None:
    parser = trained_parser("Export a trained network and compare the two on eval images.")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the folder to write, such as inference/towernet_simam"
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="accept images of any height and width, not only of data.size"
    )
    arguments = parser.parse_args()
    with one_sentence_errors():
        config = trained_config(arguments)
        prepare_paddle()
        from paddle_attn.deploy import export_config
        from paddle_attn.files import shown

        source, difference = export_config(config, arguments.weights, arguments.out, arguments.dynamic)
        print(f"exported to {shown(arguments.out)}")
        print(f"checked on {source}: its probabilities are the network's, to within {difference:.1e}")


if __name__ == "__main__":
    main()
