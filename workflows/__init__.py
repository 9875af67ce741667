"""Ready-made workflows, built on the public names of `engine` alone.

Whatever stands here could have been written by any user: it may serve as an example as well as be imported. This
version ships the package empty; saga, approval, pipeline, map_reduce and poll_until take their places here, one module
each.
"""
