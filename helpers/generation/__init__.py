"""Let a model write: choose tokens, in the prompt formats of the World models, in a chat, and over HTTP.

:mod:`.sampling` is the loop that hands out each token, :mod:`.prompts` the formats, :mod:`.chat` a conversation with
the state as its memory, :mod:`.thoughts` what an RWKV-7 G1 model writes, taken apart, and :mod:`.serve` a server for
clients of OpenAI's API, with its parts: :mod:`.api` what they may ask, :mod:`.messages` how they write messages and
functions, :mod:`.web` who is let in, :mod:`.jobs` who waits for whom, :mod:`.answers` how an answer comes about,
:mod:`.forms` and :mod:`.refusals` how it is sent.
"""

import lazy_loader

# the public names are listed in __init__.pyi; each is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
