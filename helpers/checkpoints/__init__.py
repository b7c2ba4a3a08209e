"""BlinkDL's checkpoints: read them safely, know what is in them, and run them in the ``rwkv`` package.

:mod:`.versions` is the one place that knows how the versions of RWKV differ; :mod:`.names` maps names of tensors.
:mod:`.files` reads, :mod:`.format` infers and checks, :mod:`.inspection` reports, :mod:`.bundled` unpacks the included
checkpoints, :mod:`.synthetic` writes random ones, and :mod:`.oracle` runs the independent reference.
"""

import lazy_loader

# the public names are listed in __init__.pyi; each is imported when it is first used
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
