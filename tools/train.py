"""Train a network from a config: python tools/train.py -c configs/towernet_simam.yaml"""

from paddle_attn.cli import config_parser, one_sentence_errors, prepare_paddle


def main() -> None:
    parser = config_parser("Train a network; everything is written to train.output.")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in train.output (train.resume=auto)",
    )
    arguments = parser.parse_args()
    with one_sentence_errors():
        from paddle_attn.config import load_config

        config = load_config(
            arguments.config, [*arguments.override, *(["train.resume=auto"] if arguments.resume else [])]
        )
        prepare_paddle()
        from paddle_attn.train import fit

        fit(config)


if __name__ == "__main__":
    main()
