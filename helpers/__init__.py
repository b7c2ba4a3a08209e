"""Put RWKV World language models on Hugging Face: the package behind the notebooks.

One folder is one room, with a face that says what it is for. Imports point down only::

    commands                                what python -m helpers COMMAND runs
    series                                  the notebooks as a whole
    teaching    bench                       figures and widgets; measurements
    training    proof
    generation  lambada
    conversion                              .pth -> model directory and back
    tokenizer   checkpoints
    atomic      inputs                      files that appear complete or not at all; a look at what is read
    hub_code    errors  paths               hub_code travels with a converted model and imports nothing from here

The notebooks import these rooms and show their code; ``python -m helpers`` is the same functions from a shell.
"""

__version__ = "0.2.0"
