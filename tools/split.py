"""Make the train/eval split of a folder of photographs: python tools/split.py"""

import argparse

from paddle_attn.cli import one_sentence_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Split photographs into train/ and eval/. "
        "Without --source: datasets/Images.zip, else datasets/Images/, else the download of Caltech-101."
    )
    parser.add_argument(
        "--source",
        metavar="PATH",
        help="a folder of class folders, a .zip or .tar.gz of one, or 'demo' for synthetic images",
    )
    parser.add_argument(
        "--out",
        default="datasets/caltech101-16",
        metavar="DIR",
        help="the folder to make (default: %(default)s)",
    )
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="use only these classes")
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="shuffle each class with this seed; default: every fifth file of the sorted class goes to eval",
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier split")
    parser.add_argument(
        "--url",
        metavar="URL",
        help="another address of caltech-101.zip; the file must have the same checksum",
    )
    arguments = parser.parse_args()
    with one_sentence_errors():
        from paddle_attn.data.prepare.split import make_split

        mirror = {"url": arguments.url} if arguments.url else {}
        split = make_split(
            arguments.source, arguments.out, arguments.classes, arguments.seed, arguments.force, **mirror
        )
        for name, count in split.counts.items():
            print(f"{name:24s} {count['train']:6d} train {count['eval']:6d} eval")
        for file, reason in split.skipped.items():
            print(f"skipped: {file}: {reason}")
        train, evaluation, classes = split.total("train"), split.total("eval"), len(split.classes)
        print(f"{train} + {evaluation} images of {classes} classes in {arguments.out} ({split.rule})")
        print(f"RGB mean {split.mean}, standard deviation {split.std}")


if __name__ == "__main__":
    main()
