"""Quality-diversity archives to one generative model of policies, in pure JAX.

`__init__.pyi` says what there is. Names are imported when they are asked for (PEP 562), so that the explorer's page is
there before JAX is.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
