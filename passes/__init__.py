"""One pass per file; the file's name is the pass's name."""

if __name__ != "onnxsparse.passes":
    # a second import name would make a second copy of every class
    raise ImportError(f"import onnxsparse.passes, not {__name__}")
