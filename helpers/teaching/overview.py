"""The picture at the beginning of the series: which parts there are, and what goes where."""

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure

# name -> (column, row, color, text)
BOXES = {
    "pth": (0, 1, ORANGE, "checkpoint\nmodel.pth\n(BlinkDL's format)"),
    "vocab": (0, 0, ORANGE, "vocabulary\nrwkv_vocab_…txt\n(65,529 tokens)"),
    "convert": (1, 0.5, BLUE, "convert"),
    "weights": (2, 1, GREEN, "model.safetensors\nconfig.json\nmodel code (*.py)"),
    "tokens": (2, 0, GREEN, "tokenizer.json\nvocab.json\ntokenizer_config.json"),
    "model": (3, 1, PURPLE, "AutoModelForCausalLM\nids → logits, state"),
    "tokenizer": (3, 0, PURPLE, "AutoTokenizer\ntext ↔ ids"),
    "generate": (4, 0.5, BLUE, "generate\nprompt →\ntext"),
}
ARROWS = (
    ("pth", "convert"),
    ("vocab", "convert"),
    ("convert", "weights"),
    ("convert", "tokens"),
    ("weights", "model"),
    ("tokens", "tokenizer"),
    ("model", "generate"),
    ("tokenizer", "generate"),
)
COLUMNS = (0.0, 1.35, 2.75, 4.65, 6.2)  # where the middle of each column is


def parts_figure() -> Figure:
    """Draw how checkpoint and vocabulary become a model directory, and that a model that writes."""
    figure, axes = new_figure(height=2.9, width=9.0)
    axes.set(xlim=(-0.75, 6.8), ylim=(-0.5, 1.85))
    axes.axis("off")
    axes.set_title("From a checkpoint to a text")
    boxes = {}
    for name, (column, row, color, text) in BOXES.items():
        style = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": color, "linewidth": 2}
        at = (COLUMNS[column], row)
        boxes[name] = axes.text(*at, text, ha="center", va="center", fontsize=8.5, bbox=style, zorder=2)
    for start, end in ARROWS:
        line = {"arrowstyle": "-|>", "color": GREY, "linewidth": 1.5, "shrinkA": 2, "shrinkB": 2}
        line |= {"patchA": boxes[start].get_bbox_patch(), "patchB": boxes[end].get_bbox_patch()}
        axes.annotate("", xy=boxes[end].get_position(), xytext=boxes[start].get_position(), arrowprops=line, zorder=1)
    frame = {"fill": False, "edgecolor": GREEN, "linestyle": "--", "linewidth": 1.5, "transform": axes.transData}
    figure.add_artist(Rectangle((COLUMNS[2] - 0.75, -0.5), 1.5, 2.25, **frame))
    axes.text(COLUMNS[2], 1.54, "model directory", ha="center", fontsize=9, fontweight="bold", color=GREEN)
    figure.set_label(
        "Diagram, left to right. A checkpoint, model.pth, and the vocabulary, a text file of 65,529 tokens, go into "
        "convert. It writes a model directory: model.safetensors, config.json and model code, which "
        "AutoModelForCausalLM loads, and tokenizer.json, vocab.json and tokenizer_config.json, which AutoTokenizer "
        "loads. Both go into generate, which turns a prompt into a text."
    )
    return figure
