"""Train a network: python tools/train.py -c configs/towernet_simam.yaml"""

from paddle_attn.cli import config_parser, one_sentence_errors, prepare_paddle


def main() -> None:
    parser = config_parser("Train a network and write the run to train.output.")
    parser.add_argument(
        "--resume", action="store_true", help="resume the run in train.output (train.resume=auto)"
    )
    arguments = parser.parse_args()
    overrides = [*arguments.override, "train.resume=auto"] if arguments.resume else arguments.override
    with one_sentence_errors():
        from paddle_attn.config import load_config

        config = load_config(arguments.config, overrides)
        prepare_paddle()
        from paddle_attn.train import fit

        fit(config)


if __name__ == "__main__":
    main()
