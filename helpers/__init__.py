"""Put RWKV World language models on Hugging Face: the package behind the notebooks.

Data flows one way, and no module imports a later one::

    vocab -> tokenizer -> checkpoint -> conversion -> model directory -> parity, lambada

The notebooks import these modules and show their code; ``python -m helpers`` is the same functions from a shell.
"""

__version__ = "0.1.0"
