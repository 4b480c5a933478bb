"""Export trained weights for Paddle Inference:
python tools/export.py -c configs/towernet_simam.yaml --weights output/towernet_simam/best.pdparams --out inference/towernet_simam
"""

from paddle_attn.cli import config_parser, one_sentence_errors, prepare_paddle


def main() -> None:
    parser = config_parser("Export a trained network and check it on eval images.")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="such as output/towernet_simam/best.pdparams"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the folder to make, such as inference/towernet_simam"
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="take any height and width, not the trained size alone"
    )
    arguments = parser.parse_args()
    with one_sentence_errors():
        from paddle_attn.config import load_config

        config = load_config(arguments.config, arguments.override)
        prepare_paddle()
        from paddle_attn.deploy import export_config

        checked, difference = export_config(config, arguments.weights, arguments.out, arguments.dynamic)
        print(
            f"{arguments.out} does what the network does: largest difference of a probability {difference:.1e} on {checked}"
        )


if __name__ == "__main__":
    main()
