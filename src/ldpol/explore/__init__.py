"""See what a model or an archive can do: a page in the browser, served from this machine alone.

    python -m ldpol.explore [MODEL]

`source` finds the files, `stage` and `programs` compute, `answers` puts what they find into the page's words, `worker`
owns the thread that computes, `explorer` brings these together, `requests` checks what the page asks for, `app` serves
it, `export` writes the same page without a server, and `ship` makes the model of the package.
"""
