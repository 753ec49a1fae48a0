"""Examples of an interactive session, in docstrings and in pages, run as they stand."""

import doctest
import re


class Shapes(doctest.OutputChecker):
    """Reads every backend's shapes as tuples."""

    def check_output(self, want, got, optionflags):
        got = re.sub(r"(?:TensorShape|torch\.Size)\(\[(\d+)\]\)", r"(\1,)", got)
        got = re.sub(r"(?:TensorShape|torch\.Size)\(\[(.*?)\]\)", r"(\1)", got)
        return super().check_output(want, got, optionflags)


class Runner(doctest.DocTestRunner):
    """Runs examples, and knows which package one of them lacked: `missing`, or None."""

    def __init__(self):
        super().__init__(Shapes(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        self.missing = None
        self.output = []

    def run(self, test, **kwargs):
        return super().run(test, out=self.output.append, **kwargs)

    def report_unexpected_exception(self, out, test, example, exc_info):
        # Ours say what to install, and have Python's own as their cause.
        for error in (exc_info[1], exc_info[1].__cause__):
            if isinstance(error, ModuleNotFoundError) and error.name.split(".")[0] != "sda":
                self.missing = self.missing or error.name
        super().report_unexpected_exception(out, test, example, exc_info)


def session(text):
    """Return `text` with all but its fenced blocks of `>>>` examples blanked, line for line."""
    kept, end = [], 0
    for block in re.finditer(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if re.search(r"^>>> ", block[1], re.MULTILINE):
            kept += ["\n" * text.count("\n", end, block.start(1)), block[1]]
            end = block.end(1)
    return "".join(kept)
