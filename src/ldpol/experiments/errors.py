"""Which errors a command line answers with one line, and which with a traceback."""


def is_ours(error: BaseException) -> bool:
    """Tell an error that our code raised on purpose from one that surprised it deep inside a library."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("ldpol")
