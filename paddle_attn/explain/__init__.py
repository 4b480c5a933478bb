"""What a network looks at: class activation maps, gates of attentions, and whether to believe them."""

from .cam import METHODS, ClassMaps, class_maps, to_image_size
from .faithfulness import Curves, Randomisation, check_randomisation, deletion_insertion, random_maps
from .gates import Gate, attention_gates
from .recording import LayerCall, last_map, list_attentions, list_layers, recording

__all__ = [
    "METHODS",
    "ClassMaps",
    "Curves",
    "Gate",
    "LayerCall",
    "Randomisation",
    "attention_gates",
    "check_randomisation",
    "class_maps",
    "deletion_insertion",
    "last_map",
    "list_attentions",
    "list_layers",
    "random_maps",
    "recording",
    "to_image_size",
]
